"""Dependence of consecutive rows: how much less they tell than independent rows.

Weather, load and queues stay the same for hours. A thousand consecutive rows may then hold only two or three
independent observations, and a test that counts a thousand alarms at every shower. The order of the reference's rows
shows it: the variance of the means of long batches, divided by the variance that independent rows would give (method of
    batch means;
Alexopoulos and Seila, Handbook of Simulation, 1998, ch. 7).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from engine.monitor.drift.calibration import without_cycle

# Numbers of batches. Many short batches give a steadier estimate; few long ones see slower changes. The finest ones
# tell whether rows depend on each other at all.
FINE_BATCHES = (512, 128)
BATCHES = (32, 16, 8)
BATCH_ROWS_MIN = 4
# Chance that a column in random order counts as dependent.
CHANCE = 1e-4
# Longer batches replace shorter ones where an F test at this level finds more variance.
CHANCE_LONGER = 0.05
# A trend counts where its t statistic, over independent stretches, is above 5.
TREND_SQUARED = 25.0


# Sums to which an autoregressive process is fitted; standard errors above 0 from which their correlation counts; and
# how many times the factor of the batches it may at most become.
AR_SUMS = 400
AR_ERRORS = 4.0
AR_TIMES = 2.0


class Dependence(NamedTuple):
    """How many rows tell as much as one independent row.

    Attributes:
        factor: that number, at least 1.
        freedom: degrees of freedom of its estimate; infinite where it was not estimated.
    """

    factor: float
    freedom: float

    @property
    def independent(self) -> bool:
        """Whether every row counts in full."""
        return self.factor == 1.0


INDEPENDENT = Dependence(1.0, float("inf"))


def dependence(
    scores: npt.NDArray[np.float64], present: npt.NDArray[np.bool_], period: float = 0.0
) -> Dependence:
    """Return the dependence of a column's rows.

    Args:
        scores: float64 [n], in the order the rows came: mean 0 over the rows that are present, 0 where one is missing.
        present: bool [n].
        period: rows of a cycle; 0 for none. Whole cycles cancel, so the mean of each phase is taken away before.
    """
    n_present = int(present.sum())
    total = float(np.square(scores).sum())
    if n_present < BATCHES[-1] * BATCH_ROWS_MIN or total <= 0.0:
        return INDEPENDENT
    if period > 0.0:
        scores = without_cycle(scores, period)
    found = _batch_means(scores, n_present, total)
    if found.independent:
        return found
    # The warming of half a year is a change, not a usual fluctuation. As a fluctuation it would hide every later
    # change. A fortnight of weather always has some slope too, so only a trend that fluctuations do not explain counts.
    line = _trend(scores, present)
    explained = float(np.square(line).sum()) / total
    around = _batch_means(scores - line, n_present, total * (1.0 - explained))
    if explained / max(1.0 - explained, 1e-9) * (n_present / around.factor - 2.0) > TREND_SQUARED:
        return _not_less(around, scores - line, total * (1.0 - explained))
    return _not_less(found, scores, total)


def _not_less(found: Dependence, scores: npt.NDArray[np.float64], total: float) -> Dependence:
    """Return a dependence whose factor is not below that of an autoregressive process fitted to the rows.

    Batches see at most their own length. The correlations r1 and r2 of neighbouring sums, and of those next but one,
    go on as r1 (r2 / r1)^k: 1 + 2 r1 / (1 - r2 / r1) in all. The fitted ratio is raised by its bias, (1 + 3 ratio) / n
    (Kendall, Biometrika 41, 1954).
    """
    rows = max(len(scores) // AR_SUMS, 1)
    n = len(scores) // rows
    sums = scores[: n * rows].reshape(n, rows).sum(axis=1)
    variance = float(np.square(sums).mean())
    if variance <= 0.0:
        return found
    first, second = (float((sums[lag:] * sums[:-lag]).mean()) / variance for lag in (1, 2))
    if first <= AR_ERRORS / n**0.5:
        return found
    ratio = min(max(second / first, 0.0), 1.0)
    ratio = min(ratio + (1.0 + 3.0 * ratio) / n, 1.0 - 1.0 / n)
    factor = variance / (total / n) * (1.0 + 2.0 * first / (1.0 - ratio))
    return Dependence(max(found.factor, min(factor, AR_TIMES * found.factor)), found.freedom)


def _batch_means(scores: npt.NDArray[np.float64], n_present: int, total: float) -> Dependence:
    from scipy import stats

    estimates = {}
    for batches in (*FINE_BATCHES, *BATCHES):
        rows = len(scores) // batches
        if n_present // batches >= BATCH_ROWS_MIN:
            sums = scores[: rows * batches].reshape(batches, rows).sum(axis=1)
            estimates[batches] = float(sums.var(ddof=1)) / (total / batches)
    # Estimates that chance explains do not count, because noise in the factor would blunt every test.
    sure = [
        factor
        for batches, factor in estimates.items()
        if (batches - 1) * factor > stats.chi2.isf(CHANCE, batches - 1)
    ]
    if not sure:
        return INDEPENDENT
    found = None
    for batches in BATCHES:
        factor, freedom = estimates.get(batches, 0.0), batches - 1
        if batches not in estimates:
            continue
        if found is None:
            found = Dependence(max(factor, sure[0]), freedom)
        elif factor / found.factor > stats.f.isf(CHANCE_LONGER, freedom, found.freedom):
            found = Dependence(factor, freedom)
    return found or INDEPENDENT


def _trend(scores: npt.NDArray[np.float64], present: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return the straight line of least squares through the rows that are present."""
    time = np.where(present, np.arange(len(scores)) - np.flatnonzero(present).mean(), 0.0)
    return time * (float(time @ scores) / max(float(time @ time), 1e-9))


def caution(windows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the factors that raise chi-squares' divisors which come from the largest of a few windows.

    A dozen windows do not show the largest that is usual: half of January cannot know the cold week of the other half.
    """
    return 1.5 + 20.0 / windows


def tail_ratio(chance: float, freedom: float) -> float:
    """Return the factor that raises a quadratic threshold because its variance was estimated.

    It is (Student's quantile / normal quantile) squared, at `chance`, with `freedom` degrees of freedom.
    """
    from scipy import special

    if not np.isfinite(freedom):
        return 1.0
    # The quantiles at `chance` are exact, and equal those at 1 - chance but for the sign.
    chance = min(max(chance, 1e-12), 0.01)
    return float(max(1.0, (special.stdtrit(freedom, chance) / special.ndtri(chance)) ** 2))
