"""The FeatureStore: an offline store that computes features, an online store that serves them, the same definitions."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from engine._common import arguments
from engine.errors import ConfigError, EngineError, InputTypeError, StoreError
from engine.feature_store.dataset import DatasetConfig, training_table
from engine.feature_store.definitions import FeatureView, require, sequence_of
from engine.feature_store.deletion import Deleted, delete_everywhere, delete_rows
from engine.feature_store.instants import EPOCH, shown, time_range
from engine.feature_store.late import refresh
from engine.feature_store.offline.base import Features, OfflineStore, look, schema_of, unchanged
from engine.feature_store.offline.columns import kinds_of
from engine.feature_store.offline.sources import all_there
from engine.feature_store.online.addresses import open_online
from engine.feature_store.online.base import OnlineStore, Progress, Written
from engine.feature_store.online.features import OnlineFeatures, Program, check_fits
from engine.feature_store.pushed import Pushed
from engine.feature_store.schema import Schema
from engine.feature_store.verification import SAMPLE_MAX, Verified, verified

if TYPE_CHECKING:
    import pyarrow as pa

LOOKS_MAX = 100


class FeatureStore:
    """Features for training and for serving, from the same definitions.

    Every method checks its arguments and the columns of the sources first: a call that is refused has read no row,
    digested no file and written nothing.

    Args:
        offline_store: computes features from sources: DuckDBOffline, or any object with the methods of OfflineStore.
        online_store: keeps the newest row of each entity for serving: LMDBOnline, RedisOnline, RedisClusterOnline,
            DynamoDBOnline, PostgresOnline, another OnlineStore, or the address of one, as `open_online` takes it:
            "dynamodb://features?region=eu-west-1", or a folder for LMDB.

    Attributes:
        offline: the offline store.
        online: the online store.

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

    def __init__(
        self, offline_store: OfflineStore, online_store: OnlineStore | str | os.PathLike[str]
    ) -> None:
        self.offline = offline_store
        self.online = (
            open_online(online_store) if isinstance(online_store, (str, os.PathLike)) else online_store
        )

    def materialize(
        self,
        feature_definition: FeatureView,
        start_time: Any = None,
        end_time: Any = None,
        *,
        progress: Progress | None = None,
    ) -> Written:
        """Bring the newest row of each entity with start_time <= event time < end_time into the online store.

        A second call for the same range writes nothing. A call for an older range replaces nothing newer. Rows that
        came late are written by any range that holds their event time, and the aggregates of a newer row that is online
        already are computed again where an event of the range lies in its windows. Files that come into a source's
        folder meanwhile are left to the next call. After a kill, the next call for the same range
        goes on where the killed one stopped. Several calls may run at once, in any process. Blocks until all is
        written.

        Args:
            feature_definition: the view.
            start_time: a datetime or ISO 8601 text with a zone; None for everything before end_time.
            end_time: the same; None for now.
            progress: called as progress(rows safely written, rows in all) after each batch.

        Raises:
            ConfigError: `feature_definition` is no FeatureView.
            InputError: the range is empty, a time has no zone, or a column is missing or of another type.
            InputTypeError: a time is no datetime and no text, or `progress` cannot be called.
            StoreError: the source cannot be read, or the online store cannot be written.
        """
        if end_time is None:
            # Rounded to the past, so that no row of the future is in the range.
            end_time = EPOCH + timedelta(microseconds=int(time.time() * 1e6) - 1)
        self._check(feature_definition, start_time, end_time)
        if progress is not None and not callable(progress):
            raise InputTypeError(f"progress: expected a callable, got {type(progress).__name__}")
        feature_definition = feature_definition.as_stored
        features, revision = self._computed(feature_definition, start_time, end_time)
        written = None if features.write is None else features.write(self.online, progress, revision)
        if written is None:
            written = self.online.upsert(features, progress=progress, revision=revision)
        _, end_ns = time_range(start_time, end_time)
        assert end_ns is not None
        until_ns = self.online.materialized(feature_definition.online_name, end_ns)
        if until_ns is not None and written.written:
            # Newer rows of these entities may have been evicted, and an older one must not stand in for them.
            self.materialize(feature_definition, shown(end_ns), shown(until_ns))
        if not feature_definition.aggregates or not (written.older or written.resumed):
            return written
        # Events of this range lie in windows of newer rows that are online already.
        changed = refresh(self.offline, self.online, features, revision)
        return replace(
            written, written=written.written + changed, older=written.older - min(changed, written.older)
        )

    def _check(self, view: FeatureView, start_time: Any, end_time: Any) -> None:
        """Raise what `materialize` would raise for this view and range, from the columns of the source alone."""
        require(view, FeatureView, "feature_definition")
        time_range(start_time, end_time)
        kinds_of(view, self.offline.columns(view.source))

    def _computed(self, view: FeatureView, start_time: Any, end_time: Any) -> tuple[Features, int]:
        """Computed features and a revision. Of any two runs, in any process, the one with the higher revision saw the
        source later, because no other run drew a revision between ours and our look at the source."""
        for _ in range(LOOKS_MAX):
            revision = self.online.next_revision()
            seen = look(self.offline, view.source)
            if self.online.note("revision") != b"%d" % revision:
                continue
            # The files that were there at our look, and none that came since.
            pinned = replace(view, source=seen.pinned)
            try:
                features = self.offline.compute(pinned, start_time, end_time)
                # A file that was replaced while it was read would give rows of two contents.
                same = features.view.snapshot.digest == seen.digest and unchanged(self.offline, seen)
            except StoreError:
                if all_there(seen):
                    raise
                continue
            if same:
                return replace(features, view=replace(features.view, definition=view)), revision
        raise StoreError(
            f"view {view.name!r}: its source changed, or others began to materialise, {LOOKS_MAX} times while it was "
            "looked at; write whole files and move them into place"
        )

    def get_training_features(self, dataset_config: DatasetConfig, *, digest: str | None = None) -> pa.Table:
        """The label rows in their order, each with the features that were known at its instant.

        Args:
            dataset_config: labels and views.
            digest: raise StoreError unless the dataset has this digest, so that the rows are those of an earlier call.

        Returns:
            A pyarrow Table: the labels' columns, then `view__column` of each feature, null if the row is missing or its
            value is null; with `reasons=True` also `view__reason`. The metadata of its schema has JSON under
            `engine.dataset`: the `digest`, the `views` with their versions, and under `missing` the number of label
            rows without a row of each view, by reason.

        Raises:
            ConfigError: no DatasetConfig, or a label column has a feature's name.
            InputError: a column is missing or of another type, or a label has no instant.
            StoreError: a source cannot be read, changed while it was read, or has another digest.
        """
        return training_table(self.offline, dataset_config, digest)

    def dataset_digest(self, dataset_config: DatasetConfig) -> str:
        """`dataset_config.digest`, with relative paths from the offline store's folder.

        Raises:
            ConfigError: no DatasetConfig.
            StoreError: a source cannot be read.
        """
        config = require(dataset_config, DatasetConfig, "dataset_config")
        sources = [config.labels, *(view.source for view in config.views)]
        return config.digest_of([self.offline.snapshot(source) for source in sources])

    def online_features(
        self,
        program: Program,
        views: Sequence[FeatureView],
        *,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> OnlineFeatures:
        """An OnlineFeatures for `Engine(features=…)`, which looks features up for each request.

        Args:
            program: a FeatureProgram. Its inputs named `view__column` are looked up, the others come with the request.
            views: the views that the program reads.
            now_ns: the clock for TTLs; returns nanoseconds since 1970.

        Raises:
            ConfigError: `program` or a view is of another class, or the program reads no feature of a view.
            InputTypeError: `now_ns` cannot be called.
            StoreError: the types of a view are neither in the online store (it was never materialised) nor in its
                source.
        """
        check_fits(program, views := sequence_of(views, FeatureView, "views", "FeatureViews"))
        if not callable(now_ns):
            raise InputTypeError(f"now_ns: expected a callable, got {type(now_ns).__name__}")
        return OnlineFeatures(program, [(view, self._schema(view)) for view in views], self.online, now_ns)

    def push(self, view: FeatureView, rows: Any) -> Written:
        """Write rows of a view straight into the online store: the caller has computed them, from a stream, say.

        As everywhere, nothing older overwrites: a row is kept by event time, then by created time, then by the order of
        writing. Blocks until the rows are written: durable in LMDB, in the server's memory in Redis. The source is not
        read and not written, so keep the rows there too, for training.

        Args:
            view: the view.
            rows: a mapping, a sequence of mappings, or a table (pyarrow, pandas, Polars), by name: the view's keys, its
                event time (a datetime or ISO 8601 text with a zone), the created time if the source has one, and every
                feature by its own name, aggregates too (`delay_mean_24h`). Of several rows of one entity the newest is
                kept.

        Returns:
            The number of rows by their outcome.

        Raises:
            ConfigError: `view` is no FeatureView, or its windows end at the request, which needs the events themselves.
            InputError: a name is missing or unknown, a key or a time is null, or a value is of another type. It names
                column and row. Nothing is written then.
            StoreError: the online store cannot be written, or the types of the view are known neither there nor in its
                source.
        """
        view = require(view, FeatureView, "view").as_stored
        if view.at_request:
            raise ConfigError(
                f"view {view.name!r}: its windows end at the request, so a row online holds events; bring them into "
                "the source and materialize the view"
            )
        with self.online.held():
            schema = self._schema(view)
            return self.online.put(view, schema, Pushed.of(view, schema, rows))

    def delete(
        self,
        view: FeatureView,
        keys: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        *,
        mark: bool = True,
        note: str = "",
    ) -> Deleted:
        """Delete the online rows of entities in one view, and log it. Durable when the call returns, as a write is.

        A source may still have rows of the entity. With `mark` the store remembers, without a feature, that the entity
        was deleted now: rows with an event time until now, which a later `materialize` brings, stay out, and newer ones
        come. Delete the rows from the source too where the law wants it; training reads them there.

        Args:
            view: the view.
            keys: the keys of an entity by name, or a sequence of them.
            mark: False leaves nothing behind, so the next `materialize` brings back what the source has.
            note: for the log.

        Returns:
            The entry of the log.

        Raises:
            ConfigError: `view` is no FeatureView.
            InputError: a key is missing, null or of another type.
            StoreError: the online store cannot be written.
        """
        view = require(view, FeatureView, "view")
        return delete_rows(self.online, view, self._schema(view), keys, mark=mark, note=note)

    def delete_entity(self, keys: Mapping[str, Any], *, mark: bool = True, note: str = "") -> Deleted:
        """Delete an entity everywhere in the online store: its row in each view that has its keys, and each row of a
        view of several entities where it is one of them. The views are those that were ever written here.

        Args:
            keys: the entity's keys by name, as the sources name them: {"tailnum": "N14228"}.
            mark, note: as for `delete`.

        Raises:
            InputError: no key, or one that is null or of another type.
            StoreError: no view of the store has these keys, or it cannot be read or written.
        """
        return delete_everywhere(self.online, keys, mark=mark, note=note)

    def deletions(self) -> list[Deleted]:
        """The log of deletions, oldest first. Raises StoreError if the online store cannot be read."""
        return [Deleted.from_json(entry) for entry in self.online.log()]

    def verify(self, view: FeatureView, sample: int = 10_000, *, seed: int | None = None) -> Verified:
        """Compare online rows with the source as of now, bit by bit, and explain each difference.

        Entities that only the online store has (pushed, or gone from the source) are not looked for. Rows that arrive
        meanwhile may count as late. Reads the whole source once, and writes nothing.

        Args:
            view: the view.
            sample: the most entities to compare, drawn at random; at least 1.
            seed: of the sample; None for another one each time.

        Returns:
            The numbers of rows by their reason, some examples, and how fresh the view is online.

        Raises:
            ConfigError: `view` is no FeatureView.
            InputError: `sample` is out of range, or a column of the source is missing or of another type.
            StoreError: the source or the online store cannot be read.
        """
        view = require(view, FeatureView, "view").as_stored
        arguments.whole("sample", sample, 1, SAMPLE_MAX, type_error=InputTypeError)
        at_ns = time.time_ns()
        # Rounded to the past, so that no row of the future is in the range.
        end_time = EPOCH + timedelta(microseconds=at_ns // 1000 - 1)
        return verified(self.online, self.offline.compute(view, None, end_time), sample, seed, at_ns)

    def _schema(self, view: FeatureView) -> Schema:
        """The types of a view: as materialised, or else as its source has them."""
        down: StoreError | None = None
        try:
            for schema in self.online.schemas(view.online_name):
                if (found := schema.of_view(view)) is not None:
                    return found
        except StoreError as error:
            down = error
        try:
            return schema_of(view, kinds_of(view, self.offline.columns(view.source)))
        except EngineError as error:
            raise StoreError(
                f"view {view.name!r}: its types are neither in the online store "
                f"({down or 'not materialised there as it is defined now'}) nor in its source ({error})"
            ) from error
