"""Sequential tests over all columns at once: cumulative sums that forget good news and keep bad (CUSUM).

A chart adds score - allowance for every row and never falls below 0; it alarms at a threshold h. With independent rows
theta * (score - allowance), where theta > 0 solves E[exp(theta (score - allowance))] = 1 under the reference, is the
log-likelihood ratio against a tilted law, so the mean number of rows to a false alarm is at least exp(theta h)
(Lorden, Ann. Math. Statist. 42, 1971; Moustakides, ibid. 14, 1986). The scores are bins', so theta is found exactly,
for any law. Where rows depend on each other the walk is Brownian at the scale of their dependence, with the mean time
exp(2 k h / v) v / (2 k^2) (Siegmund, Sequential Analysis, 1985, ch. 2), widened for an estimated v and for a reference
that holds few independent stretches. Between 0 and a cap of h a lasting change holds a chart up, so it alarms once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.monitor.drift.bins import FloatArray
from engine.monitor.drift.column import STATISTICS, Column
from engine.monitor.drift.dependence import Dependence, allowance, caution, tail_ratio

# An alarm goes on until its chart has fallen to this part of the threshold.
CLEARED = 0.25
DIRECTIONS = (("up", 1.0), ("down", -1.0))
# A spread that grows shows as more values far from the middle; so does a mean that went far.
SHOWN = {"mean": "mean", "spread": "extremes"}
NAMES = tuple(f"{SHOWN[statistic]} {direction}" for statistic in STATISTICS for direction, _ in DIRECTIONS)


class Charts:
    """Any number of charts over columns; `observe` takes what each adds. Not thread-safe.

    Attributes:
        level: float64 [charts, columns], the sums as a share of their thresholds.
        alarmed: bool [charts, columns].
        since: int64 [charts, columns], the row count at which each last left 0: the estimated start of a change.
    """

    def __init__(self, names: Sequence[str], thresholds: FloatArray) -> None:
        self.names = tuple(names)
        self.thresholds = thresholds
        self.level = np.zeros_like(thresholds)
        self.alarmed = np.zeros(thresholds.shape, dtype=bool)
        self.since = np.zeros(thresholds.shape, dtype=np.int64)

    def observe(self, steps: FloatArray, rows: int) -> None:
        """Adds steps [charts, columns] of a block that begins after `rows` rows."""
        self.since[self.level <= 0.0] = rows
        level = np.minimum(np.maximum(self.level + steps / self.thresholds, 0.0), 1.0)
        self.level = level
        self.alarmed = (level >= 1.0) | (self.alarmed & (level > CLEARED))


class LocationCharts:
    """Mean and spread of each column's scores, up and down: four charts a column."""

    def __init__(self, columns: Sequence[Column], bins_max: int, chance: float) -> None:
        """`chance`: false alarms a row and chart that are acceptable."""
        self._weights = np.zeros((len(NAMES), len(columns), bins_max))
        thresholds = np.full((len(NAMES), len(columns)), np.inf)
        for place, column in enumerate(columns):
            scores = column.scores()
            if scores is None:
                continue
            for chart, (statistic, sign) in enumerate(_pairs()):
                score = scores.names[statistic]
                depends = column.dependence_of(statistic)
                steps = sign * score - allowance(statistic, depends, column.present)
                if score.any() and steps.max() > 0.0:
                    self._weights[chart, place, : len(score)] = steps
                    height = threshold(
                        steps, scores.share, -_mean(steps, scores.share), depends, column, chance
                    )
                    # What the reference does to its own chart, a day's rhythm say, is no drift.
                    thresholds[chart, place] = max(height, 1.5 * column.excursions[chart])
        self.charts = Charts(NAMES, thresholds)

    def observe(self, counts: npt.NDArray[Any], rows: int) -> None:
        """`counts` [columns, bins_max] of a block that begins after `rows` rows."""
        self.charts.observe(np.einsum("kcb,cb->kc", self._weights, counts), rows)


class RateCharts:
    """Shares that must not grow: missing values and unseen ones, of each column; Bernoulli log-likelihood ratios."""

    def __init__(self, columns: Sequence[Column], chance: float) -> None:
        usual = np.zeros((2, len(columns)))
        independent = np.ones_like(usual)
        for place, column in enumerate(columns):
            # Where values hang together, so do their gaps, and the reference may never have had one.
            depends = max(column.missing_dependence.factor, column.mean_dependence.factor)
            independent[:, place] = depends
            usual[0, place] = usual_share(column.missing, column.rows, depends)
            usual[1, place] = usual_share(column.infinite, max(column.rows - column.missing, 1), depends)
        worse = np.minimum(np.maximum(2.0 * usual, usual + np.array([[0.03], [0.01]])), (1.0 + usual) / 2.0)
        self._hit = np.log(worse / usual) / independent
        self._miss = np.log((1.0 - worse) / (1.0 - usual)) / independent
        height = np.log(1.0 / chance) * np.ones_like(usual)
        self.charts = Charts(("missing values", "unseen values"), height)

    def observe(
        self, missing: npt.NDArray[Any], unseen: npt.NDArray[Any], rows_block: float, rows: int
    ) -> None:
        """Of `rows_block` rows after the first `rows`: how many of each column are missing, and unseen."""
        hits = np.stack([missing, unseen]).astype(np.float64)
        misses = np.stack([np.full(len(missing), rows_block), rows_block - missing]) - hits
        self.charts.observe(hits * self._hit + misses * self._miss, rows)


def usual_share(hits: float, rows: float, factor: float) -> float:
    """A share seen in `rows` rows, two standard errors up, and never 0: what was not seen is not impossible."""
    share = (hits + 0.5) / (rows + 1.0)
    return float(min(share + 2.0 * (factor * share * (1.0 - share) / rows) ** 0.5, 0.98))


def threshold(
    steps: FloatArray, share: FloatArray, slack: float, depends: Dependence, column: Column, chance: float
) -> float:
    """The height at which a chart of `steps` alarms falsely at most once in 1 / `chance` rows."""
    if depends.independent:
        # The reference may be off by a standard error, and with it every score.
        return float(-np.log(chance) / tilt(steps + min(max(column.present, 1) ** -0.5, slack / 2.0), share))
    variance = depends.factor * float((share * np.square(steps + slack)).sum())
    stretch = variance / (2.0 * slack**2)
    once = stretch * chance
    height = variance / (2.0 * slack) * np.log(max(20.0, 1.0 / once))
    return float(
        height * tail_ratio(once, depends.freedom) * caution(depends.factor, column.stretches(depends.factor))
    )


def tilt(steps: FloatArray, share: FloatArray) -> float:
    """theta > 0 with sum(share * exp(theta * steps)) = 1, for steps of negative mean that can be positive."""
    from scipy import optimize

    def excess(theta: float) -> float:
        largest = theta * float(steps.max())
        return largest + float(np.log((share * np.exp(theta * steps - largest)).sum()))

    high = 1.0
    while excess(high) < 0.0:
        high *= 2.0
    low = high / 2.0
    while low > 1e-9 and excess(low) >= 0.0:
        low /= 2.0
    return float(optimize.brentq(excess, low, high))


def _pairs() -> list[tuple[str, float]]:
    return [(statistic, sign) for statistic in STATISTICS for _, sign in DIRECTIONS]


def _mean(steps: FloatArray, share: FloatArray) -> float:
    return float((share * steps).sum())
