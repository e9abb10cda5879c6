"""Parts of a timestamp on the clock and calendar of a declared time zone.

A zone's changes from 1970 to 2100 are frozen into the op: a later release of the time zone database changes what
a newly fitted program computes, never what this one does. Before and after those years the nearest offset holds.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from engine.errors import ProgramError
from engine.transform._program import DATE_PARTS as PARTS
from engine.transform.ops import Op, whole
from engine.transform.plan import TIMESTAMP, Plan

_DAY_S = 86_400
_FIRST_S, _LAST_S = 0, int(datetime(2100, 1, 1, tzinfo=UTC).timestamp())


@dataclass(frozen=True)
class DatePart(Op):
    """year, month 1-12, day 1-31, day_of_year 1-366, weekday (Monday 0), hour, minute, second (with its fraction),
    second_of_day, or unix_second (the same in every zone)."""

    op: ClassVar[str] = "part"
    reads: ClassVar[str] = TIMESTAMP
    part: str = ""
    zone: str = ""
    edges: tuple[int, ...] | None = None
    offsets: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.part not in PARTS:
            raise ProgramError(f"part: unknown part {self.part!r}; expected one of: {', '.join(PARTS)}")
        if not isinstance(self.zone, str) or not self.zone:
            raise ProgramError(
                f"part: expected a time zone such as 'Europe/Berlin' or 'UTC', got {self.zone!r}"
            )
        if self.edges is None or self.offsets is None:
            edges, offsets = changes_of(self.zone)
            object.__setattr__(self, "edges", edges)
            object.__setattr__(self, "offsets", offsets)
            return
        for edge in self.edges:
            whole(edge, "part edges", -(2**40), 2**40)
        for offset in self.offsets:
            whole(offset, "part offsets", 1 - _DAY_S, _DAY_S - 1)
        if len(self.offsets) != len(self.edges) + 1 or any(a >= b for a, b in itertools.pairwise(self.edges)):
            raise ProgramError("part: expected rising changes of the time zone and one offset more")

    def compile(self, plan: Plan, register: int) -> int:
        zone = plan.zone(self.edges or (), self.offsets or ())
        return plan.step("date_part", register, table=zone, count=PARTS.index(self.part))


@functools.lru_cache(maxsize=32)
def changes_of(zone: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Unix seconds at which the offset of a zone changes, and the offsets before, between and after, in seconds."""
    try:
        place = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ProgramError(f"unknown time zone {zone!r}: {error}") from None
    edges: list[int] = []
    offsets = [_offset_s(place, _FIRST_S)]
    for day in range(_FIRST_S, _LAST_S, _DAY_S):
        # Twice a day at most: no zone has changed and changed back within one.
        while _offset_s(place, day + _DAY_S) != offsets[-1]:
            edge = _first_change(place, max(day, edges[-1] if edges else day), day + _DAY_S, offsets[-1])
            edges.append(edge)
            offsets.append(_offset_s(place, edge))
    return tuple(edges), tuple(offsets)


def _first_change(place: Any, low: int, high: int, before: int) -> int:
    """The first second in (low, high] whose offset is not `before`."""
    while high - low > 1:
        middle = (low + high) // 2
        if _offset_s(place, middle) == before:
            low = middle
        else:
            high = middle
    return high


def _offset_s(place: Any, unix_s: int) -> int:
    offset = datetime.fromtimestamp(unix_s, place).utcoffset()
    return 0 if offset is None else int(offset.total_seconds())
