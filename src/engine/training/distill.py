"""A small model that answers nearly what a large one does, within a budget of microseconds measured on this machine."""

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

# Trees and leaves, from the nearest to the primary to the cheapest.
SIZES = ((100, 31), (60, 15), (30, 8), (10, 4), (3, 3))
ROWS_MAX = 50_000  # that many answers of the primary tell a small forest all that it can hold


@dataclass(frozen=True, slots=True, eq=False)
class Distilled:
    """The fallback: the bytes to store, the loaded model, and JSON about it: trees, leaves, us_row (one row, native
    code alone), budget_us and the agreement with the primary on rows that neither learned from."""

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
    """Trains the largest of a few small forests on the primary's own answers that keeps the budget.

    Args:
        learn, judge: float32 [n, n_features]: to learn from, and to state the agreement on.
        budget_us: microseconds that one row may take, above 0.

    Returns:
        None for a primary of several outputs, and where not even the smallest forest keeps the budget.
    """
    if primary.n_outputs != 1:
        return None
    sample = learn[:: max(1, len(learn) // ROWS_MAX)]
    targets = primary.predict(sample)
    # Of probabilities the cross-entropy to another probability, which keeps the answers between 0 and 1.
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
    """Microseconds that one row takes: native code alone where the loader has measured that, else the best call."""
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
