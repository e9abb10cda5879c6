"""The base of every online store: rows packed, tagged with their schema, and written so that no older row wins; and the
marks from which a killed run goes on.

A store adds three things: how bytes are written under "only if not older", how they are read by a deadline, and where
notes are kept. No wall clock decides anything here. Rows are ordered by event time, then created time, then revision, a
counter of the store's own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from engine._common import arguments
from engine.errors import InputTypeError, StoreError
from engine.feature_store._codec import LIST, keys_of
from engine.feature_store.definitions import FeatureView, require
from engine.feature_store.offline.base import Features, View
from engine.feature_store.schema import Schema, from_list, listed

BATCH_ROWS = 5_000
REVISION_MAX = 2**64 - 1

# Called after each batch as progress(rows safely written so far, rows in all).
Progress = Callable[[int, int], None]


class Wire(Protocol):
    """A reader of one online store, which OnlineFeatures holds. Thread-safe.

    Attributes:
        blocking: whether a read waits for a network, and may be awaited instead.
    """

    blocking: bool

    def read(self, keys: list[bytes], deadline_ns: int) -> Sequence[bytes | None]:
        """The stored row of each key, None where there is none.

        Args:
            keys: as `OnlineStore.prefix` and `keys_of` make them.
            deadline_ns: a point of `time.monotonic_ns`; blocks until then at most.

        Raises:
            Unavailable: no answer; its reason says why.
        """
        ...

    async def read_async(self, keys: list[bytes], deadline_ns: int) -> Sequence[bytes | None]:
        """`read` that does not block the running event loop."""
        ...

    def close(self) -> None:
        """Close the connections. A later read opens new ones."""
        ...


class Rows(Protocol):
    """Rows of a view that `put` writes."""

    def __len__(self) -> int:
        """The number of rows."""
        ...

    def packed(self, prefix: bytes, revision: int) -> list[tuple[bytes, bytes]]:
        """The stored (key, row) of each, with this prefix of the view and this revision."""
        ...


class Unavailable(Exception):
    """A read without an answer. It never leaves this room: OnlineFeatures counts it by its reason.

    Args:
        reason: one word for the counters: "store_down", "timeout", "out_of_time", "throttled" or "refused".
        text: the sentence for `stats()["last_error"]`.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True)
class Written:
    """The outcome of an upsert.

    Attributes:
        rows: rows of the view in the range.
        written: rows that were new, or newer than the stored row; and rows whose newer stored row got other aggregates.
        same: rows that were stored already.
        older: rows older than the stored row, which stays.
        resumed: rows that an earlier, interrupted run of the same range had dealt with.
    """

    rows: int
    written: int
    same: int
    older: int
    resumed: int


class OnlineStore:
    """The base of every online store. Another store implements the first five methods, and for deletions and changing
    views also `note_key`, `rows`, `views`, `erase` and `log`. `engine.feature_store.testing` tests it.

    Thread-safe.
    """

    def prefix(self, view: str) -> bytes:
        """The beginning of every stored key of a view. No view's prefix may begin another's."""
        raise NotImplementedError

    def wire(self) -> Wire:
        """A new reader for the online features of one service."""
        raise NotImplementedError

    def next_revision(self) -> int:
        """A number above every earlier one, in any process. The latest is also the note "revision", as digits.

        Raises:
            StoreError: the store cannot be written.
        """
        raise NotImplementedError

    def note(self, name: str) -> bytes | None:
        """A small record beside the rows: the schema of a view, or the mark of a run. None if there is none.

        Raises:
            StoreError: the store cannot be read.
        """
        raise NotImplementedError

    def write(
        self, pairs: Sequence[tuple[bytes, bytes]], ttl_ns: int | None, notes: Mapping[str, bytes | None]
    ) -> tuple[int, int, int, bytes | None]:
        """Write each (key, row) unless the stored row is newer, then the notes.

        Args:
            pairs: stored key and packed row.
            ttl_ns: the view's TTL. The store may forget a row a TTL after it was written, and never earlier.
            notes: records by name; None deletes one.

        Returns:
            The numbers of rows written, stored already and older; and a key that holds something other than a row, or
            None. Such a key is left as it is, and no note is written.

        Raises:
            StoreError: the store cannot be written.
        """
        raise NotImplementedError

    def keep(self, view: str, ttl_ns: int | None) -> None:
        """Keep the stored rows of a view for this TTL; called before rows are written. Do nothing, as a store must that
        never forgets a row.

        Args:
            view: the name of the view.
            ttl_ns: its TTL as it is defined now; None for never.

        Raises:
            StoreError: the store cannot be written.
        """

    def materialized(self, view: str, end_ns: int) -> int | None:
        """Take note that rows of a view before `end_ns` were written. Do nothing, as a store must that loses no row.

        Args:
            view: the name of the view.
            end_ns: the end of the range, nanoseconds since 1970.

        Returns:
            The end of the latest range, if this one ends earlier and the store may have lost rows that are newer: the
            caller writes the rows between the two again. None otherwise.

        Raises:
            StoreError: the store cannot be written.
        """
        return None

    def held(self) -> AbstractContextManager[Any]:
        """Keep what is opened for a call open for several of them."""
        return nullcontext()

    def note_key(self, name: str) -> bytes | None:
        """The key that a `Wire` reads this note by; None if it cannot."""
        return None

    def rows(self, view: str) -> Iterator[tuple[bytes, bytes]]:
        """The stored (key, row) of every entity of a view, deleted ones too, in any order.

        Raises:
            StoreError: the store cannot be read.
        """
        raise StoreError(f"{self}: cannot list its rows")

    def views(self) -> list[str]:
        """The names of the views that were ever written, sorted. Raises StoreError if the store cannot be read."""
        raise StoreError(f"{self}: cannot list its views")

    def erase(self, rows: Mapping[bytes, bytes | None], ttl_ns: int | None, entry: bytes) -> None:
        """Put each row in place of what is stored, whatever that is, or remove it; and add an entry to the log. All of
        it or nothing.

        Args:
            rows: the mark of a deletion by stored key, None to leave nothing.
            ttl_ns: the TTL of the view; the store may forget a mark a TTL after it was written.
            entry: for the log.

        Raises:
            StoreError: the store cannot be written.
        """
        raise StoreError(f"{self}: cannot delete rows")

    def log(self) -> list[bytes]:
        """The entries that `erase` added, oldest first. Raises StoreError if the store cannot be read."""
        return []

    def schemas(self, view: str) -> list[Schema]:
        """The schemas that rows of a view may have, the latest first. Raises StoreError if the store cannot be read."""
        latest = self.note(f"schema:{view}")
        found = None if latest is None else Schema.from_json(latest)
        rest = from_list(self.note(f"schemas:{view}"))
        return rest if found is None else [found, *(schema for schema in rest if schema != found)]

    def prepare(self, view: FeatureView, schema: Schema) -> None:
        """Make ready for rows of a view: its TTL, and its schema, beside those that older rows have."""
        name, text = view.online_name, schema.to_json()
        self.keep(name, view.ttl_ns)
        known = from_list(self.note(f"schemas:{name}"))
        if self.note(f"schema:{name}") == text and schema in known:
            return
        before = [each.to_json() for each in self.schemas(name)]
        self.write((), None, {f"schema:{name}": text, f"schemas:{name}": listed([text, *before])})

    def put(self, view: FeatureView, schema: Schema, rows: Rows) -> Written:
        """Write rows of a view that were made elsewhere. Nothing older overwrites. Blocks until they are written.

        Raises:
            StoreError: the store cannot be written.
        """
        self.prepare(view, schema)
        counted = self.write_next(
            lambda revision: rows.packed(self.prefix(view.online_name), revision), view.ttl_ns
        )
        *counts, other = counted
        if other is not None:
            raise foreign(view, other)
        return Written(len(rows), counts[0], counts[1], counts[2], 0)

    def write_next(
        self, make: Callable[[int], Sequence[tuple[bytes, bytes]]], ttl_ns: int | None
    ) -> tuple[int, int, int, bytes | None]:
        """`write` of the pairs that `make` makes with the next revision."""
        return self.write(make(self.next_revision()), ttl_ns, {})

    def upsert(
        self, features: Features, *, progress: Progress | None = None, revision: int | None = None
    ) -> Written:
        """Write computed features, batch by batch, so that an older event never replaces a newer one.

        A run that was killed goes on after the last batch it finished, unless view, range or source changed since; then
        it starts anew. The result is that of one uninterrupted run, even if several run at once. Blocks until all is
        written.

        Args:
            features: the result of `offline.compute`.
            progress: called as progress(rows safely written, rows in all) after each batch.
            revision: of two rows with the same event and created time, the one with the higher revision is kept. From 0
                to 2^64 - 1; None for a new one.

        Raises:
            ConfigError: `features` is no Features.
            InputError, InputTypeError: a revision out of range, or a `progress` that cannot be called.
            StoreError: the store cannot be written (full, read-only, down, wrong password), or a key of ours holds
                something other than a row. Batches that were reported to `progress` stay written.
        """
        view, definition = require(features, Features, "features").view, features.view.definition
        if progress is not None and not callable(progress):
            raise InputTypeError(f"progress: expected a callable, got {type(progress).__name__}")
        if revision is not None:
            arguments.whole("revision", revision, 0, REVISION_MAX, type_error=InputTypeError)
        prefix, mark = self.prefix(definition.online_name), f"mark:{definition.online_name}"
        done = resumed = self._resumed(features, self.note(mark))
        revision = self.next_revision() if revision is None else revision
        self.prepare(definition, view.schema)
        version = {f"definition:{definition.online_name}": definition.version.encode()}
        counts = [0, 0, 0]
        for batch in features.batches(skip=done, rows_max=BATCH_ROWS):
            done += batch.num_rows
            # The last batch deletes the mark with it, because a finished run has nothing to go on with.
            going = None if done >= features.rows else json.dumps([features.run, done]).encode()
            pairs = packed(batch, view, prefix, revision)
            *counted, other = self.write(pairs, definition.ttl_ns, {mark: going, **version})
            if other is not None:
                raise foreign(definition, other)
            counts = [total + more for total, more in zip(counts, counted, strict=True)]
            if progress is not None:
                progress(done, features.rows)
        return Written(features.rows, counts[0], counts[1], counts[2], resumed)

    @staticmethod
    def _resumed(features: Features, mark: bytes | None) -> int:
        """The number of rows that an earlier run of these features has written."""
        if mark is None:
            return 0
        try:
            run, done = json.loads(mark)
        except ValueError:
            return 0
        return int(done) if run == features.run and 0 <= done <= features.rows else 0


def remade(kind: type[OnlineStore], place: str, options: Mapping[str, Any]) -> OnlineStore:
    """A store from the arguments that it was made with: how another process unpickles one."""
    return kind(place, **options)  # type: ignore[call-arg]


def is_plain(namespace: object) -> bool:
    """Whether this is a text of letters, digits, "-", "." and "_"."""
    return (
        isinstance(namespace, str)
        and namespace != ""
        and all(letter.isalnum() or letter in "-._" for letter in namespace)
    )


def foreign(view: FeatureView, key: bytes) -> StoreError:
    """The error for a key of the online store that holds something else than a row of a view."""
    return StoreError(
        f"view {view.name!r}: key {key!r} of the online store holds something that is not a row of a feature view; it "
        "was left as it is: delete it, or give this store a place of its own"
    )


def packed(batch: Any, view: View, prefix: bytes, revision: int) -> list[tuple[bytes, bytes]]:
    """The stored (key, row) of each row of a batch of `Features.batches`."""
    keys = keys_of(prefix, [batch.column(f"k{i}").to_pylist() for i in range(len(view.key_kinds))])
    created = batch.column("c")
    columns, nulls = [], []
    for i, kind in enumerate(view.kinds_stored):
        column = batch.column(f"f{i}")
        nulls.append(column.is_null().to_numpy(zero_copy_only=False) if column.null_count else None)
        columns.append(values_of(column, kind))
    rows = view.schema.layout.pack(
        batch.column("t").to_numpy(),
        # A null created time sorts below every other, so it is stored as the first instant there is.
        None if view.definition.source.created_time is None else created.fill_null(-(2**63) + 1).to_numpy(),
        revision,
        columns,
        nulls,
    )
    return list(zip(keys, rows, strict=True))


def values_of(column: Any, kind: str) -> Any:
    """A column as the codec takes it: a list of texts or bytes, or int64 or float64 with any value in place of null."""
    import pyarrow as pa

    if kind == "text":
        return column.to_pylist()
    if kind == LIST:
        # A null in a list is no number.
        floats = column.flatten().fill_null(float("nan")).to_numpy()
        ends = np.cumsum(column.value_lengths().fill_null(0).to_numpy())
        return [part.tobytes() for part in np.split(floats, ends[:-1])] if len(ends) else []
    wanted = pa.float64() if kind == "float" else pa.int64()
    if column.null_count:
        column = column.fill_null(False if kind == "bool" else 0)
    return column.cast(wanted).to_numpy()
