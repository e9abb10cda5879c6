"""PolarsOffline reads and casts sources by Polars, and the core computes and joins: in this process, all in memory.

Polars' own asof join was tried and lost: with the sorts that it needs, a training table took twice as long.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from engine._common import optional
from engine.feature_store.instants import NS_MAX
from engine.feature_store.offline import remote, sources
from engine.feature_store.offline.base import View
from engine.feature_store.offline.foreign import explained
from engine.feature_store.offline.rows import (
    NEVER,
    Range,
    RowsOffline,
    key_names,
    plain,
    roots,
    types_of,
)

if TYPE_CHECKING:
    import pyarrow as pa

_UNIT_NS = {"ms": 10**6, "us": 10**3, "ns": 1}


class PolarsOffline(RowsOffline):
    """Compute features from Parquet files, tables and lakes by Polars, inside this process, all in memory.

    Args:
        folder: where relative paths of sources start; None for the working directory.

    Thread-safe. Rows are those of DuckDBOffline, to the last bit.

    Raises:
        MissingDependencyError: polars or pyarrow is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self._polars = optional.need("polars", "the Polars offline store", "polars")
        sources.parquet()
        super().__init__(folder)

    def rows(self, view: View, columns: Sequence[str], range_ns: Range) -> pa.Table:
        """The rows of a view's source with event times in [start, end), in the source's order, as `plain` makes them.

        Raises:
            InputError: an event time is null, or a value cannot be read as its column's kind.
            StoreError: the source cannot be read.
        """
        frame = self._frame(view, columns, range_ns)
        if frame is None:
            return plain(view, sources.read(view.snapshot, roots(view, columns)), columns, range_ns)
        return _arrow(frame, view, columns)

    def _frame(self, view: View, columns: Sequence[str], range_ns: Range) -> Any:
        """The rows as a DataFrame, read by Polars; None where a source needs more than reading and plain casts."""
        snapshot, pl = view.snapshot, self._polars
        source = snapshot.source
        if not snapshot.files or snapshot.partitions or snapshot.lacking or source.event_id is not None:
            return None
        if any(remote.protocol_of(file) for file in snapshot.files):
            return None
        made = {f"k{i}": self._cast(view, key, key=True) for i, key in enumerate(view.definition.source_keys)}
        made |= {f"f{i}": self._cast(view, column) for i, column in enumerate(columns)}
        made["t"] = self._instant(view, source.event_time)
        written = source.created_time
        made["c"] = pl.lit(None, pl.Int64) if written is None else self._instant(view, written)
        if any(expression is None for expression in made.values()):
            return None
        with explained(f"reading {snapshot.place}", pl.exceptions.PolarsError):
            # Files of one source may differ in their types, which the generic way brings together.
            schemas = [pl.read_parquet_schema(file) for file in snapshot.files]
            if any(schema != schemas[0] for schema in schemas[1:]):
                return None
            lazy = pl.scan_parquet(list(snapshot.files), glob=False, hive_partitioning=False)
            frame = lazy.select(**made).collect()
        if frame["t"].null_count():
            return None  # and the generic way says where
        wanted = pl.all_horizontal(pl.col(name).is_not_null() for name in key_names(view.definition))
        if view.created_end_ns is not None:
            wanted &= pl.col("c").is_null() | (pl.col("c") < view.created_end_ns)
        if range_ns[0] is not None:
            wanted &= pl.col("t") >= range_ns[0]
        if range_ns[1] is not None:
            wanted &= pl.col("t") < range_ns[1]
        return frame.filter(wanted)

    def _cast(self, view: View, name: str, *, key: bool = False) -> Any:
        """A column in the type of its kind, None for a type that needs more than a cast which cannot fail."""
        import pyarrow as pa

        pl, t = self._polars, pa.types
        kind, found = view.snapshot.type_of(name, "columns"), view.kinds[name]
        path = view.snapshot.path_of(name)
        if path is None or len(path) > 1:
            return None
        column = pl.col(path[0])
        if found == "bool" or t.is_string(kind) or t.is_large_string(kind) or t.is_binary(kind):
            return column
        if found == "int" and t.is_integer(kind):
            if kind == pa.uint64():
                return column if key else None
            return column.cast(pl.Int64)
        if found == "float" and t.is_floating(kind):
            return column.cast(pl.Float64)
        if found == "time" and t.is_timestamp(kind) and kind.unit in ("us", "ns"):
            whole = column.to_physical()
            return whole if kind.unit == "us" else whole.floordiv(1000)
        if found == "list" and t.is_floating(kind.value_type) and (t.is_list(kind) or t.is_large_list(kind)):
            return column.cast(pl.List(pl.Float64))
        return None

    def _instant(self, view: View, name: str) -> Any:
        import pyarrow as pa

        pl = self._polars
        kind = view.snapshot.type_of(name, "times")
        path = view.snapshot.path_of(name)
        if path is None or len(path) > 1 or not pa.types.is_timestamp(kind) or kind.unit not in ("us", "ns"):
            return None
        whole, unit_ns = pl.col(path[0]).to_physical(), _UNIT_NS[kind.unit]
        if unit_ns == 1:
            return whole
        # One before 1677 is the first that there is, one after 2262 is at no instant.
        last = NS_MAX // unit_ns
        early = pl.when(whole < -last).then(-last).otherwise(whole)
        return pl.when(whole > last).then(pl.lit(NEVER, pl.Int64)).otherwise(early * unit_ns)


def _arrow(frame: Any, view: View, columns: Sequence[str]) -> pa.Table:
    """A DataFrame as Arrow in the types of `plain`."""
    import pyarrow as pa

    table = frame.to_arrow()
    types = types_of(view, columns)
    return pa.table({name: table[name].cast(types[name]) for name in table.column_names})
