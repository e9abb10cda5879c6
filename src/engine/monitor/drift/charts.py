"""Sequential tests of all columns at once: cumulative sums that never fall below 0 (CUSUM; Page, Biometrika 41, 1954).

A chart adds score - allowance for every row, stays between 0 and its threshold h, and alarms at h. A lasting change
keeps it there, so it alarms once.

Independent rows: let theta > 0 solve E[exp(theta (score - allowance))] = 1 under the reference. Then theta * (score -
allowance) is the log-likelihood ratio against a tilted law, and the mean number of rows to a false alarm is at least
exp(theta h) (Lorden, Ann. Math. Statist. 42, 1971, theorem 2; Moustakides, Ann. Statist. 14, 1986). Scores belong to
bins, so theta is exact for any law.

Dependent rows: the walk is Brownian at the scale of the dependence. With slack k and variance v a row, the mean time to
a false alarm is exp(2 k h / v) v / (2 k^2) (Siegmund, Sequential Analysis, 1985, ch. 2). We raise h because v is
estimated, and because the reference holds few independent stretches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.monitor.drift.bins import FloatArray
from engine.monitor.drift.column import STATISTICS, Column
from engine.monitor.drift.dependence import Dependence, allowance, caution, tail_ratio

# An alarm goes on until its chart has fallen to this share of the threshold.
CLEARED = 0.25
DIRECTIONS = (("up", 1.0), ("down", -1.0))
# Names for users. The chart of the spread is called "extremes", because a mean that moved far raises it as well.
SHOWN = {"mean": "mean", "spread": "extremes"}
NAMES = tuple(f"{SHOWN[statistic]} {direction}" for statistic in STATISTICS for direction, _ in DIRECTIONS)


class Charts:
    """Charts over columns. Not thread-safe.

    Attributes:
        names: tuple of str, one a chart.
        thresholds: float64 [charts, columns].
        level: float64 [charts, columns], the sums as shares of their thresholds, 0 to 1.
        alarmed: bool [charts, columns].
        since: int64 [charts, columns], the row at which each chart last left 0: the estimated start of a change.
    """

    def __init__(self, names: Sequence[str], thresholds: FloatArray) -> None:
        self.names = tuple(names)
        self.thresholds = thresholds
        self._per_threshold = 1.0 / thresholds
        self.level = np.zeros_like(thresholds)
        self.alarmed = np.zeros(thresholds.shape, dtype=bool)
        self.since = np.zeros(thresholds.shape, dtype=np.int64)

    def observe(self, steps: FloatArray, rows: int) -> None:
        """Add steps, float64 [charts, columns], of a block that begins after `rows` rows."""
        np.copyto(self.since, rows, where=self.level <= 0.0)
        level = steps * self._per_threshold
        level += self.level
        np.maximum(level, 0.0, out=level)
        np.minimum(level, 1.0, out=level)
        self.level = level
        self.alarmed &= level > CLEARED
        self.alarmed |= level >= 1.0

    def saved(self) -> dict[str, FloatArray]:
        """Return a copy of what `restore` takes."""
        return {
            "level": self.level.copy(),
            "alarmed": self.alarmed.astype(float),
            "since": self.since.astype(float),
        }

    def restore(self, saved: Mapping[str, FloatArray]) -> None:
        """Go on from what `saved` returned. Raises ValueError where the charts are others."""
        if any(saved[name].shape != self.level.shape for name in ("level", "alarmed", "since")):
            raise ValueError(f"expected charts {list(self.level.shape)}, got {list(saved['level'].shape)}")
        self.level = np.clip(saved["level"], 0.0, 1.0)
        self.alarmed = saved["alarmed"] > 0.0
        self.since = saved["since"].astype(np.int64)


class LocationCharts:
    """Mean and spread of each column's scores, up and down: four charts a column. Not thread-safe.

    Attributes:
        charts: Charts, in the order of NAMES.
    """

    def __init__(self, columns: Sequence[Column], bins_max: int, chance: float) -> None:
        """`chance`: acceptable false alarms per row and chart."""
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
                    # The reference raises its own chart, by the rhythm of a day for example. That is no drift.
                    thresholds[chart, place] = max(height, 1.5 * column.excursions[chart])
        self.charts = Charts(NAMES, thresholds)

    def observe(self, counts: npt.NDArray[Any], rows: int) -> None:
        """Add counts, [columns, bins_max], of a block that begins after `rows` rows."""
        self.charts.observe(np.einsum("kcb,cb->kc", self._weights, counts), rows)


class RateCharts:
    """Shares of each column that must not grow: missing values and unseen values. Not thread-safe.

    Steps are log-likelihood ratios of Bernoulli trials: a worse share against the usual one.

    Attributes:
        charts: Charts, "missing values" and "unseen values".
    """

    def __init__(self, columns: Sequence[Column], chance: float) -> None:
        usual = np.zeros((2, len(columns)))
        independent = np.ones_like(usual)
        for place, column in enumerate(columns):
            # Where values depend on each other, gaps do too, though the reference may have none to show it.
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
        """Add a block of `rows_block` rows that begins after `rows` rows: missing and unseen values, int [columns]."""
        hits = np.empty_like(self._hit)
        hits[0], hits[1] = missing, unseen
        misses = rows_block - hits
        misses[1] -= hits[0]
        self.charts.observe(hits * self._hit + misses * self._miss, rows)


def usual_share(hits: float, rows: float, factor: float) -> float:
    """Return a share seen in `rows` rows plus two standard errors; above 0, because unseen is not impossible."""
    share = (hits + 0.5) / (rows + 1.0)
    return float(min(share + 2.0 * (factor * share * (1.0 - share) / rows) ** 0.5, 0.98))


def threshold(
    steps: FloatArray, share: FloatArray, slack: float, depends: Dependence, column: Column, chance: float
) -> float:
    """Return the height at which a chart of `steps` alarms falsely at most once in 1 / `chance` rows.

    Args:
        steps: float64 [bins], what a row in each bin adds.
        share: float64 [bins], of the reference.
        slack: minus the mean step under the reference, above 0.
        depends: how rows depend on each other.
        column: the column.
        chance: acceptable false alarms per row.
    """
    if depends.independent:
        # The reference's mean may be off by a standard error, and every score with it.
        return float(-np.log(chance) / tilt(steps + min(max(column.present, 1) ** -0.5, slack / 2.0), share))
    variance = depends.factor * float((share * np.square(steps + slack)).sum())
    stretch = variance / (2.0 * slack**2)
    once = stretch * chance
    height = variance / (2.0 * slack) * np.log(max(20.0, 1.0 / once))
    return float(
        height * tail_ratio(once, depends.freedom) * caution(depends.factor, column.stretches(depends.factor))
    )


def tilt(steps: FloatArray, share: FloatArray) -> float:
    """Return theta > 0 with sum(share * exp(theta * steps)) = 1, for steps of negative mean, one at least positive."""
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
