"""Metrics of a model on rows that it has not learned from."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from engine.training.learners import guessed_objective

Array = npt.NDArray[np.float64]


def measured(labels: Array, answers: Array) -> dict[str, float]:
    """Return the usual metrics by name, finite ones only.

    Several answers a row are classes: accuracy, log_loss. Labels of 0 and 1 make probabilities: auc, log_loss, brier,
    base_rate. Anything else is a regression: rmse, mae, r2.
    """
    if answers.ndim == 2:
        found = _classes(labels, answers)
    elif guessed_objective(labels) == "binary":
        found = _probabilities(labels, answers)
    else:
        found = _numbers(labels, answers)
    return {name: float(value) for name, value in found.items() if np.isfinite(value)}


def auc(labels: npt.NDArray[Any], scores: Array) -> float:
    """Return the chance that a 1 scores above a 0, where a tie counts half: Mann-Whitney's U over its largest value.

    NaN if one of the two labels is absent.
    """
    positives = labels == 1.0
    n_positive, n_negative = int(positives.sum()), int((~positives).sum())
    if not n_positive or not n_negative:
        return float("nan")
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2.0)[place]
    return float((ranks[positives].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


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


def _probabilities(labels: Array, answers: Array) -> dict[str, float]:
    bounded = np.clip(answers, 1e-15, 1 - 1e-15)
    return {
        "auc": auc(labels, answers),
        "log_loss": float(-(labels * np.log(bounded) + (1 - labels) * np.log1p(-bounded)).mean()),
        "brier": float(((answers - labels) ** 2).mean()),
        "base_rate": float(labels.mean()),
    }


def _classes(labels: Array, answers: Array) -> dict[str, float]:
    own = np.clip(answers[np.arange(len(labels)), labels.astype(int)], 1e-15, 1.0)
    return {
        "accuracy": float((answers.argmax(axis=1) == labels).mean()),
        "log_loss": float(-np.log(own).mean()),
    }


def _numbers(labels: Array, answers: Array) -> dict[str, float]:
    left = float(((answers - labels) ** 2).mean())
    spread = float(labels.var())
    return {
        "rmse": left**0.5,
        "mae": float(np.abs(answers - labels).mean()),
        "r2": 1.0 - left / spread if spread else float("nan"),
    }
