"""Correlations of pairs of columns: a change that no column shows by itself.

Every row adds the products of its columns' normal scores. The correlation of a window is compared with that of the
reference. Its variance is the mean square of the influence psi = u v - r (u^2 + v^2) / 2 of a standardised row (u, v)
(Devlin, Gnanadesikan and Kettenring, Biometrika 62, 1975), over the rows of the window and those of the reference.
Scores are cut off at 2.5 standard deviations. Psi is therefore bounded, and Bernstein's inequality (Boucheron, Lugosi
and Massart, Concentration Inequalities, 2013, theorem 2.10) limits false alarms for any law, where a normal
approximation would not. The chance of a window is divided by the number of pairs (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.monitor.drift.bins import FloatArray
from engine.monitor.drift.column import WINDOW_ROWS, Column

# The first columns that take part.
COLUMNS_MAX = 128
# Scores are whole eighths of a standard deviation, at most 20 of them, so that sums of products are exact.
EIGHTHS = 8.0
SCORE_MAX = 20.0
# Rows of the reference that its correlations are made of, evenly spread.
ROWS_MAX = 50_000
# Columns whose rows depend on each other more than this do not take part: their windows show other correlations.
FACTOR_MAX = 25.0
# A window must hold so many independent stretches.
STRETCHES_MIN = 50.0
# The least variance of a correlation's influence: columns that are copies of each other may differ by roundings.
VARIANCE_MIN = 0.02
# A column that varies less than this share of its usual variance has no correlation.
VARIED_MIN = 0.1
# Lengths of windows, in parts of `window_rows` rows.
LENGTHS = tuple(2**i for i in range(len(WINDOW_ROWS) - 1))
KEPT = LENGTHS[-1]
# Long windows are tested when a quarter of them is new.
NEW = 4
# Parts that are pooled to see whether a change is over, and standard errors from which on they differ.
POOLED = 4
POOLED_Z = 2.5
ERRORS_KEPT = 32


@dataclass(frozen=True, slots=True)
class Pairs:
    """Correlations of the reference's columns. Immutable.

    Attributes:
        names: tuple of str, the p columns that take part, in the reference's order.
        rows: int, rows they were computed of.
        correlation: float64 [p (p - 1) / 2], of the scores of (0, 1), (0, 2), …, (p - 2, p - 1).
        variance: float64 [p (p - 1) / 2], of a row's influence on each.
    """

    names: tuple[str, ...]
    rows: int
    correlation: FloatArray
    variance: FloatArray

    def to_json(self) -> dict[str, Any]:
        """Return everything as values that JSON has."""
        return {
            "names": list(self.names),
            "rows": self.rows,
            "correlation": [round(value, 4) for value in self.correlation.tolist()],
            "variance": [round(value, 4) for value in self.variance.tolist()],
        }

    @classmethod
    def from_json(cls, made: Mapping[str, Any]) -> Pairs:
        """Return what `to_json` wrote. Raises KeyError, TypeError or ValueError where it is damaged."""
        names = tuple(map(str, made["names"]))
        arrays = [np.array(made[key], dtype=np.float64) for key in ("correlation", "variance")]
        for found in arrays:
            if found.shape != (len(names) * (len(names) - 1) // 2,) or not np.isfinite(found).all():
                raise ValueError(f"expected the correlations of {len(names)} columns, got {found.shape}")
        rows = int(made["rows"])
        if rows < 1:
            raise ValueError(f"expected correlations of at least one row, got {rows}")
        return cls(names, rows, np.clip(arrays[0], -1.0, 1.0), np.maximum(arrays[1], VARIANCE_MIN))


def pair_scores(column: Column) -> npt.NDArray[np.float32] | None:
    """Return a whole number of -20 to 20 for each bin, float32 [n_bins]; None for a column that takes no part."""
    made = column.scores()
    factor = max(column.mean_dependence.factor, column.spread_dependence.factor)
    cycle = column.calibration is not None and column.calibration.period > 0.0
    if made is None or cycle or factor > FACTOR_MAX or not made.location.any():
        return None
    scores = np.rint(np.clip(made.location * EIGHTHS, -SCORE_MAX, SCORE_MAX)).astype(np.float32)
    return scores if len(np.unique(scores[column.counts > 0])) > 1 else None


def fit_pairs(columns: Sequence[Column], values: Mapping[str, npt.NDArray[np.float32]]) -> Pairs | None:
    """Return the correlations of a reference's columns; None where there are fewer than two.

    Args:
        columns: of the reference.
        values: float32 [n] by name; NaN is missing.
    """
    chosen = [(column, scores) for column in columns if (scores := pair_scores(column)) is not None]
    chosen = chosen[:COLUMNS_MAX]
    if len(chosen) < 2:
        return None
    rows = chosen[0][0].rows
    taken = np.linspace(0, rows - 1, min(rows, ROWS_MAX)).astype(np.int64)
    made = np.empty((len(taken), len(chosen)))
    for place, (column, scores) in enumerate(chosen):
        index = column.bins.index(values[column.name][taken])
        made[:, place] = np.where(index >= 0, scores[np.maximum(index, 0)], 0.0)
    made -= made.mean(axis=0)
    deviation = made.std(axis=0)
    made /= np.where(deviation > 0.0, deviation, 1.0)
    squares = np.square(made)
    n = float(len(taken))
    correlation = np.clip(made.T @ made / n, -1.0, 1.0)
    both = squares.T @ squares / n
    cubes = (squares * made).T @ made / n
    fourth = np.diag(both)
    variance = (
        both
        + np.square(correlation) / 4.0 * (fourth[:, None] + fourth[None, :] + 2.0 * both)
        - correlation * (cubes + cubes.T)
    )
    upper = np.triu_indices(len(chosen), 1)
    return Pairs(
        tuple(column.name for column, _ in chosen),
        len(taken),
        correlation[upper],
        np.maximum(variance[upper], VARIANCE_MIN),
    )


@dataclass(frozen=True, slots=True)
class Changed:
    """A pair whose correlation has changed.

    Attributes:
        first, second: places of the two columns in the detector.
        correlation, reference: float, now and in the reference.
        rows: int, rows of the window that shows it.
    """

    first: int
    second: int
    correlation: float
    reference: float
    rows: int


class PairTests:
    """Gathers products into parts of windows, and tests the correlations of windows of four lengths. Not thread-safe.

    Attributes:
        changed: list of Changed, of the last part; the surest of each pair.
    """

    def __init__(self, columns: Sequence[Column], pairs: Pairs, rows_part: int, chance: float) -> None:
        """Args:
        columns: of the detector; `pairs.names` are some of them.
        pairs: of the reference.
        rows_part: rows of a part.
        chance: acceptable false alarms per row, over all pairs.
        """
        places = {column.name: place for place, column in enumerate(columns)}
        self._place = [places[name] for name in pairs.names]
        taking = [columns[place] for place in self._place]
        n = len(taking)
        self._rows_part = rows_part
        self._upper = np.triu_indices(n, 1)
        # Where each product lies behind the sums of scores: the triangle with its diagonal, row by row.
        whole = np.zeros((n, n), dtype=np.int64)
        whole[np.triu_indices(n)] = n + np.arange(n * (n + 1) // 2)
        self._square_at, self._product_at = np.diag(whole), whole[self._upper]
        self._width = n * (n + 3) // 2
        self._reference = pairs.correlation
        largest = np.empty(n)
        usual = np.empty(n)
        for place, column in enumerate(taking):
            scores = pair_scores(column)
            assert scores is not None, "columns without scores take no part"
            counts = np.append(column.counts, column.rows - column.present).astype(np.float64)
            values = np.append(scores, 0.0).astype(np.float64)
            mean = float(counts @ values) / column.rows
            usual[place] = float(counts @ np.square(values - mean)) / column.rows
            largest[place] = np.abs(values - mean).max() / max(usual[place], 1e-9) ** 0.5
        self._usual = usual
        # Nothing is certain about columns that once hung together as their rows do.
        factors = np.array([max(c.mean_dependence.factor, c.spread_dependence.factor) for c in taking])
        first, second = self._upper
        self._factor = np.maximum(factors[first], factors[second])
        self._variance = pairs.variance
        # The most that psi can be.
        squares = (np.square(largest[first]) + np.square(largest[second])) / 2.0
        self._bound = largest[first] * largest[second] + np.abs(pairs.correlation) * squares
        self._reference_rows = float(pairs.rows)
        self._chance = chance / len(LENGTHS) / max(len(self._reference), 1)
        self._errors: dict[tuple[float, int], FloatArray] = {}
        self._gathered = np.zeros(self._width)
        self._gathered_rows = 0.0
        self.parts = np.zeros((KEPT, self._width))
        self.rows = np.zeros(KEPT)
        self._n_parts = 0
        self.changed: list[Changed] = []

    def add(self, rows: float, sums: npt.NDArray[Any]) -> None:
        """Add the sums of a block, float32 [p (p + 3) / 2] as of `Sketch.take`, over `rows` rows."""
        self._gathered += sums
        self._gathered_rows += rows

    def end_part(self, whole: bool) -> None:
        """End a part where the detector's window is `whole`, and test the windows that end with it."""
        self.changed = []
        if not whole:
            return
        place = self._n_parts % KEPT
        self._n_parts += 1
        self.parts[place], self.rows[place] = self._gathered, self._gathered_rows
        self._gathered = np.zeros(self._width)
        self._gathered_rows = 0.0
        lengths = [
            length
            for length in LENGTHS
            if length <= self._n_parts and not self._n_parts % max(length // NEW, 1)
        ]
        latest = self._latest(lengths[-1])[::-1]
        at = np.array(lengths) - 1
        rows = np.maximum(np.cumsum(self.rows[latest])[at], 1.0)
        correlation, known = self._correlations(np.cumsum(self.parts[latest], axis=0)[at], rows)
        limits = [self._limit(float(n), length) for n, length in zip(rows, lengths, strict=True)]
        far = known & (np.abs(correlation - self._reference) > limits)
        if not far.any():
            return
        found: dict[int, Changed] = {}
        for place, pair in np.argwhere(far).tolist():
            found.setdefault(pair, self._made(pair, correlation[place], lengths[place]))
        self.changed = list(found.values())

    def _limit(self, rows: float, length: int) -> FloatArray:
        """Return `_error` of a window; it is kept, because windows mostly have the same rows."""
        key = rows, length
        if key not in self._errors:
            if len(self._errors) >= ERRORS_KEPT:
                self._errors.clear()
            self._errors[key] = self._error(rows, self._nats(length))
        return self._errors[key]

    def _nats(self, length: int) -> float:
        """Return -log of the chance that the test of a window of so many parts has for each pair."""
        return float(np.log(2.0 / (self._chance * self._rows_part * max(length // NEW, 1))))

    def _made(self, pair: int, correlation: FloatArray, length: int) -> Changed:
        first, second = int(self._upper[0][pair]), int(self._upper[1][pair])
        return Changed(
            self._place[first],
            self._place[second],
            float(correlation[pair]),
            float(self._reference[pair]),
            length * self._rows_part,
        )

    def stands(self, changed: Changed, ratio: float) -> bool:
        """Return whether a pair has changed even if live rows depend on each other `ratio` times as much."""
        pair = self._pair_of(changed.first, changed.second)
        length = max(changed.rows // self._rows_part, 1)
        correlation, rows, _ = self._window(length)
        error = self._error(rows, self._nats(length), ratio)[pair]
        return bool(abs(correlation[pair] - self._reference[pair]) > error)

    def differs(self, first: int, second: int) -> bool:
        """Return whether the correlation of two columns still differs in the latest four windows together."""
        pair = self._pair_of(first, second)
        correlation, rows, known = self._window(min(POOLED, max(self._n_parts, 1)))
        if not known[pair]:
            return False
        variance = self._variance[pair] * self._factor[pair] * (1.0 / rows + 1.0 / self._reference_rows)
        return bool(abs(correlation[pair] - self._reference[pair]) > POOLED_Z * variance**0.5)

    def _pair_of(self, first: int, second: int) -> int:
        a, b = sorted((self._place.index(first), self._place.index(second)))
        n = len(self._place)
        return a * (2 * n - a - 1) // 2 + (b - a - 1)

    def _latest(self, length: int) -> npt.NDArray[np.int64]:
        return np.arange(self._n_parts - min(length, self._n_parts, KEPT), self._n_parts) % KEPT

    def _window(self, length: int) -> tuple[FloatArray, float, npt.NDArray[np.bool_]]:
        """Return the correlations of the latest parts, their rows, and which of the correlations are known."""
        latest = self._latest(length)
        rows = np.maximum(self.rows[latest].sum(keepdims=True), 1.0)
        correlation, known = self._correlations(self.parts[latest].sum(axis=0)[None, :], rows)
        return correlation[0], float(rows[0]), known[0]

    def _correlations(self, sums: FloatArray, rows: FloatArray) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
        """Return correlations, float64 [windows, pairs], and which are known; others are as in the reference.

        Args:
            sums: float64 [windows, p (p + 3) / 2].
            rows: float64 [windows].
        """
        means = sums / rows[:, None]
        mean = means[:, : len(self._place)]
        variance = means[:, self._square_at] - np.square(mean)
        first, second = self._upper
        covariance = means[:, self._product_at] - mean[:, first] * mean[:, second]
        scale = 1.0 / np.sqrt(np.maximum(variance, 1e-9))
        known = rows[:, None] >= STRETCHES_MIN * self._factor
        varied = variance > VARIED_MIN * self._usual
        if not varied.all():
            known = known & varied[:, first] & varied[:, second]
        correlation = covariance * scale[:, first] * scale[:, second]
        return np.where(known, correlation, self._reference), known

    def _error(self, rows: float, nats: float, ratio: float = 1.0) -> FloatArray:
        """Return how far chance takes each correlation, but for a chance of exp(-nats): Bernstein's inequality."""
        # The reference's correlations are of its rows, which depend on each other as little as their columns' rows.
        noise = self._factor * ratio / rows + self._factor / self._reference_rows
        error: FloatArray = (
            np.sqrt(2.0 * self._variance * nats * noise) + 2.0 / 3.0 * self._bound * nats * noise
        )
        return error

    def saved(self) -> dict[str, Any]:
        """Return a copy of what `restore` takes."""
        return {
            "parts": self.parts.copy(),
            "rows": self.rows.copy(),
            "gathered": self._gathered.copy(),
            "counts": [self._n_parts, self._gathered_rows],
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on from what `saved` returned. Raises ValueError where the columns are others."""
        if saved["parts"].shape != self.parts.shape or saved["gathered"].shape != (self._width,):
            raise ValueError(f"expected sums {list(self.parts.shape)}, got {list(saved['parts'].shape)}")
        self.parts, self.rows = saved["parts"].astype(float), saved["rows"].astype(float)
        self._gathered = saved["gathered"].astype(float)
        self._n_parts, self._gathered_rows = int(saved["counts"][0]), float(saved["counts"][1])


def named(changed: Sequence[Changed]) -> dict[int, list[Changed]]:
    """Return the columns to name, by place, with the pairs of each.

    A column that changed against several others is the cause. Of a single pair, both columns may be.
    """
    left, found = list(changed), {}
    while left:
        counts: dict[int, int] = {}
        for pair in left:
            for place in (pair.first, pair.second):
                counts[place] = counts.get(place, 0) + 1
        most = max(counts, key=lambda place: counts[place])
        own = [pair for pair in left if most in (pair.first, pair.second)]
        if counts[most] == 1:
            for place in (own[0].first, own[0].second):
                found[place] = own
        else:
            found[most] = own
        left = [pair for pair in left if pair not in own]
    return found
