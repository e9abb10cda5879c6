"""DuckDB's SQL of a view's rows: one row an entity and event time, copies resolved, every value in one of five types.

The columns of a result have names of their own: k0… for the keys, t for the event time and c for the created time in
nanoseconds, f0… for the features. So no column name of a user can collide with one of ours.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from engine.errors import InputError
from engine.feature_store.definitions import FeatureView
from engine.feature_store.instants import EPOCH, NS_MAX, NS_MIN
from engine.feature_store.offline.columns import Snapshot, is_unsigned, kind_of
from engine.feature_store.offline.sources import NULL_PARTITION

# A table in memory is registered under this name.
TABLE = "source"
# The file of a row, while columns are taken from its path.
FILE = "engine file of a row"
_CASTS = {"bool": "BOOLEAN", "int": "BIGINT", "float": "DOUBLE", "text": "VARCHAR", "list": "DOUBLE[]"}


def quoted(name: str) -> str:
    """A column name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """A text as an SQL literal."""
    return "'" + value.replace("'", "''") + "'"


def files_of(snapshot: Snapshot) -> str:
    """The files of a source as an SQL list, escaped: DuckDB takes brackets and stars in a file's own name for a
    pattern."""
    return f"[{', '.join(text(glob.escape(file)) for file in snapshot.files)}]"


def named(snapshot: Snapshot, column: str) -> str:
    """A column of the source, or a field within one, as SQL."""
    path = snapshot.path_of(column)
    assert path is not None, "the columns of a view were checked"
    found = quoted(path[0])
    for name in path[1:]:
        found = f"struct_extract({found}, {text(name)})"
    return found


def relation(snapshot: Snapshot) -> str:
    """The rows of a source, as SQL to stand after FROM."""
    if not snapshot.files:
        return TABLE
    files = files_of(snapshot)
    options = "union_by_name = true, hive_partitioning = false"
    if not snapshot.partitions:
        return f"read_parquet({files}, {options})"
    # DuckDB's own reading of the folders' names would also take those above the source.
    made = ", ".join(f"{_in_path(name, snapshot)} AS {quoted(name)}" for name in snapshot.partitions)
    return f"(SELECT * EXCLUDE ({quoted(FILE)}), {made} FROM read_parquet({files}, {options}, filename = '{FILE}'))"


def _in_path(name: str, snapshot: Snapshot) -> str:
    """The value of a column that stands in the names of folders, as `name=value`: of the last such folder."""
    pattern = f".*[/\\\\]{re.escape(name)}=([^/\\\\]*)[/\\\\].*"
    found = f"regexp_extract({quoted(FILE)}, {text(pattern)}, 1)"
    cast = "BIGINT" if kind_of(snapshot.types[name]) == "int" else "VARCHAR"
    return f"CAST(nullif(nullif(url_decode({found}), {text(NULL_PARTITION)}), '') AS {cast})"


def value(snapshot: Snapshot, column: str, kind: str) -> str:
    """A column cast to the type of its kind; a time as microseconds since 1970, rounded towards the past."""
    of_type, name = str(snapshot.type_of(column, "columns")), named(snapshot, column)
    if kind == "time":
        # A remainder is negative before 1970. Of other units, epoch_us is exact.
        past = f"(epoch_ns({name}) - (epoch_ns({name}) % 1000 + 1000) % 1000) // 1000"
        return past if of_type.startswith("timestamp[ns") else f"epoch_us({name})"
    return f"CAST({name} AS {_CASTS[kind]})"


def key_value(snapshot: Snapshot, column: str, kind: str) -> str:
    """A key column cast to the type of its kind. Bytes stay as they are, and so do numbers that are uint64."""
    if kind == "bytes":
        return named(snapshot, column)
    if kind == "int" and is_unsigned(snapshot.type_of(column, "keys")):
        return f"CAST({named(snapshot, column)} AS UBIGINT)"
    return f"CAST({named(snapshot, column)} AS {_CASTS[kind]})"


def instant(snapshot: Snapshot, column: str) -> str:
    """A column of timestamps or dates as nanoseconds since 1970. One before 1677 is taken for the first that there is;
    `in_reach` leaves out event times after 2262, and such a created time is the last that there is."""
    name, word = named(snapshot, column), _type_word(snapshot, column)
    if word.endswith("_NS"):
        return f"epoch_ns({name})"
    # DuckDB's least and greatest take no account of nulls, and a null stays one.
    within = f"greatest(least({name}, {_literal(NS_MAX, word)}), {_literal(NS_MIN, word)})"
    return f"CASE WHEN {name} IS NULL THEN NULL ELSE epoch_ns({within}) END"


def event(snapshot: Snapshot) -> str:
    """The event time in nanoseconds since 1970, of rows that are `in_reach`."""
    name, word = (
        named(snapshot, snapshot.source.event_time),
        _type_word(snapshot, snapshot.source.event_time),
    )
    if word.endswith("_NS"):
        return f"epoch_ns({name})"
    return f"epoch_ns(greatest({name}, {_literal(NS_MIN, word)}))"


def in_reach(snapshot: Snapshot) -> str:
    """SQL that is true for event times before 2262. A later one, such as 9999-12-31 for never, holds at no instant."""
    name, word = (
        named(snapshot, snapshot.source.event_time),
        _type_word(snapshot, snapshot.source.event_time),
    )
    return "true" if word.endswith("_NS") else f"{name} <= {_literal(NS_MAX, word)}"


def _type_word(snapshot: Snapshot, column: str) -> str:
    """DuckDB's type of a column of timestamps or dates. It refuses to compare timestamps of different units."""
    kind = snapshot.type_of(column, "times")
    if not str(kind).startswith("timestamp"):
        return "DATE"
    return ("TIMESTAMP" if kind.tz is None else "TIMESTAMPTZ") + ("_NS" if kind.unit == "ns" else "")


def _literal(ns: int, word: str) -> str:
    """An instant as an SQL literal of a type that `_type_word` gave, rounded towards 1970."""
    instant = EPOCH + timedelta(microseconds=ns // 1000 if ns >= 0 else -(-ns // 1000))
    if word == "DATE":
        # The first midnight is a day after the first instant.
        days = instant + timedelta(days=1 if ns < 0 else 0)
        return f"DATE '{days.strftime('%Y-%m-%d')}'"
    return f"CAST({text(instant.strftime('%Y-%m-%d %H:%M:%S.%f+00'))} AS {word})"


def keys(view: FeatureView) -> list[str]:
    """The names of a view's keys in a result."""
    return [f"k{i}" for i in range(len(view.source_keys))]


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
    created: bool = False,
    created_end_ns: int | None = None,
) -> str:
    """SQL of every row of the source that has all its keys and an event time in [start, end), copies included.

    Args:
        columns: the columns of the source to take as f0, f1, ….
        range_ns: start and end in nanoseconds since 1970; None for no bound.
        numbered: add the created time `c`, the place in the source `o` and the event id `e`, which tell copies apart.
        created: add the created time `c` alone.
        created_end_ns: leave out rows that were not created before this instant. A row without a created time stays.
    """
    source = snapshot.source
    selected = [f"{key_value(snapshot, key, kinds[key])} AS k{i}" for i, key in enumerate(view.source_keys)]
    selected.append(f"{event(snapshot)} AS t")
    written = instant(snapshot, source.created_time) if source.created_time else "NULL::BIGINT"
    if created and not numbered:
        selected.append(f"{written} AS c")
    if numbered:
        event_id = named(snapshot, source.event_id) if source.event_id else "NULL"
        selected += [f"{written} AS c", "row_number() OVER () AS o", f"{event_id} AS e"]
    selected += [f"{value(snapshot, column, kinds[column])} AS f{i}" for i, column in enumerate(columns)]
    inner = f"SELECT {', '.join(selected)} FROM {relation(snapshot)}{_pruned(snapshot, range_ns)}"
    inner += _created_before(snapshot, created_end_ns, " AND")
    wanted = [f"{key} IS NOT NULL" for key in keys(view)]
    if range_ns[0] is not None:
        wanted.append(f"t >= {range_ns[0]}")
    if range_ns[1] is not None:
        wanted.append(f"t < {range_ns[1]}")
    return f"SELECT * FROM ({inner}) WHERE {' AND '.join(wanted)}"


def known_keys(
    view: FeatureView, snapshot: Snapshot, kinds: Mapping[str, str], created_end_ns: int | None = None
) -> str:
    """SQL of the keys of every row, at any event time, that was created before `created_end_ns`."""
    selected = ", ".join(
        f"{key_value(snapshot, key, kinds[key])} AS k{i}" for i, key in enumerate(view.source_keys)
    )
    return f"SELECT {selected} FROM {relation(snapshot)}{_created_before(snapshot, created_end_ns, ' WHERE')}"


def _created_before(snapshot: Snapshot, end_ns: int | None, word: str) -> str:
    if end_ns is None:
        return ""
    assert snapshot.source.created_time is not None, "a source without a created time was refused"
    created = instant(snapshot, snapshot.source.created_time)
    return f"{word} ({created} IS NULL OR {created} < {end_ns})"


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

    It may let rows out of range through, because an exact filter follows. It leaves out rows that are not `in_reach`.
    """
    column = named(snapshot, snapshot.source.event_time)
    word = _type_word(snapshot, snapshot.source.event_time)
    parts = [in_reach(snapshot)]
    if word == "DATE":
        return f" WHERE {parts[0]}"
    for bound, sign, slack_us in ((range_ns[0], ">=", -2), (range_ns[1], "<=", 2)):
        if bound is not None and NS_MIN // 2 < bound < NS_MAX // 2:
            parts.append(f"{column} {sign} {_literal(bound + 1000 * slack_us, word)}")
    return f" WHERE {' AND '.join(parts)}"


def check_times(view: FeatureView, snapshot: Snapshot, connection: Any) -> None:
    """Raise InputError if a row of the source has no event time. Of files, their statistics tell where they can."""
    column = view.source.event_time
    path = snapshot.path_of(column)
    assert path is not None, "the columns of a view were checked"
    if snapshot.files and len(path) == 1:
        nulls, unknown = connection.sql(
            "SELECT coalesce(sum(stats_null_count), 0), count(*) FILTER (stats_null_count IS NULL) FROM "
            f"parquet_metadata({files_of(snapshot)}) WHERE path_in_schema = {text(column)}"
        ).fetchall()[0]
        if not nulls and not unknown:
            return
    found = named(snapshot, column)
    rows, with_time = connection.sql(f"SELECT count(*), count({found}) FROM {relation(snapshot)}").fetchall()[
        0
    ]
    if with_time < rows:
        raise InputError(
            f"view {view.name!r}: column {column!r} of {snapshot.place} is null in {rows - with_time} of {rows} rows, "
            f"{first_row(snapshot, connection, f'{found} IS NULL')}; a row needs an event time, so leave those rows "
            "out of the source"
        )


def first_row(snapshot: Snapshot, connection: Any, condition: str) -> str:
    """The first row for which an SQL condition holds, as text: its place in its file, or in the table."""
    if not snapshot.files:
        query = (
            f"SELECT o - 1 FROM (SELECT *, row_number() OVER () AS o FROM {TABLE}) WHERE {condition} LIMIT 1"
        )
        return f"first in row {connection.sql(query).fetchall()[0][0]}"
    for file in snapshot.files:
        read = f"read_parquet({text(glob.escape(file))}, hive_partitioning = false, file_row_number = true)"
        try:
            found = connection.sql(
                f"SELECT file_row_number FROM {read} WHERE {condition} ORDER BY file_row_number LIMIT 1"
            ).fetchall()
        except Exception:  # this file has not the column
            continue
        if found:
            return f"first in row {found[0][0]} of {file}"
    return "in a row that cannot be found again"


def unreadable(
    view: FeatureView, snapshot: Snapshot, kinds: Mapping[str, str], connection: Any
) -> tuple[str, str, str] | None:
    """The first value that cannot be read as its column's kind: the column, its type, and the row as text; or None."""
    columns = [(key, key_value(snapshot, key, kinds[key])) for key in view.source_keys]
    columns += [
        (name, value(snapshot, name, kinds[name])) for name in dict.fromkeys((*view.columns, *view.inputs))
    ]
    for column, cast in columns:
        tried = cast.replace("CAST(", "TRY_CAST(", 1)
        if tried == cast:
            continue
        condition = f"{named(snapshot, column)} IS NOT NULL AND {tried} IS NULL"
        if connection.sql(f"SELECT 1 FROM {relation(snapshot)} WHERE {condition} LIMIT 1").fetchall():
            of_type = str(snapshot.type_of(column, "columns"))
            return column, of_type, first_row(snapshot, connection, condition)
    return None
