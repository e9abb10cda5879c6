"""What a training set is made of, by definition and by content, so that its digest stands for its rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.errors import ConfigError, InputError, StoreError
from engine.feature_store.definitions import FeatureView, Source, _texts, digest_of
from engine.feature_store.offline import time_range
from engine.feature_store.point_in_time import FOUND, REASONS
from engine.feature_store.sources import Snapshot, check_times, parquet, take

if TYPE_CHECKING:
    import pyarrow as pa

    from engine.feature_store.offline import OfflineStore

METADATA = b"engine.dataset"


@dataclass(frozen=True)
class DatasetConfig:
    """Label rows and the views whose features they get.

    Args:
        labels: a Source: rows with the views' keys, an event time (the instant of the prediction) and the labels.
        views: FeatureViews.
        features: of the views' features those wanted, as `view__column`; all unless given.
        columns: of the labels' columns those wanted; all unless given.
        label: the column to learn, for who trains; it must be there.
        start_time, end_time: only labels with start_time <= event time < end_time; datetimes or ISO 8601 texts.
        reasons: whether to add a text column `view__reason` for each view: "found", "null_key", "unknown_entity",
            "not_yet" (the entity's first row is later than the label) or "expired".

    Immutable; refers to data, does not hold it, except for tables in memory.
    """

    labels: Source
    views: tuple[FeatureView, ...]
    features: tuple[str, ...] | None = None
    columns: tuple[str, ...] | None = None
    label: str | None = None
    start_time: Any = None
    end_time: Any = None
    reasons: bool = False

    def __init__(
        self,
        labels: Source,
        views: FeatureView | Sequence[FeatureView],
        features: Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
        label: str | None = None,
        start_time: Any = None,
        end_time: Any = None,
        reasons: bool = False,
    ) -> None:
        put = object.__setattr__
        put(self, "labels", labels)
        put(self, "views", (views,) if isinstance(views, FeatureView) else tuple(views))
        put(self, "features", None if features is None else _texts(features, "features"))
        put(self, "columns", None if columns is None else _texts(columns, "columns"))
        put(self, "label", label)
        put(self, "start_time", start_time)
        put(self, "end_time", end_time)
        put(self, "reasons", bool(reasons))
        self._check()

    def _check(self) -> None:
        if not isinstance(self.labels, Source):
            raise ConfigError(
                f"labels: expected Source(data, event_time=…), got {type(self.labels).__name__}"
            )
        if not self.views or not all(isinstance(view, FeatureView) for view in self.views):
            raise ConfigError(f"views: expected at least one FeatureView, got {self.views!r}")
        _texts([view.name for view in self.views], "views")
        known = {name for view in self.views for name in view.feature_names}
        unknown = [name for name in self.features or () if name not in known]
        if unknown:
            raise ConfigError(f"no view has feature {unknown[0]!r}; there are: {', '.join(sorted(known))}")
        time_range(self.start_time, self.end_time)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The feature columns of the training table, in order."""
        wanted = None if self.features is None else set(self.features)
        return tuple(
            name for view in self.views for name in view.feature_names if wanted is None or name in wanted
        )

    @property
    def digest(self) -> str:
        """sha256 of the definition and of the content of every file or table it refers to *now*: 64 hex digits.

        Relative paths start at the working directory; `FeatureStore.dataset_digest` knows the store's folder. Files
        are read whole the first time. Raises StoreError where one cannot be read.
        """
        return self.digest_of([take(self.labels), *(take(view.source) for view in self.views)])

    def digest_of(self, snapshots: Sequence[Snapshot]) -> str:
        """The digest with the labels' and the views' snapshots, in that order."""
        return digest_of(
            {
                "labels": self.labels.describe(),
                "views": [view.describe() for view in self.views],
                "features": self.feature_names,
                "columns": self.columns,
                "label": self.label,
                "range_ns": time_range(self.start_time, self.end_time),
                "reasons": self.reasons,
                "content": [snapshot.digest for snapshot in snapshots],
            }
        )


def training_table(offline: OfflineStore, config: DatasetConfig, digest: str | None) -> pa.Table:
    """`FeatureStore.get_training_features`."""
    import pyarrow as pa

    labels = offline.snapshot(config.labels)
    views = [offline.view(view) for view in config.views]
    found = config.digest_of([labels, *(view.snapshot for view in views)])
    if digest is not None and digest != found:
        raise StoreError(
            f"the dataset is no longer the one asked for: its sources changed; expected digest {digest}, got {found}"
        )
    table, label_ns = _labels(config, labels)
    joined = offline.join(table, label_ns, views)
    _require_unchanged(offline, [labels, *(view.snapshot for view in views)])
    result, wanted, missing = _wanted_labels(config, table), set(config.feature_names), {}
    for view, part in zip(config.views, joined, strict=True):
        for name, column in zip(view.feature_names, part.columns, strict=True):
            if name in wanted:
                result[name] = column
        if config.reasons:
            result[f"{view.name}__reason"] = pa.array(
                np.array(REASONS, dtype=object)[part.reasons], pa.string()
            )
        counts = np.bincount(part.reasons, minlength=len(REASONS)).tolist()
        missing[view.name] = {
            reason: count
            for code, (reason, count) in enumerate(zip(REASONS, counts, strict=True))
            if count and code != FOUND
        }
    about = {"digest": found, "views": {view.name: view.version for view in config.views}, "missing": missing}
    return pa.table(result).replace_schema_metadata({METADATA: json.dumps(about)})


def _labels(config: DatasetConfig, snapshot: Snapshot) -> tuple[pa.Table, Any]:
    """The label rows in their order, within the range, and their instants in int64 nanoseconds."""
    check_times(snapshot, "labels")
    keys = [key for view in config.views for key in view.keys]
    wanted = None
    if config.columns is not None:
        label = [] if config.label is None else [config.label]
        wanted = list(dict.fromkeys([*config.columns, *label, config.labels.event_time, *keys]))
    for name in wanted or ([] if config.label is None else [config.label]):
        if name not in snapshot.types:
            raise InputError(
                f"labels: {snapshot.place} has no column {name!r}; it has: {', '.join(list(snapshot.types)[:30])}"
            )
    table = _read(snapshot, wanted)
    label_ns = _instants(table[config.labels.event_time], config.labels.event_time, snapshot)
    start, end = time_range(config.start_time, config.end_time)
    if start is not None or end is not None:
        keep = np.ones(len(label_ns), dtype=bool)
        if start is not None:
            keep &= label_ns >= start
        if end is not None:
            keep &= label_ns < end
        table, label_ns = table.filter(keep), label_ns[keep]
    return table, label_ns


def _read(snapshot: Snapshot, wanted: list[str] | None) -> pa.Table:
    import pyarrow as pa

    if snapshot.table is not None:
        return snapshot.table if wanted is None else snapshot.table.select(wanted)
    pq = parquet()
    # Columns that every file has, so that the labels of all files make one table.
    names = list(snapshot.types) if wanted is None else wanted
    try:
        parts = [pq.read_table(file, columns=names, partitioning=None) for file in snapshot.files]
        return pa.concat_tables(parts, promote_options="permissive")
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{snapshot.place}: cannot be read: {error}") from None


def _instants(column: Any, name: str, snapshot: Snapshot) -> Any:
    import pyarrow as pa

    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy())[0])
        raise InputError(
            f"labels row {row}: column {name!r} of {snapshot.place} is null; a label needs an instant, so give it one "
            "or leave the row out"
        )
    try:
        zone = getattr(column.type, "tz", None)
        return column.cast(pa.timestamp("ns", zone)).cast(pa.int64()).to_numpy()
    except pa.ArrowInvalid as error:
        raise InputError(f"labels, column {name!r}: expected times from 1678 to 2261: {error}") from None


def _wanted_labels(config: DatasetConfig, table: pa.Table) -> dict[str, Any]:
    names = table.column_names
    if config.columns is not None:
        label = () if config.label is None else (config.label,)
        names = list(dict.fromkeys([*config.columns, *label, config.labels.event_time]))
    made = [*config.feature_names]
    if config.reasons:
        made += [f"{view.name}__reason" for view in config.views]
    both = [name for name in names if name in set(made)]
    if both:
        raise ConfigError(f"the labels have a column {both[0]!r}, which is the name of a feature; rename it")
    return {name: table[name] for name in names}


def _require_unchanged(offline: OfflineStore, snapshots: Sequence[Snapshot]) -> None:
    """A file that was replaced while it was read would make rows of two contents under one digest."""
    for snapshot in snapshots:
        if snapshot.files and offline.snapshot(snapshot.source).digest != snapshot.digest:
            raise StoreError(f"{snapshot.place}: changed while it was read; read it again")
