"""Bins of a column's values, and the score of each bin.

A score says how unusual a bin is for the reference: the normal quantile of its place among the reference's rows (van
der Waerden's normal scores, 1952). Beyond the reference's range the score goes on linearly, in standard deviations.
Every test is a sum of scores over counts, so a monitor keeps histograms alone, and one absurd value weighs at most
`SCORE_MAX`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.monitor._sketch import places_of

FloatArray = npt.NDArray[np.float64]

# Each bin holds a 32nd of the reference. Bins are finer at the ends, where a wider spread shows first.
_TAILS = (0.002, 0.005, 0.01, 0.02)
PROBABILITIES = np.array([*_TAILS, *(i / 32 for i in range(1, 32)), *(1 - tail for tail in reversed(_TAILS))])
# Beyond the reference's range: distance of each further cut from its end, in standard deviations, and what each bin
# adds to the score of the last bin inside.
BEYOND = np.array([0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0])
BEYOND_SCORES = np.array([0.125, 0.375, 0.75, 1.5, 3.0, 6.0, 6.0, 6.0])
# Up to this many distinct values have a bin each.
DISTINCT_MAX = 40
# Up to this many codes have a bin each; the rarest share one more.
CODES_MAX = 62
# Codes seen at most so often are rare.
RARE = 2
SCORE_MAX = 8.0
# Cap of a squared score: a value at 2.5 standard deviations tells as much about the spread as one far beyond.
SPREAD_MAX = 6.25
# The code of a text that the reference does not have; never equal to a cut.
UNKNOWN_CODE = -2.0
# The code of the most frequent id that float32 does not hold; further ids count down from it.
FIRST_WIDE = float(-(1 << 23))


@dataclass(frozen=True, slots=True)
class Bins:
    """Where the bins of one column begin and end.

    Numbers: bin i holds values above cuts[i - 1] and up to cuts[i]. Codes: a value equal to cuts[i] is in bin
        bin_of[i];
    the rarest codes share the last bin, and any other value is unseen.

    Attributes:
        cuts: float32, ascending.
        n_bins: how many bins there are.
        bin_of: uint16, the bin of each code in `cuts`; None for numbers.
    """

    cuts: npt.NDArray[np.float32]
    n_bins: int
    bin_of: npt.NDArray[np.uint16] | None = None

    @property
    def discrete(self) -> bool:
        """Whether the values are codes."""
        return self.bin_of is not None

    def index(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        """Return the bin of each value, -1 for missing values, -2 for unseen codes, as the native counter does."""
        return places_of(self.cuts, self.bin_of, self.n_bins, np.ascontiguousarray(values, dtype=np.float32))


def numeric(values: npt.NDArray[np.float32]) -> Bins:
    """Return bins for at least one finite number."""
    ascending = np.sort(values)
    low, high = ascending[0], ascending[-1]
    changes = ascending[1:] != ascending[:-1]
    few = int(changes.sum()) < DISTINCT_MAX
    # The quantile p is the smallest value with a share of p at or below it.
    at = np.maximum(np.ceil(len(ascending) * PROBABILITIES - 1.0).astype(np.int64), 0)
    inner = ascending[np.append(True, changes)] if few else ascending[at]
    spread = float(values.std(dtype=np.float64)) or abs(float(low)) or 1.0
    # Near the ends of float32 there is no room beyond the range. Those cuts are infinite and left out.
    with np.errstate(over="ignore"):
        below = np.nextafter(low, np.float32(-np.inf))
        cuts = np.concatenate(
            [float(low) - BEYOND[::-1] * spread, [below], inner, [high], float(high) + BEYOND * spread]
        )
        cuts = np.unique(cuts.astype(np.float32))
    return Bins(cuts[np.isfinite(cuts)], int(np.isfinite(cuts).sum()) + 1)


def codes(values: npt.NDArray[np.float32]) -> Bins:
    """Return bins for codes: one for each of the most frequent, and one for all others together.

    Where there are more codes than bins, those seen once or twice are others: they are as likely never to come again.
    """
    distinct, counts = np.unique(values, return_counts=True)
    bin_of = np.full(len(distinct), CODES_MAX, dtype=np.uint16)
    order = np.argsort(-counts, kind="stable")[:CODES_MAX]
    if len(distinct) > CODES_MAX:
        order = order[counts[order] > RARE]
    kept = np.sort(order)
    bin_of[:] = len(kept)
    bin_of[kept] = np.arange(len(kept))
    return Bins(distinct, len(kept) + (len(kept) < len(distinct)), bin_of)


def with_roundings(bins: Bins, wide_ids: Sequence[int]) -> Bins:
    """Return bins that find an id by its float32 too, unless that is a code of its own; the most frequent id first.

    `wide_ids`: as in `Column`, whose codes are FIRST_WIDE, FIRST_WIDE - 1, ….
    """
    assert bins.bin_of is not None
    place_of = dict(zip(bins.cuts.tolist(), bins.bin_of.tolist(), strict=True))
    with np.errstate(over="ignore"):
        for place, rounded in enumerate(np.array(wide_ids, dtype=np.float64).astype(np.float32).tolist()):
            if np.isfinite(rounded) and FIRST_WIDE - place in place_of:
                place_of.setdefault(rounded, place_of[FIRST_WIDE - place])
    cuts = np.array(sorted(place_of), dtype=np.float32)
    return Bins(cuts, bins.n_bins, np.array([place_of[cut] for cut in cuts.tolist()], dtype=np.uint16))


def look_like_codes(values: npt.NDArray[np.float32]) -> bool:
    """Return whether values are the few whole numbers from 0 or -1 upwards, without a gap, of an ordinal encoding."""
    distinct = np.unique(values[: 1 << 16])
    if len(distinct) < 3 or len(distinct) > DISTINCT_MAX or distinct[0] not in (-1.0, 0.0):
        return False
    return bool((np.diff(distinct) == 1.0).all())


@dataclass(frozen=True, slots=True)
class Scores:
    """Share and scores of each bin of one column; the scores have mean 0 and variance 1 under the reference.

    Attributes:
        share: float64 [n_bins], share of the reference's rows; none is 0.
        location: float64 [n_bins], the normal quantile of the bin's place: its sum sees a change of the mean.
        spread: float64 [n_bins], the squared location, capped: its sum sees a change of the spread.
        names: "mean" and "spread" -> the scores that watch them.
    """

    share: FloatArray
    location: FloatArray
    spread: FloatArray
    names: dict[str, FloatArray] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", {"mean": self.location, "spread": self.spread})


def scores(bins: Bins, counts: npt.NDArray[Any]) -> Scores:
    """Return the scores of bins that hold `counts` rows of the reference.

    All empty bins below the range share half a row, so do those above it, and those inside: what the reference does not
    have is rare, not impossible.
    """
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
        location[:first] = -(ends[0] + BEYOND_SCORES[np.minimum(down, len(BEYOND))])
        location[last + 1 :] = ends[1] + BEYOND_SCORES[np.minimum(up, len(BEYOND))]
    location = np.clip(location, -SCORE_MAX, SCORE_MAX)
    location = _standard(location, share)
    return Scores(share, location, _standard(np.minimum(np.square(location), SPREAD_MAX), share))


def _standard(values: FloatArray, share: FloatArray) -> FloatArray:
    """Shift and scale to mean 0 and variance 1 under `share`; a constant becomes 0."""
    centred = values - (share * values).sum()
    variance = float((share * np.square(centred)).sum())
    return centred / np.sqrt(variance) if variance > 1e-12 else np.zeros_like(centred)
