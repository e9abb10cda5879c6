"""Metrics of a model on rows that it has not learned from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import TrainingError
from engine.training.learners import guessed_objective

Array = npt.NDArray[np.float64]


def measured(
    labels: Array,
    answers: Array,
    *,
    classes: Sequence[Any] | None = None,
    weights: Array | None = None,
    numbers: bool = False,
) -> dict[str, float]:
    """Return the usual metrics by name, finite ones only.

    Classes with several answers a row: accuracy, log_loss. Two classes with one answer, the probability of the second:
    accuracy, auc, log_loss, brier, base_rate. Anything else is a regression: rmse, mae, r2.

    Args:
        labels: float64 [n]; codes from 0 where they are classes, below 0 for a class that the model does not know. Such
            rows count as wrong in the accuracy, and are in no other metric.
        answers: float64 [n] or [n, n_outputs].
        classes: the classes in the order of their codes; None for numbers. Without it 0 and 1 are two classes, and
            several answers a row are classes.
        weights: float64 [n]; None for equal ones.
        numbers: measure a regression even if every label is 0 or 1.

    Raises:
        TrainingError: the labels are no codes of the answers' columns.
    """
    n = len(labels)
    share = np.full(n, 1.0 / n) if weights is None or not weights.any() else weights / weights.sum()
    n_classes = len(classes) if classes is not None else None
    if numbers and answers.ndim == 1:
        found = _numbers(labels, answers, share)
    elif answers.ndim == 2:
        _require_codes(labels, answers.shape[1], n_classes)
        found = _classes(labels, answers, share)
    elif n_classes is None and guessed_objective(labels) != "binary":
        found = _numbers(labels, answers, share)
    elif n_classes is not None and n_classes != 2:
        found = {"accuracy": _mean(answers == labels, share)}  # the answers are the codes themselves
    else:
        found = _probabilities(labels, answers, share)
    return {name: float(value) for name, value in found.items() if np.isfinite(value)}


def _require_codes(labels: Array, n_outputs: int, n_classes: int | None) -> None:
    if n_classes is not None and n_classes != n_outputs:
        raise TrainingError(
            f"the labels are {n_classes} classes, but the model gives {n_outputs} answers a row"
        )
    wrong = (labels != np.floor(labels)) | (labels >= n_outputs) | (labels < (0 if n_classes is None else -1))
    if wrong.any():
        raise TrainingError(
            f"the model gives {n_outputs} answers a row, but the label {labels[np.flatnonzero(wrong)[0]]:g} is no "
            f'whole number from 0 to {n_outputs - 1}; say task="classification", which encodes the labels'
        )


def auc(labels: npt.NDArray[Any], scores: Array, weights: Array | None = None) -> float:
    """Return the chance that a 1 scores above a 0, where a tie counts half: Mann-Whitney's U over its largest value.

    NaN if one of the two labels is absent.

    Args:
        weights: float64 [n]: each pair of rows counts by the product of theirs.
    """
    own = np.ones(len(labels)) if weights is None else weights
    positives = np.where(labels == 1.0, own, 0.0)
    negatives = np.where(labels == 1.0, 0.0, own)
    if not positives.any() or not negatives.any():
        return float("nan")
    _, place = np.unique(scores, return_inverse=True)
    above = np.bincount(place, positives)
    below = np.bincount(place, negatives)
    under = np.cumsum(below) - below / 2.0
    return float((above * under).sum() / (positives.sum() * negatives.sum()))


def agreement(expected: Array, found: Array) -> dict[str, float]:
    """Return how close one model's answers are to another's.

    Keys: correlation, apart_mean and apart_max (absolute differences), and share_near, the share of rows within a
    tenth of the expected answers' standard deviation.
    """
    apart = np.abs(found - expected)
    spread = float(expected.std())
    constant = spread == 0.0 or float(found.std()) == 0.0
    return {
        "correlation": 0.0 if constant else float(np.corrcoef(expected, found)[0, 1]),
        "apart_mean": float(apart.mean()),
        "apart_max": float(apart.max()),
        "share_near": float((apart <= 0.1 * spread).mean()),
    }


def _probabilities(labels: Array, answers: Array, share: Array) -> dict[str, float]:
    right = (answers > 0.5) == (labels == 1.0)
    found = {"accuracy": _mean(right & (labels >= 0.0), share)}
    seen = labels >= 0.0
    if share[seen].sum() == 0.0:
        return found
    labels, answers, share = labels[seen], answers[seen], share[seen] / share[seen].sum()
    bounded = np.clip(answers, 1e-15, 1 - 1e-15)
    losses = labels * np.log(bounded) + (1 - labels) * np.log1p(-bounded)
    return {
        **found,
        "auc": auc(labels, answers, None if (share == share[0]).all() else share),
        "log_loss": -_mean(losses, share),
        "brier": _mean((answers - labels) ** 2, share),
        "base_rate": _mean(labels, share),
    }


def _classes(labels: Array, answers: Array, share: Array) -> dict[str, float]:
    found = {"accuracy": _mean(answers.argmax(axis=1) == labels, share)}
    seen = labels >= 0.0
    if share[seen].sum() == 0.0:
        return found
    own = answers[seen, labels[seen].astype(int)]
    share = share[seen] / share[seen].sum()
    return {**found, "log_loss": -_mean(np.log(np.clip(own, 1e-15, 1.0)), share)}


def _numbers(labels: Array, answers: Array, share: Array) -> dict[str, float]:
    left = _mean((answers - labels) ** 2, share)
    spread = _mean((labels - _mean(labels, share)) ** 2, share)
    return {
        "rmse": left**0.5,
        "mae": _mean(np.abs(answers - labels), share),
        "r2": 1.0 - left / spread if spread else float("nan"),
    }


def _mean(values: npt.NDArray[Any], share: Array) -> float:
    """Return the mean weighted by shares, which sum up to 1; with equal ones, NumPy's own mean to the bit."""
    return float(values.mean()) if (share == share[0]).all() else float((values * share).sum())
