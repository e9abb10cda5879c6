"""What ops learn of a column that comes in batches, exactly and in bounded memory.

Every function reads the batches from the start as often as it needs, and its result depends on the values alone: not
on how they were cut into batches, nor on their order. Means are sums rounded once (`math.fsum`); quantiles are order
statistics, found by counting leading bits (radix selection) until so few values are left that they can be sorted.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import ProgramError

Values = npt.NDArray[np.float64]
Texts = list[str | None]

#: Values that are sorted at once (8 MiB), and distinct values that are counted at once.
SORTED_MAX = DISTINCT_MAX = 1 << 20
#: Rows that a batch is worked on at a time: what bounds the copies made on the way.
ROWS_AT_ONCE = 1 << 16
#: Prefixes that are counted by 16 more bits at a time (32 MiB of counters); more of them by 8 bits.
_WIDE_PREFIXES_MAX = 64


class Numbers:
    """The values of a column that are not missing; -0.0 counts as 0.0.

    Attributes:
        count, low, high: of the values.

    Raises ProgramError where there are none, or an infinite one.
    """

    def __init__(self, batches: Callable[[], Iterator[Values]], op: str) -> None:
        self._batches = batches
        self.count, self.low, self.high = 0, math.inf, -math.inf
        for values in self.parts():
            self.count += len(values)
            self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        if not self.count:
            raise ProgramError(f"op {op!r} has nothing to learn from: every value is missing")
        if math.isinf(self.low) or math.isinf(self.high):
            raise ProgramError(f"op {op!r} cannot learn from an infinite value; clip the column first")

    def parts(self) -> Iterator[Values]:
        """The values, some at a time, never none."""
        for batch in self._batches():
            for start in range(0, len(batch), ROWS_AT_ONCE):
                values = batch[start : start + ROWS_AT_ONCE]
                values = values[~np.isnan(values)] + 0.0
                if len(values):
                    yield values

    def mean(self) -> float:
        return self._mean(lambda values: values)

    def variance(self, centre: float) -> float:
        """The mean of the squares of the distances from `centre`."""
        return self._mean(lambda values: (values - centre) ** 2)

    def _mean(self, of: Callable[[Values], Values]) -> float:
        with np.errstate(over="ignore"):
            try:
                return math.fsum(v for values in self.parts() for v in of(values).tolist()) / self.count
            except OverflowError:
                raise ProgramError("the sum of the column does not fit a float64; clip it first") from None

    def median(self) -> float:
        middle = [(self.count - 1) // 2, self.count // 2]
        low, high = self._at(middle)
        return (low + high) / 2.0

    def quantiles(self, shares: list[float]) -> list[float]:
        """Interpolated linearly between the two nearest values, as NumPy's default."""
        places = [share * (self.count - 1) for share in shares]
        lower = [math.floor(place) for place in places]
        found = self._at([*lower, *(min(place + 1, self.count - 1) for place in lower)])
        return [
            _between(found[i], found[len(places) + i], place - lower[i]) for i, place in enumerate(places)
        ]

    def _at(self, ranks: list[int]) -> list[float]:
        """The values at these places of the sorted column."""
        wanted = np.unique(np.array(ranks))
        keys = _select(lambda: map(_keys_of, self.parts()), wanted, self.count)
        known = dict(zip(wanted.tolist(), _values_of(keys).tolist(), strict=True))
        return [known[rank] for rank in ranks]

    def most_frequent(self) -> float:
        """The least of equally frequent ones."""

        def tally(share: int, bits: int) -> dict[Any, int] | None:
            distinct, counts = np.empty(0), np.empty(0, np.int64)
            for values in self.parts():
                mixed = _keys_of(values) * np.uint64(0x9E3779B97F4A7C15)
                mine = values if bits == 0 else values[mixed >> np.uint64(64 - bits) == share]
                distinct, place = np.unique(np.concatenate([distinct, mine]), return_inverse=True)
                weights = np.concatenate([counts, np.ones(len(mine), np.int64)])
                counts = np.zeros(len(distinct), np.int64)
                np.add.at(counts, place, weights)
                if len(distinct) > DISTINCT_MAX:
                    return None
            if not len(distinct):
                return {}
            best = int(np.argmax(counts))
            return {float(distinct[best]): int(counts[best])}

        return float(_most_frequent(tally))


def most_frequent_text(batches: Callable[[], Iterator[Texts]], op: str) -> str:
    """The first in code point order of equally frequent ones."""

    def tally(share: int, bits: int) -> dict[Any, int] | None:
        counts: Counter[str] = Counter()
        for values in batches():
            for value in values:
                if value is not None and (bits == 0 or zlib.crc32(value.encode()) >> (32 - bits) == share):
                    counts[value] += 1
            if len(counts) > DISTINCT_MAX and bits < 32:
                return None
        return counts

    found = _most_frequent(tally)
    if found is None:
        raise ProgramError(f"op {op!r} has nothing to learn from: every value is missing")
    return str(found)


def count_texts(batches: Callable[[], Iterator[Texts]], op: str, distinct_max: int) -> dict[str, int]:
    """How often each text occurs, in code point order; ProgramError for none, and for too many to keep."""
    counts: Counter[str] = Counter()
    for values in batches():
        counts.update(value for value in values if value is not None)
        if len(counts) > distinct_max:
            raise ProgramError(f"op {op!r}: at most {distinct_max} categories; hash them instead")
    if not counts:
        raise ProgramError(f"op {op!r} has nothing to learn from: every value is missing")
    return dict(sorted(counts.items()))


class ExactSum:
    """The sum of any number of floats, rounded once: a few floats whose sum is exactly that of all added."""

    __slots__ = ("_pending", "count")

    def __init__(self) -> None:
        self.count = 0
        self._pending: list[float] = []

    def add(self, value: float) -> None:
        self.count += 1
        self._pending.append(value)
        if len(self._pending) >= 256:
            self._compress()

    def value(self) -> float:
        return math.fsum(self._pending)

    def _compress(self) -> None:
        """Each new part is what rounding lost of the sum so far; where nothing is lost, the parts are exact."""
        parts: list[float] = []
        while lost := math.fsum([*self._pending, *(-part for part in parts)]):
            parts.append(lost)
        self._pending = parts


def _between(low: float, high: float, share: float) -> float:
    # From the nearer end, so that the end itself is met exactly.
    width = high - low
    return high - width * (1.0 - share) if share >= 0.5 else low + width * share


def _keys_of(values: Values) -> npt.NDArray[np.uint64]:
    """Whole numbers in the order of the values."""
    bits = values.view(np.uint64)
    top = np.uint64(1 << 63)
    return np.where(bits & top, ~bits, bits | top)


def _values_of(keys: npt.NDArray[np.uint64]) -> Values:
    top = np.uint64(1 << 63)
    return np.where(keys & top, keys ^ top, ~keys).view(np.float64)


def _select(
    batches: Callable[[], Iterator[npt.NDArray[np.uint64]]], ranks: npt.NDArray[np.int64], count: int
) -> npt.NDArray[np.uint64]:
    """The keys at the given places (rising) of the sorted column of `count` keys.

    The ranks lie in `prefixes`: the keys that begin with the same `bits` bits. `below` is how many keys are less than
    those of each prefix, `inside` how many have it, `home` the prefix of each rank.
    """
    bits, prefixes = 0, np.zeros(1, np.uint64)
    below, inside = np.zeros(1, np.int64), np.array([count])
    home = np.zeros(len(ranks), np.int64)
    while bits < 64 and inside.sum() > SORTED_MAX:
        width = 16 if len(prefixes) <= _WIDE_PREFIXES_MAX else 8
        counts = np.zeros((len(prefixes), 1 << width), np.int64)
        for keys in batches():
            place, found = _home_of(keys, prefixes, bits)
            digits = keys[found] >> np.uint64(64 - bits - width) & np.uint64((1 << width) - 1)
            flat = place * (1 << width) + digits.astype(np.int64)
            counts += np.bincount(flat, minlength=counts.size).reshape(counts.shape)
        ends = counts.cumsum(axis=1)
        digit = np.array(
            [np.searchsorted(ends[h], r - below[h], side="right") for h, r in zip(home, ranks, strict=True)]
        )
        longer = prefixes[home] << np.uint64(width) | digit.astype(np.uint64)
        below, inside = below[home] + ends[home, digit] - counts[home, digit], counts[home, digit]
        bits += width
        prefixes, first, home = np.unique(longer, return_index=True, return_inverse=True)
        below, inside = below[first], inside[first]
    if bits >= 64:
        return prefixes[home]
    rest = np.sort(np.concatenate([keys[_home_of(keys, prefixes, bits)[1]] for keys in batches()]))
    before = inside.cumsum() - inside
    return rest[before[home] + ranks - below[home]]


def _home_of(keys: Any, prefixes: Any, bits: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Which keys begin with one of the prefixes, and of those, with which."""
    if bits == 0:
        return np.zeros(len(keys), np.int64), np.ones(len(keys), bool)
    starts = keys >> np.uint64(64 - bits)
    place = np.minimum(np.searchsorted(prefixes, starts), len(prefixes) - 1)
    found = prefixes[place] == starts
    return place[found], found


def _most_frequent(tally: Callable[[int, int], dict[Any, int] | None]) -> Any:
    """The most frequent value, the least of several; None for no value.

    `tally(share, bits)` counts the values whose hash begins with the `bits` bits of `share`; None where they are too
    many to count at once, so that they are counted in two shares.
    """
    best: tuple[int, Any] | None = None
    share, bits = 0, 0
    while share < 1 << bits:
        counts = tally(share, bits)
        if counts is None:
            share, bits = share * 2, bits + 1
            continue
        for value, count in counts.items():
            if best is None or count > best[0] or (count == best[0] and value < best[1]):
                best = count, value
        share += 1
    return None if best is None else best[1]
