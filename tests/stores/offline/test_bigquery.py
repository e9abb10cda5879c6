"""BigQueryOffline on both emulators that install from the package index: the conformance suite and random definitions.

Nothing here has run on the real service. Neither emulator has all of it: crucible-emulator takes rows by INSERT alone
and makes no dry run.
"""

import itertools
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
from tests.servers import free_port

from engine.errors import ConfigError, StoreError
from engine.feature_store import BigQueryOffline, DatasetConfig, Entity, FeatureView, Source
from engine.feature_store.dataset import training_table
from engine.feature_store.offline import bigquery as room
from engine.feature_store.offline import sql
from engine.feature_store.testing.offline import CHECKS, START_NS, StoreUnderTest, check_random, times

NIGHTLY = bool(os.environ.get("ENGINE_NIGHTLY"))
SEEDS = 100 if NIGHTLY else 3
HERE = Path(__file__).parent
# The environment of the emulators, which want DuckDB below 2.
EMULATORS = Path(os.environ.get("ENGINE_EMULATORS", HERE.parents[2] / ".venv-emulators")) / "bin"
KINDS = {
    "bool": "BOOL", "int64": "INT64", "double": "FLOAT64", "string": "STRING", "binary": "BYTES",
    "timestamp[us, tz=UTC]": "TIMESTAMP",
}  # fmt: skip
pytestmark = pytest.mark.timeout(600)


def started(command, port):
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    give_up = time.monotonic() + 120
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=0.5).close()
            return server
        except OSError:
            assert server.poll() is None, f"{command[0]} ended with {server.returncode}"
            assert time.monotonic() < give_up, f"{command[0]} did not start"
            time.sleep(0.1)


@pytest.fixture(scope="module", params=["bqemulator", "crucible"])
def emulator(request):
    """The name of an emulator and a client of it; started here on a free port of loopback, stopped by its process."""
    port = free_port()
    if request.param == "bqemulator":
        script = HERE / "run_bqemulator.py"
        server = started([EMULATORS / "python", script, str(port), str(free_port())], port)
    else:
        server = started(
            [EMULATORS / "crucible", "serve", "--dialect", "bigquery", "--port", str(port)], port
        )
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import bigquery

    client = bigquery.Client(
        project="p",
        credentials=AnonymousCredentials(),
        client_options={"api_endpoint": f"http://127.0.0.1:{port}"},
    )
    client.create_dataset("d")
    yield request.param, client
    client.close()
    server.terminate()
    server.wait()


class Tables:
    """Tables of BigQuery, filled by INSERT."""

    def __init__(self, client):
        self.client, self.counter = client, itertools.count()

    def put(self, table):
        from google.cloud import bigquery

        name = f"d.source{time.monotonic_ns()}_{next(self.counter)}"
        fields = []
        for field in table.schema:
            of_list = pa.types.is_list(field.type)
            kind = KINDS[str(field.type.value_type if of_list else field.type)]
            fields.append(bigquery.SchemaField(field.name, kind, mode="REPEATED" if of_list else "NULLABLE"))
        self.client.create_table(bigquery.Table(f"p.{name}", schema=fields))
        if len(table):
            names = ", ".join(f"`{column}`" for column in table.column_names)
            rows = ", ".join(
                f"({', '.join(literal(v, f.type) for v, f in zip(row.values(), table.schema, strict=True))})"
                for row in table.cast(whole_times(table.schema)).to_pylist()
            )
            self.client.query(f"INSERT INTO `p`.{name} ({names}) VALUES {rows}").result()
        return name


def whole_times(schema):
    return pa.schema([(f.name, pa.int64() if pa.types.is_timestamp(f.type) else f.type) for f in schema])


def literal(value, kind):
    if value is None:
        return "[]" if pa.types.is_list(kind) else "NULL"
    if pa.types.is_timestamp(kind):
        return f"TIMESTAMP_MICROS({value})"
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, list):
        return f"[{', '.join(literal(each, kind.value_type) for each in value)}]"
    if isinstance(value, float):
        return f"CAST('{value!r}' AS FLOAT64)"
    return room._literal(value)


@pytest.fixture
def offline(emulator):
    return BigQueryOffline("d", client=emulator[1], upload="insert")


@pytest.fixture
def under(emulator, offline):
    return StoreUnderTest(
        offline, put=Tables(emulator[1]).put, ordered=False, unit="us",
        # A null array is an empty one there, and whole numbers have 63 bits.
        kinds=("bool", "int", "float", "text", "time"), key_kinds=("int", "text", "bytes"),
    )  # fmt: skip


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_bigquery_keeps_the_promise(under, check):
    check(under)


def test_random_definitions_give_the_rows_of_the_plain_loops(under, seed):
    for place in range(SEEDS):
        check_random(under, seed + place)


def view_of(emulator):
    rows = pa.table({"k": ["a", "b"], "t": times([START_NS, START_NS]), "x": [1.0, 2.0]})
    return FeatureView("v", Entity("e", "k"), Source(Tables(emulator[1]).put(rows), "t"), ["x"])


def test_the_cost_is_shown_before_a_query_and_bounded(emulator):
    seen = []
    view = view_of(emulator)
    offline = BigQueryOffline(
        "d", client=emulator[1], upload="insert", on_estimate=seen.append, bytes_max=10**9
    )
    labels = pa.table({"k": ["b"], "at": times([START_NS])})
    table = training_table(offline, DatasetConfig(Source(labels, "at"), view), None)
    assert table["v__x"].to_pylist() == [2.0]
    doing = [each.doing for each in seen if not each.doing.startswith("digest")]
    assert doing == ["view 'v'", "joining view 'v'"]
    assert all("SELECT" in each.query for each in seen)
    # crucible-emulator makes no dry run, and bqemulator says 0.
    assert {each.bytes for each in seen} == ({0} if emulator[0] == "bqemulator" else {None})


def test_labels_leave_nothing_behind(emulator, offline):
    view = view_of(emulator)
    labels = pa.table({"k": ["b"], "at": times([START_NS])})
    training_table(offline, DatasetConfig(Source(labels, "at"), view), None)
    left = [table.table_id for table in emulator[1].list_tables("d")]
    assert not [name for name in left if name.startswith("engine_labels_")]


def test_mistakes_are_named(emulator, offline):
    with pytest.raises(StoreError, match=r"table d\.nothing: NotFound"):
        offline.columns(Source("d.nothing", "t"))
    with pytest.raises(ConfigError, match=r"dataset: expected 'project\.dataset' or 'dataset', got ''"):
        BigQueryOffline("", client=emulator[1])
    with pytest.raises(ConfigError, match="upload"):
        BigQueryOffline("d", client=emulator[1], upload="stream")


def test_a_query_beyond_the_limit_is_refused_before_it_runs(emulator, monkeypatch):
    view = view_of(emulator)
    offline = BigQueryOffline("d", client=emulator[1], bytes_max=10)
    big = room.Estimate(11, "SELECT", "x")
    monkeypatch.setattr(offline, "estimate", lambda query, doing: big)
    with pytest.raises(StoreError, match="would read 11 bytes, and bytes_max is 10"):
        offline.compute(view)


def test_no_query_has_an_asof_join():
    query = sql.join(
        sql.BIGQUERY, "labels", "rows", keys=2, features=3, carried=["i"], ttl_ns=5, explain=True
    )
    assert "ASOF" not in query.upper()
    assert sys.modules[room.__name__] is room
