"""Tests of whole windows against the reference: chi-square for any change of shape, Kolmogorov-Smirnov for numbers.

What sums of scores cannot see, two categories that change places say, the shape of a window shows. Windows do not
overlap and each test is made once; over the columns of a window the share of false discoveries is held by Benjamini and
Hochberg (J. R. Statist. Soc. B 57, 1995), and over time by giving each window its part of the false alarms that are
acceptable in 100,000 rows. Chi-squares of rows that depend on each other are divided by how much larger the reference's
own windows make them (Rao and Scott, Ann. Statist. 12, 1984, first order).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.monitor.drift.bins import FloatArray
from engine.monitor.drift.column import WINDOWS, Column, groups_of, two_sample_chi_square
from engine.monitor.drift.dependence import caution

# Of the columns present in a window, this part or less is too little to judge a shape by.
PRESENT_MIN = 0.05


class Windows:
    """Gathers blocks into windows of `rows_window` rows and tests each. Not thread-safe.

    Attributes:
        alarmed: bool [columns], as of the last window.
        p_values, psi, distance: float64 [columns] of the last window; 1, 0 and 0 before the first.
        counts: the last window's [columns, bins_max]; gathered: those of the one that is filling.
    """

    def __init__(self, columns: Sequence[Column], bins_max: int, rows_window: int, chance: float) -> None:
        """`chance`: false alarms a window, over all columns, that are acceptable."""
        self.rows_window = rows_window
        self._chance = chance
        self._reference = np.zeros((len(columns), bins_max))
        self._group = np.zeros((len(columns), bins_max), dtype=np.int64)
        self._freedom = np.zeros(len(columns))
        self._divisor = np.ones(len(columns))
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

    def _learn(self, place: int, column: Column) -> None:
        self._reference[place, : len(column.counts)] = column.counts
        present = column.present
        share = present / max(column.rows, 1)
        groups = groups_of(column.counts, self.rows_window * share)
        self._group[place, : len(groups)] = groups
        self._freedom[place] = groups.max(initial=0)
        if column.window_factor > 1.0:
            # The factor grows with the window, up to the length of what hangs together.
            longer = max(1.0, self.rows_window * WINDOWS / max(column.rows, 1))
            factor = column.window_factor * longer
            self._divisor[place] = factor * caution(factor, column.stretches(factor))
        depends = column.mean_dependence.factor
        self._effective[place] = depends * caution(depends, column.stretches(depends))

    def observe(self, counts: npt.NDArray[Any], rows_block: int) -> bool:
        """Adds a block; True where it completed a window, whose results stand in the attributes."""
        self.gathered += counts
        self._rows += rows_block
        if self._rows < self.rows_window:
            return False
        self.counts, self.gathered = self.gathered, np.zeros_like(self.gathered)
        rows, self._rows = self._rows, 0
        self._test(rows)
        return True

    def _test(self, rows: int) -> None:
        from scipy import special

        present = self.counts.sum(axis=1)
        testable = (present >= max(PRESENT_MIN * rows, 8.0)) & (self._freedom > 0)
        # A window that grew, because nobody had time to read blocks, proves no more than one of the usual size: with
        # rows enough every difference is certain, however small.
        weight = min(1.0, self.rows_window / rows)
        statistic = two_sample_chi_square(self._in_groups(self.counts), self._grouped_reference)
        statistic *= weight / self._divisor
        p_values = special.chdtrc(np.maximum(self._freedom, 1.0), statistic)
        self.distance, ks = self._kolmogorov_smirnov(present, weight)
        # The smaller of two tests, paid for as two.
        p_values = np.where(self._ordered, np.minimum(2.0 * np.minimum(p_values, ks), 1.0), p_values)
        self.p_values = np.where(testable, p_values, 1.0)
        self.psi = np.where(
            testable, population_stability(self._in_groups(self.counts), self._grouped_reference), 0.0
        )
        self.alarmed = discoveries(self.p_values, self._chance)

    def _kolmogorov_smirnov(self, present: FloatArray, weight: float) -> tuple[FloatArray, FloatArray]:
        """Largest distance of the two distribution functions at the cuts, and its p-value (from above: what happens
        between two cuts is not seen)."""
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
    """Benjamini and Hochberg's step-up procedure: bool [n]."""
    order = np.argsort(p_values, kind="stable")
    passed = np.flatnonzero(p_values[order] <= level * np.arange(1, len(order) + 1) / max(len(order), 1))
    found = np.zeros(len(p_values), dtype=bool)
    if len(passed):
        found[order[: passed[-1] + 1]] = True
    return found


def population_stability(current: FloatArray, reference: FloatArray) -> FloatArray:
    """Population stability index of counts [columns, groups]: sum((q - p) ln(q / p)), with half a row where there is
    none. Evidence of size; it grows with fewer rows, so nothing is decided by it."""
    used = (current + reference) > 0
    share = np.where(used, np.maximum(current, 0.5), 0.0)
    expected = np.where(used, np.maximum(reference, 0.5), 0.0)
    share = share / np.maximum(share.sum(axis=1, keepdims=True), 1.0)
    expected = expected / np.maximum(expected.sum(axis=1, keepdims=True), 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(used, (share - expected) * np.log(share / expected), 0.0)
    return np.nan_to_num(terms, nan=0.0, posinf=0.0, neginf=0.0).sum(axis=1)
