"""The functions that the store's fault tests run in processes of their own, to kill, limit and race them."""

from __future__ import annotations

import os
import resource
from datetime import UTC, datetime, timedelta

import pyarrow as pa

from engine.errors import EngineError
from engine.feature_store import (
    DuckDBOffline,
    Entity,
    FeatureStore,
    FeatureView,
    LMDBOnline,
    RedisOnline,
    Source,
)
from engine.feature_store.online import base

START = datetime(2013, 1, 1, tzinfo=UTC)
END = START + timedelta(days=30)
ENTITIES = 3_000


def source(entities: int = ENTITIES, hours: int = 0, value: float = 0.0) -> pa.Table:
    """One row an entity, `hours` after the start; the values identify the row."""
    at = START + timedelta(hours=hours)
    return pa.table(
        {
            "plane": [f"N{i:05d}" for i in range(entities)],
            "t": pa.array([at + timedelta(seconds=i) for i in range(entities)], pa.timestamp("us", "UTC")),
            "x": [value + i for i in range(entities)],
            "s": [f"text of {i} and of {hours}" for i in range(entities)],
        }
    )


def view(table: pa.Table) -> FeatureView:
    return FeatureView("plane", Entity("plane"), Source(table, "t"), ["x", "s"])


def store(where: str) -> FeatureStore:
    kept = RedisOnline(where) if where.startswith("redis://") else LMDBOnline(where)
    return FeatureStore(DuckDBOffline(threads=1), kept)


def rows(where: str, entities: int = ENTITIES, prefix: bytes | None = None) -> list[bytes | None]:
    """Every entity's stored row, without its revision."""
    kept = store(where).online
    begin = kept.prefix("plane") if prefix is None else prefix
    wire = kept.wire()
    found = wire.read([begin + b"N%05d" % i for i in range(entities)], 2**62)
    wire.close()
    return [None if row is None else row[:28] + row[36:] for row in found]


def materialize(where: str, batch_rows: int, report: object, hours: int = 0, value: float = 0.0) -> None:
    """Materialise, and send through a pipe the number of rows acknowledged so far, then the result."""
    base.BATCH_ROWS = batch_rows
    report.send(0)  # type: ignore[attr-defined]
    made = store(where).materialize(
        view(source(hours=hours, value=value)),
        START,
        END,
        progress=lambda done, total: report.send(done),  # type: ignore[attr-defined]
    )
    report.send(made)  # type: ignore[attr-defined]


def squeezed(where: str, file_bytes_max: int | None, uid: int | None, report: object) -> None:
    """Materialise with a limit on file sizes, or as a user who may not write, and send the result or the error."""
    if file_bytes_max is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes_max, file_bytes_max))
    made, wanted = store(where), view(source(20_000))
    if uid is not None:
        # Import everything first, because that user may not be allowed to read the interpreter's folder.
        made.offline.compute(wanted, START, END)
        os.setuid(uid)
    try:
        outcome: object = made.materialize(wanted, START, END)
    except EngineError as error:
        outcome = (type(error).__name__, str(error))
    report.send(outcome)  # type: ignore[attr-defined]
