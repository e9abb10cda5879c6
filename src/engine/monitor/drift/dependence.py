"""How much less a stretch of rows says than as many independent ones would.

Weather, load and queues stay what they are for hours, so a thousand consecutive rows may hold no more than two or three
independent observations, and a test that counts them as a thousand cries at every shower. The reference's own order
tells: the variance of the means of long batches against what independent rows would give (batch means; Alexopoulos and
Seila, Handbook of Simulation, 1998, ch. 7).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

# Short batches give a steadier estimate, long ones see slower changes. Fine ones say whether rows hang together at all.
FINE_BATCHES = (512, 128)
BATCHES = (32, 16, 8)
BATCH_ROWS_MIN = 4
# A reference in random order passes for dependent once in this many columns.
CHANCE = 1e-4
# Longer batches replace shorter ones where they show clearly more.
CHANCE_LONGER = 0.05
# A trend counts where its t statistic, by independent stretches, is over 5.
TREND_SQUARED = 25.0


class Dependence(NamedTuple):
    """`factor` rows say as much as one independent row; the factor was estimated with `freedom` degrees of freedom."""

    factor: float
    freedom: float

    @property
    def independent(self) -> bool:
        return self.factor == 1.0


INDEPENDENT = Dependence(1.0, float("inf"))


def dependence(scores: npt.NDArray[np.float64], present: npt.NDArray[np.bool_]) -> Dependence:
    """Of scores [n] in the order they came, of mean 0 over the rows that are present and 0 where one is missing."""
    n_present = int(present.sum())
    total = float(np.square(scores).sum())
    if n_present < BATCHES[-1] * BATCH_ROWS_MIN or total <= 0.0:
        return INDEPENDENT
    found = _batch_means(scores, n_present, total)
    if found.independent:
        return found
    # Half a year's warming is a change of its own, not a usual fluctuation, and would hide every later one. But only a
    # trend that fluctuations do not explain is one: a fortnight of weather always has some slope.
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
    # Only what chance does not explain counts: noise in the factor would cost every column its sharpness.
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
    """The straight line of least squares through the rows that are present."""
    time = np.where(present, np.arange(len(scores)) - np.flatnonzero(present).mean(), 0.0)
    return time * (float(time @ scores) / max(float(time @ time), 1e-9))


# Half of the smallest lasting change worth an alert, in standard deviations of a row's score.
ALLOWANCE = {"mean": 0.125, "spread": 0.2}


def allowance(statistic: str, depends: Dependence, rows: float) -> float:
    """The mean score a row may have without evidence gathering: half the change looked for, and never less than three
    standard errors of the reference's own mean, which nobody knows better."""
    return max(ALLOWANCE[statistic], 3.0 * (depends.factor / max(rows, 1.0)) ** 0.5)


def caution(factor: float, stretches: float) -> float:
    """By how much to raise a threshold learned from a reference that holds so many independent stretches.

    A few dozen have not shown what is usual: half of January cannot know the cold week of the other half. Set so that
    real halves of a month pass; 1 for independent rows.
    """
    return 1.0 if factor == 1.0 else 2.5 + (100.0 / stretches) ** 2


def tail_ratio(chance: float, freedom: float) -> float:
    """How much a quadratic threshold grows because the variance was estimated: (Student's quantile / normal's)^2."""
    from scipy import special

    if not np.isfinite(freedom):
        return 1.0
    # The quantiles at 1 - chance are those at chance with the sign changed, and exact there.
    chance = min(max(chance, 1e-12), 0.01)
    return float(max(1.0, (special.stdtrit(freedom, chance) / special.ndtri(chance)) ** 2))
