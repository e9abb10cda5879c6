"""Sequential tests of all columns at once: cumulative sums that never fall below 0 (CUSUM; Page, Biometrika 41, 1954).

A chart adds score - allowance for every row, stays between 0 and its threshold h, and alarms at h. A lasting change
keeps it there, so it alarms once. Its evidence adds up over any number of windows, and the change began about where the
chart last left 0. Two allowances for the mean see large changes soon and small ones at all.

Independent rows: let theta > 0 solve E[exp(theta (score - allowance))] = 1 under the reference. Then theta * (score -
allowance) is the log-likelihood ratio against a tilted law, and with slack s = -E[score - allowance] the mean number of
rows to a false alarm is about exp(theta h) / (s theta): theta s is how often a chart leaves 0 (Siegmund, Sequential
Analysis, 1985, eq. 2.51; Lorden, Ann. Math. Statist. 42, 1971, theorem 2). Scores belong to bins, so theta is exact for
any law.

Dependent rows: `calibration` has the heights that the reference itself reaches. They count where they are higher. We
raise them because a reference holds few independent stretches.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from engine.monitor.drift.bins import FloatArray, Scores
from engine.monitor.drift.calibration import DRAW_ROWS, PIECES, height
from engine.monitor.drift.column import Column
from engine.monitor.drift.dependence import Dependence, tail_ratio


class Chart(NamedTuple):
    """One chart of a column: its name for users, the statistic, the direction, the smallest allowance of a row.

    `part`, `part_codes`: of the acceptable false alarms of the charts of a column of numbers, and of one of codes.
    """

    name: str
    statistic: str
    sign: float
    allowance: float
    part: float
    part_codes: float


# Codes whose shares have a chart each: the most frequent ones.
SHARES = 8
# The chart of the spread is called "extremes", because a mean that moved far raises it as well.
CHARTS = (
    Chart("mean up", "mean", 1.0, 0.05, 0.15, 0.05),
    Chart("mean down", "mean", -1.0, 0.05, 0.15, 0.05),
    Chart("mean up", "mean", 1.0, 0.125, 0.1, 0.05),
    Chart("mean down", "mean", -1.0, 0.125, 0.1, 0.05),
    Chart("mean up", "mean", 1.0, 0.6, 0.05, 0.0),
    Chart("mean down", "mean", -1.0, 0.6, 0.05, 0.0),
    Chart("extremes up", "spread", 1.0, 0.15, 0.1, 0.0),
    Chart("extremes down", "spread", -1.0, 0.15, 0.1, 0.0),
    Chart("missing values", "missing", 1.0, 0.0, 0.05, 0.05),
    Chart("fewer missing values", "missing", -1.0, 0.0, 0.05, 0.05),
    Chart("unseen values", "strange", 1.0, 0.0, 0.05, 0.06),
    Chart("out of range", "beyond", 1.0, 0.0, 0.05, 0.0),
    *(Chart("share up", f"share {rank}", 1.0, 0.0, 0.0, 0.08) for rank in range(SHARES)),
)
NAMES = tuple(chart.name for chart in CHARTS)
FORMER_ALLOWANCES = {"mean": 0.125, "spread": 0.2}
# Shares that must not change, whatever the law of the values.
RATES = ("missing", "strange", "beyond")
# An alarm goes on until its chart has fallen to this share of the threshold.
CLEARED = 0.25
# Standard errors of the reference's own figure that a chart allows: those of the smallest allowances, and all others.
ERRORS_FINE, ERRORS = 3.0, 6.0
FINE = 0.05
# The smallest allowance where rows depend on each other: they always differ a little.
DEPENDENT = 0.25
# Thresholds hold where the reference's figure is off by so many standard errors.
ERRORS_SURE = 2.0
# A share grows at least by so much before it is worth an alert: missing, strange, out of range.
GROWTH = {"missing": 0.03, "strange": 0.01, "beyond": 0.008}
SHARE_GROWTH = 0.1
# A share that is larger in the reference cannot grow enough to tell anything.
SHARE_MAX = 0.98
# Rows that may be missing together for one reason, for an hour of weather say.
GAP_ROWS = 40.0
# Below this share of missing values, fewer of them say nothing.
MISSING_MIN = 0.01
# Degrees of freedom of a height that was drawn from eight pieces of the reference.
PIECES_FREEDOM = 4.0 * PIECES
# Independent rows: any value beyond the reference's range counts. Others: this many of bins.BEYOND count as usual, the
# more, the fewer independent stretches the reference has; 5 are four standard deviations, 7 are sixteen.
FAR = ((200.0, 5), (0.0, 7))
# Heights of dependent rows are raised once more, because the spread is known worse than the mean, and because a few
# dozen stretches do not show how long a stretch may be. (Below that, Student's quantile says it.)
STRETCHES = (8.0, 50.0)
CAUTION = {"mean": (1.0, 2.0, 1.2), "spread": (2.0, 2.0, 1.5)}


def allowance(chart: Chart, depends: Dependence, rows: float) -> float:
    """Return the mean score that a row may have without adding evidence.

    It is half of the smallest change worth an alert, and some standard errors of the reference's own mean, because the
    reference knows its mean no better.
    """
    fine = chart.allowance <= FINE
    least = chart.allowance if depends.independent else max(chart.allowance, DEPENDENT)
    return max(least, (ERRORS_FINE if fine else ERRORS) * (depends.factor / max(rows, 1.0)) ** 0.5)


def steps_of(column: Column, made: Scores | None) -> FloatArray:
    """Return float64 [charts, bins + 2], what a row adds: by its bin, where its value is missing, where it is strange.

    A chart that cannot tell anything about the column is 0 everywhere.
    """
    n_bins = column.bins.n_bins
    steps = np.zeros((len(CHARTS), n_bins + 2))
    for place, chart in enumerate(CHARTS):
        if not part_of(chart, column):
            continue
        if chart.statistic.startswith("share"):
            steps[place] = _share_steps(int(chart.statistic.split()[1]), column)
        elif chart.statistic in ("mean", "spread"):
            if made is None:
                continue
            score = made.names[chart.statistic]
            if not score.any():
                continue
            depends = column.dependence_of(chart.statistic)
            steps[place, :n_bins] = chart.sign * score - allowance(chart, depends, column.present)
            if column.others is not None:
                # A code that the reference never had is one more of its rare codes.
                steps[place, n_bins + 1] = steps[place, column.others]
        else:
            steps[place] = _rate_steps(chart, column)
        if steps[place].max() <= 0.0:
            steps[place] = 0.0
    return steps


def part_of(chart: Chart, column: Column) -> float:
    """Return the chart's part of the acceptable false alarms of its column."""
    return chart.part_codes if column.bins.discrete else chart.part


def _share_steps(rank: int, column: Column) -> FloatArray:
    """Return float64 [bins + 2]: log-likelihood ratios of one code's share, grown by a tenth of the rows."""
    n_bins = column.bins.n_bins
    steps = np.zeros(n_bins + 2)
    order = np.argsort(-column.counts, kind="stable")
    if rank >= len(order) or not column.counts[order[rank]] or column.counts[order[rank]] == column.present:
        return steps
    place, rows = int(order[rank]), max(column.present, 1)
    usual = (float(column.counts[place]) + 0.5) / (rows + 1.0)
    error = (column.mean_dependence.factor * usual * (1.0 - usual) / rows) ** 0.5
    worse = min(usual + max(SHARE_GROWTH, 2.0 * ERRORS * error), (1.0 + usual) / 2.0)
    steps[:n_bins] = np.log((1.0 - worse) / (1.0 - usual))
    steps[place] = np.log(worse / usual)
    if column.others is not None:
        steps[n_bins + 1] = steps[column.others]
    return steps


def _rate_steps(chart: Chart, column: Column) -> FloatArray:
    """Return float64 [bins + 2]: log-likelihood ratios of Bernoulli trials, a worse share against the usual one."""
    n_bins = column.bins.n_bins
    hits = np.zeros(n_bins + 2)
    counts = np.zeros(n_bins + 2)
    if chart.statistic == "missing":
        hits[n_bins] = 1.0
        seen: float = column.missing
        rows, factor = column.rows, column.missing_dependence.factor
    elif chart.statistic == "strange":
        hits[n_bins + 1] = 1.0
        rows, factor = max(column.rows - column.missing, 1), 1.0
        # Good and Turing: codes seen once are as frequent as those never seen (Good, Biometrika 40, 1953).
        seen = column.singletons if column.bins.discrete else column.infinite
    else:
        places = impossible(column)
        if not places.any():
            return counts
        hits[:n_bins][places] = 1.0
        # Each end of the range is the largest of the reference's values: one in as many is beyond it.
        rows, factor = max(column.present, 1), 1.0
        seen = 1.5 if column.mean_dependence.independent else 0.0
    share = (seen + 0.5) / (rows + 1.0)
    error = (factor * share * (1.0 - share) / rows) ** 0.5
    if chart.sign < 0.0:
        usual = share - ERRORS * error
        if usual < MISSING_MIN:
            return counts
        worse = usual / 2.0
    else:
        usual = share + 2.0 * error
        if usual >= SHARE_MAX:
            return counts
        times = 4.0 if chart.statistic == "beyond" else 2.0
        worse = min(max(times * usual, usual + GROWTH[chart.statistic]), (1.0 + usual) / 2.0)
    # Where values depend on each other, gaps do too, though the reference may have none to show it.
    together = (
        min(column.mean_dependence.factor, GAP_ROWS)
        if chart.statistic != "strange" and factor == 1.0
        else 1.0
    )
    counts[:] = np.log((1.0 - worse) / (1.0 - usual)) / together
    counts[hits > 0.0] = np.log(worse / usual) / together
    if chart.statistic != "missing":
        counts[n_bins] = 0.0
    if chart.statistic == "strange" and not column.bins.discrete:
        # An infinite number is counted in a bin as well.
        counts[n_bins + 1] -= counts[0]
    elif chart.statistic == "beyond":
        counts[n_bins + 1] = 0.0
    return counts


def impossible(column: Column) -> np.ndarray:
    """Return the bins of values that the reference says do not occur, bool [bins]; none for codes."""
    n_bins = column.bins.n_bins
    found = np.zeros(n_bins, dtype=bool)
    if column.bins.discrete or not column.present or len(column.bins.cuts) < 3:
        return found
    seen = np.flatnonzero(column.counts)
    first, last = int(seen[0]), int(seen[-1])
    depends, skip = column.mean_dependence, 0
    if not depends.independent:
        skip = next(skip for least, skip in FAR if column.stretches(depends.factor) >= least)
    found[: max(first - skip, 0)] = True
    found[last + 1 + skip :] = True
    return found


def law_of(column: Column, made: Scores | None) -> FloatArray:
    """Return float64 [bins + 2], the share of the reference's rows in each bin, missing, and strange."""
    share = np.zeros(column.bins.n_bins + 2)
    missing = (column.missing + 0.5) / (column.rows + 1.0)
    if made is not None:
        share[:-2] = made.share * (1.0 - missing)
    share[-2] = missing
    return share


def thresholds_of(column: Column, steps: FloatArray, share: FloatArray, chance: float) -> FloatArray:
    """Return the height at which each chart alarms, float64 [charts]; infinite for a chart that tells nothing.

    Together they alarm falsely at most once in 1 / `chance` rows.
    """
    found = np.full(len(CHARTS), np.inf)
    for place, chart in enumerate(CHARTS):
        own = chance * part_of(chart, column)
        if not own or not steps[place].any():
            continue
        law = share if chart.statistic in RATES else np.append(share[:-2] / share[:-2].sum(), [0.0, 0.0])
        theta = tilt(steps[place], law) if chart.statistic in ("mean", "spread") else 1.0
        slack = -float((law * steps[place]).sum())
        variance = float((law * np.square(steps[place] + slack)).sum())
        nats = float(np.log(min(slack * theta, 1.0) / own))
        # Rates have their error in the usual share.
        error = 0.0 if chart.statistic in RATES else (variance / max(column.present, 1)) ** 0.5
        found[place] = _with_error(max(nats, 3.0), error / slack) / theta
        depends = dependence_of(chart, column)
        if chart.statistic in ("strange", "beyond"):
            continue
        heights = []
        error *= depends.factor**0.5 / slack
        if not depends.independent:
            # A Brownian walk of the same long-run variance.
            tilted = 2.0 * slack / (variance * depends.factor)
            nats = max(float(np.log(min(slack * tilted, 1.0) / own)), 3.0)
            heights.append(_with_error(nats, error) / tilted)
        made = column.calibration
        if made is not None and made.scale[place] > 0.0:
            nats = height(made.location[place], made.scale[place], own) / made.scale[place]
            heights.append(_with_error(nats, error) * made.scale[place])
        if column.former is not None and not depends.independent:
            heights.append(_former_height(chart, column, slack))
        if heights:
            # The variance is known no better than from a third as many values as the reference has stretches.
            stretches = column.stretches(max(depends.factor, column.mean_dependence.factor))
            least = 2.0 if chart.statistic == "spread" else 7.0
            freedom = min(depends.freedom, max(stretches / 3.0, least), PIECES_FREEDOM)
            caution = tail_ratio(own * DRAW_ROWS, freedom)
            if not depends.independent and chart.statistic in CAUTION:
                caution *= CAUTION[chart.statistic][int(np.searchsorted(STRETCHES, stretches))]
                # Values that are mostly missing are there for a reason: a gust is measured when it blows.
                caution *= column.rows / max(column.present, 1)
            found[place] = max(found[place], max(heights) * caution)
    return found


def _former_height(chart: Chart, column: Column, slack: float) -> float:
    """Return 1.5 times what a chart climbed over a reference of 0.1.0, whose four charts had other allowances."""
    if column.former is None or chart.statistic not in FORMER_ALLOWANCES:
        return 0.0
    first = list(FORMER_ALLOWANCES).index(chart.statistic) * 2
    climbed = float(column.former["excursions"][first + (chart.sign < 0.0)])
    return 1.5 * climbed * FORMER_ALLOWANCES[chart.statistic] / slack


def dependence_of(chart: Chart, column: Column) -> Dependence:
    """Return how the rows of a chart's statistic depend on each other."""
    if chart.statistic == "missing":
        return column.missing_dependence
    return column.spread_dependence if chart.statistic == "spread" else column.mean_dependence


def _with_error(nats: float, error: float) -> float:
    """Return the exponent of a threshold that allows for the sampling error of the reference.

    An error of the mean of `error` allowances changes false alarms by exp(error * exponent). Over all references that
    is a lognormal law, whose mean is exp((error * exponent)^2 / 2). Where the allowance is too small for that to be
    finite, two standard errors count.
    """
    half = error**2 / 2.0
    sure = nats / max(1.0 - ERRORS_SURE * error, 0.1)
    if 4.0 * half * nats >= 1.0:
        return sure
    return nats if half <= 0.0 else min(sure, (1.0 - (1.0 - 4.0 * half * nats) ** 0.5) / (2.0 * half))


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
