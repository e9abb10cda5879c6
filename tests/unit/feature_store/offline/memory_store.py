"""An offline store in plain Python, written against the protocol alone, and a run of it without DuckDB.

    python memory_store.py FOLDER

The folder becomes the online store's. The run prints as JSON what it computed, served and joined.
"""

import json
import sys
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

from engine import transform as t
from engine.feature_store import DatasetConfig, Entity, FeatureStore, FeatureView, LMDBOnline, Source
from engine.feature_store.instants import time_range
from engine.feature_store.offline import sources
from engine.feature_store.offline.base import (
    EXPIRED,
    FOUND,
    NOT_YET,
    NULL_KEY,
    UNKNOWN_ENTITY,
    Features,
    Joined,
    OfflineStore,
    View,
    as_feature,
    batch_schema,
)


class MemoryOffline(OfflineStore):
    """Rows as lists of dicts; without aggregates and without copies."""

    def columns(self, source):
        return sources.columns_of(source)

    def snapshot(self, source):
        return sources.take(source)

    def read(self, snapshot, names):
        return sources.read(snapshot, names)

    def compute(self, feature_definition, start_time=None, end_time=None):
        start, end = time_range(start_time, end_time)
        view = View.of(feature_definition, self.snapshot(feature_definition.source))
        newest = {}
        for row in _rows(view):
            if (start is None or row["t"] >= start) and (end is None or row["t"] < end):
                newest[row["keys"]] = row
        found = [_flat(newest[keys]) for keys in sorted(newest)]

        def read(skip, rows_max):
            for at in range(skip, len(found), rows_max):
                yield pa.RecordBatch.from_pylist(found[at : at + rows_max], batch_schema(view))

        return Features(view, f"{start} {end} {view.snapshot.digest}", len(found), read)

    def join(self, labels, label_ns, views):
        return [_joined(labels, label_ns, view) for view in views]


def _rows(view):
    """Rows with all their keys, by event time."""
    source = view.definition.source
    table = view.snapshot.table
    at = table[source.event_time].cast(pa.timestamp("ns", "UTC")).cast(pa.int64()).to_pylist()
    rows = [
        {
            "keys": tuple(row[key] for key in view.definition.keys),
            "t": t_ns,
            "values": [row[column] for column in view.definition.columns],
        }
        for row, t_ns in zip(table.to_pylist(), at, strict=True)
    ]
    return sorted((row for row in rows if None not in row["keys"]), key=lambda row: row["t"])


def _flat(row):
    keys = {f"k{i}": key for i, key in enumerate(row["keys"])}
    return {**keys, "t": row["t"], "c": None, **{f"f{i}": value for i, value in enumerate(row["values"])}}


def _joined(labels, label_ns, view):
    rows, ttl = _rows(view), view.definition.ttl_ns
    entities = zip(*(labels[key].to_pylist() for key in view.definition.keys), strict=True)
    values, reasons = [], []
    for entity, instant in zip(entities, label_ns.tolist(), strict=True):
        own = [row for row in rows if row["keys"] == entity]
        past = [row for row in own if row["t"] <= instant]
        if None in entity:
            reasons.append(NULL_KEY)
        elif not past:
            reasons.append(NOT_YET if own else UNKNOWN_ENTITY)
        else:
            reasons.append(EXPIRED if ttl is not None and instant - past[-1]["t"] > ttl else FOUND)
        values.append(past[-1]["values"] if reasons[-1] == FOUND else [None] * len(view.kinds_out))
    types = [field.type for field in batch_schema(view) if field.name.startswith("f")]
    columns = [
        as_feature(pa.array([row[i] for row in values], types[i]), kind)
        for i, kind in enumerate(view.kinds_out)
    ]
    return Joined(columns, np.array(reasons, np.uint8))


def main(folder):
    start = datetime(2013, 1, 1, tzinfo=UTC)
    hours = pa.array([start + timedelta(hours=hour) for hour in (1, 2, 3)], pa.timestamp("us", "UTC"))
    table = pa.table(
        {"origin": ["EWR", "EWR", "LGA"], "t": hours, "temp": [1.0, 2.0, None], "sky": list("abc")}
    )
    view = FeatureView("weather", Entity("origin"), Source(table, "t"), ["temp", "sky"], ttl="2h")
    store = FeatureStore(MemoryOffline(), LMDBOnline(folder))
    computed = store.offline.compute(view, start, start + timedelta(days=1)).table.to_pylist()
    written = [store.materialize(view, start, start + timedelta(days=1)) for _ in range(2)]
    labels = pa.table(
        {
            "origin": ["EWR", "EWR", "EWR", "JFK", None],
            "at": pa.array(
                [start + timedelta(hours=hour) for hour in (0, 2, 9, 2, 2)], pa.timestamp("us", "UTC")
            ),
        }
    )
    trained = store.get_training_features(DatasetConfig(Source(labels, "at"), view, reasons=True))
    program = t.FeatureProgram.fit([t.number("weather__temp").impute(-1.0)], trained)
    clock = int((start + timedelta(hours=4)).timestamp()) * 10**9
    features = store.online_features(program, [view], now_ns=lambda: clock)
    fetched = features.fetch_many([{"origin": "EWR"}, {"origin": "JFK"}], 2**62)
    print(
        json.dumps(
            {
                "computed": [[row["origin"], row["weather__temp"], row["weather__sky"]] for row in computed],
                "written": [[each.rows, each.written, each.same] for each in written],
                "temp": trained["weather__temp"].to_pylist(),
                "sky": trained["weather__sky"].to_pylist(),
                "reason": trained["weather__reason"].to_pylist(),
                "fetched": [[out["weather__temp"], list(missing)] for out, missing in fetched],
                "duckdb": sorted(
                    name for name in sys.modules if name.split(".")[0] == "duckdb" and sys.modules[name]
                ),
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1])
