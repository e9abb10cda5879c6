"""Codes of ids that float32 cannot tell apart.

Rows are float32, which is exact for whole numbers up to 2^24. Customer 16,777,217 would be counted as customer
16,777,216. Each such id of a categorical column therefore gets a code below -2^23, and all other values stay as they
are. Rows of an engine never come this way: an id that was rounded there counts as the most frequent id that rounds to
the same float32.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.monitor.drift.bins import FIRST_WIDE, UNKNOWN_CODE

# Further ids share the code of unknown ones, because codes beyond are not exact either.
IDS_MAX = 1 << 23


class WideIds(dict[int, float]):
    """The code of each id that float32 does not hold; ids in the order of their codes."""

    def __init__(self, ids: Iterable[int] = ()) -> None:
        super().__init__((wide, FIRST_WIDE - place) for place, wide in enumerate(ids))

    @classmethod
    def of(cls, values: npt.NDArray[Any]) -> WideIds:
        """Return the ids of a column of numbers, [n], the most frequent first; empty where float32 holds all."""
        counts = Counter(wide for _, wide in _wide_values(values))
        return cls(sorted(counts, key=lambda wide: (-counts[wide], wide))[:IDS_MAX])

    def code(self, value: Any) -> float:
        """Return the code of one number that is not missing; the number itself where float32 holds it."""
        wide = _wide(value)
        return float(value) if wide is None else self.get(wide, UNKNOWN_CODE)

    def codes(self, values: npt.NDArray[Any], rounded: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return `rounded`, the float32 of `values`, with the codes of ids in place of their roundings."""
        found = rounded.copy()
        for place, wide in _wide_values(values):
            found[place] = self.get(wide, UNKNOWN_CODE)
        return found


def _wide_values(values: npt.NDArray[Any]) -> Iterator[tuple[int, int]]:
    """Yield the place and the id of each value that is a whole number and not a float32."""
    if values.dtype.kind in "fiu":
        with np.errstate(over="ignore", invalid="ignore"):
            back = values.astype(np.float32).astype(values.dtype)
            places = np.flatnonzero((back != values) & np.isfinite(values))
    else:
        places = np.arange(len(values))
    for place, value in zip(places.tolist(), values[places].tolist(), strict=True):
        wide = _wide(value)
        if wide is not None:
            yield place, wide


def _wide(value: Any) -> int | None:
    """Return a number as an int where it is whole and not a float32; None otherwise, and for what is no number."""
    real = isinstance(value, (float, np.floating)) and math.isfinite(value) and float(value).is_integer()
    if not real and not isinstance(value, (int, np.integer)):
        return None
    whole = int(value)
    if abs(whole) <= 1 << 24:
        return None
    try:
        with np.errstate(over="ignore"):
            rounded = float(np.float32(whole))
    except OverflowError:
        return whole
    return None if math.isfinite(rounded) and int(rounded) == whole else whole
