"""DuckDB's SQL of a view's rows: one row an entity and event time, copies resolved, every value in one of five types.

The columns of a result have names of their own: k0… for the keys, t for the event time and c for the created time in
nanoseconds, f0… for the features. So no column name of a user can collide with one of ours.
"""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from engine.errors import InputError
from engine.feature_store.definitions import FeatureView
from engine.feature_store.instants import EPOCH, NS_MAX, NS_MIN
from engine.feature_store.offline.columns import Snapshot

# A table in memory is registered under this name.
TABLE = "source"
_CASTS = {"bool": "BOOLEAN", "int": "BIGINT", "float": "DOUBLE", "text": "VARCHAR"}


def quoted(name: str) -> str:
    """A column name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """A text as an SQL literal."""
    return "'" + value.replace("'", "''") + "'"


def relation(snapshot: Snapshot) -> str:
    """The rows of a source, as SQL to stand after FROM."""
    if not snapshot.files:
        return TABLE
    # Escaped, because DuckDB takes brackets and stars in a file's own name for a pattern.
    files = ", ".join(text(glob.escape(file)) for file in snapshot.files)
    return f"read_parquet([{files}], union_by_name = true, hive_partitioning = false)"


def value(column: str, kind: str) -> str:
    """A column cast to the type of its kind; a time as microseconds since 1970, rounded towards the past."""
    if kind == "time":
        return f"epoch_us({quoted(column)})"
    return f"CAST({quoted(column)} AS {_CASTS[kind]})"


def keys(view: FeatureView) -> list[str]:
    """The names of a view's keys in a result."""
    return [f"k{i}" for i in range(len(view.keys))]


def features(view: FeatureView) -> list[str]:
    """The names of a view's features in a result."""
    return [f"f{i}" for i in range(len(view.columns_out))]


def plain_rows(
    view: FeatureView,
    snapshot: Snapshot,
    kinds: Mapping[str, str],
    columns: Sequence[str],
    range_ns: tuple[int | None, int | None] = (None, None),
    *,
    numbered: bool = False,
) -> str:
    """SQL of every row of the source that has all its keys and an event time in [start, end), copies included.

    Args:
        columns: the columns of the source to take as f0, f1, ….
        range_ns: start and end in nanoseconds since 1970; None for no bound.
        numbered: add the created time `c`, the place in the source `o` and the event id `e`, which tell copies apart.
    """
    source = snapshot.source
    selected = [f"{value(key, kinds[key])} AS k{i}" for i, key in enumerate(view.keys)]
    selected.append(f"epoch_ns({quoted(source.event_time)}) AS t")
    if numbered:
        created = f"epoch_ns({quoted(source.created_time)})" if source.created_time else "NULL::BIGINT"
        event_id = quoted(source.event_id) if source.event_id else "NULL"
        selected += [f"{created} AS c", "row_number() OVER () AS o", f"{event_id} AS e"]
    selected += [f"{value(column, kinds[column])} AS f{i}" for i, column in enumerate(columns)]
    inner = f"SELECT {', '.join(selected)} FROM {relation(snapshot)}{_pruned(snapshot, range_ns)}"
    wanted = [f"{key} IS NOT NULL" for key in keys(view)]
    if range_ns[0] is not None:
        wanted.append(f"t >= {range_ns[0]}")
    if range_ns[1] is not None:
        wanted.append(f"t < {range_ns[1]}")
    return f"SELECT * FROM ({inner}) WHERE {' AND '.join(wanted)}"


def known_keys(view: FeatureView, snapshot: Snapshot, kinds: Mapping[str, str]) -> str:
    """SQL of the keys of every row, at any event time."""
    selected = ", ".join(f"{value(key, kinds[key])} AS k{i}" for i, key in enumerate(view.keys))
    return f"SELECT {selected} FROM {relation(snapshot)}"


def without_copies(rows: str, view: FeatureView) -> str:
    """SQL of the newest of the numbered rows with one entity and event time: by created time, then by place."""
    partition = ", ".join([*keys(view), "t"])
    return (
        f"{rows} QUALIFY row_number() OVER (PARTITION BY {partition} ORDER BY c DESC NULLS LAST, o DESC) = 1"
    )


def newest(rows: str, view: FeatureView) -> str:
    """SQL of the newest of each entity's numbered rows, ordered by keys, so in the same order every time."""
    partition = ", ".join(keys(view))
    order = "t DESC, c DESC NULLS LAST, o DESC"
    return (
        f"SELECT * FROM ({rows} QUALIFY row_number() OVER (PARTITION BY {partition} ORDER BY {order}) = 1) "
        f"ORDER BY {partition}"
    )


def _pruned(snapshot: Snapshot, range_ns: tuple[int | None, int | None]) -> str:
    """A coarse filter on the event time as it is stored, so that Parquet's statistics skip row groups out of range.

    It may let rows out of range through, because an exact filter follows.
    """
    kind = snapshot.types[snapshot.source.event_time]
    if not str(kind).startswith("timestamp"):
        return ""
    # DuckDB refuses to compare timestamps of different units.
    word = ("TIMESTAMP" if kind.tz is None else "TIMESTAMPTZ") + ("_NS" if kind.unit == "ns" else "")
    column = quoted(snapshot.source.event_time)
    parts = []
    for bound, sign, slack_us in ((range_ns[0], ">=", -1), (range_ns[1], "<=", 1)):
        if bound is not None and NS_MIN // 2 < bound < NS_MAX // 2:
            instant = EPOCH + timedelta(microseconds=bound // 1000 + slack_us)
            parts.append(
                f"{column} {sign} CAST({text(instant.strftime('%Y-%m-%d %H:%M:%S.%f+00'))} AS {word})"
            )
    return f" WHERE {' AND '.join(parts)}" if parts else ""


def check_facts(view: FeatureView, snapshot: Snapshot, connection: Any, kinds: Mapping[str, str]) -> bool:
    """Whether the source holds copies. Raises InputError if a row has no event time, or one beyond 1677 to 2262."""
    parts = [value(key, kinds[key]) for key in view.keys]
    present = " AND ".join(f"{quoted(key)} IS NOT NULL" for key in view.keys)
    event = f"epoch_ns({quoted(view.source.event_time)})"
    # The event id is left out, because a view has one row an entity and instant: events that differ in their id alone
    # are copies here.
    distinct = f"SELECT DISTINCT {', '.join([*parts, event])} FROM {relation(snapshot)} WHERE {present}"
    rows, with_time, with_keys, different = connection.sql(
        f"SELECT count(*), count({quoted(view.source.event_time)}), count(*) FILTER ({present}), "
        f"(SELECT count(*) FROM ({distinct})) FROM {relation(snapshot)}"
    ).fetchall()[0]
    if with_time < rows:
        raise InputError(
            f"view {view.name!r}: column {view.source.event_time!r} of {snapshot.place} is null in "
            f"{rows - with_time} of {rows} rows; a row needs an event time, so leave those rows out of the source"
        )
    return different < with_keys
