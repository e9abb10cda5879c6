"""The slow, obvious reference of the feature store: plain loops over lists of dicts, written from the docs alone.

A source is a list of dicts in source order, times are whole nanoseconds. `row_at` is the whole of the semantics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

Row = dict[str, Any]


def view_rows(
    rows: Sequence[Row],
    keys: Sequence[str],
    event: str,
    created: str | None,
    event_id: str | None,
    columns: Sequence[str],
    aggregates: Sequence[Any],
) -> list[Row]:
    """One dict an entity and instant: its key, time and values.

    An aggregate is a function, a column and a window, and may have a quantile and whether the window is closed on the
    left after them.
    """
    rows = [row for row in rows if all(row[key] is not None for key in keys)]
    instants = {(key_of(row, keys), row[event]) for row in rows}
    found = []
    for entity, instant in sorted(instants, key=repr):
        here = [row for row in rows if key_of(row, keys) == entity and row[event] == instant]
        winner = newest(here, created)
        values = [winner[column] for column in columns]
        values += windows_at(rows, keys, event, created, event_id, aggregates, entity, instant)
        found.append({"entity": entity, "time": instant, "values": values})
    return found


def windows_at(
    rows: Sequence[Row],
    keys: Sequence[str],
    event: str,
    created: str | None,
    event_id: str | None,
    aggregates: Sequence[Any],
    entity: tuple[Any, ...],
    instant: int,
) -> list[Any]:
    """The value of each aggregate over the entity's events in the window that ends at the instant."""
    values = []
    for function, column, window, *rest in aggregates:
        q, left = rest or (0.5, False)
        within = [
            row
            for row in rows
            if key_of(row, keys) == entity
            and (
                instant - window <= row[event] < instant if left else instant - window < row[event] <= instant
            )
        ]
        # By time, then by created time, then by place, for the first and the last value.
        events = distinct(within, event, created, event_id)
        places = {id(row): place for place, row in enumerate(rows)}
        events.sort(key=lambda row: (row[event], written(row, created) if created else 0, places[id(row)]))
        values.append(aggregate(function, [row[column] for row in events], q))
    return values


def key_of(row: Row, keys: Sequence[str]) -> tuple[Any, ...]:
    return tuple(row[key] for key in keys)


def newest(copies: Sequence[Row], created: str | None) -> Row:
    """The copy written last; if created times are equal or unknown, the later in the source."""
    winner = copies[0]
    for row in copies[1:]:
        if created is None or written(row, created) >= written(winner, created):
            winner = row
    return winner


def written(row: Row, created: str) -> float:
    return -math.inf if row[created] is None else row[created]


def distinct(rows: Sequence[Row], event: str, created: str | None, event_id: str | None) -> list[Row]:
    """The events of one entity's rows: the newest copy of each id, and each row without an id that was written last."""
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault((row[event], None if event_id is None else row[event_id]), []).append(row)
    events = []
    for (_, name), copies in groups.items():
        last = newest(copies, created)
        if name is not None:
            events.append(last)
        else:
            events += [
                row for row in copies if created is None or written(row, created) == written(last, created)
            ]
    return events


def aggregate(function: str, values: Sequence[Any], q: float = 0.5) -> Any:
    there = [
        value
        for value in values
        if value is not None and not (isinstance(value, float) and math.isnan(value))
    ]
    if function == "distinct":
        return len(set(there))
    if function in ("first", "last"):
        return there[0 if function == "first" else -1] if there else None
    there = [float(value) for value in there]
    if function == "count":
        return len(there)
    if not there:
        return None
    if function in ("min", "max"):
        return {"min": min, "max": max}[function](there)
    if function == "quantile":
        ordered = sorted(there)
        place = (len(ordered) - 1) * q
        below = int(place)
        found = ordered[below]
        return found + (ordered[below + 1] - found) * (place - below) if place > below else found
    total = sum(map(Fraction, there), Fraction(0))
    if function == "std":
        n = len(there)
        if n < 2:
            return None
        over = n * sum((Fraction(value) ** 2 for value in there), Fraction(0)) - total**2
        return math.sqrt(float(over) / float(n * (n - 1)))
    return float(total) if function == "sum" else float(total) / len(there)


def row_at(
    rows: Sequence[Row], entity: tuple[Any, ...], instant: int, ttl: int | None
) -> tuple[list[Any] | None, str]:
    """(values or None, reason) of an entity at an instant, from the rows that `view_rows` returns."""
    if any(part is None for part in entity):
        return None, "null_key"
    own = [row for row in rows if row["entity"] == entity]
    if not own:
        return None, "unknown_entity"
    past = [row for row in own if row["time"] <= instant]
    if not past:
        return None, "not_yet"
    last = max(past, key=lambda row: row["time"])
    if ttl is not None and instant - last["time"] > ttl:
        return None, "expired"
    return last["values"], "found"
