"""Rows that a caller pushes into the online store: checked column by column, and packed as materialised rows are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import InputError, InputTypeError
from engine.feature_store._codec import LIST, NO_KEY, Reader, request_keys
from engine.feature_store.definitions import FeatureView
from engine.feature_store.instants import NS_MIN, instant_ns
from engine.feature_store.offline.columns import kind_of
from engine.feature_store.offline.sources import as_table
from engine.feature_store.online.base import values_of
from engine.feature_store.schema import Schema

# A column of one of the kinds on the left is taken for one on the right.
_FITS = {"float": ("int", "float"), "int": ("int",)}
_WORDS = {
    "bool": "a boolean",
    "int": "a whole number",
    "float": "a number",
    "text": "text",
    "time": "a timestamp with a zone",
    "list": "a list of floats",
}


@dataclass(frozen=True, eq=False)
class Pushed:
    """Checked rows of one view.

    Attributes:
        view: the view as it is stored.
        schema: the kinds of its keys and features.
        entities: the keys of each row by name.
        event_ns: int64 [n].
        created_ns: int64 [n], or None for a source without a created time.
        columns, nulls: the features as `Layout.pack` takes them.
    """

    view: FeatureView
    schema: Schema
    entities: list[dict[str, Any]]
    event_ns: npt.NDArray[np.int64]
    created_ns: npt.NDArray[np.int64] | None
    columns: list[Any]
    nulls: list[Any]

    def __len__(self) -> int:
        return len(self.entities)

    @classmethod
    def of(cls, view: FeatureView, schema: Schema, rows: Any) -> Pushed:
        """The rows of `FeatureStore.push`. Raises InputError and InputTypeError as it says."""
        given = _columns(rows)
        source, where = view.source, f"push to view {view.name!r}"
        times = [name for name in (source.event_time, source.created_time) if name is not None]
        features = dict(schema.features)
        needed = dict.fromkeys([*view.source_keys, *times, *view.columns_out])
        known = {*needed, *([source.event_id] if source.event_id else [])}
        for name in needed:
            if name not in given.names:
                raise InputError(
                    f"{where}: {given.lacking(name)} has no {name!r}; a row has: {', '.join(needed)}"
                )
        for name in given.every:
            if name not in known:
                raise InputError(f"{where}: unknown column {name!r}; a row has: {', '.join(needed)}")
        columns, nulls = [], []
        for name in view.columns_out:
            column = given.feature(name, features[name], source.naive == "utc", where)
            nulls.append(column.is_null().to_numpy(zero_copy_only=False) if column.null_count else None)
            columns.append(values_of(column, features[name]))
        event = given.instants(source.event_time, source.naive == "utc", where, required=True)
        created = None
        if source.created_time is not None:
            created = given.instants(source.created_time, source.naive == "utc", where, required=False)
        names = view.source_keys
        keys = zip(*(given.values(key) for key in names), strict=True)
        entities = [dict(zip(names, part, strict=True)) for part in keys]
        made = cls(view, schema, entities, event, created, columns, nulls)
        made.keys(b"")
        return made

    def keys(self, prefix: bytes) -> list[bytes]:
        """The stored key of each row. Raises InputError for a key that is null or of another type, with its row."""
        reader = Reader(prefix, self.schema.keys, self.schema.layout, [("a feature", 0)], None)
        try:
            made = request_keys((reader,), self.entities)
        except InputError:
            for row, entity in enumerate(self.entities):
                try:
                    request_keys((reader,), (entity,))
                except InputError as error:
                    raise InputError(f"push to view {self.view.name!r}, row {row}: {error}") from None
            raise
        for row, key in enumerate(made):
            if key == NO_KEY:
                raise InputError(
                    f"push to view {self.view.name!r}, row {row}: a key is null: {self.entities[row]!r:.200}"
                )
        return made

    def packed(self, prefix: bytes, revision: int) -> list[tuple[bytes, bytes]]:
        """The stored (key, row) of each row."""
        rows = self.schema.layout.pack(self.event_ns, self.created_ns, revision, self.columns, self.nulls)
        return list(zip(self.keys(prefix), rows, strict=True))


def _columns(rows: Any) -> _Table | _Mappings:
    if isinstance(rows, Mapping):
        rows = [rows]
    if isinstance(rows, Sequence) and not isinstance(rows, (str, bytes)):
        for place, row in enumerate(rows):
            if not isinstance(row, Mapping):
                raise InputTypeError(
                    f"rows: row {place}: expected a mapping, got {type(row).__name__} {row!r:.80}"
                )
        return _Mappings(rows)
    return _Table(as_table(rows))


class _Mappings:
    """Rows as mappings; each has every name."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.rows = rows
        every: dict[str, None] = dict.fromkeys(rows[0]) if rows else {}
        self.names: list[str] = list(every)
        if any(row.keys() != every.keys() for row in rows):
            for row in rows:
                every.update(dict.fromkeys(row))
            self.names = [name for name in every if all(name in row for row in rows)]
        elif not rows:
            self.names = _Anything()
        self.every = list(every)

    def lacking(self, name: str) -> str:
        """The first row without this name."""
        return f"row {next(place for place, row in enumerate(self.rows) if name not in row)}"

    def values(self, name: str) -> list[Any]:
        return [row[name] for row in self.rows]

    def feature(self, name: str, kind: str, naive: bool, where: str) -> Any:
        import pyarrow as pa

        values = self.values(name)
        if kind == "time":
            made = [
                None if value is None else _ns(value, naive, f"{where}, row {row}, {name!r}") // 1000
                for row, value in enumerate(values)
            ]
            return pa.array(made, pa.int64())
        wanted = {"bool": pa.bool_(), "int": pa.int64(), "float": pa.float64(), "text": pa.string()}
        of_type = pa.list_(pa.float64()) if kind == LIST else wanted[kind]
        try:
            return _array(values, of_type)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            for row, value in enumerate(values):
                try:
                    _array([value], of_type)
                except (pa.ArrowException, TypeError, ValueError, OverflowError):
                    raise InputError(
                        f"{where}, row {row}, {name!r}: expected {_WORDS[kind]}, got {type(value).__name__} "
                        f"{value!r:.80}"
                    ) from None
            raise

    def instants(self, name: str, naive: bool, where: str, *, required: bool) -> npt.NDArray[np.int64]:
        import pyarrow as pa

        values = self.values(name)
        if all(
            type(value) is datetime and value.tzinfo is UTC and 1678 <= value.year <= 2261 for value in values
        ):
            return _int64(pa.array(values, pa.timestamp("us", "UTC"))) * 1000
        made = np.empty(len(values), np.int64)
        for row, value in enumerate(values):
            if value is None and not required:
                # A null created time sorts below every other.
                made[row] = NS_MIN
                continue
            made[row] = _ns(value, naive, f"{where}, row {row}, {name!r}")
        return made


def _array(values: list[Any], of_type: Any) -> Any:
    """A pyarrow array. Raises for a value of another type, where pyarrow would cut off a fraction or take a boolean for
    a number."""
    import pyarrow as pa

    if not (pa.types.is_integer(of_type) or pa.types.is_floating(of_type)):
        return pa.array(values, of_type)
    made = pa.array(values)
    if pa.types.is_boolean(made.type):
        raise TypeError("a boolean is no number")
    # A cast to whole numbers raises where it would not be exact.
    return made.cast(of_type, safe=pa.types.is_integer(of_type))


def _int64(column: Any) -> npt.NDArray[np.int64]:
    import pyarrow as pa

    return np.asarray(column.cast(pa.int64()).to_numpy(zero_copy_only=False), np.int64)


class _Anything(list[str]):
    """The names of no rows."""

    def __contains__(self, name: object) -> bool:
        return True


class _Table:
    """Rows as a pyarrow Table."""

    def __init__(self, table: Any) -> None:
        # The index of a pandas table is none of its columns.
        self.table = table.select(
            [name for name in table.column_names if not name.startswith("__index_level_")]
        )
        self.names = self.every = self.table.column_names

    def lacking(self, name: str) -> str:
        return f"the table with columns {', '.join(self.names[:30])}"

    def values(self, name: str) -> list[Any]:
        return list(self.table[name].to_pylist())

    def feature(self, name: str, kind: str, naive: bool, where: str) -> Any:
        import pyarrow as pa

        column = self.table[name].combine_chunks()
        found = kind_of(column.type)
        if pa.types.is_null(column.type):
            found = kind
        if found not in _FITS.get(kind, (kind,)):
            raise InputError(f"{where}, column {name!r}: expected {_WORDS[kind]}, got {column.type}")
        if kind == "time":
            return self._microseconds(column, name, naive, where)
        wanted = {"bool": pa.bool_(), "int": pa.int64(), "float": pa.float64(), "text": pa.string()}
        of_type = pa.list_(pa.float64()) if kind == LIST else wanted[kind]
        try:
            if getattr(column.type, "extension_name", None) is not None:
                return pa.array(
                    [None if value is None else str(value) for value in column.to_pylist()], of_type
                )
            return column.cast(of_type)
        except pa.ArrowException as error:
            raise InputError(f"{where}, column {name!r}: expected {_WORDS[kind]}: {error}") from None

    def instants(self, name: str, naive: bool, where: str, *, required: bool) -> npt.NDArray[np.int64]:
        import pyarrow as pa

        column = self.table[name].combine_chunks()
        if column.null_count and required:
            row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
            raise InputError(f"{where}, row {row}, {name!r}: expected a time, got null")
        ns = self._instants(column, name, naive, where)
        return ns.cast(pa.int64()).fill_null(NS_MIN).to_numpy(zero_copy_only=False)

    @staticmethod
    def _instants(column: Any, name: str, naive: bool, where: str) -> Any:
        import pyarrow as pa

        kind = column.type
        if pa.types.is_null(kind):
            return column
        if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
            raise InputError(f"{where}, column {name!r}: expected timestamps, got {kind}")
        if getattr(kind, "tz", None) is None and not naive:
            raise InputError(
                f"{where}, column {name!r} has type {kind}, without a time zone; give it one, or declare the source "
                "with naive='utc'"
            )
        try:
            return column.cast(pa.timestamp("ns", getattr(kind, "tz", None)))
        except pa.ArrowException as error:
            raise InputError(f"{where}, column {name!r}: expected times from 1678 to 2261: {error}") from None

    def _microseconds(self, column: Any, name: str, naive: bool, where: str) -> Any:
        """A column of times as int64 microseconds, rounded to the past."""
        import pyarrow as pa

        ns = self._instants(column, name, naive, where).cast(pa.int64())
        mask = ns.is_null().to_numpy(zero_copy_only=False)
        return pa.array(ns.fill_null(0).to_numpy(zero_copy_only=False) // 1000, mask=mask)


def _ns(value: Any, naive: bool, what: str) -> int:
    """An instant in nanoseconds; without a zone it is in UTC if the source is declared so."""
    if isinstance(value, date) and not isinstance(value, datetime) and naive:
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    if isinstance(value, datetime) and naive and value.utcoffset() is None:
        value = value.replace(tzinfo=UTC)
    return instant_ns(value, what)
