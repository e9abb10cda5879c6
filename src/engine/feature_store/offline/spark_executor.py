"""The work of Spark's executors for SparkOffline: windows by the core, and writing to the online store.

The classes here are pickled on the driver and called with the Arrow batches of one partition. They import no pyspark.
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.feature_store.offline import rows
from engine.feature_store.offline.base import View, batch_schema

if TYPE_CHECKING:
    import pyarrow as pa

    from engine.feature_store.online.base import OnlineStore

# Rows of whole entities that the core computes at once: enough to spread a call's cost, few enough for its memory.
CHUNK_ROWS = 1 << 16


@dataclass(frozen=True)
class Windows:
    """The row of each label of a partition that is sorted by entity: labels have side 1, rows of the source side 0.

    Attributes:
        view: without the data of its source.
        carried: the columns of the labels to give back.
    """

    view: View
    carried: Sequence[str]

    def __call__(self, batches: Iterable[Any]) -> Iterator[Any]:
        import pyarrow as pa
        import pyarrow.compute as pc

        keys = rows.key_names(self.view.definition)
        columns = rows.read_columns(self.view.definition)
        for table in whole_entities(batches, keys):
            of_labels = pc.equal(table["side"], 1)
            labels = table.filter(of_labels)
            if not len(labels):
                continue
            source = typed(table.filter(pc.invert(of_labels)), self.view, columns)
            named = pa.table(
                dict(
                    zip(
                        self.view.definition.keys,
                        [typed_key(labels[k], self.view, k) for k in keys],
                        strict=True,
                    )
                )
            )
            known = functools.partial(rows.among, rows=source)
            joined = rows.joined(self.view, source, named, labels["t"].to_numpy(), known)
            made = {name: labels[name] for name in self.carried}
            made["reason"] = pa.array(joined.reasons.astype(np.int32))
            for i, column in enumerate(joined.columns):
                made[f"f{i}"] = column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column
            yield from pa.table(made).combine_chunks().to_batches()


@dataclass(frozen=True)
class Newest:
    """The newest row of each entity of a partition that is sorted by entity.

    Attributes:
        view: without the data of its source.
        range_ns: of the event times.
    """

    view: View
    range_ns: rows.Range

    def __call__(self, batches: Iterable[Any]) -> Iterator[Any]:
        keys, columns = rows.key_names(self.view.definition), rows.read_columns(self.view.definition)
        for table in whole_entities(batches, keys):
            found = rows.newest(self.view, typed(table, self.view, columns), self.range_ns)
            yield from plain_keys(found).combine_chunks().to_batches()


@dataclass(frozen=True)
class Writer:
    """Writes the rows of a partition to the online store, so that nothing older overwrites. It may run twice.

    Attributes:
        view: without the data of its source.
        online: as `portable` made it.
        revision: of the run.
    """

    view: View
    online: bytes
    revision: int

    def __call__(self, batches: Iterable[Any]) -> Iterator[Any]:
        import pyarrow as pa

        from engine.feature_store.online.base import BATCH_ROWS, packed

        online, definition = _online(self.online), self.view.definition
        prefix, schema = online.prefix(definition.online_name), batch_schema(self.view)
        counts, other = [0, 0, 0], None
        for batch in batches:
            table = pa.Table.from_batches([batch]).select(schema.names).cast(schema).combine_chunks()
            for part in table.to_batches(max_chunksize=BATCH_ROWS):
                pairs = packed(part, self.view, prefix, self.revision)
                *counted, foreign = online.write(pairs, definition.ttl_ns, {})
                counts = [total + more for total, more in zip(counts, counted, strict=True)]
                other = other or foreign
        yield pa.RecordBatch.from_pydict(
            {
                "written": [counts[0]],
                "same": [counts[1]],
                "older": [counts[2]],
                "other": pa.array([other], pa.binary()),
            }
        )


def to_ipc(batches: Iterable[Any]) -> Iterator[Any]:
    """Each batch as bytes of Arrow's stream format, so that the driver may take one after the other."""
    import pyarrow as pa

    for batch in batches:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as stream:
            stream.write_batch(batch)
        yield pa.RecordBatch.from_pydict({"ipc": pa.array([sink.getvalue().to_pybytes()], pa.binary())})


def portable(online: OnlineStore, *, same_machine: bool) -> bytes | None:
    """Bytes from which another process opens an online store; None if it cannot."""
    from engine.feature_store.online import LMDBOnline, RedisOnline

    if type(online) is RedisOnline:
        return pickle.dumps((RedisOnline, (online.url,), {"namespace": online.namespace}))
    if type(online) is LMDBOnline:
        options = {"map_bytes": online.map_bytes}
        return pickle.dumps((LMDBOnline, (str(online.folder.resolve()),), options)) if same_machine else None
    try:
        return pickle.dumps(online)
    except Exception:  # whatever a class says that cannot be pickled
        return None


_opened: dict[bytes, Any] = {}


def _online(recipe: bytes) -> Any:
    """The online store of these bytes, opened once in a process."""
    if recipe not in _opened:
        found = pickle.loads(recipe)
        _opened[recipe] = found[0](*found[1], **found[2]) if isinstance(found, tuple) else found
    return _opened[recipe]


def typed(table: pa.Table, view: View, columns: Sequence[str]) -> pa.Table:
    """Rows of Spark in the types of `rows.plain`."""
    import pyarrow as pa

    types = dict(rows.types_of(view, columns))
    if "e" in table.column_names:
        types["e"] = table["e"].type
    return pa.table({name: table[name].cast(kind) for name, kind in types.items()})


def typed_key(column: Any, view: View, name: str) -> Any:
    """A key column of Spark in the type of the view's."""
    return column.cast(rows.types_of(view, ())[name])


def plain_keys(table: pa.Table) -> pa.Table:
    """A table with its unsigned columns as decimals, which Spark knows."""
    import pyarrow as pa

    made = {
        name: table[name].cast(pa.decimal128(20, 0)) if table[name].type == pa.uint64() else table[name]
        for name in table.column_names
    }
    return pa.table(made)


def whole_entities(batches: Iterable[Any], keys: Sequence[str]) -> Iterator[Any]:
    """The rows of a partition that is sorted by entity as tables of whole entities, of about CHUNK_ROWS rows."""
    import pyarrow as pa

    held: list[Any] = []
    count, wanted = 0, CHUNK_ROWS
    for batch in batches:
        held.append(batch)
        count += batch.num_rows
        if count < wanted:
            continue
        table = pa.Table.from_batches(held)
        cut = _last_entity(table, keys)
        if cut == 0:
            # All rows are of one entity: look again when there are twice as many.
            wanted = 2 * count
            continue
        yield table.slice(0, cut)
        held = table.slice(cut).to_batches()
        count, wanted = table.num_rows - cut, CHUNK_ROWS
    if held:
        yield pa.Table.from_batches(held)


def _last_entity(table: pa.Table, keys: Sequence[str]) -> int:
    """The first row of the last entity of a table."""
    import pyarrow.compute as pc

    changed = np.zeros(table.num_rows, dtype=bool)
    for key in keys:
        column = table[key].combine_chunks()
        before, after = column.slice(0, len(column) - 1), column.slice(1)
        changed[1:] |= pc.fill_null(pc.not_equal(after, before), False).to_numpy(zero_copy_only=False)
    found = np.flatnonzero(changed)
    return int(found[-1]) if len(found) else 0
