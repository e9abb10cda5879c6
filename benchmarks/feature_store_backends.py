"""The offline stores beside DuckDB, in an environment that has Spark, Delta, Iceberg and Polars: whether online equals
offline on every pair of stores, and the point-in-time join of Spark against one written by hand.

`spark_vs_hand_written` is the time of `SparkOffline.training_frame` over that of the same three joins written by hand
(a union by event time, and the last struct in a window), both warm, in turn, in one Spark application, labels and views
in Parquet files, the result brought back as Arrow. The two results are the same rows, which is checked.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from benchmarks.own_environment import measured_in  # noqa: E402

REQUIREMENTS = [
    "pyspark==4.3.0", "deltalake==1.6.6", "pyiceberg[pyarrow,sql-sqlite]==0.12.0", "polars==2.1.0", "duckdb==2.0.1",
    "pyarrow==26.0.1", "lmdb==3.0.0", "redis[hiredis]==8.1.0", "pandas==3.1.1", "numpy==2.4.6",
]  # fmt: skip
LIMIT_S = 3_600.0


def measured(folder: Path, redis_url: str, months: int, repeats: int) -> dict[str, float]:
    """The keys of this module, measured in an environment of its own. `folder` holds the flights' files."""
    return measured_in(
        REQUIREMENTS, Path(__file__), str(folder), redis_url, str(months), str(repeats), limit_s=LIMIT_S
    )


def main(folder: Path, redis_url: str, months: int, repeats: int) -> dict[str, float]:
    from benchmarks import bench_feature_store as bench
    from engine.feature_store import DuckDBOffline, LMDBOnline, PolarsOffline, RedisOnline, SparkOffline

    lakes = _lakes(folder)
    session = _session()
    stores: dict[str, tuple[Any, Any]] = {
        "duckdb": (DuckDBOffline(), None),
        "polars": (PolarsOffline(), None),
        "delta": (DuckDBOffline(), lakes["delta"]),
        "iceberg": (DuckDBOffline(), lakes["iceberg"]),
        "spark": (SparkOffline(session), None),
    }
    found: dict[str, float] = {}
    for name, (offline, data) in stores.items():
        for kind, online in (
            ("lmdb", LMDBOnline(folder / f"replay-{name}")),
            ("redis", RedisOnline(redis_url, namespace=f"replay-{name}")),
        ):
            equal, compared = bench.replayed(folder, online, months, offline, data)
            found[f"replay_equal_share_{name}_{kind}"] = equal / compared
    found["spark_vs_hand_written"] = spark_vs_hand_written(session, folder, repeats)
    session.stop()
    return found


def _lakes(folder: Path) -> dict[str, Any]:
    """For each kind of lake the data of a Source, by the name of the file that was written there."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from deltalake import write_deltalake
    from pyiceberg.catalog import load_catalog

    from engine.feature_store import Delta, Iceberg

    properties = {
        "name": "bench", "type": "sql", "uri": f"sqlite:///{folder}/catalog.db", "warehouse": f"file://{folder}/lake",
    }  # fmt: skip
    catalog = load_catalog(**properties)
    catalog.create_namespace("flights")
    for name in ("weather", "events"):
        table = pq.read_table(folder / f"{name}.parquet").replace_schema_metadata(None)
        # Lakes keep microseconds.
        place = table.schema.get_field_index("time")
        table = table.set_column(place, "time", table["time"].cast(pa.timestamp("us", "UTC")))
        write_deltalake(str(folder / f"delta-{name}"), table)
        catalog.create_table(f"flights.{name}", schema=table.schema).append(table)
    names = ("weather", "events")
    return {
        "delta": {name: Delta(str(folder / f"delta-{name}")) for name in names},
        "iceberg": {name: Iceberg(properties, f"flights.{name}") for name in names},
    }


def _session() -> Any:
    import os

    os.environ["PYSPARK_PYTHON"] = sys.executable
    from pyspark.sql import SparkSession

    session = (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.memory", "3g")
        .config("spark.sql.shuffle.partitions", "4")
        .config("spark.sql.session.timeZone", "UTC")
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("ERROR")
    return session


def spark_vs_hand_written(session: Any, folder: Path, repeats: int) -> float:
    """The median time of our join over that of the join by hand, after one run of each that is not counted."""
    from benchmarks.bench_feature_store import views
    from engine.feature_store import DatasetConfig, Source, SparkOffline

    offline = SparkOffline(session)
    config = DatasetConfig(Source(folder / "labels.parquet", "time"), views(folder))
    runs = {
        "ours": lambda: offline.training_frame(config).toArrow(),
        "hand": lambda: _by_hand(session, folder).toArrow(),
    }
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        found = {}
        for name, run in runs.items():
            began = time.perf_counter()
            found[name] = run()
            if turn:
                taken[name].append(time.perf_counter() - began)
        if turn == 0:
            assert _sorted(found["ours"], config) == _sorted(found["hand"], config), "the joins differ"
    return statistics.median(taken["ours"]) / statistics.median(taken["hand"])


def _by_hand(session: Any, folder: Path) -> Any:
    """The join as one would write it: for each view a union with the labels, and the last row in a window."""
    import pyspark.sql.functions as f
    from pyspark.sql import Window

    from benchmarks.bench_feature_store import FLIGHT, WEATHER

    labels = session.read.parquet(str(folder / "labels.parquet"))
    if dict(labels.dtypes)["time"] == "bigint":  # nanoseconds
        labels = labels.withColumn("time", f.timestamp_micros((f.col("time") / 1000).cast("bigint")))
    for view, key, columns, ttl_s in (
        ("weather", "origin", WEATHER, None),
        ("carrier", "carrier", FLIGHT, 7 * 86_400),
        ("plane", "tailnum", FLIGHT, None),
    ):
        rows = session.read.parquet(str(folder / f"{view}.parquet"))
        if dict(rows.dtypes)["time"] == "bigint":
            rows = rows.withColumn("time", f.timestamp_micros((f.col("time") / 1000).cast("bigint")))
        rows = rows.select(key, "time", f.lit(0).alias("side"), f.struct("time", *columns).alias("row"))
        joint = labels.withColumn("side", f.lit(1)).unionByName(rows, allowMissingColumns=True)
        window = Window.partitionBy(key).orderBy("time", "side")
        last = f.last("row", ignorenulls=True).over(window)
        joint = joint.withColumn("row", last).where("side = 1").drop("side")
        holds = f.lit(True)
        if ttl_s is not None:
            holds = f.unix_micros("time") - f.unix_micros("row.time") <= ttl_s * 10**6
        # A null key is an entity of its own to a window.
        holds = holds & f.col(key).isNotNull()
        made = [f.when(holds, f.col(f"row.{column}")).alias(f"{view}__{column}") for column in columns]
        labels = joint.select("*", *made).drop("row")
    return labels


def _sorted(table: Any, config: Any) -> list[str]:
    """The features of all rows as text, sorted: the order of a DataFrame's rows says nothing."""
    return sorted(map(repr, zip(*(table[name].to_pylist() for name in config.feature_names), strict=True)))


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
