"""Performance: whether a model's errors grow once labels are there, and an estimate before they are.

The loss of every label goes through the sequential tests that columns have (`engine.monitor.drift.charts`), against the
losses of the first labels or of the rows that the reference was fitted on. Losses need no window, so a model that gets
worse is seen within some hundred labels.

The estimate uses no labels: a share p that is calibrated is right in p of its cases, so the errors to expect follow
from the outputs alone (confidence-based performance estimation; Kivimäki, Białek, Nurminen and Kuberski, J. Artif.
Intell. Res. 82, 2025). It sees inputs that became harder. It does not see a world in which the same inputs bring other
labels; labels alone show that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import MonitorError
from engine.monitor.drift.bins import FloatArray
from engine.monitor.drift.charts import CHARTS, law_of, steps_of, thresholds_of
from engine.monitor.drift.column import Column
from engine.monitor.drift.fitting import fit_column
from engine.monitor.outcomes import are_shares, area_under_curve

KIND = "performance_drift"
# Labels that become the baseline where the reference has none.
LEARN = 500
LABELS_MIN = 100
# Labels that are tested together.
BLOCK = 50
# The latest labels whose figures an alert shows, and that must be as good as the baseline to end it.
RECENT = 1000
POOL_MIN = 250
ENDED_Z = 2.0
# Charts of a mean that grows; together they take this part of a column's acceptable false alarms.
UP = tuple(place for place, chart in enumerate(CHARTS) if chart.name == "mean up")
UP_PART = sum(CHARTS[place].part for place in UP)
# Equal shares of the baseline's predictions in which its labels are counted.
CALIBRATION_BINS = 20
RANKS = 129
METRICS = {
    "brier": "Brier score",
    "absolute": "mean absolute error",
    "rank": "mean rank error",
    "middle": "mean absolute error of the middle quantile",
}


def loss_kind(outputs: FloatArray, label: FloatArray) -> str:
    """Return the loss that fits some answers: "brier", "rank", "middle" or "absolute".

    Args:
        outputs: float64 [n, n_outputs], finite.
        label: float64 [n].
    """
    width = outputs.shape[1]
    if are_shares(outputs) and np.isin(label, np.arange(width)).all():
        return "brier"
    if width > 1:
        return "middle" if (np.diff(outputs, axis=1) >= 0.0).all() else "absolute"
    if np.isin(label, (0.0, 1.0)).all():
        return "brier" if (outputs >= 0.0).all() and (outputs <= 1.0).all() else "rank"
    return "absolute"


def prediction_of(outputs: FloatArray) -> FloatArray:
    """Return the number that ranks answers, float64 [n]: the share of class 1 of two, otherwise the first output."""
    return outputs[:, 1] if outputs.shape[1] == 2 and are_shares(outputs) else outputs[:, 0]


@dataclass(frozen=True, slots=True)
class Baseline:
    """How good a model was: the losses of some labels. Immutable.

    Attributes:
        kind: "brier", "absolute", "rank" or "middle", the loss.
        width: outputs of an answer.
        column: Column of the losses.
        ranks: float64 [129], quantiles of the predictions; empty but for "rank".
        edges: float64 [k - 1], ascending; between them lie the k bins of the calibration; empty without one.
        positive: float64 [k], share of labels 1 in each bin.
        figures: dict, "auc" and "brier" as far as they are known.
    """

    kind: str
    width: int
    column: Column
    ranks: FloatArray
    edges: FloatArray
    positive: FloatArray
    figures: dict[str, float] = field(default_factory=dict)

    @classmethod
    def fit(cls, outputs: FloatArray, label: FloatArray) -> Baseline:
        """Return the baseline of some answers and their labels, in the order the labels came.

        Args:
            outputs: float64 [n, n_outputs], finite.
            label: float64 [n], finite.

        Raises:
            MonitorError: fewer than 100 labels.
        """
        if len(label) < LABELS_MIN:
            raise MonitorError(f"a baseline needs at least {LABELS_MIN} labels, got {len(label)}")
        kind = loss_kind(outputs, label)
        prediction = prediction_of(outputs)
        ranks = np.quantile(prediction, np.linspace(0.0, 1.0, RANKS)) if kind == "rank" else np.zeros(0)
        losses = loss(kind, outputs, label, ranks)
        figures = {METRICS[kind]: float(losses.mean())}
        edges, positive = np.zeros(0), np.zeros(0)
        if np.isin(label, (0.0, 1.0)).all() and outputs.shape[1] <= 2:
            area = area_under_curve(prediction, label)
            if area is not None:
                figures["AUC"] = area
            edges = np.unique(
                np.quantile(
                    prediction, np.arange(1, CALIBRATION_BINS) / CALIBRATION_BINS, method="inverted_cdf"
                )
            )
            place = np.searchsorted(edges, prediction)
            counts = np.bincount(place, minlength=len(edges) + 1)
            hits = np.bincount(place, label, minlength=len(edges) + 1)
            # A bin of few labels keeps to the mean of all.
            positive = (hits + label.mean()) / (counts + 1.0)
        column = fit_column("loss", losses.astype(np.float32), categorical=False)
        return cls(kind, outputs.shape[1], column, ranks, edges, positive, figures)

    def losses(self, outputs: FloatArray, label: FloatArray) -> FloatArray:
        """Return the loss of each answer, float64 [n]; NaN for a label that the loss cannot take."""
        return loss(self.kind, outputs, label, self.ranks)

    def calibrated(self, prediction: FloatArray) -> FloatArray:
        """Return the share of labels 1 at each prediction, float64 [n]; only where there is a calibration."""
        found: FloatArray = self.positive[np.searchsorted(self.edges, prediction)]
        return found

    def to_json(self) -> dict[str, Any]:
        """Return everything as values that JSON has."""
        return {
            "kind": self.kind,
            "width": self.width,
            "column": self.column.to_json(),
            "ranks": self.ranks.tolist(),
            "edges": self.edges.tolist(),
            "positive": self.positive.tolist(),
            "figures": dict(self.figures),
        }

    @classmethod
    def from_json(cls, made: Mapping[str, Any]) -> Baseline:
        """Return what `to_json` wrote. Raises MonitorError, KeyError, TypeError or ValueError where it is damaged."""
        ranks, edges, positive = (
            np.array(made[key], dtype=np.float64) for key in ("ranks", "edges", "positive")
        )
        if made["kind"] not in METRICS or (len(positive) and len(positive) != len(edges) + 1):
            raise ValueError("expected a loss of a known kind, and a share for each bin of its calibration")
        figures = {str(name): float(value) for name, value in made["figures"].items()}
        column = Column.from_json(dict(made["column"]))
        return cls(made["kind"], int(made["width"]), column, ranks, edges, positive, figures)


def loss(kind: str, outputs: FloatArray, label: FloatArray, ranks: FloatArray) -> FloatArray:
    """Return the loss of each answer, float64 [n], NaN where the label is none of the classes.

    brier: half the sum over the classes of (share - truth)^2, for one share (share - label)^2. rank: the share of the
    baseline's predictions on the wrong side, whose mean is 1 - AUC for the baseline's share of labels 1. absolute and
    middle: the distance of the first, or the middle, output from the label.
    """
    if kind == "brier":
        if outputs.shape[1] == 1:
            return np.where(np.isin(label, (0.0, 1.0)), np.square(outputs[:, 0] - label), np.nan)
        classes = np.arange(outputs.shape[1])
        truth = label[:, None] == classes
        return np.where(truth.any(axis=1), np.square(outputs - truth).sum(axis=1) / 2.0, np.nan)
    if kind == "rank":
        place = np.searchsorted(ranks, prediction_of(outputs)) / len(ranks)
        return np.where(label == 1.0, 1.0 - place, np.where(label == 0.0, place, np.nan))
    middle = (outputs.shape[1] - 1) / 2 if kind == "middle" else 0
    return np.abs(outputs[:, [math.floor(middle), math.ceil(middle)]].mean(axis=1) - label)


@dataclass(slots=True)
class Worsening:
    """A performance that is worse than the baseline. Labels count from the monitor's first one.

    Attributes:
        started_row: the label at which it began, estimated.
        detected_row: the label at which it was certain.
        ended_row: the label at which it was last seen; None while it lasts.
        evidence: dict of plain figures, now and of the baseline.
    """

    started_row: int
    detected_row: int
    ended_row: int | None = None
    evidence: dict[str, Any] = field(default_factory=dict)


class Performance:
    """Tests the losses of the primary's answers. Not thread-safe.

    Attributes:
        baseline: Baseline that losses are compared with; None while it is learned.
        open: Worsening that has not ended, or None.
        labels: int, labels seen.
    """

    def __init__(self, chance: float, baseline: Baseline | None = None) -> None:
        """Args:
        chance: acceptable false alarms per label.
        baseline: of the reference; None where the first 500 labels become it.
        """
        self._chance = chance
        self.labels = 0
        self.open: Worsening | None = None
        self._first: list[tuple[FloatArray, float]] = []
        self._waiting: list[float] = []
        self._recent: list[tuple[FloatArray, float]] = []
        self.baseline: Baseline | None = None
        self._learned = baseline is None
        self._compare_with(baseline)

    def restart(self, baseline: Baseline | None) -> Worsening | None:
        """Compare with another baseline from now on, or learn it. Return what lasted, which ends."""
        ended, self.open = self.open, None
        if ended is not None:
            ended.ended_row = self.labels
        self._first, self._waiting, self._recent = [], [], []
        self._learned = baseline is None
        self._compare_with(baseline)
        return ended

    def _compare_with(self, baseline: Baseline | None) -> None:
        self.baseline = baseline
        self._level = np.zeros(len(UP))
        self._since = np.zeros(len(UP), dtype=np.int64)
        if baseline is None:
            return
        column = baseline.column
        made = column.scores()
        steps = steps_of(column, made)
        heights = thresholds_of(column, steps, law_of(column, made), self._chance / UP_PART)
        self._steps = steps[list(UP), : column.bins.n_bins] / heights[list(UP), None]
        self._location = np.zeros(column.bins.n_bins) if made is None else made.location

    def add(self, outputs: FloatArray, label: float) -> Worsening | None:
        """Add the label of one of the primary's answers. Return a worsening that began or ended with it.

        Args:
            outputs: float64 [n_outputs] of the answer.
            label: the truth.
        """
        if not len(outputs) or not np.isfinite(outputs).all():
            return None
        if self.baseline is None:
            self._first.append((np.array(outputs, dtype=np.float64), label))
            self._learn()
            return None
        if len(outputs) != self.baseline.width:
            return None
        found = float(self.baseline.losses(outputs[None, :], np.array([label]))[0])
        if math.isnan(found):
            return None
        self.labels += 1
        self._recent.append((np.array(outputs, dtype=np.float64), label))
        self._waiting.append(found)
        return self._test() if len(self._waiting) >= BLOCK else None

    def _learn(self) -> None:
        width = len(self._first[-1][0])
        rows = [pair for pair in self._first if len(pair[0]) == width]
        if len(rows) < LEARN:
            if len(self._first) >= 4 * LEARN:
                self._first = rows
            return
        self._compare_with(
            Baseline.fit(np.stack([outputs for outputs, _ in rows]), np.array([label for _, label in rows]))
        )
        self._first = []

    def _test(self) -> Worsening | None:
        assert self.baseline is not None
        losses = np.array(self._waiting, dtype=np.float32)
        self._waiting = []
        del self._recent[:-RECENT]
        index = self.baseline.column.bins.index(losses)
        counts = np.bincount(index[index >= 0], minlength=self.baseline.column.bins.n_bins)
        self._since[self._level <= 0.0] = self.labels - len(losses)
        self._level = np.clip(self._level + self._steps @ counts, 0.0, 1.0)
        if self.open is None:
            alarmed = self._level >= 1.0
            if not alarmed.any():
                return None
            since = int(self._since[alarmed].min())
            self.open = Worsening(since, self.labels, evidence=self._evidence(since))
            return self.open
        pool = min(self.labels - self.open.started_row, RECENT)
        if pool < POOL_MIN or self._worse(pool):
            return None
        ended, self.open = self.open, None
        ended.ended_row = max(self.labels - pool, ended.detected_row)
        self._level[:] = 0.0
        return ended

    def _worse(self, pool: int) -> bool:
        """Return whether the latest `pool` labels together are worse than the baseline."""
        assert self.baseline is not None
        outputs = np.stack([row for row, _ in self._recent[-pool:]])
        label = np.array([label for _, label in self._recent[-pool:]])
        index = self.baseline.column.bins.index(self.baseline.losses(outputs, label).astype(np.float32))
        scores = self._location[index[index >= 0]]
        n, column = max(len(scores), 1), self.baseline.column
        error = (column.mean_dependence.factor * (1.0 / n + 1.0 / max(column.present, 1))) ** 0.5
        return bool(scores.sum() / n > ENDED_Z * error)

    def _evidence(self, since: int) -> dict[str, Any]:
        assert self.baseline is not None
        recent = self._recent[-max(self.labels - since, BLOCK) :]
        outputs = np.stack([row for row, _ in recent])
        label = np.array([label for _, label in recent])
        kind = self.baseline.kind
        now = {METRICS[kind]: float(self.baseline.losses(outputs, label).mean())}
        if "AUC" in self.baseline.figures:
            area = area_under_curve(prediction_of(outputs), label)
            if area is not None:
                now["AUC"] = area
        return {
            "labels": len(label),
            "metric": METRICS[kind],
            "figures": now,
            "figures_reference": dict(self.baseline.figures),
        }

    def figures(self) -> dict[str, Any]:
        """Return plain values: labels; learning; lasts; nearest_alarm; figures_reference."""
        return {
            "labels": self.labels,
            "learning": self.baseline is None,
            "lasts": self.open is not None,
            "nearest_alarm": float(self._level.max()) if self.baseline is not None else 0.0,
            "figures_reference": {} if self.baseline is None else dict(self.baseline.figures),
        }

    def saved(self) -> dict[str, Any]:
        """Return a copy of what `restore` takes."""
        return {
            "learned": None if self.baseline is None or not self._learned else self.baseline.to_json(),
            "labels": self.labels,
            "level": self._level.copy(),
            "since": self._since.astype(float),
            "waiting": list(self._waiting),
            "first": _packed(self._first),
            "recent": _packed(self._recent),
            "open": None if self.open is None else _plain(self.open),
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on from what `saved` returned. Raises ValueError, KeyError or TypeError where it is damaged."""
        if self._learned and saved["learned"] is not None:
            self._compare_with(Baseline.from_json(saved["learned"]))
        self.labels = int(saved["labels"])
        if saved["level"].shape == self._level.shape:
            self._level = np.clip(saved["level"].astype(float), 0.0, 1.0)
            self._since = saved["since"].astype(np.int64)
        self._waiting = [float(value) for value in saved["waiting"]]
        self._first, self._recent = _unpacked(saved["first"]), _unpacked(saved["recent"])
        self.open = None if saved["open"] is None else Worsening(**saved["open"])


def _plain(made: Worsening) -> dict[str, Any]:
    return {name: getattr(made, name) for name in ("started_row", "detected_row", "ended_row", "evidence")}


def _packed(rows: list[tuple[FloatArray, float]]) -> FloatArray:
    """Return float64 [n, 1 + width]: the label, then the outputs, NaN beyond their number."""
    width = max((len(outputs) for outputs, _ in rows), default=0)
    packed = np.full((len(rows), width + 1), np.nan)
    for place, (outputs, label) in enumerate(rows):
        packed[place, 0], packed[place, 1 : 1 + len(outputs)] = label, outputs
    return packed


def _unpacked(packed: FloatArray) -> list[tuple[FloatArray, float]]:
    return [(row[1:][~np.isnan(row[1:])], float(row[0])) for row in packed]


def message(found: Worsening) -> str:
    """Return a worsening in words: the figures before and after, the labels."""
    evidence = found.evidence
    before = evidence["figures_reference"]
    figures = "; ".join(
        f"{name} {value:.3g}, was {before[name]:.3g}"
        for name, value in evidence["figures"].items()
        if name in before
    )
    return (
        f"performance drift: {figures}, of the last {evidence['labels']:,} labels; since about label "
        f"{found.started_row:,}, certain at label {found.detected_row:,}"
    )


def estimated(
    outputs: npt.NDArray[np.float64], baseline: Baseline | None, threshold: float
) -> dict[str, Any] | None:
    """Return the performance to expect of answers without labels; None where outputs are no shares of classes.

    Keys: rows; calibrated, whether labels showed how far to believe the shares; accuracy; brier; for one share or two
    classes also label_mean, of labels 1, and auc.

    Args:
        outputs: float64 [n, n_outputs] of the primary's latest answers.
        baseline: with a calibration, if there is one. Without one the shares are believed.
        threshold: predictions at or above it mean class 1.
    """
    outputs = outputs[np.isfinite(outputs).all(axis=1)]
    if not len(outputs):
        return None
    two = outputs.shape[1] == 1 or (outputs.shape[1] == 2 and are_shares(outputs))
    if not two:
        if not are_shares(outputs):
            return None
        squares = np.square(outputs).sum(axis=1)
        return {
            "rows": len(outputs),
            "calibrated": False,
            "accuracy": float(outputs.max(axis=1).mean()),
            # E[sum((share - truth)^2)] = 1 - sum(share^2) where shares are calibrated.
            "brier": float((1.0 - squares).mean()),
        }
    share = prediction_of(outputs)
    calibration = baseline is not None and len(baseline.positive) > 0
    bounded = bool((share >= 0.0).all() and (share <= 1.0).all())
    if not calibration and (not bounded or len(np.unique(share)) < 3):
        return None
    right = baseline.calibrated(share) if calibration and baseline is not None else share
    order = np.argsort(share, kind="stable")
    found = {
        "rows": len(share),
        "calibrated": calibration,
        "accuracy": float(np.where(share >= threshold, right, 1.0 - right).mean()),
        "label_mean": float(right.mean()),
        "auc": _expected_area(share[order], right[order]),
    }
    if bounded:
        found["brier"] = float((right * np.square(1.0 - share) + (1.0 - right) * np.square(share)).mean())
    return found


def _expected_area(share: FloatArray, right: FloatArray) -> float | None:
    """Return the expected AUC of ascending predictions that are labelled 1 with chance `right`; a tie counts half."""
    wrong = 1.0 - right
    starts = np.flatnonzero(np.concatenate([[True], share[1:] != share[:-1]]))
    positive, negative = np.add.reduceat(right, starts), np.add.reduceat(wrong, starts)
    below = np.cumsum(negative) - negative
    pairs = float(right.sum() * wrong.sum())
    return float((positive * (below + negative / 2.0)).sum() / pairs) if pairs > 0.0 else None
