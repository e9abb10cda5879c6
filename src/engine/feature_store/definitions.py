"""What a feature is made of, in code: entities, sources, windowed aggregates and the views that combine them.

Definitions are plain, immutable values: nothing is read when one is made. A view is known by its name and its version,
a digest of everything that decides what its features mean.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from engine.errors import ConfigError
from engine.feature_store.instants import span_ns

# Names become keys of the online store, columns of training tables and words of a command line, so they are plain.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
FUNCTIONS = ("count", "sum", "mean", "min", "max")
SEPARATOR = "__"


def plain_name(value: Any, what: str) -> str:
    """`value` where it may name something. Raises ConfigError for anything with slashes, dots or blanks in it."""
    if not isinstance(value, str) or not _NAME.fullmatch(value) or SEPARATOR in value:
        raise ConfigError(
            f"{what}: expected letters, digits and single underscores, a letter first, 64 at most, got {value!r}"
        )
    return value


def _texts(value: Any, what: str) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else tuple(value)
    if any(not isinstance(text, str) or not text for text in texts):
        raise ConfigError(f"{what}: expected names of columns, got {value!r}")
    if len(set(texts)) < len(texts):
        raise ConfigError(f"{what}: a name stands there twice: {', '.join(texts)}")
    return texts


@dataclass(frozen=True)
class Entity:
    """What features are about: a plane, an airport, a route.

    Args:
        name: of the entity.
        keys: the columns that identify it, in sources, labels and requests alike; the name itself unless given. A key
            holds whole numbers or text.
    """

    name: str
    keys: tuple[str, ...] = ()

    def __init__(self, name: str, keys: str | Sequence[str] | None = None) -> None:
        plain_name(name, "the name of an entity")
        object.__setattr__(self, "name", name)
        given = _texts(keys if keys is not None else name, f"entity {name!r}, keys")
        if not given:
            raise ConfigError(f"entity {name!r} needs at least one key")
        object.__setattr__(self, "keys", given)


@dataclass(frozen=True)
class Source:
    """Rows with an event time: Parquet files, or a table in memory.

    Args:
        data: a path or glob of Parquet files, a list of them, or a table (pyarrow, pandas, Polars). A glob is expanded
            whenever the source is read, files by name.
        event_time: the column that says when the row became true. It has a time zone; see `naive`.
        created_time: the column that says when the row was written; of copies the newest wins. Without it, or where
            two copies agree in it, the later in the source wins.
        event_id: a column that tells apart events of one entity at one instant. Rows with the same entity, event time
            and id are copies of each other; without an id, those with the same entity and event time.
        naive: what a timestamp without a zone means: "refuse" (an InputError), or "utc".
    """

    data: Any = field(compare=False)
    event_time: str
    created_time: str | None = None
    event_id: str | None = None
    naive: str = "refuse"

    def __post_init__(self) -> None:
        if self.naive not in ("refuse", "utc"):
            raise ConfigError(f"naive is 'refuse' or 'utc', got {self.naive!r}")
        for name in ("event_time", "created_time", "event_id"):
            column = getattr(self, name)
            if (column is not None or name == "event_time") and not (isinstance(column, str) and column):
                raise ConfigError(f"source, {name}: expected the name of a column, got {column!r}")

    @property
    def patterns(self) -> tuple[str, ...] | None:
        """The paths or globs as given; None for a table in memory."""
        if isinstance(self.data, (str, PathLike)):
            return (fspath(self.data),)
        if isinstance(self.data, (list, tuple)) and all(
            isinstance(part, (str, PathLike)) for part in self.data
        ):
            return tuple(fspath(part) for part in self.data)
        return None

    def describe(self) -> dict[str, Any]:
        """What of the source decides the meaning of a feature; a folder that moves does not change it."""
        patterns = self.patterns
        return {
            "data": "table" if patterns is None else [Path(pattern).name for pattern in patterns],
            "event_time": self.event_time,
            "created_time": self.created_time,
            "event_id": self.event_id,
            "naive": self.naive,
        }


@dataclass(frozen=True)
class Aggregate:
    """One number over a trailing window: all events of the entity in (t - window, t], t being the row's own event time.

    Args:
        function: "count", "sum", "mean", "min" or "max", of the values that are there (neither null nor NaN). Over
            none of them `count` is 0 and the rest null. Sums are exact and rounded once, so that their bits depend on
            the events in the window alone, not on how many others were read, in what order or by how many threads.
        column: of the source; a number or a boolean.
        window: "1h", "24h", "7d" or a timedelta.
    """

    function: str
    column: str
    window: str | timedelta

    def __post_init__(self) -> None:
        if self.function not in FUNCTIONS:
            raise ConfigError(f"an aggregate is one of {', '.join(FUNCTIONS)}, got {self.function!r}")
        if not isinstance(self.column, str) or not self.column:
            raise ConfigError(
                f"aggregate {self.function}: expected the name of a column, got {self.column!r}"
            )
        span_ns(self.window, f"aggregate {self.function} of {self.column!r}, window")

    @property
    def window_ns(self) -> int:
        return span_ns(self.window, "window")

    @property
    def name(self) -> str:
        """The feature's name: `dep_delay_mean_24h`."""
        window = self.window if isinstance(self.window, str) else f"{self.window_ns // 10**9}s"
        return f"{self.column}_{self.function}_{window}"


@dataclass(frozen=True)
class FeatureView:
    """Features of one or more entities out of one source; the article's feature definition.

    A row of the view holds at its event time and from then on, until a later row of the same entity or until its `ttl`
    has passed. Its features are called `view__column` everywhere: in training tables, requests and missing features.

    Args:
        name: letters, digits and single underscores.
        entities: whose features they are; their keys together identify a row.
        source: where the rows are.
        columns: columns of the source that are features as they are: numbers, booleans, text or timestamps.
        aggregates: over trailing windows of the source's events.
        ttl: a row older than this is missing, "48h" or a timedelta; None for never. A row exactly this old still holds.

    Raises:
        ConfigError: names that are not allowed or stand there twice, or no feature at all.
    """

    name: str
    entities: tuple[Entity, ...]
    source: Source
    columns: tuple[str, ...] = ()
    aggregates: tuple[Aggregate, ...] = ()
    ttl: str | timedelta | None = None

    def __init__(
        self,
        name: str,
        entities: Entity | Sequence[Entity],
        source: Source,
        columns: Sequence[str] = (),
        aggregates: Sequence[Aggregate] = (),
        ttl: str | timedelta | None = None,
    ) -> None:
        put = object.__setattr__
        put(self, "name", plain_name(name, "the name of a feature view"))
        put(self, "entities", (entities,) if isinstance(entities, Entity) else tuple(entities))
        put(self, "source", source)
        put(self, "columns", _texts(columns, f"view {name!r}, columns"))
        put(self, "aggregates", tuple(aggregates))
        put(self, "ttl", ttl)
        self._check()

    def _check(self) -> None:
        where = f"view {self.name!r}"
        if not self.entities or not all(isinstance(entity, Entity) for entity in self.entities):
            raise ConfigError(f"{where}: expected at least one Entity, got {self.entities!r}")
        if not isinstance(self.source, Source):
            raise ConfigError(f"{where}: expected a Source, got {type(self.source).__name__}")
        if not all(isinstance(aggregate, Aggregate) for aggregate in self.aggregates):
            raise ConfigError(f"{where}: aggregates are Aggregate(function, column, window)")
        _texts(self.keys, f"{where}, keys of its entities")
        if not _texts(self.columns_out, f"{where}, features"):
            raise ConfigError(f"{where}: needs at least one column or aggregate")
        if len(self.columns_out) > 1000:
            raise ConfigError(f"{where}: 1,000 features at most, got {len(self.columns_out)}")
        if self.ttl is not None:
            span_ns(self.ttl, f"{where}, ttl")

    @property
    def keys(self) -> tuple[str, ...]:
        """The key columns of all its entities, in order."""
        return tuple(key for entity in self.entities for key in entity.keys)

    @property
    def columns_out(self) -> tuple[str, ...]:
        """The features' own names, in order: columns, then aggregates."""
        return (*self.columns, *(aggregate.name for aggregate in self.aggregates))

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The features' full names, `view__column`, in order."""
        return tuple(f"{self.name}{SEPARATOR}{column}" for column in self.columns_out)

    @property
    def ttl_ns(self) -> int | None:
        return None if self.ttl is None else span_ns(self.ttl, "ttl")

    @property
    def window_ns_max(self) -> int:
        """The longest window, 0 without aggregates."""
        return max((aggregate.window_ns for aggregate in self.aggregates), default=0)

    def describe(self) -> dict[str, Any]:
        """The definition as JSON-able values: what `version` is the digest of."""
        return {
            "name": self.name,
            "entities": [[entity.name, list(entity.keys)] for entity in self.entities],
            "source": self.source.describe(),
            "columns": list(self.columns),
            "aggregates": [[a.function, a.column, a.window_ns] for a in self.aggregates],
            "ttl_ns": self.ttl_ns,
        }

    @property
    def version(self) -> str:
        """sha256 of the definition, 64 hex digits."""
        return digest_of(self.describe())


def digest_of(value: Any) -> str:
    """sha256 of JSON with sorted keys, 64 hex digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
