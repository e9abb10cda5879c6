"""Makes a column of a reference from the values of its rows: bins, counts, and what the order of the rows shows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from engine.monitor.drift.bins import Bins, codes, look_like_codes, numeric, with_roundings
from engine.monitor.drift.calibration import (
    BLOCK_ROWS,
    SPANS,
    Calibration,
    block_counts,
    cycle_of,
    excursions,
    longest_run,
    span_variances,
)
from engine.monitor.drift.charts import CHARTS, dependence_of, steps_of
from engine.monitor.drift.column import WINDOW_ROWS, Column, groups_of, two_sample_chi_square
from engine.monitor.drift.dependence import dependence

STATISTICS = ("mean", "spread")
# Below so many independent stretches a reference says little about its spread.
FEW_STRETCHES = 50.0
# A reference must hold so many windows of a length to tell how much they usually differ.
WINDOWS_MIN = 6


def fit_column(
    name: str,
    values: npt.NDArray[np.float32],
    *,
    categorical: bool,
    levels: tuple[str, ...] = (),
    wide_ids: tuple[int, ...] = (),
    ordered: bool = True,
) -> Column:
    """Return the column of some values.

    Args:
        name: of the column.
        values: float32 [n] in the order the rows came; NaN is missing.
        categorical: whether values are codes. Few whole numbers without a gap count as codes anyway.
        levels: the texts that the codes 0, 1, … stand for.
        wide_ids: the ids that codes below -2^23 stand for.
        ordered: False where the order means nothing; rows then count as independent.
    """
    missing, infinite = np.isnan(values), np.isinf(values)
    finite = values[~missing & ~infinite]
    if len(finite) == 0:
        bins = Bins(np.zeros(0, dtype=np.float32), 1)
    elif categorical or look_like_codes(finite):
        bins = codes(finite)
        if wide_ids:
            bins = with_roundings(bins, wide_ids)
    else:
        bins = numeric(finite)
    index = bins.index(values)
    # An infinite value lies beyond the range; the native counter puts it into the same bin.
    counts = np.bincount(index[index >= 0], minlength=bins.n_bins).astype(np.int64)
    wide = finite.astype(np.float64)
    there = len(finite) > 0
    column = Column(
        name=name,
        bins=bins,
        counts=counts,
        rows=len(values),
        missing=int(missing.sum()),
        infinite=int(infinite.sum()),
        mean=float(wide.mean()) if there else float("nan"),
        std=float(wide.std()) if there else float("nan"),
        low=float(wide.min()) if there else float("nan"),
        high=float(wide.max()) if there else float("nan"),
        levels=levels,
        wide_ids=wide_ids,
    )
    if column.bins.discrete:
        column = replace(column, singletons=int((np.unique(finite, return_counts=True)[1] == 1).sum()))
    return _with_dependence(column, index, values) if ordered else column


def _with_dependence(column: Column, index: npt.NDArray[np.int64], values: npt.NDArray[np.float32]) -> Column:
    n_bins = column.bins.n_bins
    places = np.where(index >= 0, index, np.where(index == -1, n_bins, n_bins + 1))
    counts = block_counts(places, n_bins + 2)
    share_missing = column.missing / column.rows
    absent = dependence(
        (index == -1) - share_missing if 0 < share_missing < 1 else np.zeros(len(index)),
        np.ones(len(index), dtype=bool),
        cycle_of(counts[:, n_bins]) * BLOCK_ROWS,
    )
    column = replace(column, missing_dependence=absent)
    made = column.scores()
    period, spans = 0.0, np.zeros((len(STATISTICS), len(SPANS)))
    if made is not None:
        present, found = index >= 0, []
        for place, statistic in enumerate(STATISTICS):
            by_row = np.where(present, made.names[statistic][np.maximum(index, 0)], 0.0)
            by_row[present] -= by_row[present].mean()
            sums = _block_sums(by_row)
            period = period or cycle_of(sums)
            spans[place] = span_variances(sums)
            found.append(dependence(by_row, present, period * BLOCK_ROWS))
        # A reference of few stretches may not show how much its spread depends on the order.
        if found[0].factor > found[1].factor and column.stretches(found[0].factor) < FEW_STRETCHES:
            found[1] = found[0]
        if found[1].factor > found[0].factor:
            found[0] = found[1]
        column = replace(
            column,
            mean_dependence=found[0],
            spread_dependence=found[1],
            window_factors=_window_factors(
                index[present], n_bins, independent=all(depends.independent for depends in found[:2])
            ),
        )
    location, scale = np.zeros((2, len(CHARTS)))
    steps = steps_of(column, made)
    for place, chart in enumerate(CHARTS):
        if chart.statistic in ("strange", "beyond") or not steps[place].any():
            continue
        if period or not dependence_of(chart, column).independent:
            location[place], scale[place] = excursions(counts @ steps[place], period)
    return replace(
        column,
        calibration=Calibration(location, scale, spans, longest_run(values), period * BLOCK_ROWS),
    )


def _block_sums(by_row: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    blocks = len(by_row) // BLOCK_ROWS
    found: npt.NDArray[np.float64] = by_row[: blocks * BLOCK_ROWS].reshape(blocks, BLOCK_ROWS).sum(axis=1)
    return found


def _window_factors(index: npt.NDArray[np.int64], n_bins: int, *, independent: bool) -> tuple[float, ...]:
    """Return how many times larger the chi-square of consecutive rows is than that of independent ones, by length.

    The reference is divided into consecutive windows of each length, and each is tested against the others. The factor
    is the largest chi-square / degrees of freedom; 1 where chance explains all of them together; infinite where there
    are fewer than six windows of a column whose shorter windows differ, or whose rows are not `independent`. It is the
    largest and not the mean, because the worst day of a month comes again.
    """
    from scipy import stats

    total = np.bincount(index, minlength=n_bins)
    groups = groups_of(total, WINDOW_ROWS[0])
    n_groups, found = int(groups.max(initial=0)) + 1, [1.0] * len(WINDOW_ROWS)
    if n_groups == 1:
        return tuple(found)
    coarse = groups[index]
    for place, rows in enumerate(WINDOW_ROWS):
        n = len(index) // rows
        if n < WINDOWS_MIN:
            differ = found[place - 1] > 1.0 if place else not independent
            found[place:] = [float("inf") if differ else 1.0] * (len(found) - place)
            break
        windows = block_counts_of(coarse[: n * rows].reshape(n, rows), n_groups)
        statistic = two_sample_chi_square(windows, windows.sum(axis=0) - windows)
        freedom = n_groups - 1
        if statistic.sum() > stats.chi2.isf(1e-4, freedom * n):
            found[place] = max(1.0, float(statistic.max()) / freedom)
    return tuple(found)


def block_counts_of(windows: npt.NDArray[np.int64], n_groups: int) -> npt.NDArray[np.float64]:
    """Return float64 [windows, n_groups], how many rows of each window, int64 [windows, rows], are in each group."""
    flat = windows + np.arange(len(windows))[:, None] * n_groups
    counts = np.bincount(flat.ravel(), minlength=len(windows) * n_groups)
    return counts.reshape(len(windows), n_groups).astype(np.float64)
