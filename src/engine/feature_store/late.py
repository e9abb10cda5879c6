"""Late events: computing the aggregates of stored rows again where an event came into their windows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np

from engine.errors import StoreError
from engine.feature_store._codec import keys_of
from engine.feature_store.offline.base import FOUND, Features, OfflineStore, batch_schema, unchanged
from engine.feature_store.online.base import BATCH_ROWS, OnlineStore, Unavailable, packed

READ_S_MAX = 30.0
# A stored row is computed again only if the source still has it. A TTL this short finds no other row of the entity.
_NO_OLDER = timedelta(microseconds=1)


def refresh(offline: OfflineStore, online: OnlineStore, features: Features, revision: int) -> int:
    """Compute stored rows again that are newer than the entity's row in `features` but have it in their windows.

    A row that the source no longer has stays as it is. No row takes the place of a newer one.

    Args:
        offline: computes the rows, from the content that `features` were computed from.
        online: holds them.
        features: of a view with aggregates; they are written already.
        revision: of the run that wrote them.

    Returns:
        The number of rows that changed.

    Raises:
        StoreError: a store cannot be read or written, or the source changed meanwhile.
    """
    import pyarrow as pa

    parts = list(_newer(online, features))
    if not parts:
        return 0
    entities = pa.concat_tables(parts)
    view = features.view
    definition = view.definition
    labels = entities.drop_columns("t").rename_columns(list(definition.keys))
    instants = entities["t"].to_numpy()
    exact = replace(view, definition=replace(definition, ttl=_NO_OLDER), stored=True)
    (joined,) = offline.join(labels, instants, [exact])
    snapshot = view.snapshot
    if not unchanged(offline, snapshot):
        raise StoreError(f"{snapshot.place}: changed while late events were added up; materialize it again")
    made = {name: entities[name] for name in entities.column_names}
    made["c"] = pa.nulls(len(entities), pa.int64())
    for i, kind in enumerate(view.kinds_stored):
        column = joined.columns[i]
        made[f"f{i}"] = column.cast(pa.int64()) if kind == "time" else column
    schema = batch_schema(view)
    rows = pa.table({name: made[name] for name in schema.names}).cast(schema)
    rows = rows.filter(pa.array(joined.reasons == FOUND)).combine_chunks()
    changed = 0
    prefix = online.prefix(definition.online_name)
    for batch in rows.to_batches(max_chunksize=BATCH_ROWS):
        changed += online.write(packed(batch, view, prefix, revision), definition.ttl_ns, {})[0]
    return changed


def _newer(online: OnlineStore, features: Features) -> Iterator[Any]:
    """Tables of the keys k0… and stored event times t of entities whose stored row has an event of `features` in its
    windows and is newer."""
    import pyarrow as pa

    view = features.view
    definition, layout = view.definition, view.schema.layout
    names = [f"k{i}" for i in range(len(definition.keys))]
    prefix = online.prefix(definition.online_name)
    # A window that is closed on the left still has an event as old as the window.
    reach_ns = max(each.window_ns + (each.closed == "left") for each in definition.aggregates)
    wire = online.wire()
    try:
        for batch in features.batches(rows_max=BATCH_ROWS):
            keys = keys_of(prefix, [batch.column(name).to_pylist() for name in names])
            try:
                blobs = wire.read(keys, time.monotonic_ns() + int(READ_S_MAX * 1e9))
            except Unavailable as error:
                raise StoreError(f"{online}: late events cannot be added to stored rows: {error}") from error
            ours = batch.column("t").to_numpy()
            rows = [None if blob is None else layout.unpack(blob) for blob in blobs]
            stored = np.array(
                [row[0] if isinstance(row, tuple) else ours[i] for i, row in enumerate(rows)], np.int64
            )
            # Unsigned, because two instants may be 584 years apart.
            age = stored.view(np.uint64) - ours.view(np.uint64)
            late = (stored > ours) & (age < reach_ns)
            if late.any():
                table = pa.table({**{name: batch.column(name) for name in names}, "t": pa.array(stored)})
                yield table.filter(pa.array(late))
    finally:
        wire.close()
