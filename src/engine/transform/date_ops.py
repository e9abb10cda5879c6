"""Parts of a timestamp, on the clock and calendar of a declared time zone.

The op keeps the zone's changes from 1970 to 2100. So a later release of the time zone database changes newly fitted
programs, and never a frozen one. Before and after those years the nearest offset holds.
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
from engine.transform.ops import Op, one_of, whole
from engine.transform.plan import TIMESTAMP, Plan

_DAY_S = 86_400
_FIRST_S, _LAST_S = 0, int(datetime(2100, 1, 1, tzinfo=UTC).timestamp())


@dataclass(frozen=True)
class DatePart(Op):
    """Give a part of a timestamp.

    Attributes:
        part: "year", "month" 1-12, "day" 1-31, "day_of_year" 1-366, "weekday" (Monday is 0), "hour", "minute", "second"
            (with its fraction), "second_of_day", or "unix_second" (the same in every zone).
        zone: the time zone's name, as "Europe/Berlin".
        edges: Unix times in seconds at which the zone's offset changes.
        offsets: seconds that local time is ahead of UTC: before, between and after the edges.
    """

    op: ClassVar[str] = "part"
    reads: ClassVar[str] = TIMESTAMP
    part: str = ""
    zone: str = ""
    edges: tuple[int, ...] | None = None
    offsets: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        one_of("part", self.part, PARTS)
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
            whole("part edges", edge, -(2**40), 2**40)
        for offset in self.offsets:
            whole("part offsets", offset, 1 - _DAY_S, _DAY_S - 1)
        if len(self.offsets) != len(self.edges) + 1 or any(a >= b for a, b in itertools.pairwise(self.edges)):
            raise ProgramError("part: expected rising edges, and one offset more than edges")

    def compile(self, plan: Plan, register: int) -> int:
        zone = plan.zone(self.edges or (), self.offsets or ())
        return plan.step("date_part", register, table=zone, count=PARTS.index(self.part))


@functools.lru_cache(maxsize=32)
def changes_of(zone: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the edges and offsets of a time zone, as `DatePart` keeps them. Raise ProgramError for an unknown zone."""
    try:
        place = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ProgramError(f"unknown time zone {zone!r}: {error}") from None
    edges: list[int] = []
    offsets = [_offset_s(place, _FIRST_S)]
    for day in range(_FIRST_S, _LAST_S, _DAY_S):
        # Comparing midnights finds every change, because no zone has changed and changed back within a day.
        while _offset_s(place, day + _DAY_S) != offsets[-1]:
            edge = _first_change(place, max(day, edges[-1] if edges else day), day + _DAY_S, offsets[-1])
            edges.append(edge)
            offsets.append(_offset_s(place, edge))
    return tuple(edges), tuple(offsets)


def _first_change(place: Any, low: int, high: int, before: int) -> int:
    """Return the first second in (low, high] with another offset than `before`."""
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
