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


def dependence(scores: npt.NDArray[np.float64], present: npt.NDArray[np.bool_]) -> Dependence:
    """Return the dependence of a column's rows.

    Args:
        scores: float64 [n], in the order the rows came: mean 0 over the rows that are present, 0 where one is missing.
        present: bool [n].
    """
    n_present = int(present.sum())
    total = float(np.square(scores).sum())
    if n_present < BATCHES[-1] * BATCH_ROWS_MIN or total <= 0.0:
        return INDEPENDENT
    found = _batch_means(scores, n_present, total)
    if found.independent:
        return found
    # The warming of half a year is a change, not a usual fluctuation. As a fluctuation it would hide every later
    # change. A fortnight of weather always has some slope too, so only a trend that fluctuations do not explain counts.
    line = _trend(scores, present)
    explained = float(np.square(line).sum()) / total
    around = _batch_means(scores - line, n_present, total * (1.0 - explained))
    if explained / max(1.0 - explained, 1e-9) * (n_present / around.factor - 2.0) > TREND_SQUARED:
        return around
    return found


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


# Half of the smallest lasting change worth an alert, in standard deviations of a row's score.
ALLOWANCE = {"mean": 0.125, "spread": 0.2}


def allowance(statistic: str, depends: Dependence, rows: float) -> float:
    """Return the mean score that a row may have without adding evidence.

    It is half of the smallest change worth an alert, and at least three standard errors of the reference's own mean,
    because the reference knows its mean no better.
    """
    return max(ALLOWANCE[statistic], 3.0 * (depends.factor / max(rows, 1.0)) ** 0.5)


def caution(factor: float, stretches: float) -> float:
    """Return the factor that raises a threshold for a reference of `stretches` independent stretches.

    A few dozen stretches do not show what is usual: half of January cannot know the cold week of the other half. The
    formula is set so that real halves of a month pass. 1 for independent rows.
    """
    return 1.0 if factor == 1.0 else 2.5 + (100.0 / stretches) ** 2


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
