"""What every online store does alike: rows packed, tagged with their schema, written so that nothing older wins, and
marks by which a killed run goes on.

A store adds three things: how bytes are written under "only if not older", how they are read by a deadline, and where
marks are kept. Times of the wall clock decide nothing here: rows are ordered by event time, created time, and the
revision, a counter of the store's own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from engine.errors import StoreError
from engine.feature_store._codec import keys_of
from engine.feature_store.offline import Features, View

BATCH_ROWS = 5_000

# What is called after each batch: rows that are safely written so far, and rows in all.
Progress = Callable[[int, int], None]


class Wire(Protocol):
    """How `OnlineFeatures` reads one store."""

    # Whether a read waits for a network, and may be awaited instead.
    blocking: bool

    def read(self, keys: list[bytes], deadline_ns: int) -> Sequence[bytes | None]: ...

    async def read_async(self, keys: list[bytes], deadline_ns: int) -> Sequence[bytes | None]: ...

    def close(self) -> None: ...


class Unavailable(Exception):
    """A read that came to nothing; the reason is one word for the counters. Never leaves this room."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True)
class Written:
    """What an upsert did.

    Attributes:
        rows: of the view in the range.
        written: rows that were new or newer than what the store had.
        same: rows that the store already had.
        older: rows that the store had a newer one of; it keeps that.
        resumed: rows that an earlier, interrupted run of the same range had already dealt with.
    """

    rows: int
    written: int
    same: int
    older: int
    resumed: int


class OnlineStore:
    """The base of LMDBOnline and RedisOnline, and the door for DynamoDB and its like: five methods to write."""

    def prefix(self, view: str) -> bytes:
        """What the stored keys of a view begin with; no view's prefix begins another's."""
        raise NotImplementedError

    def wire(self) -> Wire:
        """A reader for the online features of a service."""
        raise NotImplementedError

    def next_revision(self) -> int:
        """A number above all that this gave before, in whatever process; the latest is also the note "revision"."""
        raise NotImplementedError

    def note(self, name: str) -> bytes | None:
        """A small record kept beside the rows: a view's schema, the mark of a run. None where there is none."""
        raise NotImplementedError

    def write(
        self, pairs: Sequence[tuple[bytes, bytes]], ttl_ns: int | None, notes: Mapping[str, bytes | None]
    ) -> tuple[int, int, int, bytes | None]:
        """Writes each (key, row) unless the store has a newer one, and then the notes (None takes one away).

        Returns how many were written, were there already, were older, and a key that holds no row of ours, if one does:
        such a key is left as it is, and no note is written.
        """
        raise NotImplementedError

    def upsert(
        self, features: Features, *, progress: Progress | None = None, revision: int | None = None
    ) -> Written:
        """Writes computed features, batch by batch, so that an older event never replaces a newer one.

        A run that was killed goes on after the last batch it finished, if neither view, range nor source changed since;
        else it starts anew. Either way the result is that of one uninterrupted run, also where several run at once.

        Args:
            features: what `offline.compute` gave.
            progress: called with (rows safely written, rows in all) after each batch.
            revision: breaks the tie between rows of the same event and created time: the higher is written. A new one
                unless given.

        Raises:
            StoreError: the store cannot be written (full, read-only, down, wrong password), or a key of ours holds
                something that is not a row. Batches that `progress` was told of stay written.
        """
        view, definition = features.view, features.view.definition
        prefix, schema, mark = (
            self.prefix(definition.name),
            f"schema:{definition.name}",
            f"mark:{definition.name}",
        )
        done = resumed = self._resumed(features, self.note(mark))
        revision = self.next_revision() if revision is None else revision
        self.write((), None, {schema: view.schema.to_json()})
        counts = [0, 0, 0]
        for batch in features.batches(skip=done, rows_max=BATCH_ROWS):
            done += batch.num_rows
            # The last batch takes the mark away with it: a finished run has nothing to go on with.
            going = None if done >= features.rows else json.dumps([features.run, done]).encode()
            pairs = packed(batch, view, prefix, revision)
            *counted, foreign = self.write(pairs, definition.ttl_ns, {mark: going})
            if foreign is not None:
                raise StoreError(
                    f"view {definition.name!r}: key {foreign!r} of the online store holds something that is not a row "
                    "of a feature view; it was left as it is: take it away, or give the store a place of its own"
                )
            counts = [total + more for total, more in zip(counts, counted, strict=True)]
            if progress is not None:
                progress(done, features.rows)
        return Written(features.rows, counts[0], counts[1], counts[2], resumed)

    @staticmethod
    def _resumed(features: Features, mark: bytes | None) -> int:
        if mark is None:
            return 0
        try:
            run, done = json.loads(mark)
        except ValueError:
            return 0
        return int(done) if run == features.run and 0 <= done <= features.rows else 0


def packed(batch: Any, view: View, prefix: bytes, revision: int) -> list[tuple[bytes, bytes]]:
    """The stored (key, row) of each row of a batch as `Features.batches` gives them."""
    keys = keys_of(prefix, [batch.column(f"k{i}").to_pylist() for i in range(len(view.key_kinds))])
    created = batch.column("c")
    columns, nulls = [], []
    for i, kind in enumerate(view.kinds_out):
        column = batch.column(f"f{i}")
        nulls.append(column.is_null().to_numpy(zero_copy_only=False) if column.null_count else None)
        columns.append(_values(column, kind))
    rows = view.schema.layout.pack(
        batch.column("t").to_numpy(),
        # A created time that is null sorts below every other: the first instant there is.
        None if view.definition.source.created_time is None else created.fill_null(-(2**63) + 1).to_numpy(),
        revision,
        columns,
        nulls,
    )
    return list(zip(keys, rows, strict=True))


def _values(column: Any, kind: str) -> Any:
    import pyarrow as pa

    if kind == "text":
        return column.to_pylist()
    wanted = pa.float64() if kind == "float" else pa.int64()
    if column.null_count:
        column = column.fill_null(False if kind == "bool" else 0)
    return column.cast(wanted).to_numpy()
