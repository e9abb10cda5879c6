"""The columns of a source and their types: every check of a definition against its source, before any row is read.

A column has one of six kinds, "bool", "int", "float", "text", "time" and "list" (of floats); a column of any other type
is no feature. A key has one of three: "int", "text" and "bytes".
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from engine.errors import InputError
from engine.feature_store.definitions import FeatureView, Source

if TYPE_CHECKING:
    import pyarrow as pa

NAMES_SHOWN = 30
_KEY_WORDS = {"int": "whole numbers", "text": "text", "bytes": "bytes"}


class Files(list[str]):
    """Paths of files, in order, with the names of the columns that stand in the names of their folders."""

    def __init__(self, files: Iterable[str], partitions: tuple[str, ...] = ()) -> None:
        super().__init__(files)
        self.partitions = partitions


@dataclass(frozen=True)
class SourceColumns:
    """The columns of a source. No row was read to find them.

    Attributes:
        source: the definition.
        place: where the rows are, for error texts: a path, or the name of a table.
        types: the Arrow type of each column, by name.
        partitions: the columns that are written in the names of folders, as `day=2024-01-01`, and in no file.
        lacking: a file that lacks a column which others have, by the column's name.
    """

    source: Source
    place: str
    types: dict[str, Any]
    partitions: tuple[str, ...] = field(default=(), kw_only=True)
    lacking: Mapping[str, str] = field(default_factory=dict, kw_only=True)

    def type_of(self, column: str, where: str) -> Any:
        """The Arrow type of a column, or of a field within one, as `address.city`.

        Raises InputError, which begins with `where`, if the source lacks it.
        """
        path = self.path_of(column)
        if path is None:
            names = ", ".join(list(self.types)[:NAMES_SHOWN])
            raise InputError(f"{where}: {self.place} has no column {column!r}; it has: {names}")
        return _within(self.types[path[0]], path[1:])

    def path_of(self, column: str) -> tuple[str, ...] | None:
        """The name of a column and the names of the fields within it; None if there is none.

        A column of that very name comes before a field: names may have dots in them.
        """
        if column in self.types:
            return (column,)
        parts = column.split(".")
        for cut in range(len(parts) - 1, 0, -1):
            name, fields = ".".join(parts[:cut]), tuple(parts[cut:])
            if name in self.types and _within(self.types[name], fields) is not None:
                return (name, *fields)
        return None


@dataclass(frozen=True)
class Snapshot(SourceColumns):
    """The content of a source at one moment. Two snapshots with the same digest hold the same rows.

    Attributes:
        digest: sha256 of the content, 64 hex digits; or of what tells that files have changed, if it is a `look`.
        fresh: sha256 of each file that was so new at a look that it could change and not show it, by its path.
        files: the Parquet files, in the order in which they are read; empty for any other source.
        table: the rows as a pyarrow Table, if the source is a table in memory; None otherwise. Only such a source never
            changes.
        version: the version of a lake's table (`lakes.Version`), if the source is one; None otherwise.
    """

    digest: str
    files: tuple[str, ...] = ()
    table: Any = None
    fresh: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    version: Any = field(default=None, kw_only=True)

    @property
    def pinned(self) -> Source:
        """The source with these files and no others, for a source may grow while it is read."""
        if self.version is not None:
            return replace(self.source, data=self.version.pinned)
        if not self.files:
            return self.source if self.table is None else replace(self.source, data=self.table)
        whole = (file if "://" in file else os.path.abspath(file) for file in self.files)
        return replace(self.source, data=Files(whole, self.partitions))


def _within(kind: Any, fields: Sequence[str]) -> Any:
    """The type of a field within structs, None without it."""
    import pyarrow as pa

    for name in fields:
        if not pa.types.is_struct(kind) or kind.get_field_index(name) < 0:
            return None
        kind = kind.field(kind.get_field_index(name)).type
    return kind


def kind_of(kind: pa.DataType) -> str | None:
    """The kind of a column of this Arrow type: "bool", "int", "float", "text", "time" or "list"; None if it is no
    feature."""
    import pyarrow as pa

    t = pa.types
    if t.is_dictionary(kind):
        kind = kind.value_type
    if t.is_boolean(kind):
        return "bool"
    if t.is_integer(kind):
        return "int"
    if t.is_float32(kind) or t.is_float64(kind) or t.is_decimal(kind):
        return "float"
    if t.is_string(kind) or t.is_large_string(kind) or t.is_string_view(kind) or _is_uuid(kind):
        return "text"
    if t.is_list(kind) or t.is_large_list(kind) or t.is_fixed_size_list(kind):
        return "list" if t.is_floating(kind.value_type) or t.is_integer(kind.value_type) else None
    return "time" if t.is_timestamp(kind) or t.is_date(kind) else None


def key_kind_of(kind: pa.DataType) -> str | None:
    """The kind of a key column of this Arrow type: "int", "text" or "bytes"; None if it is no key."""
    import pyarrow as pa

    t = pa.types
    if t.is_dictionary(kind):
        kind = kind.value_type
    if t.is_binary(kind) or t.is_large_binary(kind) or t.is_fixed_size_binary(kind) or t.is_binary_view(kind):
        return "bytes"
    if t.is_decimal(kind) and kind.scale == 0:
        return "int"
    found = kind_of(kind)
    return found if found in ("int", "text") else None


def is_unsigned(kind: Any) -> bool:
    """Whether this Arrow type is uint64, plain or as a dictionary's values."""
    return str(getattr(kind, "value_type", kind)) == "uint64"


def _is_uuid(kind: Any) -> bool:
    return getattr(kind, "extension_name", None) == "arrow.uuid"


def kinds_of(view: FeatureView, columns: SourceColumns) -> dict[str, str]:
    """The kind of each column that a view reads: its keys, its features, and what it aggregates.

    Raises:
        InputError: a column is missing, has a type that is no feature or no key, or has times without a zone.
    """
    kinds: dict[str, str] = {}
    for column in view.columns:
        kinds[column] = _kind(
            view, columns, column, ("bool", "int", "float", "text", "time", "list"),
            "a feature is a number, a boolean, text, a timestamp or a list of floats; cast it in the source",
        )  # fmt: skip
    for aggregate in view.aggregates:
        of_any = aggregate.function in ("distinct", "first", "last") and not view.at_request
        kinds[aggregate.column] = _kind(
            view, columns, aggregate.column, ("bool", "int", "float", *(("text", "time") if of_any else ())),
            f"{aggregate.function} is over numbers, booleans, text or timestamps" if of_any
            else "an aggregate is over numbers",
        )  # fmt: skip
    for key in view.source_keys:
        kind = columns.type_of(key, f"view {view.name!r}")
        found = key_kind_of(kind)
        if found is None or kinds.get(key, found) != found:
            raise InputError(
                f"view {view.name!r}: column {key!r} of {columns.place} has type {kind}: a key is whole numbers or "
                "text, or bytes"
            )
        kinds[key] = found
    if view.source.event_id is not None:
        columns.type_of(view.source.event_id, f"view {view.name!r}")
    check_times(columns, f"view {view.name!r}")
    _require_everywhere(view, columns)
    _require_distinct(view, columns, kinds)
    return kinds


def _require_everywhere(view: FeatureView, columns: SourceColumns) -> None:
    """Raise InputError if a file lacks a key or an event time: its rows would belong to no entity or instant."""
    for name in (*view.source_keys, view.source.event_time):
        path = columns.path_of(name)
        if path is not None and (name := path[0]) in columns.lacking:
            raise InputError(
                f"view {view.name!r}: {columns.lacking[name]} has no column {name!r}, which other files have"
            )


def _require_distinct(view: FeatureView, columns: SourceColumns, kinds: Iterable[str]) -> None:
    """Raise InputError if a column that the view reads differs from another in case only: SQL would take either."""
    source = view.source
    read = {*kinds, source.event_time, *(name for name in (source.created_time, source.event_id) if name)}
    folded: dict[str, str] = {}
    for name in columns.types:
        other = folded.setdefault(name.lower(), name)
        if other != name and not read.isdisjoint((name, other)):
            raise InputError(
                f"view {view.name!r}: columns {other!r} and {name!r} of {columns.place} differ in case only, so one "
                "could be taken for the other; rename one of them"
            )


def check_keys(types: Mapping[str, pa.DataType], view: FeatureView, kinds: Mapping[str, str]) -> None:
    """Raise InputError if labels with these types lack a key of the view, or have it in another type than its source.

    Args:
        types: the Arrow type of each column of the labels.
        view: the view.
        kinds: the kind of each column that the view reads.
    """
    import pyarrow as pa

    for key, source_key in zip(view.keys, view.source_keys, strict=True):
        if key not in types:
            names = ", ".join(list(types)[:NAMES_SHOWN])
            raise InputError(
                f"view {view.name!r} needs key column {key!r} in the labels, which have: {names}"
            )
        # A column of nulls has no type of its own, and says that the entity of every label is unknown.
        found = key_kind_of(types[key])
        kind = kinds[source_key]
        fits = found == kind or (found, kind) == ("text", "bytes")
        if not fits and not pa.types.is_null(types[key]):
            raise InputError(
                f"key column {key!r}: view {view.name!r} has {_KEY_WORDS[kind]}, the labels have {types[key]}; "
                "cast one of them"
            )


def check_times(columns: SourceColumns, where: str) -> None:
    """Raise InputError if the event or created times of a source are no instants."""
    import pyarrow as pa

    source = columns.source
    for name in (source.event_time, source.created_time):
        if name is None:
            continue
        kind = columns.type_of(name, where)
        if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
            raise InputError(
                f"{where}: column {name!r} of {columns.place}: expected timestamps, got {kind}; "
                "cast it in the source"
            )
        _require_zone(source, kind, f"{where}: column {name!r} of {columns.place}")


def _require_zone(source: Source, kind: Any, where: str) -> None:
    if source.naive != "utc" and getattr(kind, "tz", None) is None:
        raise InputError(
            f"{where} has type {kind}, without a time zone; give it one, or declare the source with naive='utc'"
        )


def _kind(view: FeatureView, columns: SourceColumns, column: str, allowed: Iterable[str], wanted: str) -> str:
    where = f"view {view.name!r}"
    kind = columns.type_of(column, where)
    found = kind_of(kind)
    if found is None or found not in allowed:
        raise InputError(f"{where}: column {column!r} of {columns.place} has type {kind}: {wanted}")
    # A date is a calendar's day, whose midnight in UTC stands for it.
    if found == "time" and not str(kind).startswith("date"):
        _require_zone(columns.source, kind, f"{where}: column {column!r} of {columns.place}")
    return found
