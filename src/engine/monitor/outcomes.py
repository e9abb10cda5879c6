"""Outcomes of answers: labels that come later, joined by answer id, by version and source."""

from __future__ import annotations

import math
from collections import Counter, deque
from typing import Any

import numpy as np

from engine._common.vocabulary import SOURCES
from engine.monitor.drift.bins import FloatArray

GROUPS_MAX = 64
CALIBRATION_BINS = 10
STATUSES = ("joined", "unknown", "repeated")


class Group:
    """Outcomes of one version and source: sums of all, and the latest `rolling` in full. Not thread-safe.

    Attributes:
        labels: int, how many there were.
        value: float, sum of the values given.
        values: int, how many values were given.
    """

    def __init__(self, rolling: int) -> None:
        self.labels = 0
        self.value = 0.0
        self.values = 0
        self._recent: deque[tuple[float, float]] = deque(maxlen=rolling)

    def add(self, prediction: float, label: float, value: float | None) -> None:
        """Add one outcome. A prediction that is not finite is counted, and left out of the rolling figures."""
        self.labels += 1
        if value is not None:
            self.value += value
            self.values += 1
        if math.isfinite(prediction):
            self._recent.append((prediction, label))

    def figures(self) -> dict[str, Any]:
        """Return the figures by name.

        All outcomes: labels, value, value_mean. Rolling: rows, prediction_mean, label_mean, error_mean
            (of
        absolute errors); auc, where all labels are 0 or 1; brier and calibration_error, where predictions are shares as
        well. The Brier score is the mean of (prediction - label)^2 (Brier, Monthly Weather Review 78, 1950).
        """
        recent = np.array(self._recent, dtype=np.float64).reshape(-1, 2)
        found: dict[str, Any] = {
            "labels": self.labels,
            "value": self.value,
            "value_mean": self.value / self.values if self.values else None,
            "rows": len(recent),
        }
        if not len(recent):
            return found
        prediction, label = recent.T
        found |= {
            "prediction_mean": float(prediction.mean()),
            "label_mean": float(label.mean()),
            "error_mean": float(np.abs(prediction - label).mean()),
        }
        if np.isin(label, (0.0, 1.0)).all():
            found["auc"] = area_under_curve(prediction, label)
            if (prediction >= 0.0).all() and (prediction <= 1.0).all():
                found["brier"] = float(np.square(prediction - label).mean())
                found["calibration_error"] = calibration_error(prediction, label)
        return found


class Outcomes:
    """Outcomes by version and source, at most 64 pairs; the oldest is forgotten first. Not thread-safe.

    Attributes:
        counts: Counter of labels that were "joined", "unknown" (the answer was never seen, or is forgotten) and
            "repeated".
    """

    def __init__(self, rolling: int) -> None:
        self._rolling = rolling
        self._groups: dict[tuple[str, str], Group] = {}
        self.counts: Counter[str] = Counter(dict.fromkeys(STATUSES, 0))

    def add(self, version: str, source: int, outputs: FloatArray, label: float, value: float | None) -> None:
        """Join a label to an answer.

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
        # With several outputs a label names a class. The prediction is then the share that the model gave to that
        # class.
        if len(outputs) > 1 and label.is_integer() and 0 <= label < len(outputs):
            self._groups[key].add(float(outputs[int(label)]), 1.0, value)
        else:
            self._groups[key].add(float(outputs[0]), label, value)

    def to_json(self) -> dict[str, Any]:
        """Return plain values: counts; groups, the figures of each version and source; fallback_cost.

        fallback_cost compares the mean value of the primary's answers with that of all others: per_answer is the
        difference, total that difference times their number. None where either has no values.
        """
        groups = [
            {"version": version, "source": source, **group.figures()}
            for (version, source), group in self._groups.items()
        ]
        return {"counts": dict(self.counts), "groups": groups, "fallback_cost": self._cost()}

    def _cost(self) -> dict[str, float] | None:
        primary = [group for (_, source), group in self._groups.items() if source == "primary"]
        others = [group for (_, source), group in self._groups.items() if source != "primary"]
        n_primary, n_others = (sum(group.values for group in part) for part in (primary, others))
        if not n_primary or not n_others:
            return None
        mean_primary, mean_others = (
            sum(group.value for group in part) / n for part, n in ((primary, n_primary), (others, n_others))
        )
        per_answer = mean_primary - mean_others
        return {"per_answer": per_answer, "total": per_answer * n_others, "answers": n_others}


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
