"""The definition of a feature, in code: entities, sources, windowed aggregates, and the views that combine them.

Definitions are plain, immutable values, and nothing is read when one is made. A view is known by its name and its
version, a digest of everything that decides the meaning of its features.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from os import PathLike, fspath
from pathlib import Path
from typing import Any, TypeVar

from engine._common import arguments, canonical
from engine.errors import ConfigError
from engine.feature_store.instants import span_ns

# A name becomes a key of the online store, a column of a training table and a word of a command line, so it is plain.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
FUNCTIONS = ("count", "sum", "mean", "min", "max", "distinct", "first", "last", "std", "quantile")
CLOSED = ("right", "left")
AS_OF = ("row", "request")
NAIVE = ("refuse", "utc")
SEPARATOR = "__"
EVENT_TIMES = "@"  # in a stored row; no feature has the name of another after it
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


def _names_by_key(value: Any, where: str) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{where}, key_map: expected names by key, got {type(value).__name__} {value!r:.80}"
        )
    return dict(value)


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
        data: a path, folder or glob of Parquet files, a list of them, or a table (pyarrow, pandas, Polars). A path may
            be a URL (s3://bucket/folder, gs://…), which needs the fsspec driver of its protocol. A glob is
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
        storage_options: of the fsspec driver of a URL, by name; None for none. Credentials are better left to the
            driver, which finds them as its cloud's own tools do.

    Raises:
        ConfigError: a name of a column is empty or no text, or `naive` is neither word.
    """

    data: Any = field(compare=False)
    event_time: str
    created_time: str | None = None
    event_id: str | None = None
    naive: str = "refuse"
    storage_options: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)

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
        lake = getattr(self.data, "describe", None)
        if callable(lake) and patterns is None and type(self.data).__module__.startswith("engine."):
            return self._described(lake())
        return self._described("table" if patterns is None else [Path(pattern).name for pattern in patterns])

    def _described(self, data: Any) -> dict[str, Any]:
        return {
            "data": data,
            "event_time": self.event_time,
            "created_time": self.created_time,
            "event_id": self.event_id,
            "naive": self.naive,
        }


@dataclass(frozen=True)
class Aggregate:
    """One value over a trailing window: over the entity's events in (t - window, t], t being the row's event time.

    Args:
        function: of the values that are neither null nor NaN: "count"; "distinct", the number of different values;
            "sum", "mean", "min", "max"; "std", of a sample, null over one value; "quantile"; "first" and "last" by
            event time, then created time, then place in the source. Over no values `count` and `distinct` are 0 and the
            others are null. A sum is exact and rounded once, and so is the numerator of a variance, so their bits
            depend on the events in the window alone: not on other rows, on their order or on the number of threads.
        column: a column of the source; numbers or booleans, and for "distinct", "first" and "last" also text or
            timestamps.
        window: "1h", "24h", "7d" or a timedelta, above zero.
        q: the quantile, from 0 to 1; 0.5, the median, unless given. Between two values it is interpolated linearly.
        closed: "right" for (t - window, t]; "left" for [t - window, t), which leaves out the events of the instant t.

    Raises:
        ConfigError: an unknown function, no name of a column, or a `q` for another function than "quantile".
        InputError: the window is no time above zero.
    """

    function: str
    column: str
    window: str | timedelta
    q: float | None = None
    closed: str = "right"

    def __post_init__(self) -> None:
        arguments.one_of("aggregate, function", self.function, FUNCTIONS, error=ConfigError)
        arguments.one_of("aggregate, closed", self.closed, CLOSED, error=ConfigError)
        if self.q is not None:
            if self.function != "quantile":
                raise ConfigError(f"aggregate {self.function}: q is for quantile alone, got {self.q!r}")
            arguments.number("aggregate quantile, q", self.q, 0.0, 1.0, error=ConfigError)
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
    def quantile(self) -> float:
        """The quantile: `q`, or the median."""
        return 0.5 if self.q is None else float(self.q)

    @property
    def name(self) -> str:
        """The feature's own name, as `dep_delay_mean_24h`. A timedelta is named in seconds, as `dep_delay_mean_60s`,
        and in ms or us if it has a fraction of one. A quantile that is no median says so (`dep_delay_quantile90_24h`),
        and so does a window that is closed on the left (`dep_delay_mean_before_24h`)."""
        which = f"{100 * self.quantile:g}" if self.quantile != 0.5 else ""
        before = "_before" if self.closed == "left" else ""
        named = f"{self.column}_{self.function}{which}{before}"
        if isinstance(self.window, str):
            return f"{named}_{self.window}"
        unit, ns = next((unit, ns) for unit, ns in _WHOLE_UNITS if self.window_ns % ns == 0)
        return f"{named}_{self.window_ns // ns}{unit}"

    def describe(self) -> tuple[Any, ...]:
        """Everything that decides the meaning, as JSON-able values. What is not said is left out, so that the version
        of a view that does not use it stays what it was."""
        said = (self.function, self.column, self.window_ns)
        if self.quantile != 0.5 or self.closed != "right":
            return (*said, self.quantile, self.closed)
        return said


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
        as_of: the instant that windows end at: "row", the event time of the row; or "request", the instant of the label
            or of the request, so that events leave a window as time passes. A row online then holds the numbers of the
            entity's events in the longest window, and aggregates are over numbers and booleans, as float64.
        key_map, stored_as: set by `with_key_map`.

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
    as_of: str = "row"
    key_map: Mapping[str, str] | None = None
    stored_as: str | None = None

    def __init__(
        self,
        name: str,
        entities: Entity | Sequence[Entity],
        source: Source,
        columns: Sequence[str] = (),
        aggregates: Sequence[Aggregate] = (),
        ttl: str | timedelta | None = None,
        as_of: str = "row",
        key_map: Mapping[str, str] | None = None,
        stored_as: str | None = None,
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
        put(self, "as_of", arguments.one_of(f"{where}, as_of", as_of, AS_OF, error=ConfigError))
        put(self, "key_map", None if key_map is None else _names_by_key(key_map, where))
        put(self, "stored_as", stored_as)
        self._check()

    def __hash__(self) -> int:
        return hash((self.name, self.entities, self.columns, self.aggregates, self.ttl, self.as_of))

    def with_key_map(self, key_map: Mapping[str, str], *, name: str) -> FeatureView:
        """This view for another role of its entity: an airport as the origin, and as the destination of a flight.

        Labels and requests then have the entity's keys under other names. The rows are those of this view, offline and
        online, so materialising either is enough.

        Args:
            key_map: the name in labels and requests, by the name of the key: {"airport": "origin"}.
            name: of the view in this role. Its features are called `name__column`.

        Raises:
            ConfigError: a name is not allowed, a name of the map is no key of this view, or two keys would have one
                name.

        >>> airport = Entity("airport")
        >>> weather = FeatureView("weather", airport, Source("weather.parquet", "time"), ["temp"])
        >>> weather.with_key_map({"airport": "origin"}, name="origin_weather").keys
        ('origin',)
        """
        given = _names_by_key(key_map, f"view {self.name!r}")
        unknown = [key for key in given if key not in self.keys]
        if unknown:
            raise ConfigError(
                f"view {self.name!r} has no key {unknown[0]!r} to map; its keys are: {', '.join(self.keys)}"
            )
        made = {source: given.get(key, key) for source, key in zip(self.source_keys, self.keys, strict=True)}
        return replace(self, name=name, key_map=made, stored_as=self.online_name)

    def _check(self) -> None:
        where = f"view {self.name!r}"
        if self.stored_as is not None:
            plain_name(self.stored_as, f"{where}, stored_as")
        for key, known in (self.key_map or {}).items():
            if key not in self.source_keys or not isinstance(known, str) or not known:
                raise ConfigError(
                    f"{where}, key_map: expected names by key, of the keys {', '.join(self.source_keys)}; got "
                    f"{key!r}: {known!r}"
                )
        if self.as_of == "request" and not self.aggregates:
            raise ConfigError(f"{where}: as_of='request' says when windows end, so it needs an aggregate")
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
    def source_keys(self) -> tuple[str, ...]:
        """The key columns of all its entities, in order, as the source names them."""
        return tuple(key for entity in self.entities for key in entity.keys)

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys in order, as labels and requests name them: `source_keys` unless `with_key_map` says otherwise."""
        known = self.key_map or {}
        return tuple(known.get(key, key) for key in self.source_keys)

    @property
    def online_name(self) -> str:
        """The name of the view that its rows are stored under: its own, or that of the view whose role it is."""
        return self.name if self.stored_as is None else self.stored_as

    @property
    def as_stored(self) -> FeatureView:
        """The view whose rows these are: itself, or the view whose role it is."""
        if self.stored_as is None and self.key_map is None:
            return self
        return replace(self, name=self.online_name, key_map=None, stored_as=None)

    @property
    def at_request(self) -> bool:
        """Whether windows end at the request's instant."""
        return self.as_of == "request"

    @property
    def columns_out(self) -> tuple[str, ...]:
        """The features' own names, in order: columns, then aggregates."""
        return (*self.columns, *(aggregate.name for aggregate in self.aggregates))

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns of the source that are aggregated, each once."""
        return tuple(dict.fromkeys(aggregate.column for aggregate in self.aggregates))

    @property
    def stored_columns(self) -> tuple[str, ...]:
        """The names of the values in a stored row: `columns_out`; or, where windows end at the request's instant, the
        columns, and the event times and inputs of the events in the longest window."""
        if not self.at_request:
            return self.columns_out
        return (*self.columns, EVENT_TIMES, *(f"{EVENT_TIMES}{column}" for column in self.inputs))

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
        described: dict[str, Any] = {
            "name": self.name,
            "entities": [[entity.name, list(entity.keys)] for entity in self.entities],
            "source": self.source.describe(),
            "columns": list(self.columns),
            "aggregates": [list(aggregate.describe()) for aggregate in self.aggregates],
            "ttl_ns": self.ttl_ns,
        }
        if self.at_request:
            described["as_of"] = self.as_of
        if self.key_map is not None:
            described |= {"key_map": self.key_map, "stored_as": self.stored_as}
        return described

    @property
    def version(self) -> str:
        """sha256 of the definition, 64 hex digits."""
        return canonical.digest(self.describe())
