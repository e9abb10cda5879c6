"""What became of the answers: labels that come later, joined by answer id, by version and by source."""

from __future__ import annotations

import math
from collections import Counter, deque
from typing import Any

import numpy as np

from engine._common.vocabulary import SOURCES
from engine.errors import MonitorError
from engine.monitor.drift.bins import FloatArray

GROUPS_MAX = 64
CALIBRATION_BINS = 10
STATUSES = ("joined", "unknown", "repeated")


class Group:
    """Outcomes of one version and source: all of them summed, the latest `rolling` in full. Not thread-safe."""

    def __init__(self, rolling: int) -> None:
        self.labels = 0
        self.value = 0.0
        self.values = 0
        self._recent: deque[tuple[float, float]] = deque(maxlen=rolling)

    def add(self, prediction: float, label: float, value: float | None) -> None:
        self.labels += 1
        if value is not None:
            self.value += value
            self.values += 1
        if math.isfinite(prediction):
            self._recent.append((prediction, label))

    def figures(self) -> dict[str, Any]:
        """labels, value_mean, and over the rolling window: rows, prediction_mean, label_mean, error_mean (absolute),
        auc and brier where labels are 0 and 1, calibration_error where predictions are shares too."""
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
    """Counts and joins labels. Not thread-safe.

    Attributes:
        counts: how many were "joined", "unknown" (never seen, or forgotten) and "repeated".
    """

    def __init__(self, rolling: int) -> None:
        self._rolling = rolling
        self._groups: dict[tuple[str, str], Group] = {}
        self.counts: Counter[str] = Counter(dict.fromkeys(STATUSES, 0))

    def add(self, version: str, source: int, outputs: FloatArray, label: float, value: float | None) -> None:
        self.counts["joined"] += 1
        key = version, SOURCES[min(source, len(SOURCES) - 1)]
        if key not in self._groups:
            if len(self._groups) >= GROUPS_MAX:
                del self._groups[next(iter(self._groups))]
            self._groups[key] = Group(self._rolling)
        # With several outputs a label names a class, and what counts is how much the model gave to it.
        if len(outputs) > 1 and label.is_integer() and 0 <= label < len(outputs):
            self._groups[key].add(float(outputs[int(label)]), 1.0, value)
        else:
            self._groups[key].add(float(outputs[0]), label, value)

    def to_json(self) -> dict[str, Any]:
        """counts; by_version: version -> source -> figures; fallback_cost: what one of the fallback or default was
        worth less than one of the primary, by the mean values given, and over all of them."""
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


def checked(name: str, given: Any) -> float:
    """A finite number or MonitorError."""
    try:
        number = float(given)
    except (TypeError, ValueError, OverflowError):
        raise MonitorError(f"{name} must be a number, got {given!r}") from None
    if not math.isfinite(number):
        raise MonitorError(f"{name} must be finite, got {number}")
    return number


def area_under_curve(prediction: FloatArray, label: FloatArray) -> float | None:
    """Share of pairs of one 1 and one 0 that are in the right order, ties half (Mann and Whitney, 1947); None where
    there is but one kind of label."""
    from scipy import stats

    positive = label == 1.0
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if not n_positive or not n_negative:
        return None
    ranks = stats.rankdata(prediction)
    return float((ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def calibration_error(prediction: FloatArray, label: FloatArray) -> float:
    """Mean distance of predicted share and true share over ten equal bins of prediction, weighted by their rows."""
    place = np.minimum((prediction * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    gap = np.bincount(place, prediction - label, minlength=CALIBRATION_BINS)
    return float(np.abs(gap).sum() / len(label))
