"""Online features as serving takes them: fetched for a request, inside its deadline. The store's errors never raise.

A feature that does not come is named, counted by its reason, and None in the request; the feature program imputes it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from engine.errors import ConfigError
from engine.feature_store._codec import REASONS, Reader, merge, request_keys
from engine.feature_store.definitions import SEPARATOR, FeatureView, require_distinct
from engine.feature_store.online.base import OnlineStore, Unavailable
from engine.feature_store.online.request_windows import RequestWindows
from engine.feature_store.schema import Schema, from_list
from engine.transform.fitting import inputs_of
from engine.transform.plan import NUMBER, TEXT, TIMESTAMP

Fetched = tuple[dict[str, Any], tuple[str, ...]]
SCHEMA = REASONS.index("schema")
LOOK_AGAIN_NS = 10**9  # after a look at the schemas of rows that nobody here knew


class Program(Protocol):
    """The part of a FeatureProgram that looking features up needs.

    Attributes:
        capsule: the compiled program, for the engine.
        input_names: the names of its inputs.
    """

    capsule: Any
    input_names: tuple[str, ...]


class OnlineFeatures:
    """A feature program with the look-ups of its inputs `view__column`: the argument of `Engine(features=…)`.

    Made by `FeatureStore.online_features`. Thread-safe, and safe across forks.

    Attributes:
        capsule: the compiled program, for the engine.
        program: the feature program.
        names: the inputs that are looked up; the others come with the request.
        known_keys: names of the keys that a request may have beside the program's inputs: the views' entity keys.
        blocking: whether a fetch waits for a network. If so, `fetch_async` awaits it and does not block the event loop.
    """

    def __init__(
        self,
        program: Program,
        views: Sequence[tuple[FeatureView, Schema]],
        online: OnlineStore,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        check_fits(program, [view for view, _ in views])
        self.program = program
        self.capsule = program.capsule
        self._now_ns = now_ns
        self._views = [_Read(program, view, schema, online) for view, schema in views]
        self._readers: tuple[Reader, ...] = tuple(read.reader for read in self._views)
        self._windows = [read.windows for read in self._views if read.windows is not None]
        self.names = tuple(name for read in self._views for name in read.names)
        self.known_keys = frozenset(key for view, _ in views for key in view.keys)
        self._wire = online.wire()
        self._other_schemas = 0
        self._looked_ns = -LOOK_AGAIN_NS
        self.blocking = self._wire.blocking
        self._counts = [0] * len(REASONS)
        self._unavailable: Counter[str] = Counter()
        self._last_error: str | None = None

    def fetch(self, request: Mapping[str, Any], deadline_ns: int) -> Fetched:
        """The request with its online features, and the names of the missing ones.

        Args:
            request: a mapping with the views' entity keys. A feature that it brings itself wins over the store. Copied,
                never changed.
            deadline_ns: a point of `time.monotonic_ns`. Blocks until then at most, and not at all if it has passed.

        Returns:
            A new dict, and the names of the missing features, which are None in it.

        Raises:
            InputError: an entity key is absent or of another type. A key that is None or NaN is no error: it is an
                entity that the store does not know.
        """
        return self.fetch_many((request,), deadline_ns)[0]

    def fetch_many(self, requests: Sequence[Mapping[str, Any]], deadline_ns: int) -> list[Fetched]:
        """`fetch` for several requests, in one round trip: a list of its results, in order. Arguments as of `fetch`.

        Raises:
            InputError: as `fetch`, for any of the requests; then nothing was looked up.
        """
        keys = request_keys(self._readers, requests)
        if not keys:
            return []
        try:
            blobs = self._wire.read(keys, deadline_ns)
        except Unavailable as unavailable:
            return self._without(requests, keys, unavailable)
        now_ns = self._now_ns()
        fetched = merge(self._readers, requests, keys, blobs, now_ns, self._counts)
        if self._counts[SCHEMA] != self._other_schemas and (notes := self._unknown()):
            try:
                learned = self._wire.read(notes, deadline_ns)
                fetched = self._again(requests, keys, blobs, now_ns, learned)
            except Unavailable as unavailable:
                self._last_error = str(unavailable)
        return self._with_windows(fetched, requests, now_ns) if self._windows else fetched

    async def fetch_async(self, request: Mapping[str, Any], deadline_ns: int) -> Fetched:
        """`fetch` that does not block the running event loop. Arguments, result and errors as of `fetch`."""
        keys = request_keys(self._readers, (request,))
        try:
            blobs = await self._wire.read_async(keys, deadline_ns)
        except Unavailable as unavailable:
            return self._without((request,), keys, unavailable)[0]
        now_ns = self._now_ns()
        fetched = merge(self._readers, (request,), keys, blobs, now_ns, self._counts)
        if self._counts[SCHEMA] != self._other_schemas and (notes := self._unknown()):
            try:
                learned = await self._wire.read_async(notes, deadline_ns)
                fetched = self._again((request,), keys, blobs, now_ns, learned)
            except Unavailable as unavailable:
                self._last_error = str(unavailable)
        return (self._with_windows(fetched, (request,), now_ns) if self._windows else fetched)[0]

    def _unknown(self) -> list[bytes]:
        """The keys of the notes that list the schemas of rows which nobody here knows yet; none if it was asked a
        moment ago. A service that was started before a view changed reads rows of the new definition so."""
        self._other_schemas = self._counts[SCHEMA]
        now_ns = time.monotonic_ns()
        if now_ns - self._looked_ns < LOOK_AGAIN_NS or not any(reader.unknown for reader in self._readers):
            return []
        self._looked_ns = now_ns
        keys = [read.note_key for read in self._views]
        return [key for key in keys if key is not None] if None not in keys else []

    def _again(
        self, requests: Any, keys: list[bytes], blobs: Any, now_ns: int, notes: Sequence[bytes | None]
    ) -> list[Fetched]:
        """Merge again, with the schemas in these notes. The counts become what they would have been with them."""
        first, again = [0] * len(REASONS), [0] * len(REASONS)
        merge(self._readers, requests, keys, blobs, now_ns, first)
        for read, note in zip(self._views, notes, strict=True):
            read.learn(note)
        fetched = merge(self._readers, requests, keys, blobs, now_ns, again)
        for at, (before, after) in enumerate(zip(first, again, strict=True)):
            self._counts[at] += after - before
        self._other_schemas = self._counts[SCHEMA]
        return fetched

    def _with_windows(self, fetched: list[Fetched], requests: Any, now_ns: int) -> list[Fetched]:
        made = []
        for (out, missing), request in zip(fetched, requests, strict=True):
            for windows in self._windows:
                missing = windows.fill(out, missing, request, now_ns)
            made.append((out, missing))
        return made

    def stats(self) -> dict[str, Any]:
        """The number of look-ups by their outcome, and the store's last error.

        A row counts as "found", "not_found", "expired", "foreign" (bytes that are no row), "schema" (a row of another
        version of the view) or "null_key". A fetch that the store did not answer counts as "store_down", "timeout",
        "out_of_time" (the deadline left no time to wait), "throttled" (by DynamoDB) or "refused" (a wrong password,
        say). "last_error" is a text, or None. Concurrent threads may lose a few counts.
        """
        counts = dict(zip(REASONS, self._counts, strict=True))
        return {**counts, **self._unavailable, "last_error": self._last_error}

    def close(self) -> None:
        """Close the connections to the store. A later fetch opens new ones."""
        self._wire.close()

    def _without(self, requests: Any, keys: list[bytes], unavailable: Unavailable) -> list[Fetched]:
        self._unavailable[unavailable.reason] += 1
        self._last_error = str(unavailable)
        fetched = merge(self._readers, requests, keys, None, 0, self._counts)
        return self._with_windows(fetched, requests, 0) if self._windows else fetched


# The kinds of features that each kind of program input can read.
_READABLE = {NUMBER: ("bool", "int", "float"), TEXT: ("text", "int"), TIMESTAMP: ("time",)}


def check_fits(program: Program, views: Sequence[FeatureView]) -> None:
    """Raise ConfigError if this is no feature program, if there is no view, or if it reads no feature of a view."""
    if not hasattr(program, "capsule") or not hasattr(program, "input_names"):
        raise ConfigError(f"program: expected a FeatureProgram, got {type(program).__name__}")
    if not views:
        raise ConfigError("views: expected at least one FeatureView, got none")
    require_distinct([name for view in views for name in view.feature_names])
    inputs = set(program.input_names)
    for view in views:
        if inputs.isdisjoint(view.feature_names):
            names = ", ".join(view.feature_names)
            raise ConfigError(f"the program reads no feature of view {view.name!r}, which has: {names}")


class _Read:
    """The look-up of one view.

    Attributes:
        reader: reads its rows.
        names: the inputs of the program that it fills.
        windows: computes those whose windows end at the request; None for a view without such.
        note_key: the key of the note that lists the schemas of its rows; None if the store cannot say.
    """

    def __init__(self, program: Program, view: FeatureView, schema: Schema, online: OnlineStore) -> None:
        self._view, self._schema = view, schema
        inputs = set(program.input_names)
        names = view.feature_names
        self.names = tuple(name for name in names if name in inputs)
        for name, kind in zip(names, _kinds(view, schema), strict=True):
            if not _readable(program, name, kind):
                raise ConfigError(
                    f"input {name!r} of the program is a {_read_as(program, name)}, view {view.name!r} has {kind} "
                    "there; fit the program on the view's features as they are"
                )
        self.windows = None
        if view.at_request:
            self.windows = RequestWindows(
                view, [name for name in self.names if name in names[len(view.columns) :]]
            )
        columns = view.columns if view.at_request else view.columns_out
        wanted = [(f"{view.name}{SEPARATOR}{column}", column) for column in columns]
        wanted = [(name, column) for name, column in wanted if name in inputs]
        if self.windows is not None:
            wanted += self.windows.stored
        self._wanted = wanted
        place = {column: at for at, (column, _) in enumerate(schema.features)}
        keys = [(key, kind) for key, (_, kind) in zip(view.keys, schema.keys, strict=True)]
        self.reader = Reader(
            online.prefix(view.online_name),
            keys,
            schema.layout,
            [(name, place[column]) for name, column in wanted],
            view.ttl_ns,
        )
        self.note_key = online.note_key(f"schemas:{view.online_name}")

    def learn(self, note: bytes | None) -> None:
        """Read rows of the schemas in a note too, where what they have in common with ours is the same: keys, kinds and
        windows. A column that one lacks is missing in its rows."""
        for schema in from_list(note):
            if schema.tag in self.reader.unknown and (columns := self._columns_in(schema)) is not None:
                self.reader.also(schema.layout, columns)

    def _columns_in(self, schema: Schema) -> list[int | None] | None:
        """The column of each wanted feature in a schema, None for one that it lacks; None if it is no schema of this
        view."""
        view, own = self._view, self._schema
        if schema.view != own.view or schema.keys != own.keys:
            return None
        if view.at_request and schema.of_view(view) is None:
            return None
        kinds, theirs = dict(own.features), dict(schema.features)
        if any(theirs.get(column, kinds[column]) != kinds[column] for _, column in self._wanted):
            return None
        windows = {aggregate.name: aggregate.describe() for aggregate in view.aggregates}
        if not view.at_request:
            for _, column in self._wanted:
                # A column of a source may be called as an aggregate is.
                if column in theirs and column in windows and windows[column] not in schema.aggregates:
                    return None
        place = {column: at for at, (column, _) in enumerate(schema.features)}
        return [place.get(column) for _, column in self._wanted]


def _kinds(view: FeatureView, schema: Schema) -> list[str]:
    """The kind of each feature of a view."""
    kinds = dict(schema.features)
    if not view.at_request:
        return [kinds[column] for column in view.columns_out]
    made = ["int" if each.function in ("count", "distinct") else "float" for each in view.aggregates]
    return [*(kinds[column] for column in view.columns), *made]


def _read_as(program: Program, name: str) -> str:
    # A FeatureProgram says what its inputs are; another object with the protocol need not.
    read_as = dict(inputs_of(program.features)) if hasattr(program, "features") else {}
    return str(read_as.get(name, "")).split(":")[0]


def _readable(program: Program, name: str, kind: str) -> bool:
    return kind in _READABLE.get(_read_as(program, name), (kind,))
