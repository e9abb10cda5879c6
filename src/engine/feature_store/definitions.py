"""The definition of a feature, in code: entities, sources, windowed aggregates, and the views that combine them.

Definitions are plain, immutable values, and nothing is read when one is made. A view is known by its name and its
version, a digest of everything that decides the meaning of its features.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from os import PathLike, fspath
from pathlib import Path
from typing import Any, TypeVar

from engine._common import arguments, canonical
from engine.errors import ConfigError
from engine.feature_store.instants import span_ns

# A name becomes a key of the online store, a column of a training table and a word of a command line, so it is plain.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
FUNCTIONS = ("count", "sum", "mean", "min", "max")
NAIVE = ("refuse", "utc")
SEPARATOR = "__"
FEATURES_MAX = 1000
_WHOLE_UNITS = (("s", 10**9), ("ms", 10**6), ("us", 10**3))

T = TypeVar("T")


def require_distinct(names: Sequence[str]) -> None:
    """Raise ConfigError if two features of a set of views have the same full name."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ConfigError(f"two features would be called {name!r}; rename one of the views or columns")
        seen.add(name)


def plain_name(value: Any, what: str) -> str:
    """`value`, if it may be a name. Raises ConfigError for a name with slashes, dots or blanks in it."""
    if not isinstance(value, str) or not _NAME.fullmatch(value) or SEPARATOR in value:
        raise ConfigError(
            f"{what}: expected letters, digits and single underscores, a letter first, 64 at most, got {value!r}"
        )
    return value


def require(value: Any, kind: type[T], what: str) -> T:
    """`value`, if it is of this class. Raises ConfigError, which begins with `what`, otherwise."""
    if not isinstance(value, kind):
        raise ConfigError(f"{what}: expected a {kind.__name__}, got {type(value).__name__} {value!r:.80}")
    return value


def column_names(value: Any, what: str) -> tuple[str, ...]:
    """One name or an iterable of names as a tuple. Raises ConfigError for anything else, and for a name given twice."""
    names = (value,) if isinstance(value, str) else sequence_of(value, str, what, "names of columns")
    if not all(names):
        raise ConfigError(f"{what}: expected names of columns, got {value!r}")
    if len(set(names)) < len(names):
        raise ConfigError(f"{what}: a name stands there twice: {', '.join(names)}")
    return names


def sequence_of(value: Any, kind: type[T], what: str, wanted: str) -> tuple[T, ...]:
    """One value of this class, or an iterable of them, as a tuple. Raises ConfigError for anything else."""
    if isinstance(value, kind):
        return (value,)
    try:
        parts = tuple(value)
    except TypeError:
        parts = (value,)
    if not all(isinstance(part, kind) for part in parts):
        raise ConfigError(f"{what}: expected {wanted}, got {value!r:.200}")
    return parts


@dataclass(frozen=True)
class Entity:
    """A thing that features are about: a plane, an airport, a route.

    Args:
        name: letters, digits and single underscores, a letter first, 64 at most.
        keys: the column or columns that identify it, under the same names in sources, labels and requests; None for
            one column named as the entity. A key holds whole numbers, text or bytes.

    Raises:
        ConfigError: the name is not allowed, a key stands there twice, or there is none.
    """

    name: str
    keys: tuple[str, ...] = ()

    def __init__(self, name: str, keys: str | Sequence[str] | None = None) -> None:
        plain_name(name, "the name of an entity")
        object.__setattr__(self, "name", name)
        given = column_names(keys if keys is not None else name, f"entity {name!r}, keys")
        if not given:
            raise ConfigError(f"entity {name!r} needs at least one key")
        object.__setattr__(self, "keys", given)


@dataclass(frozen=True)
class Source:
    """Rows with an event time: Parquet files, or a table in memory.

    Args:
        data: a path, folder or glob of Parquet files, a list of them, or a table (pyarrow, pandas, Polars). A glob is
            expanded each time the source is read, and its files are read in the order of their names. Columns in the
            names of the folders below, as `day=2024-01-01`, are columns of the source.
        event_time: the column that says when a row became true. It has a time zone; see `naive`.
        created_time: the column that says when a row was written; the copy written last wins. Without this column, or
            where two copies have the same created time, the later in the source wins.
        event_id: a column that tells apart events of one entity at one instant. Rows with the same entity, event time
            and id are copies of one event, so it counts once in windows. Without an id every row is an event of its
            own; of rows with the same entity and event time, those with the newest created time count.
        naive: the meaning of a timestamp without a zone: "refuse" raises InputError when the source is read, "utc"
            takes it as UTC.

    Raises:
        ConfigError: a name of a column is empty or no text, or `naive` is neither word.
    """

    data: Any = field(compare=False)
    event_time: str
    created_time: str | None = None
    event_id: str | None = None
    naive: str = "refuse"

    def __post_init__(self) -> None:
        arguments.one_of("naive", self.naive, NAIVE, error=ConfigError)
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
        """The part of the source that decides the meaning of a feature, as JSON-able values.

        It names files without their folders, so that a folder may move.
        """
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
    """One number over a trailing window: over the entity's events in (t - window, t], t being the row's event time.

    Args:
        function: "count", "sum", "mean", "min" or "max" of the values that are neither null nor NaN. Over no values
            `count` is 0 and the others are null. A sum is exact and rounded once, so its bits depend on the events in
            the window alone: not on other rows, on their order or on the number of threads.
        column: a column of the source; numbers or booleans.
        window: "1h", "24h", "7d" or a timedelta, above zero.

    Raises:
        ConfigError: an unknown function, or no name of a column.
        InputError: the window is no time above zero.
    """

    function: str
    column: str
    window: str | timedelta

    def __post_init__(self) -> None:
        arguments.one_of("aggregate, function", self.function, FUNCTIONS, error=ConfigError)
        if not isinstance(self.column, str) or not self.column:
            raise ConfigError(
                f"aggregate {self.function}: expected the name of a column, got {self.column!r}"
            )
        span_ns(self.window, f"aggregate {self.function} of {self.column!r}, window")

    @property
    def window_ns(self) -> int:
        """The window in nanoseconds."""
        return span_ns(self.window, "window")

    @property
    def name(self) -> str:
        """The feature's own name, as `dep_delay_mean_24h`. A timedelta is named in seconds, as `dep_delay_mean_60s`,
        and in ms or us if it has a fraction of one."""
        if isinstance(self.window, str):
            return f"{self.column}_{self.function}_{self.window}"
        unit, ns = next((unit, ns) for unit, ns in _WHOLE_UNITS if self.window_ns % ns == 0)
        return f"{self.column}_{self.function}_{self.window_ns // ns}{unit}"


@dataclass(frozen=True)
class FeatureView:
    """Features of one or more entities from one source.

    A row of the view holds from its event time on, until a later row of the same entity, or until its `ttl` has passed.
    Its features are called `view__column` everywhere: in training tables, in requests and in `missing_features`.

    Args:
        name: letters, digits and single underscores, a letter first, 64 at most.
        entities: the entity or entities that the features are about; all their keys together identify a row.
        source: the rows.
        columns: columns of the source that are features as they are: numbers, booleans, text or timestamps.
        aggregates: features over trailing windows of the source's events.
        ttl: a row older than this is missing: "48h" or a timedelta; None for never. A row exactly this old still holds.

    Raises:
        ConfigError: a name is not allowed or stands there twice, or there is no feature, or more than 1,000.
        InputError: the ttl is no time above zero.
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
        where = f"view {name!r}"
        put(self, "entities", sequence_of(entities, Entity, where, "at least one Entity"))
        put(self, "source", source)
        put(self, "columns", column_names(columns, f"{where}, columns"))
        wanted = "aggregates as Aggregate(function, column, window)"
        put(self, "aggregates", sequence_of(aggregates, Aggregate, where, wanted))
        put(self, "ttl", ttl)
        self._check()

    def _check(self) -> None:
        where = f"view {self.name!r}"
        if not self.entities:
            raise ConfigError(f"{where}: expected at least one Entity, got ()")
        require(self.source, Source, where)
        column_names(self.keys, f"{where}, keys of its entities")
        if not column_names(self.columns_out, f"{where}, features"):
            raise ConfigError(f"{where}: needs at least one column or aggregate")
        if len(self.columns_out) > FEATURES_MAX:
            raise ConfigError(f"{where}: {FEATURES_MAX:,} features at most, got {len(self.columns_out):,}")
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
        """The ttl in nanoseconds; None for never."""
        return None if self.ttl is None else span_ns(self.ttl, "ttl")

    @property
    def window_ns_max(self) -> int:
        """The longest window in nanoseconds; 0 without aggregates."""
        return max((aggregate.window_ns for aggregate in self.aggregates), default=0)

    def describe(self) -> dict[str, Any]:
        """The definition as JSON-able values: `version` is their digest."""
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
        return canonical.digest(self.describe())
