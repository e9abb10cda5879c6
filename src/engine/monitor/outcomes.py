"""Outcomes of answers: labels that come later, joined by answer id, by version and source."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

import numpy as np

from engine._common.vocabulary import SOURCES
from engine.monitor.drift.bins import FloatArray

GROUPS_MAX = 64
CALIBRATION_BINS = 10
# Sums of a row's shares this far from 1 are rounding.
SHARES_TOLERANCE = 1e-3
STATUSES = ("joined", "unknown", "repeated")


class Group:
    """Outcomes of one version and source: sums of all, and the latest `rolling` in full. Not thread-safe.

    Attributes:
        labels: int, how many there were.
        value: float, sum of the values given.
        values: int, how many values were given.
        not_finite: int, labels of answers that had an output that is not finite, or none at all.
    """

    def __init__(self, rolling: int) -> None:
        self.labels = 0
        self.value = 0.0
        self.values = 0
        self.not_finite = 0
        self._recent: deque[tuple[FloatArray, float]] = deque(maxlen=rolling)

    def add_value(self, value: float) -> None:
        """Add what an answer was worth."""
        self.value += value
        self.values += 1

    def add(self, outputs: FloatArray, label: float) -> None:
        """Add a label and the outputs, float64 [n_outputs], of its answer.

        An answer with an output that is not finite is counted, and left out of the rolling figures: one class without
        a share says nothing about the others.
        """
        self.labels += 1
        if len(outputs) and np.isfinite(outputs).all():
            self._recent.append((outputs, label))
        else:
            self.not_finite += 1

    def saved(self) -> dict[str, Any]:
        """Return a copy of what `restore` takes."""
        width = max((len(outputs) for outputs, _ in self._recent), default=0)
        recent = np.full((len(self._recent), width + 1), np.nan)
        for place, (outputs, label) in enumerate(self._recent):
            recent[place, 0], recent[place, 1 : 1 + len(outputs)] = label, outputs
        totals = [self.labels, self.not_finite, self.value, self.values]
        return {"totals": totals, "recent": recent}

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from what `saved` returned."""
        labels, not_finite, self.value, values = saved["totals"]
        self.labels, self.not_finite, self.values = int(labels), int(not_finite), int(values)
        # All outputs that are kept are finite.
        self._recent.extend((row[1:][~np.isnan(row[1:])], float(row[0])) for row in saved["recent"])

    def figures(self) -> dict[str, Any]:
        """Return the figures by name.

        All outcomes: labels, not_finite, value, value_mean. Rolling: rows, and the figures of what the outputs are:
        `shares_of_classes`, `quantiles` or `numbers`. Answers with another number of outputs than the latest are left
        out.
        """
        found: dict[str, Any] = {
            "labels": self.labels,
            "not_finite": self.not_finite,
            "value": self.value,
            "value_mean": self.value / self.values if self.values else None,
        }
        width = len(self._recent[-1][0]) if self._recent else 0
        recent = [(outputs, label) for outputs, label in self._recent if len(outputs) == width]
        found["rows"] = len(recent)
        if not recent:
            return found
        outputs = np.stack([row for row, _ in recent])
        label = np.array([label for _, label in recent], dtype=np.float64)
        if are_shares(outputs) and np.isin(label, np.arange(width)).all():
            return found | shares_of_classes(outputs, label)
        if width > 1 and (np.diff(outputs, axis=1) >= 0.0).all():
            return found | quantiles(outputs, label)
        return found | numbers(outputs[:, 0], label)


def are_shares(outputs: FloatArray) -> bool:
    """Return whether each row of outputs, float64 [n, n_outputs], holds the shares of two or more classes."""
    if outputs.shape[1] < 2 or (outputs < 0.0).any() or (outputs > 1.0).any():
        return False
    return bool((np.abs(outputs.sum(axis=1) - 1.0) <= SHARES_TOLERANCE).all())


def shares_of_classes(outputs: FloatArray, label: FloatArray) -> dict[str, Any]:
    """Return the figures of a classifier whose outputs are the shares of the classes 0, 1, ….

    Two classes: the figures of `numbers`, with the share of class 1 as the prediction. More classes: accuracy;
    prediction_mean, the mean expected class; label_mean; error_mean, of 1 - the share of the true class; auc, the mean
    over the classes of each against all others (Provost and Domingos, CeDER Working Paper IS-00-04, 2000, section 3),
    every class alike; brier, the mean of sum((share - truth)^2) over the classes (Brier 1950, eq. 2);
    calibration_error, of the share of the likeliest class (Guo et al., ICML 2017, eq. 3).

    Args:
        outputs: float64 [n, classes], each row of sum 1.
        label: float64 [n], 0, 1, … below classes.
    """
    if outputs.shape[1] == 2:
        return numbers(outputs[:, 1], label)
    classes = np.arange(outputs.shape[1])
    truth = label[:, None] == classes
    areas = [area_under_curve(outputs[:, k], truth[:, k].astype(np.float64)) for k in classes]
    known = [area for area in areas if area is not None]
    right = outputs.argmax(axis=1) == label
    return {
        "prediction_mean": float((outputs @ classes).mean()),
        "label_mean": float(label.mean()),
        "error_mean": float((1.0 - outputs[truth]).mean()),
        "accuracy": float(right.mean()),
        "auc": float(np.mean(known)) if known else None,
        "brier": float(np.square(outputs - truth).sum(axis=1).mean()),
        "calibration_error": calibration_error(outputs.max(axis=1), right.astype(np.float64)),
    }


def quantiles(outputs: FloatArray, label: FloatArray) -> dict[str, Any]:
    """Return the figures of outputs that ascend in every row, as the quantiles of a forecast do.

    The prediction is the middle output, or the mean of the middle two: prediction_mean, label_mean, error_mean. below:
    for each output, the share of labels at or below it, which should be the quantile's level. coverage: the share of
    labels from the first output to the last.
    """
    middle = (outputs.shape[1] - 1) / 2
    prediction = outputs[:, [int(np.floor(middle)), int(np.ceil(middle))]].mean(axis=1)
    inside = (label >= outputs[:, 0]) & (label <= outputs[:, -1])
    return {
        **_means(prediction, label),
        "below": (label[:, None] <= outputs).mean(axis=0).tolist(),
        "coverage": float(inside.mean()),
    }


def numbers(prediction: FloatArray, label: FloatArray) -> dict[str, Any]:
    """Return prediction_mean, label_mean and error_mean, of absolute errors.

    Where all labels are 0 or 1 also auc, and where predictions are shares as well, brier and calibration_error. The
    Brier score is the mean of (prediction - label)^2 (Brier, Monthly Weather Review 78, 1950).
    """
    found: dict[str, Any] = _means(prediction, label)
    if np.isin(label, (0.0, 1.0)).all():
        found["auc"] = area_under_curve(prediction, label)
        if (prediction >= 0.0).all() and (prediction <= 1.0).all():
            found["brier"] = float(np.square(prediction - label).mean())
            found["calibration_error"] = calibration_error(prediction, label)
    return found


def _means(prediction: FloatArray, label: FloatArray) -> dict[str, float]:
    return {
        "prediction_mean": float(prediction.mean()),
        "label_mean": float(label.mean()),
        "error_mean": float(np.abs(prediction - label).mean()),
    }


class Outcomes:
    """Outcomes by version and source, at most 64 pairs; the oldest is forgotten first. Not thread-safe.

    Attributes:
        counts: Counter of calls by their result: "joined", "unknown" (the answer was never seen, or is forgotten) and
            "repeated".
    """

    def __init__(self, rolling: int) -> None:
        self._rolling = rolling
        self._groups: dict[tuple[str, str], Group] = {}
        self.counts: Counter[str] = Counter(dict.fromkeys(STATUSES, 0))

    def add(
        self, version: str, source: int, outputs: FloatArray, label: float | None, value: float | None
    ) -> None:
        """Join a label, a value or both to an answer.

        Args:
            version: of the answer.
            source: place in `vocabulary.SOURCES`.
            outputs: float64 [n_outputs].
            label, value: as in `ModelMonitor.outcome`.
        """
        self.counts["joined"] += 1
        key = version, SOURCES[min(source, len(SOURCES) - 1)]
        if key not in self._groups:
            if len(self._groups) >= GROUPS_MAX:
                del self._groups[next(iter(self._groups))]
            self._groups[key] = Group(self._rolling)
        if label is not None:
            self._groups[key].add(outputs, label)
        if value is not None:
            self._groups[key].add_value(value)

    def saved(self) -> dict[str, Any]:
        """Return a copy of what `restore` takes."""
        return {
            "counts": dict(self.counts),
            "groups": [[*key, group.saved()] for key, group in self._groups.items()],
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from what `saved` returned. Raises ValueError, KeyError or TypeError where it is damaged."""
        self.counts.update({status: int(count) for status, count in saved["counts"].items()})
        for version, source, made in saved["groups"]:
            group = self._groups[version, source] = Group(self._rolling)
            group.restore(made)

    def to_json(self) -> dict[str, Any]:
        """Return plain values: counts; groups, the figures of each version and source; fallback_cost.

        fallback_cost compares the mean value of each version's primary with that of its other answers: total is the sum
        over the versions of that difference times the number of other answers, `answers` their number, per_answer
        total / answers. Versions are not mixed, because a version of low value that falls back often would look like a
        cost of falling back (Simpson's paradox). None where no version has values of both.
        """
        groups = [
            {"version": version, "source": source, **group.figures()}
            for (version, source), group in self._groups.items()
        ]
        return {"counts": dict(self.counts), "groups": groups, "fallback_cost": self._cost()}

    def _cost(self) -> dict[str, float] | None:
        total, answers = 0.0, 0
        for version in {version for version, _ in self._groups}:
            found = [self._groups[key] for source in SOURCES if (key := (version, source)) in self._groups]
            primary = self._groups.get((version, "primary"))
            others = [group for group in found if group is not primary]
            n_others = sum(group.values for group in others)
            if primary is not None and primary.values and n_others:
                answers += n_others
                lost = primary.value / primary.values * n_others - sum(group.value for group in others)
                total += lost
        return {"per_answer": total / answers, "total": total, "answers": answers} if answers else None


def area_under_curve(prediction: FloatArray, label: FloatArray) -> float | None:
    """Return the share of pairs of a 1 and a 0 whose predictions are in the right order; a tie counts half.

    It equals U / (n1 n0) of Mann and Whitney (Ann. Math. Statist. 18, 1947). None where all labels are equal.
    """
    from scipy import stats

    positive = label == 1.0
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if not n_positive or not n_negative:
        return None
    ranks = stats.rankdata(prediction)
    return float((ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def calibration_error(prediction: FloatArray, label: FloatArray) -> float:
    """Return the mean distance of predicted and true share over ten equal bins of prediction, weighted by rows.

    The expected calibration error of Naeini, Cooper and Hauskrecht (AAAI 2015).
    """
    place = np.minimum((prediction * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    gap = np.bincount(place, prediction - label, minlength=CALIBRATION_BINS)
    return float(np.abs(gap).sum() / len(label))
