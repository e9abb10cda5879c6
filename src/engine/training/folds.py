"""Cross-validation: the rows before the split cut into folds, each judged by a model that has not learned from it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from engine.errors import TrainingError
from engine.training.dataset import RANDOM, SEED

Places = npt.NDArray[np.int64]
FOLDS_MAX = 100


def folds(
    n: int, n_folds: int, how: str, *, instants: Places | None = None, groups: Places | None = None
) -> Iterator[tuple[Places, Places]]:
    """Yield for each fold the places to learn from and those to judge by; each is sorted, and neither is empty.

    Split by time or order, the rows are cut into n_folds + 1 parts, and each part but the first is judged by the parts
    before it: no model learns from what comes later. Drawn at random, each row is judged once, by all other parts.

    Args:
        n: the number of rows, in their order.
        n_folds: at least 2.
        how: "time", "order" or "random", as `dataset.split` takes it.
        instants: int64 [n], ascending; rows of one instant come into one part. None for rows without instants.
        groups: int64 [n], codes from 0. Rows of one group are never on both sides: drawn at random whole groups are
            drawn, else a row is not judged if its group has rows to learn from.

    Raises:
        TrainingError: there are too few rows, instants or groups for so many folds.
    """
    if how == RANDOM:
        yield from _drawn(n, n_folds, groups)
        return
    edges = [n * part // (n_folds + 1) for part in range(1, n_folds + 2)]
    if instants is not None:
        edges = [int(np.searchsorted(instants, instants[edge])) if edge < n else n for edge in edges]
    for first, end in itertools.pairwise(edges):
        judge = np.arange(first, end)
        if groups is not None:
            judge = judge[~np.isin(groups[judge], groups[:first])]
        if first == 0 or len(judge) == 0:
            raise TrainingError(
                f"{n:,} rows before the split are too few{' instants' if instants is not None else ''} for {n_folds} "
                f"folds; take fewer folds"
            )
        yield np.arange(first), judge


def _drawn(n: int, n_folds: int, groups: Places | None) -> Iterator[tuple[Places, Places]]:
    units = np.arange(n) if groups is None else groups
    n_units = int(units.max()) + 1 if n else 0
    if n_units < n_folds:
        what = "rows" if groups is None else "groups"
        raise TrainingError(
            f"{n_units:,} {what} before the split are too few for {n_folds} folds; take fewer folds"
        )
    parts = np.empty(n_units, np.int64)
    parts[np.random.default_rng(SEED).permutation(n_units)] = np.arange(n_units) % n_folds
    for part in range(n_folds):
        judged = parts[units] == part
        yield np.flatnonzero(~judged), np.flatnonzero(judged)


def summary(found: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the mean and the sample standard deviation of each metric that every fold has: cv_auc, cv_auc_std."""
    made: dict[str, float] = {}
    for name in sorted(set.intersection(*(set(each) for each in found))):
        values = np.array([each[name] for each in found])
        made[f"cv_{name}"] = float(values.mean())
        made[f"cv_{name}_std"] = float(values.std(ddof=1))
    return made
