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
from engine.feature_store.schema import Schema
from engine.transform.fitting import inputs_of
from engine.transform.plan import NUMBER, TEXT, TIMESTAMP

Fetched = tuple[dict[str, Any], tuple[str, ...]]


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
        readers = [_reader(program, view, schema, online) for view, schema in views]
        self._readers: tuple[Reader, ...] = tuple(readers)
        self.names = tuple(name for reader in self._readers for name in reader.names)
        self.known_keys = frozenset(name for _, schema in views for name, _ in schema.keys)
        self._wire = online.wire()
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
        try:
            blobs = self._wire.read(keys, deadline_ns)
        except Unavailable as unavailable:
            return self._without(requests, keys, unavailable)
        return merge(self._readers, requests, keys, blobs, self._now_ns(), self._counts)

    async def fetch_async(self, request: Mapping[str, Any], deadline_ns: int) -> Fetched:
        """`fetch` that does not block the running event loop. Arguments, result and errors as of `fetch`."""
        keys = request_keys(self._readers, (request,))
        try:
            blobs = await self._wire.read_async(keys, deadline_ns)
        except Unavailable as unavailable:
            return self._without((request,), keys, unavailable)[0]
        return merge(self._readers, (request,), keys, blobs, self._now_ns(), self._counts)[0]

    def stats(self) -> dict[str, Any]:
        """The number of look-ups by their outcome, and the store's last error.

        A row counts as "found", "not_found", "expired", "foreign" (bytes that are no row), "schema" (a row of another
        version of the view) or "null_key". A fetch that the store did not answer counts as "store_down", "timeout",
        "out_of_time" (the deadline left no time to wait) or "refused" (a wrong password, say). "last_error" is a text,
        or None. Concurrent threads may lose a few counts.
        """
        counts = dict(zip(REASONS, self._counts, strict=True))
        return {**counts, **self._unavailable, "last_error": self._last_error}

    def close(self) -> None:
        """Close the connections to the store. A later fetch opens new ones."""
        self._wire.close()

    def _without(self, requests: Any, keys: list[bytes], unavailable: Unavailable) -> list[Fetched]:
        self._unavailable[unavailable.reason] += 1
        self._last_error = str(unavailable)
        return merge(self._readers, requests, keys, None, 0, self._counts)


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


def _reader(program: Program, view: FeatureView, schema: Schema, online: OnlineStore) -> Reader:
    named = [(f"{view.name}{SEPARATOR}{column}", kind) for column, kind in schema.features]
    inputs = set(program.input_names)
    wanted = [(name, column) for column, (name, _) in enumerate(named) if name in inputs]
    # A FeatureProgram says what its inputs are; another object with the protocol need not.
    read_as = dict(inputs_of(program.features)) if hasattr(program, "features") else {}
    for name, kind in named:
        wants = read_as.get(name, "").split(":")[0]
        if kind not in _READABLE.get(wants, (kind,)):
            raise ConfigError(
                f"input {name!r} of the program is a {wants}, view {view.name!r} has {kind} there; fit the program on "
                "the view's features as they are"
            )
    return Reader(online.prefix(view.name), schema.keys, schema.layout, wanted, view.ttl_ns)
