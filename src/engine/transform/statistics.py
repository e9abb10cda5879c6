"""Statistics of a column that comes in batches: exact, in bounded memory.

Each function reads the batches from the start as often as it needs. Its result depends on the values alone, not on
their order nor on the cuts between batches. A mean is a sum that is rounded once (`math.fsum`). A quantile is an order
statistic: radix selection counts leading bits until at most SORTED_MAX values are left, which are then sorted.
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
#: Rows of a batch that are worked on at once. This bounds the copies made on the way.
ROWS_AT_ONCE = 1 << 16
#: Up to this many prefixes are lengthened by 16 bits a pass (32 MiB of counters), more of them by 8 bits.
_WIDE_PREFIXES_MAX = 64


class Numbers:
    """The values of a column that are not missing. -0.0 counts as 0.0.

    Args:
        batches: gives the column in batches, from the start at each call.
        op: the op that learns, for the error.

    Attributes:
        count: number of values.
        low: the least value.
        high: the greatest value.

    Raises:
        ProgramError: there is no value, or an infinite one.
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
        """Yield the values in arrays of 1 to ROWS_AT_ONCE."""
        for batch in self._batches():
            for start in range(0, len(batch), ROWS_AT_ONCE):
                values = batch[start : start + ROWS_AT_ONCE]
                values = values[~np.isnan(values)] + 0.0
                if len(values):
                    yield values

    def mean(self) -> float:
        """Return the mean: the sum rounded once, divided by the count."""
        return self._mean(lambda values: values)

    def variance(self, centre: float) -> float:
        """Return the mean of (value - centre) squared."""
        return self._mean(lambda values: (values - centre) ** 2)

    def _mean(self, of: Callable[[Values], Values]) -> float:
        with np.errstate(over="ignore"):
            try:
                return math.fsum(v for values in self.parts() for v in of(values).tolist()) / self.count
            except OverflowError:
                raise ProgramError("the sum of the column does not fit a float64; clip it first") from None

    def median(self) -> float:
        """Return the middle value, or the mean of the two middle values."""
        middle = [(self.count - 1) // 2, self.count // 2]
        low, high = self._at(middle)
        return (low + high) / 2.0

    def quantiles(self, shares: list[float]) -> list[float]:
        """Return the quantiles at `shares` (0 to 1), interpolated linearly as NumPy does by default."""
        places = [share * (self.count - 1) for share in shares]
        lower = [math.floor(place) for place in places]
        found = self._at([*lower, *(min(place + 1, self.count - 1) for place in lower)])
        return [
            _between(found[i], found[len(places) + i], place - lower[i]) for i, place in enumerate(places)
        ]

    def _at(self, ranks: list[int]) -> list[float]:
        """Return the values at these places of the sorted column."""
        wanted = np.unique(np.array(ranks))
        keys = _select(lambda: map(_keys_of, self.parts()), wanted, self.count)
        known = dict(zip(wanted.tolist(), _values_of(keys).tolist(), strict=True))
        return [known[rank] for rank in ranks]

    def most_frequent(self) -> float:
        """Return the most frequent value, the least of several equally frequent ones."""

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
    """Return the most frequent text, the first in code point order of several equally frequent ones.

    Raises:
        ProgramError: every text is missing.
    """

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
    """Return how often each text occurs, in code point order.

    Raises:
        ProgramError: every text is missing, or there are more than `distinct_max` different ones.
    """
    counts: Counter[str] = Counter()
    for values in batches():
        counts.update(value for value in values if value is not None)
        if len(counts) > distinct_max:
            raise ProgramError(f"op {op!r}: at most {distinct_max} categories; hash them instead")
    if not counts:
        raise ProgramError(f"op {op!r} has nothing to learn from: every value is missing")
    return dict(sorted(counts.items()))


class ExactSum:
    """The sum of any number of floats, rounded once.

    It keeps a few floats whose exact sum is the exact sum of all floats that were added.

    Attributes:
        count: number of floats added.
    """

    __slots__ = ("_pending", "count")

    def __init__(self) -> None:
        self.count = 0
        self._pending: list[float] = []

    def add(self, value: float) -> None:
        """Add one float."""
        self.count += 1
        self._pending.append(value)
        if len(self._pending) >= 256:
            self._compress()

    def value(self) -> float:
        """Return the sum."""
        return math.fsum(self._pending)

    def _compress(self) -> None:
        """Replace the pending floats by fewer with the same exact sum.

        Each new part is the rounded rest of the sum after the parts before it. When the rest is 0, the parts are exact.
        """
        parts: list[float] = []
        while lost := math.fsum([*self._pending, *(-part for part in parts)]):
            parts.append(lost)
        self._pending = parts


def _between(low: float, high: float, share: float) -> float:
    # Counting from the nearer end gives either end exactly.
    width = high - low
    return high - width * (1.0 - share) if share >= 0.5 else low + width * share


def _keys_of(values: Values) -> npt.NDArray[np.uint64]:
    """Return uint64 keys that sort as the values do: the bits of a float, flipped where it is negative."""
    bits = values.view(np.uint64)
    top = np.uint64(1 << 63)
    return np.where(bits & top, ~bits, bits | top)


def _values_of(keys: npt.NDArray[np.uint64]) -> Values:
    top = np.uint64(1 << 63)
    return np.where(keys & top, keys ^ top, ~keys).view(np.float64)


def _select(
    batches: Callable[[], Iterator[npt.NDArray[np.uint64]]], ranks: npt.NDArray[np.int64], count: int
) -> npt.NDArray[np.uint64]:
    """Return the keys at rising places `ranks` of the sorted column of `count` keys.

    After each pass the first `bits` bits of every wanted key are known: `prefixes` holds them, each once. For prefix i,
    below[i] keys are less than all keys with that prefix, and inside[i] keys have it. The key of rank r has the prefix
    home[r]. A pass counts, for each prefix, how often each continuation by `width` bits occurs.
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
    """Return the index of each key's prefix, for keys that have one, and which keys have one."""
    if bits == 0:
        return np.zeros(len(keys), np.int64), np.ones(len(keys), bool)
    starts = keys >> np.uint64(64 - bits)
    place = np.minimum(np.searchsorted(prefixes, starts), len(prefixes) - 1)
    found = prefixes[place] == starts
    return place[found], found


def _most_frequent(tally: Callable[[int, int], dict[Any, int] | None]) -> Any:
    """Return the most frequent value, the least of several equally frequent ones. None if there is no value.

    `tally(share, bits)` counts the values with a hash that begins with the `bits` bits of `share`. It returns None if
    they are too many to count at once; they are then counted in two halves, one bit longer.
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
