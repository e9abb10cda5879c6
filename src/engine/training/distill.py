"""Distillation: a small model with nearly the answers of a large one, within a budget of microseconds a row."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.model import Model
from engine.registry import artifacts
from engine.training.evaluate import agreement
from engine.training.learners import LightGBM, Rows
from engine.training.signals import Stop

# (trees, leaves), from the closest to the primary down to the cheapest.
SIZES = ((100, 31), (60, 15), (30, 8), (10, 4), (3, 3))
ROWS_MAX = 50_000  # a small forest learns nothing more from more rows


@dataclass(frozen=True, slots=True, eq=False)
class Distilled:
    """A distilled fallback.

    Attributes:
        content: the bytes to store.
        model: the loaded model.
        about: plain JSON: trees, leaves, us_row (microseconds of one row in native code), budget_us, and the agreement
            with the primary on rows that neither model has learned from.
    """

    content: bytes
    model: Model
    about: dict[str, Any]


def distill(
    primary: Model,
    learn: npt.NDArray[np.float32],
    judge: npt.NDArray[np.float32],
    names: tuple[str, ...],
    *,
    budget_us: float,
    stop: Stop,
) -> Distilled | None:
    """Train small forests on the primary's answers, largest first, and return the first that keeps the budget.

    Args:
        learn, judge: float32 [n, n_features]: rows to learn from, and rows to measure the agreement on.
        budget_us: microseconds that one row may take, above 0.

    Returns:
        None if the primary has several outputs, or if even the smallest forest exceeds the budget.
    """
    if primary.n_outputs != 1:
        return None
    sample = learn[:: max(1, len(learn) // ROWS_MAX)]
    targets = primary.predict(sample)
    # Cross-entropy keeps the answers between 0 and 1 where the targets are probabilities.
    inside = bool(((targets >= 0.0) & (targets <= 1.0)).all())
    data = Rows(sample, targets, names)
    expected = primary.predict(judge)
    for trees, leaves in SIZES:
        learner = LightGBM(
            trees,
            trees,
            objective="cross_entropy" if inside else "regression",
            num_leaves=leaves,
            learning_rate=max(0.1, 3.0 / trees),
        )
        content = learner.step(data, 0, None, stop)
        model = artifacts.from_bytes("the distilled fallback", content, trust=False)
        us_row = measured_us_row(model, sample)
        if us_row <= budget_us:
            about = {"trees": trees, "leaves": leaves, "us_row": us_row, "budget_us": budget_us}
            return Distilled(
                content, model, {**about, "agreement": agreement(expected, model.predict(judge))}
            )
    return None


def measured_us_row(model: Model, rows: npt.NDArray[np.float32]) -> float:
    """Return the microseconds of one row: the loader's own measurement of native code, else the fastest call."""
    facts = model.describe()
    times = facts.get("calibration_us_row")
    if times:
        return float(times[facts["layout_single"]][0])
    best = float("inf")
    for index in range(200):
        row = rows[index % len(rows)][None]
        start = time.perf_counter_ns()
        model.predict(row)
        best = min(best, (time.perf_counter_ns() - start) * 1e-3)
    return best
