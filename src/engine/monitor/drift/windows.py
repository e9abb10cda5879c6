"""Tests of the shape of the latest rows against the reference: chi-square over windows of five lengths.

Sums of scores miss some changes, for example two categories that change places. The shape of a window shows them.
Windows add up: the latest 500 rows are tested, and the latest 1,000, 2,000, 4,000 and 8,000, so a small change of shape
becomes certain in a long window (window-limited generalised likelihood ratio; Lai, J. R. Statist. Soc. B 57, 1995). The
chi-square of two samples has the sampling error of the reference in it. Over the columns of a window, Benjamini and
Hochberg's procedure limits the share of false discoveries (J. R. Statist. Soc. B 57, 1995); over time, each window gets
its part of the acceptable false alarms. Chi-squares of dependent rows are divided by how many times larger they are in
the reference's own windows of that length (first-order correction; Rao and Scott, Ann. Statist. 12, 1984).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.monitor.drift.bins import FloatArray
from engine.monitor.drift.column import WINDOW_ROWS, Column, groups_of, two_sample_chi_square
from engine.monitor.drift.dependence import caution

# A column with a smaller share of its values present in a window is not tested there.
PRESENT_MIN = 0.05
# A window of rows_window rows consists of so many parts. Each length is twice the one before, in parts.
PARTS = 2
LENGTHS = tuple(2**i for i in range(len(WINDOW_ROWS)))
KEPT = LENGTHS[-1]
# Long windows are tested when a quarter of them is new.
NEW = 4
# Parts that are pooled to see whether a change is over. Four windows see a tenth of a standard deviation at 5.8
# standard errors, and are all new soon after a change is undone.
POOLED = 4 * PARTS
# From these on a pool is not like the reference. They are far below the level that begins an alert, because each change
# was certain once.
POOLED_Z = 2.5
POOLED_P = 0.01
SAVED = ("alarmed", "p_values", "psi", "distance", "parts", "totals", "ends")


class Windows:
    """Gathers blocks into parts of windows, and tests windows of five lengths. Not thread-safe.

    Attributes:
        rows_window: int, rows of a window; a part has half of them.
        alarmed: bool [columns], as of the last part.
        alarmed_now: bool [columns], the same by windows of at most `rows_window` rows.
        p_values, psi, distance: float64 [columns], of the last whole window; 1, 0 and 0 before the first. `psi` is the
            population stability index, `distance` the Kolmogorov-Smirnov statistic.
        parts: float64 [16, columns, bins_max], counts of the latest parts, in a circle.
        totals: float64 [16, columns, 2], their rows, and rows with a strange value.
        ends: int64 [16], the row count at the end of each part.
    """

    def __init__(self, columns: Sequence[Column], bins_max: int, rows_window: int, chance: float) -> None:
        """`chance`: acceptable false alarms per row, over all columns."""
        n = len(columns)
        self.rows_window = rows_window
        self.rows_part = max(rows_window // PARTS, 1)
        self._chance = chance / len(LENGTHS)
        self._reference = np.zeros((n, bins_max))
        self._group = np.zeros((n, bins_max), dtype=np.int64)
        self._freedom = np.zeros(n)
        self._divisor = np.ones((len(LENGTHS), n))
        self._scores = np.zeros((2, n, bins_max))
        self._others = np.full(n, -1)
        # New codes are in no bin; an infinite number is in one.
        self._unbinned = np.array([c.bins.discrete and c.others is None for c in columns], dtype=np.float64)
        self._reference_rows = np.array([max(column.rows, 1) for column in columns], dtype=np.float64)
        self._missing = np.array([column.missing for column in columns], dtype=np.float64)
        self._absent_factor = np.ones(n)
        self._effective = np.ones((2, n))
        self.raised = np.ones(n)
        for place, column in enumerate(columns):
            self._learn(place, column)
        self._n_groups = int(self._group.max(initial=0)) + 1
        self._flat_group = (self._group + np.arange(n)[:, None] * self._n_groups).ravel()
        self._grouped_reference = self._in_groups(self._reference)
        self._has_others = np.flatnonzero(self._others >= 0)
        self.alarmed = np.zeros(n, dtype=bool)
        self.alarmed_now = np.zeros(n, dtype=bool)
        self.p_values = np.ones(n)
        self._psi = np.zeros(n)
        self._distance = np.zeros(n)
        self.parts = np.zeros((KEPT, n, bins_max))
        self.totals = np.zeros((KEPT, n, 2))
        self.ends = np.zeros(KEPT, dtype=np.int64)
        self._grouped = np.zeros((KEPT, n, self._n_groups))
        self._n_parts = 0
        self._shown: tuple[FloatArray, npt.NDArray[np.bool_]] | None = None

    def _learn(self, place: int, column: Column) -> None:
        self._reference[place, : len(column.counts)] = column.counts
        share = column.present / max(column.rows, 1)
        groups = groups_of(column.counts, self.rows_part * share)
        self._group[place, : len(groups)] = groups
        self._freedom[place] = groups.max(initial=0)
        if column.others is not None:
            self._others[place] = column.others
        if (scores := column.scores()) is not None:
            self._scores[0, place, : len(scores.location)] = scores.location
            self._scores[1, place, : len(scores.spread)] = scores.spread
        self._absent_factor[place] = column.missing_dependence.factor
        lengths = self.rows_part * np.array(LENGTHS, dtype=np.float64)
        factors = np.interp(np.log(lengths), np.log(WINDOW_ROWS), column.window_factors)
        differ = factors > 1.0
        if differ.any():
            windows = np.maximum(column.rows / lengths, 1.0)
            self._divisor[:, place] = np.where(differ, factors * caution(windows), 1.0)
        cycle = column.calibration is not None and column.calibration.period > 0.0
        if differ.any() or cycle or not column.mean_dependence.independent:
            # Rows that depend on each other always differ a little; only a window's shape says that it is much.
            self._divisor[lengths > self.rows_window, place] = np.inf
        for which, depends in enumerate((column.mean_dependence, column.spread_dependence)):
            self._effective[which, place] = depends.factor

    def observe(self, gathered: FloatArray, strange: FloatArray, rows_part: int, rows: int) -> None:
        """Add a part and test the windows that end with it.

        Args:
            gathered: float64 [columns, bins_max], counts of the part; copied.
            strange: float64 [columns], rows of the part with a new code or an infinite number.
            rows_part: its rows.
            rows: row count at its end.
        """
        place = self._n_parts % KEPT
        self._n_parts += 1
        part = self.parts[place]
        part[...] = gathered
        if len(self._has_others):
            # A code that the reference never had is one more of its rare codes.
            part[self._has_others, self._others[self._has_others]] += strange[self._has_others]
        self.totals[place, :, 0], self.totals[place, :, 1] = rows_part, strange
        self.ends[place] = rows
        self._grouped[place] = self._in_groups(part)
        self._test()

    def _latest(self, n: int) -> npt.NDArray[np.int64]:
        """Return the places of the latest n parts, or of fewer, the oldest first."""
        return np.arange(self._n_parts - min(n, self._n_parts, KEPT), self._n_parts) % KEPT

    def forget(self, place: int) -> None:
        """Forget the parts of a column that `differs` does not look at, because a change in them has ended."""
        old = np.setdiff1d(np.arange(KEPT), self._latest(POOLED))
        self.parts[old, place] = self.totals[old, place] = self._grouped[old, place] = 0.0

    def saved(self) -> dict[str, Any]:
        """Return a copy of what `restore` takes."""
        return {"n_parts": self._n_parts, "raised": self.raised.copy()} | {
            name: getattr(self, name).astype(float) for name in SAVED
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on from what `saved` returned. Raises ValueError where the columns are others."""
        for name in (*SAVED, "raised"):
            now = getattr(self, name)
            if saved[name].shape != now.shape:
                raise ValueError(f"expected {name} {list(now.shape)}, got {list(saved[name].shape)}")
            setattr(self, f"_{name}" if name in ("psi", "distance") else name, saved[name].astype(now.dtype))
        self._shown = None
        self._n_parts = int(saved["n_parts"])
        for place in self._latest(KEPT).tolist():
            self._grouped[place] = self._in_groups(self.parts[place])

    def recent(self) -> FloatArray:
        """Return counts, float64 [columns, bins_max], of the last whole window."""
        counts: FloatArray = self.parts[self._latest(PARTS)].sum(axis=0)
        return counts

    def _test(self) -> None:
        from scipy import special

        tested = [
            (place, length)
            for place, length in enumerate(LENGTHS)
            if length <= self._n_parts and self._n_parts % max(length // NEW, 1) == 0
        ]
        self.alarmed = np.zeros(len(self._freedom), dtype=bool)
        self.alarmed_now = self.alarmed.copy()
        if not tested:
            return
        lengths = [length for _, length in tested]
        latest = self._latest(lengths[-1])
        # Sums over the latest 1, 2, 4, … parts.
        sums = np.cumsum(self._grouped[latest[::-1]], axis=0)[np.array(lengths) - 1]
        rows = np.maximum(np.cumsum(self.totals[latest[::-1], :, 0], axis=0)[np.array(lengths) - 1], 1.0)
        present = sums.sum(axis=2)
        testable = (present >= np.maximum(PRESENT_MIN * rows, 8.0)) & (self._freedom > 0)
        # A window grows where blocks were read late. It counts as one of the usual size, because with enough rows even
        # a difference too small to matter becomes certain.
        weight = np.minimum(1.0, self.rows_part * np.array(lengths)[:, None] / rows)
        statistic = two_sample_chi_square(sums, self._grouped_reference) * weight
        divisor = self._divisor[[place for place, _ in tested]]
        p_values = special.chdtrc(np.maximum(self._freedom, 1.0), statistic / (divisor * self.raised))
        p_values = np.where(testable, p_values, 1.0)
        for p_value, length in zip(p_values, lengths, strict=True):
            chance = self._chance * self.rows_part * max(length // NEW, 1)
            found = discoveries(p_value, chance)
            self.alarmed |= found
            if length <= PARTS:
                self.alarmed_now |= found
        if PARTS in lengths and self.whole:
            at = lengths.index(PARTS)
            self.p_values = p_values[at]
            self._shown = self.recent(), testable[at]

    @property
    def whole(self) -> bool:
        """Whether a window of `rows_window` rows ends with the last part."""
        return self._n_parts % PARTS == 0

    @property
    def psi(self) -> FloatArray:
        """As the class says; computed when somebody asks."""
        self._show()
        return self._psi

    @property
    def distance(self) -> FloatArray:
        """As the class says; computed when somebody asks."""
        self._show()
        return self._distance

    def _show(self) -> None:
        if self._shown is None:
            return
        counts, testable = self._shown
        self._shown = None
        grouped = self._in_groups(counts)
        self._psi = np.where(testable, population_stability(grouped, self._grouped_reference), 0.0)
        share, expected = (
            np.cumsum(part, axis=1) / np.maximum(part.sum(axis=1), 1.0)[:, None]
            for part in (counts, self._reference)
        )
        self._distance = np.where(testable, np.abs(share - expected).max(axis=1, initial=0.0), 0.0)

    def differs(self) -> npt.NDArray[np.bool_]:
        """Return whether the last four windows together are unlike the reference, bool [columns].

        It looks at the mean scores of mean and spread, at the share of rows without a bin, and at the shape
        (chi-square). The sampling error of the reference and the dependence of rows count in each.
        """
        from scipy import special

        latest = self._latest(POOLED)
        if not len(latest):
            return np.zeros(len(self._freedom), dtype=bool)
        rows, strange = self.totals[latest].sum(axis=0).T
        counts = self.parts[latest].sum(axis=0)
        present, total = counts.sum(axis=1), np.maximum(self._reference.sum(axis=1), 1.0)
        sums = (counts * self._scores).sum(axis=2)
        error = np.sqrt(np.maximum(present, 1.0) * (1.0 + present / total) * self._effective * self.raised)
        differs = (np.abs(sums) > POOLED_Z * error).any(axis=0)

        usual = (self._missing + 0.5) / (self._reference_rows + 1.0)
        variance = usual * (1.0 - usual) * rows * (1.0 + rows / self._reference_rows) * self._absent_factor
        absent = rows - present - strange * self._unbinned
        differs |= np.abs(absent - rows * usual) > POOLED_Z * np.sqrt(variance) + 1.0

        statistic = two_sample_chi_square(self._in_groups(counts), self._grouped_reference)
        divisor = self._divisor[LENGTHS.index(PARTS)] * (POOLED / PARTS) * self.raised
        divisor = np.where(self._divisor[LENGTHS.index(POOLED)] == 1.0, self.raised, divisor)
        p_values = special.chdtrc(np.maximum(self._freedom, 1.0), statistic / divisor)
        return differs | ((p_values < POOLED_P) & (self._freedom > 0) & (present > 0))

    @property
    def rows_pooled(self) -> int:
        """Rows that `differs` looks at."""
        return self.rows_part * POOLED

    def _in_groups(self, counts: FloatArray) -> FloatArray:
        n = len(counts)
        summed: FloatArray = np.bincount(
            self._flat_group, weights=counts.ravel(), minlength=n * self._n_groups
        ).astype(np.float64)
        return summed.reshape(n, self._n_groups)


def discoveries(p_values: FloatArray, level: float) -> npt.NDArray[np.bool_]:
    """Return which hypotheses to reject, bool [n], by Benjamini and Hochberg's step-up procedure (1995, eq. 1)."""
    if p_values.min(initial=1.0) > level:
        return np.zeros(len(p_values), dtype=bool)
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
