"""The FeatureStore: an offline store that computes features, an online store that serves them, and one meaning."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from engine.errors import EngineError, StoreError
from engine.feature_store.dataset import DatasetConfig, training_table
from engine.feature_store.definitions import FeatureView
from engine.feature_store.offline import Features, OfflineStore
from engine.feature_store.online import OnlineStore, Progress, Written
from engine.feature_store.online_features import OnlineFeatures, Program
from engine.feature_store.schema import Schema

if TYPE_CHECKING:
    import pyarrow as pa

LOOKS_MAX = 100


class FeatureStore:
    """Features for training and for serving, out of the same definitions.

    Args:
        offline_store: computes features from files and tables: DuckDBOffline.
        online_store: keeps the newest row of each entity for serving: LMDBOnline or RedisOnline.

    Thread-safe.

    >>> import tempfile, pyarrow as pa
    >>> from datetime import datetime, timezone
    >>> from engine.feature_store import *
    >>> hours = [datetime(2013, 1, 1, hour, tzinfo=timezone.utc) for hour in (6, 7)]
    >>> weather = pa.table({"origin": ["EWR", "EWR"], "time": hours, "temp": [39.0, 41.0]})
    >>> view = FeatureView("weather", Entity("origin"), Source(weather, event_time="time"), columns=["temp"])
    >>> store = FeatureStore(DuckDBOffline(), LMDBOnline(tempfile.mkdtemp()))
    >>> store.materialize(view, hours[0], "2013-01-02T00:00:00Z").written
    1
    >>> labels = pa.table({"origin": ["EWR", "LGA"], "at": [hours[0], hours[1]], "late": [0, 1]})
    >>> table = store.get_training_features(DatasetConfig(Source(labels, event_time="at"), [view]))
    >>> table["weather__temp"].to_pylist()
    [39.0, None]
    """

    def __init__(self, offline_store: OfflineStore, online_store: OnlineStore) -> None:
        self.offline = offline_store
        self.online = online_store

    def materialize(
        self,
        feature_definition: FeatureView,
        start_time: Any = None,
        end_time: Any = None,
        *,
        progress: Progress | None = None,
    ) -> Written:
        """Brings the newest row of each entity with start_time <= event time < end_time into the online store.

        Doing it again changes nothing; doing it for an older range changes nothing that is newer; rows that came late
        are taken along by any range that holds their event time. A run that was killed is continued by the next call
        for the same range. Several may run at once.

        Args:
            feature_definition: the view.
            start_time: a datetime or ISO 8601 text with a zone; None for everything before end_time.
            end_time: the same; None for now.
            progress: called with (rows safely written, rows in all) after each batch.

        Raises:
            InputError: an empty range, a time without a zone, a column that is missing or of another type.
            StoreError: a source that cannot be read, or an online store that cannot be written.
        """
        if end_time is None:
            end_time = datetime.fromtimestamp(time.time(), UTC)
        features, revision = self._computed(feature_definition, start_time, end_time)
        return self.online.upsert(features, progress=progress, revision=revision)

    def _computed(self, view: FeatureView, start_time: Any, end_time: Any) -> tuple[Features, int]:
        """Computed features and a revision such that of any two runs, in whatever process, the one with the higher
        revision saw the source later: nobody drew another between ours and our look at the source."""
        for _ in range(LOOKS_MAX):
            revision = self.online.next_revision()
            seen = self.offline.snapshot(view.source).digest
            if self.online.note("revision") != b"%d" % revision:
                continue
            features = self.offline.compute(view, start_time, end_time)
            # A file replaced while it was read would make rows of two contents.
            after = self.offline.snapshot(view.source).digest if features.view.snapshot.files else seen
            if features.view.snapshot.digest == seen == after:
                return features, revision
        raise StoreError(
            f"view {view.name!r}: its source changed, or others began to materialise, {LOOKS_MAX} times while it was "
            "looked at; write whole files and move them into place"
        )

    def get_training_features(self, dataset_config: DatasetConfig, *, digest: str | None = None) -> pa.Table:
        """The label rows in their order, each with what was known at its instant.

        Args:
            dataset_config: labels and views.
            digest: refuse unless the dataset has this digest, so that the rows are those of an earlier call.

        Returns:
            A pyarrow Table: the labels' columns, then `view__column` of each feature, null where the row is missing or
            its value is null; with `reasons=True` also `view__reason`. Its schema's metadata has under
            `engine.dataset` JSON with the `digest`, the `views` and their versions, and how many label rows are
            `missing` in each view, by reason.

        Raises:
            ConfigError: a label column with a feature's name.
            InputError: a column that is missing or of another type, a label without an instant.
            StoreError: a source that cannot be read, that changed while it was, or that has another digest.
        """
        return training_table(self.offline, dataset_config, digest)

    def dataset_digest(self, dataset_config: DatasetConfig) -> str:
        """`dataset_config.digest` with relative paths from the offline store's folder."""
        sources = [dataset_config.labels, *(view.source for view in dataset_config.views)]
        return dataset_config.digest_of([self.offline.snapshot(source) for source in sources])

    def online_features(
        self,
        program: Program,
        views: Sequence[FeatureView],
        *,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> OnlineFeatures:
        """What `Engine(features=…)` takes to look features up for each request.

        Args:
            program: a FeatureProgram; its inputs named `view__column` are looked up, the others are the request's own.
            views: those that the program reads.
            now_ns: the clock that TTLs are measured by, nanoseconds since 1970.

        Raises:
            ConfigError: a view that the program reads nothing of.
            StoreError: a view whose types neither the online store (once it is materialised) nor its source can tell.
        """
        return OnlineFeatures(program, [(view, self._schema(view)) for view in views], self.online, now_ns)

    def _schema(self, view: FeatureView) -> Schema:
        """The types of a view: as materialised, else as its source has them."""
        stored: bytes | None = None
        down: StoreError | None = None
        try:
            stored = self.online.note(f"schema:{view.name}")
        except StoreError as error:
            down = error
        schema = None if stored is None else Schema.from_json(stored, view)
        if schema is not None:
            return schema
        try:
            return self.offline.view(view).schema
        except EngineError as error:
            raise StoreError(
                f"view {view.name!r}: its types are neither in the online store "
                f"({down or 'not materialised there as it is defined now'}) nor in its source ({error})"
            ) from error
