"""A training set by definition and by content, so that its digest stands for its rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from engine._common import canonical
from engine.errors import ConfigError, InputError, InputTypeError, StoreError
from engine.feature_store.definitions import (
    FeatureView,
    Source,
    column_names,
    require,
    require_distinct,
    sequence_of,
)
from engine.feature_store.instants import instant_ns, time_range
from engine.feature_store.offline.base import FOUND, REASONS, View
from engine.feature_store.offline.columns import Snapshot, check_keys, check_times, kinds_of
from engine.feature_store.offline.sources import take

if TYPE_CHECKING:
    import pyarrow as pa

    from engine.feature_store.offline.base import OfflineStore

METADATA = b"engine.dataset"


@dataclass(frozen=True)
class DatasetConfig:
    """Label rows, and the views whose features they get.

    Args:
        labels: rows with the views' keys, an event time (the instant of the prediction) and the labels.
        views: the view or views.
        features: the features to take, as `view__column`; None for all of the views' features.
        columns: the columns of the labels to take; None for all.
        label: the column that a model learns; it must be among the labels.
        start_time, end_time: take only labels with start_time <= event time < end_time. Datetimes or ISO 8601 texts
            with a time zone; None for no bound.
        reasons: add a text column `view__reason` for each view: "found", "null_key", "unknown_entity", "not_yet" (the
            entity's first row is later than the label) or "expired".
        created_end_time: leave out rows of the views that were not created before this instant, as if they were not
            there yet: so a dataset of an earlier day can be made again. A row without a created time stays.

    Immutable. It refers to files and does not hold their rows; a table in memory it holds.

    Raises:
        ConfigError: no view, a name that stands there twice, or a feature that no view has.
        InputError: the range is empty, or a time has no zone.
    """

    labels: Source
    views: tuple[FeatureView, ...]
    features: tuple[str, ...] | None = None
    columns: tuple[str, ...] | None = None
    label: str | None = None
    start_time: Any = None
    end_time: Any = None
    reasons: bool = False
    created_end_time: Any = None

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
        created_end_time: Any = None,
    ) -> None:
        put = object.__setattr__
        put(self, "labels", labels)
        put(self, "views", sequence_of(views, FeatureView, "views", "at least one FeatureView"))
        put(self, "features", None if features is None else column_names(features, "features"))
        put(self, "columns", None if columns is None else column_names(columns, "columns"))
        put(self, "label", label)
        put(self, "start_time", start_time)
        put(self, "end_time", end_time)
        put(self, "reasons", bool(reasons))
        put(self, "created_end_time", created_end_time)
        self._check()

    def _check(self) -> None:
        if not isinstance(self.labels, Source):
            raise ConfigError(
                f"labels: expected Source(data, event_time=…), got {type(self.labels).__name__}"
            )
        if not self.views:
            raise ConfigError("views: expected at least one FeatureView, got ()")
        column_names([view.name for view in self.views], "views")
        if self.label is not None:
            require(self.label, str, "label")
        require_distinct([name for view in self.views for name in view.feature_names])
        known = {name for view in self.views for name in view.feature_names}
        unknown = [name for name in self.features or () if name not in known]
        if unknown:
            raise ConfigError(f"no view has feature {unknown[0]!r}; there are: {', '.join(sorted(known))}")
        for view in self.views if self.reasons else ():
            if (name := f"{view.name}__reason") in known:
                raise ConfigError(
                    f"{name!r} is a feature already, so reasons=True cannot be a column of that name"
                )
        time_range(self.start_time, self.end_time)
        for view in self.views if self.created_end_ns is not None else ():
            if view.source.created_time is None:
                raise ConfigError(
                    f"view {view.name!r}: its source has no created_time, which created_end_time needs; name the "
                    "column in Source(…, created_time=…)"
                )

    @property
    def created_end_ns(self) -> int | None:
        """`created_end_time` in nanoseconds since 1970; None for no bound."""
        end = self.created_end_time
        return None if end is None else instant_ns(end, "created_end_time")

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

        Relative paths start at the working directory; `FeatureStore.dataset_digest` starts them at the store's folder.
        A file is read whole the first time. Raises StoreError if one cannot be read.
        """
        return self.digest_of([take(self.labels), *(take(view.source) for view in self.views)])

    def digest_of(self, snapshots: Sequence[Snapshot]) -> str:
        """The digest with these contents: of the labels, then of each view's source, in order."""
        # Left out where there is none: a dataset that does not use it keeps the digest of former releases.
        said = {} if self.created_end_ns is None else {"created_end_ns": self.created_end_ns}
        return canonical.digest(
            said
            | {
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

    if digest is not None and not isinstance(digest, str):
        raise InputTypeError(f"digest: expected text, got {type(digest).__name__} {digest!r:.80}")
    check_dataset(offline, config)
    labels = offline.snapshot(config.labels)
    views = [
        replace(View.of(view, offline.snapshot(view.source)), created_end_ns=config.created_end_ns)
        for view in config.views
    ]
    found = config.digest_of([labels, *(view.snapshot for view in views)])
    if digest is not None and digest != found:
        raise StoreError(
            f"the dataset is no longer the one asked for: its sources changed; expected digest {digest}, got {found}"
        )
    table, label_ns = _labels(offline, config, labels)
    joined = offline.join(table, label_ns, views)
    _require_unchanged(offline, [labels, *(view.snapshot for view in views)])
    result = {name: table[name] for name in label_names(config, table.column_names)}
    wanted, missing = set(config.feature_names), {}
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


def check_dataset(offline: OfflineStore, config: DatasetConfig) -> None:
    """Check every column that a training table needs, before a row is read or a file is digested.

    Raises:
        ConfigError: no DatasetConfig, or a label column with the name of a feature.
        InputError: a column is missing or of another type.
        StoreError: a source cannot be found or read.
    """
    labels = offline.columns(require(config, DatasetConfig, "dataset_config").labels)
    check_times(labels, "labels")
    for name in (*(config.columns or ()), *([] if config.label is None else [config.label])):
        labels.type_of(name, "labels")
    for view in config.views:
        check_keys(labels.types, view, kinds_of(view, offline.columns(view.source)))
    made = {*config.feature_names, *(f"{view.name}__reason" for view in config.views if config.reasons)}
    both = [name for name in label_names(config, list(labels.types)) if name in made]
    if both:
        raise ConfigError(f"the labels have a column {both[0]!r}, which is the name of a feature; rename it")


def label_names(config: DatasetConfig, names: list[str]) -> list[str]:
    """The label columns of the training table, in order; `names` are all that the labels have."""
    if config.columns is None:
        return names
    label = () if config.label is None else (config.label,)
    return list(dict.fromkeys([*config.columns, *label, config.labels.event_time]))


def _labels(offline: OfflineStore, config: DatasetConfig, snapshot: Snapshot) -> tuple[pa.Table, Any]:
    """The label rows within the range, in their order, and their instants in int64 nanoseconds."""
    keys = [key for view in config.views for key in view.keys]
    names = label_names(config, list(snapshot.types))
    table = offline.read(snapshot, list(dict.fromkeys([*names, *keys])))
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


def _require_unchanged(offline: OfflineStore, snapshots: Sequence[Snapshot]) -> None:
    """Raise StoreError if rows of a snapshot changed: they would be of two contents under one digest. New files may
    have come."""
    for snapshot in snapshots:
        if snapshot.table is None and offline.snapshot(snapshot.pinned).digest != snapshot.digest:
            raise StoreError(f"{snapshot.place}: changed while it was read; read it again")
