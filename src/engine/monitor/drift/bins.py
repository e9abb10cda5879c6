"""How a column's values become bins, and the score each bin has.

A score says how unusual a bin is for the reference: the normal quantile of its place, going on linearly, in standard
deviations, beyond the range that was seen. Every test here is a sum of scores over counts, so histograms are all that
is kept, and one absurd value weighs at most `SCORE_MAX`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

# Bins hold a 32nd of the reference each, finer at the ends, where a wider spread shows first.
_TAILS = (0.002, 0.005, 0.01, 0.02)
PROBABILITIES = np.array([*_TAILS, *(i / 32 for i in range(1, 32)), *(1 - tail for tail in reversed(_TAILS))])
# Beyond the range: standard deviations from its end to each further cut, and the score each bin adds.
BEYOND = np.array([0.25, 0.5, 1.0, 2.0, 4.0])
BEYOND_SCORES = np.array([0.125, 0.375, 0.75, 1.5, 3.0, 6.0])
# With this few distinct values each has a bin of its own.
DISTINCT_MAX = 40
CODES_MAX = 62
SCORE_MAX = 8.0
SPREAD_MAX = 6.25
UNKNOWN_CODE = -2.0


@dataclass(frozen=True, slots=True)
class Bins:
    """Where the bins of one column are. Discrete: one a code, the rarest together in the last; others are unseen.

    `cuts` ascend, float32; `bin_of` is None for numbers, else the bin of each code in `cuts`.
    """

    cuts: npt.NDArray[np.float32]
    n_bins: int
    bin_of: npt.NDArray[np.uint16] | None = None

    @property
    def discrete(self) -> bool:
        return self.bin_of is not None

    def index(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        """The bin of each value, -1 for missing ones, -2 for unseen codes; as the native counter has it."""
        at = np.searchsorted(self.cuts, values, side="left")
        if self.bin_of is not None:
            near = np.minimum(at, len(self.cuts) - 1)
            known = self.cuts[near] == values
            at = np.where(known, self.bin_of[near].astype(np.int64), -2)
        return np.where(np.isnan(values), -1, at)


def numeric(values: npt.NDArray[np.float32]) -> Bins:
    """Bins for finite numbers, at least one."""
    distinct = np.unique(values)
    low, high = distinct[0], distinct[-1]
    few = len(distinct) <= DISTINCT_MAX
    inner = distinct if few else np.quantile(values, PROBABILITIES, method="inverted_cdf")
    spread = float(values.std(dtype=np.float64)) or abs(float(low)) or 1.0
    # At the ends of float32 there is no room beyond: those cuts are infinite and left out.
    with np.errstate(over="ignore"):
        below = np.nextafter(low, np.float32(-np.inf))
        cuts = np.concatenate(
            [float(low) - BEYOND[::-1] * spread, [below], inner, [high], float(high) + BEYOND * spread]
        )
        cuts = np.unique(cuts.astype(np.float32))
    return Bins(cuts[np.isfinite(cuts)], int(np.isfinite(cuts).sum()) + 1)


def codes(values: npt.NDArray[np.float32]) -> Bins:
    """Bins for codes: the most frequent have one each, the others one together."""
    distinct, counts = np.unique(values, return_counts=True)
    bin_of = np.full(len(distinct), CODES_MAX, dtype=np.uint16)
    kept = np.sort(np.argsort(-counts, kind="stable")[:CODES_MAX])
    bin_of[kept] = np.arange(len(kept))
    return Bins(distinct, len(kept) + (len(kept) < len(distinct)), bin_of)


def look_like_codes(values: npt.NDArray[np.float32]) -> bool:
    """Whole numbers from 0 or -1 upwards without a gap, few of them: what an ordinal encoding leaves."""
    distinct = np.unique(values[: 1 << 16])
    if len(distinct) < 3 or len(distinct) > DISTINCT_MAX or distinct[0] not in (-1.0, 0.0):
        return False
    return bool((np.diff(distinct) == 1.0).all())


@dataclass(frozen=True, slots=True)
class Scores:
    """For one column, per bin: the share in the reference and two scores of mean 0 and variance 1 under it."""

    share: FloatArray
    location: FloatArray
    spread: FloatArray
    names: dict[str, FloatArray] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", {"mean": self.location, "spread": self.spread})


def scores(bins: Bins, counts: npt.NDArray[Any]) -> Scores:
    """Scores of bins that hold `counts` of the reference; an empty one is as likely as half a row on its side."""
    from scipy.special import ndtri

    counts = np.asarray(counts, dtype=np.float64)
    seen = np.flatnonzero(counts)
    first, last = int(seen[0]), int(seen[-1])
    smoothed = counts.copy()
    places = np.arange(len(counts))
    for empty in (places < first, places > last, (counts == 0) & (places > first) & (places < last)):
        if empty.any():
            smoothed[empty] = 0.5 / empty.sum()
    share = smoothed / smoothed.sum()
    location = ndtri(np.clip(np.cumsum(share) - share / 2, 1e-9, 1 - 1e-9))
    if not bins.discrete:
        ends = max(2.0, -location[first]), max(2.0, location[last])
        down, up = np.arange(first)[::-1], np.arange(len(counts) - last - 1)
        location[:first] = -(ends[0] + BEYOND_SCORES[np.minimum(down, 5)])
        location[last + 1 :] = ends[1] + BEYOND_SCORES[np.minimum(up, 5)]
    location = np.clip(location, -SCORE_MAX, SCORE_MAX)
    location = _standard(location, share)
    return Scores(share, location, _standard(np.minimum(np.square(location), SPREAD_MAX), share))


def _standard(values: FloatArray, share: FloatArray) -> FloatArray:
    centred = values - (share * values).sum()
    variance = float((share * np.square(centred)).sum())
    return centred / np.sqrt(variance) if variance > 1e-12 else np.zeros_like(centred)
