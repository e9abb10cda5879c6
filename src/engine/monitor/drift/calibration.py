"""How far the charts of a column climb over the reference itself: what its rhythm and its dependence make usual.

The exact thresholds of `charts` hold for independent rows. A day has a rhythm and a storm lasts: the sum of scores then
climbs for hours although nothing changed. The reference shows how far. Its blocks are drawn again in long pieces
(circular block bootstrap; Politis and Romano, in Exploring the Limits of Bootstrap, 1992), and the highest excursion of
each draw follows Gumbel's law, which tells the height for any chance (Embrechts, Klüppelberg and Mikosch, Modelling
Extremal Events, 1997, ch. 3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.monitor.drift.bins import FloatArray

# Rows of a block: charts are checked at their ends.
BLOCK_ROWS = 50
# Each draw is as long as the stretch that the budget of false alarms counts.
DRAW_ROWS = 100_000
DRAWS = 64
# Pieces of the reference: whole days and storms stay whole in them.
PIECES = 8
# Scale of Gumbel's law of the largest of some normal values, in their standard deviations.
CYCLE_SCALE = 0.4
EULER = 0.5772156649015329
# Lengths, in blocks, of the sums whose differences show how much live rows depend on each other.
SPANS = (1, 5, 20)
PHASES_MAX = 1000
# Median of a squared standard normal value.
MEDIAN_SQUARED = 0.4549364231195724
# A rhythm must repeat this often, and stand out of the spectrum around it this far.
CYCLES_MIN = 3.5
PEAK = 25.0
LIKELY = 0.25
GRID = 24


@dataclass(frozen=True, slots=True)
class Calibration:
    """What the order of the reference's rows shows about one column. Immutable.

    Attributes:
        location, scale: float64 [charts], Gumbel's law of the highest excursion in 100,000 rows; scale 0 where the
            chart's statistic does not depend on the order.
        spans: float64 [2, 3], variance of sums over 1, 5 and 20 blocks of the scores of mean and spread, from the
            median squared difference of neighbours.
        run: int, rows of the longest run of one value.
        period: float, rows of a cycle; 0 for none.
        moved: float, how far companions move while a frozen column keeps its value (`companions`); 0 for not known.
    """

    location: FloatArray
    scale: FloatArray
    spans: FloatArray = field(default_factory=lambda: np.zeros((2, len(SPANS))))
    run: int = 0
    period: float = 0.0
    moved: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return everything as values that JSON has."""
        return {
            "location": self.location.tolist(),
            "scale": self.scale.tolist(),
            "spans": self.spans.tolist(),
            "run": self.run,
            "period": self.period,
            "moved": self.moved,
        }

    @classmethod
    def from_json(cls, made: Mapping[str, Any]) -> Calibration:
        """Return what `to_json` wrote. Raises KeyError, TypeError or ValueError where it is damaged."""
        location, scale, spans = (
            np.array(made[key], dtype=np.float64) for key in ("location", "scale", "spans")
        )
        if location.shape != scale.shape or location.ndim != 1 or spans.shape != (2, len(SPANS)):
            raise ValueError("expected a location and a scale for each chart, and the variances of sums")
        if not all(np.isfinite(part).all() and (part >= 0.0).all() for part in (scale, spans)):
            raise ValueError("expected scales and variances of at least 0")
        moved = float(made.get("moved", 0.0))
        return cls(location, scale, spans, int(made["run"]), float(made["period"]), moved)


def block_counts(places: npt.NDArray[np.int64], n_places: int) -> FloatArray:
    """Return float64 [blocks, n_places], the counts of whole blocks of rows, whose places are given, [rows]."""
    blocks = len(places) // BLOCK_ROWS
    kept = places[: blocks * BLOCK_ROWS].reshape(blocks, BLOCK_ROWS) + np.arange(blocks)[:, None] * n_places
    return np.bincount(kept.ravel(), minlength=blocks * n_places).reshape(blocks, n_places).astype(np.float64)


def excursions(steps: FloatArray, period: float = 0.0) -> tuple[float, float]:
    """Return location and scale of Gumbel's law of a chart's highest excursion in 100,000 rows.

    Args:
        steps: float64 [blocks], what each block of the reference adds, in their order.
        period: blocks of a cycle; 0 for none. Pieces are then whole cycles, and begin with one.
    """
    blocks = len(steps)
    if blocks < 2 * PIECES:
        return 0.0, 0.0
    length = max(blocks // PIECES, 1)
    if period:
        length = max(round(max(round(length / period), 1) * period), 1)
    wanted = DRAW_ROWS // BLOCK_ROWS
    pieces = -(-wanted // length)
    rng = np.random.default_rng(blocks)
    if period:
        cycles = max(int(blocks / period), 1)
        starts = np.rint(rng.integers(cycles, size=(DRAWS, pieces, 1)) * period).astype(np.int64)
    else:
        starts = rng.integers(blocks, size=(DRAWS, pieces, 1))
    drawn = steps[(starts + np.arange(length)) % blocks].reshape(DRAWS, -1)[:, :wanted]
    walk = np.cumsum(drawn, axis=1)
    lowest = np.minimum.accumulate(np.minimum(walk, 0.0), axis=1)
    highest = (walk - lowest).max(axis=1)
    scale = float(highest.std(ddof=1)) * 6.0**0.5 / np.pi
    if period:
        # A few cycles, drawn again and again, differ less than new ones: by the noise of a quarter of a cycle.
        phases = max(round(period), 2)
        whole = steps[: blocks // phases * phases].reshape(-1, phases)
        noise = float(whole.var(axis=0, ddof=1).mean()) if len(whole) > 1 else 0.0
        scale = max(scale, CYCLE_SCALE * (noise * period / 4.0) ** 0.5)
    return float(highest.mean()) - EULER * scale, scale


def height(location: float, scale: float, chance: float) -> float:
    """Return the height that an excursion passes with at most `chance` a row."""
    return location + scale * float(-np.log(min(chance * DRAW_ROWS, 0.5)))


def span_variances(sums: FloatArray, least: int = 8) -> FloatArray:
    """Return float64 [len(SPANS)], the variance of sums over 1, 5 and 20 blocks; 0 where there are too few.

    Half the median squared difference of neighbouring sums, over the median of a squared normal value: one change of
    level moves one difference, and the median not at all.

    Args:
        sums: float64 [blocks], the sum of each block, in their order.
        least: sums that are needed.
    """
    found = np.zeros(len(SPANS))
    for i, span in enumerate(SPANS):
        n = len(sums) // span
        if n >= least:
            spans = sums[len(sums) - n * span :].reshape(n, span).sum(axis=1)
            found[i] = float(np.median(np.square(np.diff(spans)))) / (2.0 * MEDIAN_SQUARED)
    return found


def longest_run(values: npt.NDArray[np.float32]) -> int:
    """Return the rows of the longest run of one value, missing values left out."""
    present = values[~np.isnan(values)]
    if len(present) == 0:
        return 0
    changes = np.flatnonzero(present[1:] != present[:-1])
    edges = np.concatenate([[-1], changes, [len(present) - 1]])
    return int(np.diff(edges).max())


def cycle_of(sums: FloatArray) -> float:
    """Return the length of a cycle in blocks; 0 where there is none.

    A cycle is a line in the periodogram that stands 25 times above the median around it. The longest one counts, since
    shorter ones are its harmonics or fit into it.
    """
    blocks = len(sums)
    if blocks < 32:
        return 0.0
    power = np.square(np.abs(np.fft.rfft(sums - sums.mean())))
    for line in _likely_lines(power):
        left, right = power[line - 1], power[line + 1]
        if power[line] <= PEAK * _around(power, line):
            continue
        # A cycle between two lines of the grid shows in both, in proportion to its distance.
        ratio = (max(left, right) / power[line]) ** 0.5
        between = ratio / (1.0 + ratio) if ratio > 0.2 else 0.0
        return float(blocks / (line + (between if right > left else -between)))
    return 0.0


def _around(power: FloatArray, line: int) -> float:
    """Return the power around a line. Slow noise has more power on the left; a line stands out of both sides."""
    left, right = power[max(line // 2, 1) : line - 1], power[line + 2 : 3 * line + 2]
    return float(max(np.median(left), np.median(right)))


def _likely_lines(power: FloatArray) -> list[int]:
    """Return the peaks that may stand out: by a quarter of what it takes, over the power around a few lines.

    Medians around every line of a long spectrum would take a second.
    """
    lines = np.arange(int(np.ceil(CYCLES_MIN)), len(power) // 2)
    if not len(lines):
        return []
    grid = np.unique(np.geomspace(lines[0], lines[-1], GRID).astype(np.int64))
    around = np.array([_around(power, int(line)) for line in grid])
    at = (
        np.clip(np.searchsorted(grid, lines), 1, max(len(grid) - 1, 1))
        if len(grid) > 1
        else np.zeros_like(lines)
    )
    least = np.minimum(around[at], around[np.maximum(at - 1, 0)])
    here = power[lines]
    peaks = (here >= power[lines - 1]) & (here >= power[lines + 1]) & (here > LIKELY * PEAK * least)
    found: list[int] = lines[peaks].tolist()
    return found


def without_cycle(sums: FloatArray, period: float) -> FloatArray:
    """Return scores without the mean of their phase in the cycle, enlarged by what the mean takes of the noise.

    Args:
        sums: float64 [n], in their order.
        period: length of a cycle, at least 2, in the same unit. At most 1,000 phases are told apart.
    """
    phases = max(min(round(period), PHASES_MAX), 2)
    phase = (np.arange(len(sums)) % period / period * phases).astype(np.int64) % phases
    counts = np.maximum(np.bincount(phase, minlength=phases), 1)
    profile = np.bincount(phase, sums, minlength=phases) / counts
    cycles = max(len(sums) / period, 2.0)
    left: FloatArray = (sums - profile[phase]) * (cycles / (cycles - 1.0)) ** 0.5
    return left
