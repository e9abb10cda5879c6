"""Online features as serving takes them: fetched for a request, inside its deadline, and never an error of the store's.

What does not come is named, counted by its reason, and None in the request, which the feature program imputes.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from engine.errors import ConfigError
from engine.feature_store._codec import REASONS, Reader, merge, request_keys
from engine.feature_store.definitions import SEPARATOR, FeatureView
from engine.feature_store.online import OnlineStore, Unavailable
from engine.feature_store.schema import Schema
from engine.transform.fitting import inputs_of
from engine.transform.plan import NUMBER, TEXT, TIMESTAMP

Fetched = tuple[dict[str, Any], tuple[str, ...]]


class Program(Protocol):
    """What this room needs of a feature program."""

    capsule: Any
    input_names: tuple[str, ...]


class OnlineFeatures:
    """What `Engine(features=…)` takes: a feature program, and where its inputs `view__column` come from.

    Made by `FeatureStore.online_features`. Thread-safe, and safe across forks.

    Attributes:
        capsule: the program's.
        program: the program.
        names: the inputs that are looked up, the rest is the request's own.
        blocking: whether a fetch waits for a network; where it does, `fetch_async` does not hold up the event loop.
    """

    def __init__(
        self,
        program: Program,
        views: Sequence[tuple[FeatureView, Schema]],
        online: OnlineStore,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.program = program
        self.capsule = program.capsule
        self._now_ns = now_ns
        readers = [_reader(program, view, schema, online) for view, schema in views]
        self._readers: tuple[Reader, ...] = tuple(readers)
        self.names = tuple(name for reader in self._readers for name in reader.names)
        self._wire = online.wire()
        self.blocking = self._wire.blocking
        self._counts = [0] * len(REASONS)
        self._unavailable: Counter[str] = Counter()
        self._last_error: str | None = None

    def fetch(self, request: Mapping[str, Any], deadline_ns: int) -> Fetched:
        """The request with its online features, and the names of those that are missing.

        Args:
            request: a mapping with the views' entity keys; what it brings itself wins over the store. Not changed.
            deadline_ns: of `time.monotonic_ns`; waits no longer than that, and for nothing where it has passed.

        Raises:
            InputError: an entity key that is absent or of another type. One that is None, or NaN, is an entity that is
                not known, which is no error.
        """
        return self.fetch_many((request,), deadline_ns)[0]

    def fetch_many(self, requests: Sequence[Mapping[str, Any]], deadline_ns: int) -> list[Fetched]:
        """`fetch` for several requests, with one round trip for all."""
        keys = request_keys(self._readers, requests)
        try:
            blobs = self._wire.read(keys, deadline_ns)
        except Unavailable as unavailable:
            return self._without(requests, keys, unavailable)
        return merge(self._readers, requests, keys, blobs, self._now_ns(), self._counts)

    async def fetch_async(self, request: Mapping[str, Any], deadline_ns: int) -> Fetched:
        """`fetch` without blocking the running event loop."""
        keys = request_keys(self._readers, (request,))
        try:
            blobs = await self._wire.read_async(keys, deadline_ns)
        except Unavailable as unavailable:
            return self._without((request,), keys, unavailable)[0]
        return merge(self._readers, (request,), keys, blobs, self._now_ns(), self._counts)[0]

    def stats(self) -> dict[str, Any]:
        """Look-ups by what became of them, and the last error of the store.

        "found"; of single rows "not_found", "expired", "foreign" (bytes that are no row), "schema" (a row of another
        version of the view), "null_key"; of whole requests "store_down", "timeout", "out_of_time" (the deadline left
        nothing to wait with), "refused" (wrong password and the like). Counts are exact per thread, and may miss some
        under concurrency.
        """
        counts = dict(zip(REASONS, self._counts, strict=True))
        return {**counts, **self._unavailable, "last_error": self._last_error}

    def close(self) -> None:
        """Closes connections to the store; a later fetch opens new ones."""
        self._wire.close()

    def _without(self, requests: Any, keys: list[bytes], unavailable: Unavailable) -> list[Fetched]:
        self._unavailable[unavailable.reason] += 1
        self._last_error = str(unavailable)
        return merge(self._readers, requests, keys, None, 0, self._counts)


# The kinds of features that each kind of a program's inputs can read.
_READABLE = {NUMBER: ("bool", "int", "float"), TEXT: ("text", "int"), TIMESTAMP: ("time",)}


def _reader(program: Program, view: FeatureView, schema: Schema, online: OnlineStore) -> Reader:
    named = [(f"{view.name}{SEPARATOR}{column}", kind) for column, kind in schema.features]
    inputs = set(program.input_names)
    wanted = [(name, column) for column, (name, _) in enumerate(named) if name in inputs]
    if not wanted:
        raise ConfigError(
            f"the program reads no feature of view {view.name!r}, which has: {', '.join(view.feature_names)}"
        )
    # A program that is somebody else's may not tell what its inputs are; ours does.
    read_as = dict(inputs_of(program.features)) if hasattr(program, "features") else {}
    for name, kind in named:
        wants = read_as.get(name, "").split(":")[0]
        if kind not in _READABLE.get(wants, (kind,)):
            raise ConfigError(
                f"input {name!r} of the program is a {wants}, view {view.name!r} has {kind} there; fit the program on "
                "the view's features as they are"
            )
    return Reader(online.prefix(view.name), schema.keys, schema.layout, wanted, view.ttl_ns)
