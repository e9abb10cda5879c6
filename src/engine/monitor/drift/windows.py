"""Tests of whole windows against the reference: chi-square for any change of shape, Kolmogorov-Smirnov for numbers.

Sums of scores miss some changes, for example two categories that change places. The shape of a window shows them.
Windows do not overlap, so each row is tested once. Over the columns of a window, Benjamini and Hochberg's procedure
limits the share of false discoveries (J. R. Statist. Soc. B 57, 1995); over time, each window gets its part of the
acceptable false alarms. Chi-squares of dependent rows are divided by how many times larger they are in the reference's
own windows (first-order correction; Rao and Scott, Ann. Statist. 12, 1984).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.monitor.drift.bins import FloatArray
from engine.monitor.drift.column import WINDOWS, Column, groups_of, two_sample_chi_square
from engine.monitor.drift.dependence import caution

# A column with a smaller share of its values present in a window is not tested there.
PRESENT_MIN = 0.05
# Windows that are pooled to see whether a change is over. Four see a tenth of a standard deviation at 5.8 standard
# errors, and are all new soon after a change is undone.
POOLED = 4
# From these on a pool is not like the reference. They are far below the level that begins an alert, because each change
# was certain once.
POOLED_Z = 2.5
POOLED_P = 0.01
SAVED = ("alarmed", "p_values", "psi", "distance", "counts", "gathered")


class Windows:
    """Gathers blocks into windows of at least `rows_window` rows and tests each window. Not thread-safe.

    Attributes:
        rows_window: int.
        alarmed: bool [columns], as of the last window.
        p_values, psi, distance: float64 [columns], of the last window; 1, 0 and 0 before the first. `psi` is the
            population stability index, `distance` the Kolmogorov-Smirnov statistic.
        counts: float64 [columns, bins_max], of the last window.
        gathered: float64 [columns, bins_max], of the window that is filling.
    """

    def __init__(self, columns: Sequence[Column], bins_max: int, rows_window: int, chance: float) -> None:
        """`chance`: acceptable false alarms per window, over all columns."""
        self.rows_window = rows_window
        self._chance = chance
        self._reference = np.zeros((len(columns), bins_max))
        self._group = np.zeros((len(columns), bins_max), dtype=np.int64)
        self._freedom = np.zeros(len(columns))
        self._divisor = np.ones(len(columns))
        self._score = np.zeros((len(columns), bins_max))
        self._reference_rows = np.array([max(column.rows, 1) for column in columns], dtype=np.float64)
        self._absent_factor = np.ones(len(columns))
        self._effective = np.ones(len(columns))
        self._ordered = np.array([not column.bins.discrete for column in columns], dtype=bool)
        for place, column in enumerate(columns):
            self._learn(place, column)
        self._flat_group = self._group + np.arange(len(columns))[:, None] * bins_max
        self._grouped_reference = self._in_groups(self._reference)
        self.alarmed = np.zeros(len(columns), dtype=bool)
        self.p_values = np.ones(len(columns))
        self.psi = np.zeros(len(columns))
        self.distance = np.zeros(len(columns))
        self.counts = np.zeros_like(self._reference)
        self.gathered = np.zeros_like(self._reference)
        self._rows = 0
        self._pool: deque[tuple[int, FloatArray]] = deque(maxlen=POOLED)
        self._differs: npt.NDArray[np.bool_] | None = None

    def _learn(self, place: int, column: Column) -> None:
        self._reference[place, : len(column.counts)] = column.counts
        present = column.present
        share = present / max(column.rows, 1)
        groups = groups_of(column.counts, self.rows_window * share)
        self._group[place, : len(groups)] = groups
        self._freedom[place] = groups.max(initial=0)
        if (scores := column.scores()) is not None:
            self._score[place, : len(scores.location)] = scores.location
        self._absent_factor[place] = max(column.missing_dependence.factor, column.mean_dependence.factor)
        if column.window_factor > 1.0:
            # The factor was seen in windows of a 16th of the reference; it grows with longer windows.
            longer = max(1.0, self.rows_window * WINDOWS / max(column.rows, 1))
            factor = column.window_factor * longer
            self._divisor[place] = factor * caution(factor, column.stretches(factor))
        depends = column.mean_dependence.factor
        self._effective[place] = depends * caution(depends, column.stretches(depends))

    def saved(self) -> dict[str, Any]:
        """Return a copy of what `restore` takes."""
        pool = [[rows for rows, _ in self._pool], np.array([counts for _, counts in self._pool])]
        return {"rows": self._rows, "pool": pool} | {
            name: getattr(self, name).astype(float) for name in SAVED
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on from what `saved` returned. Raises ValueError where the columns are others."""
        for name in SAVED:
            now = getattr(self, name)
            if saved[name].shape != now.shape:
                raise ValueError(f"expected {name} {list(now.shape)}, got {list(saved[name].shape)}")
            setattr(self, name, saved[name].astype(now.dtype))
        self._rows = int(saved["rows"])
        self._pool.extend((int(rows), counts) for rows, counts in zip(*saved["pool"], strict=True))

    def observe(self, counts: npt.NDArray[Any], rows_block: int) -> bool:
        """Add a block's counts, [columns, bins_max]. Return whether it completed a window, which is then tested."""
        self.gathered += counts
        self._rows += rows_block
        if self._rows < self.rows_window:
            return False
        self.counts, self.gathered = self.gathered, np.zeros_like(self.gathered)
        rows, self._rows = self._rows, 0
        self._test(rows)
        self._pool.append((rows, self.counts))
        self._differs = None
        return True

    def differs(self) -> npt.NDArray[np.bool_]:
        """Return whether the pool of the last four windows is unlike the reference, bool [columns].

        It looks at the mean score, at the share of rows without a bin, and at the shape (chi-square). The sampling
        error of the reference and the dependence of rows count in each.
        """
        if self._differs is None:
            self._differs = self._compare_pool()
        return self._differs

    def _compare_pool(self) -> npt.NDArray[np.bool_]:
        from scipy import special

        if not self._pool:
            return np.zeros(len(self._freedom), dtype=bool)
        rows = float(sum(rows for rows, _ in self._pool))
        counts = np.sum([counts for _, counts in self._pool], axis=0)
        present, total = counts.sum(axis=1), np.maximum(self._reference.sum(axis=1), 1.0)
        error = np.sqrt(np.maximum(present, 1.0) * (1.0 + present / total) * self._effective)
        differs = np.abs((counts * self._score).sum(axis=1)) > POOLED_Z * error

        usual = (self._reference_rows - self._reference.sum(axis=1) + 0.5) / (self._reference_rows + 1.0)
        variance = usual * (1.0 - usual) * rows * (1.0 + rows / self._reference_rows) * self._absent_factor
        differs |= np.abs(rows - present - rows * usual) > POOLED_Z * np.sqrt(variance) + 1.0

        statistic = two_sample_chi_square(self._in_groups(counts), self._grouped_reference)
        # Chi-squares of dependent rows grow with the length of a window.
        longer = np.where(self._divisor > 1.0, len(self._pool), 1.0)
        p_values = special.chdtrc(np.maximum(self._freedom, 1.0), statistic / (self._divisor * longer))
        return differs | ((p_values < POOLED_P) & (self._freedom > 0) & (present > 0))

    def _test(self, rows: int) -> None:
        from scipy import special

        present = self.counts.sum(axis=1)
        testable = (present >= max(PRESENT_MIN * rows, 8.0)) & (self._freedom > 0)
        # A window grows where blocks were read late. It counts as one of the usual size, because with enough rows even
        # a difference too small to matter becomes certain.
        weight = min(1.0, self.rows_window / rows)
        statistic = two_sample_chi_square(self._in_groups(self.counts), self._grouped_reference)
        statistic *= weight / self._divisor
        p_values = special.chdtrc(np.maximum(self._freedom, 1.0), statistic)
        self.distance, ks = self._kolmogorov_smirnov(present, weight)
        # The smaller p-value of two tests, times two (Bonferroni).
        p_values = np.where(self._ordered, np.minimum(2.0 * np.minimum(p_values, ks), 1.0), p_values)
        self.p_values = np.where(testable, p_values, 1.0)
        self.psi = np.where(
            testable, population_stability(self._in_groups(self.counts), self._grouped_reference), 0.0
        )
        self.alarmed = discoveries(self.p_values, self._chance)

    def _kolmogorov_smirnov(self, present: FloatArray, weight: float) -> tuple[FloatArray, FloatArray]:
        """Return the largest distance of the two distribution functions at the cuts, and its p-value.

        The p-value is an upper bound, because the distance between two cuts is not seen.
        """
        from scipy import special

        total = self._reference.sum(axis=1)
        safe_present, safe_total = np.maximum(present, 1.0), np.maximum(total, 1.0)
        cumulated = np.cumsum(self.counts, axis=1) / safe_present[:, None]
        distance = np.abs(cumulated - np.cumsum(self._reference, axis=1) / safe_total[:, None]).max(
            axis=1, initial=0.0
        )
        size = weight * safe_present * safe_total / (safe_present + safe_total) / self._effective
        return distance, special.kolmogorov(np.sqrt(size) * distance)

    def _in_groups(self, counts: FloatArray) -> FloatArray:
        summed: FloatArray = np.bincount(
            self._flat_group.ravel(), weights=counts.ravel().astype(np.float64), minlength=counts.size
        ).astype(np.float64)
        return summed.reshape(counts.shape)


def discoveries(p_values: FloatArray, level: float) -> npt.NDArray[np.bool_]:
    """Return which hypotheses to reject, bool [n], by Benjamini and Hochberg's step-up procedure (1995, eq. 1)."""
    order = np.argsort(p_values, kind="stable")
    passed = np.flatnonzero(p_values[order] <= level * np.arange(1, len(order) + 1) / max(len(order), 1))
    found = np.zeros(len(p_values), dtype=bool)
    if len(passed):
        found[order[: passed[-1] + 1]] = True
    return found


def population_stability(current: FloatArray, reference: FloatArray) -> FloatArray:
    """Return the population stability index, float64 [columns], of counts, [columns, groups].

    sum((q - p) ln(q / p)) over the groups (Jeffreys' divergence), with half a row where a group is empty. It is
    evidence of size and decides nothing, because it is larger where rows are fewer.
    """
    used = (current + reference) > 0
    share = np.where(used, np.maximum(current, 0.5), 0.0)
    expected = np.where(used, np.maximum(reference, 0.5), 0.0)
    share = share / np.maximum(share.sum(axis=1, keepdims=True), 1.0)
    expected = expected / np.maximum(expected.sum(axis=1, keepdims=True), 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(used, (share - expected) * np.log(share / expected), 0.0)
    return np.nan_to_num(terms, nan=0.0, posinf=0.0, neginf=0.0).sum(axis=1)
