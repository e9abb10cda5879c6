"""Columns that move together, by the correlation of their ranks (Spearman, Am. J. Psychol. 15, 1904)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

# Ranks that correlate at least this much move together.
CORRELATION = 0.6
ROWS_MAX = 4000
COLUMNS_MAX = 500


def groups(columns: Mapping[str, npt.NDArray[np.float32]]) -> list[list[str]]:
    """Return groups of two or more columns that move together, directly or through others.

    At most 4,000 rows, evenly spread, and the first 500 columns are looked at.

    Args:
        columns: float32 [n] by name; NaN is missing.
    """
    names = list(columns)[:COLUMNS_MAX]
    if len(names) < 2:
        return []
    rows = len(columns[names[0]])
    taken = np.linspace(0, rows - 1, min(rows, ROWS_MAX)).astype(np.int64)
    ranks = np.stack([_ranks(columns[name][taken]) for name in names])
    sizes = np.sqrt(np.square(ranks).sum(axis=1, keepdims=True))
    scaled = np.divide(ranks, sizes, out=np.zeros_like(ranks), where=sizes > 0.0)
    near = np.abs(scaled @ scaled.T) >= CORRELATION
    found, left = [], set(range(len(names)))
    for first in range(len(names)):
        if first not in left:
            continue
        group, wave = {first}, {first}
        while wave:
            wave = {int(other) for place in wave for other in np.flatnonzero(near[place])} & left - group
            group |= wave
        left -= group
        if len(group) > 1:
            found.append([names[place] for place in sorted(group)])
    return found


def _ranks(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return mean ranks around 0; 0 for a missing value."""
    present = ~np.isnan(values)
    ranks = np.zeros(len(values))
    distinct, place, counts = np.unique(values[present], return_inverse=True, return_counts=True)
    if len(distinct) > 1:
        middle = np.cumsum(counts) - (counts + 1) / 2.0
        ranks[present] = middle[place] - middle[place].mean()
    return ranks
