"""Another offline store than DuckDB: five methods over Arrow, in a process where DuckDB cannot be imported."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from engine.errors import ConfigError, InputError, InputTypeError
from engine.feature_store import DuckDBOffline, Entity, FeatureView, Source
from engine.feature_store.offline import OfflineStore
from engine.feature_store.offline.base import batch_schema

SCRIPT = Path(__file__).with_name("memory_store.py")
VIEW = FeatureView(
    "v",
    Entity("k"),
    Source(pa.table({"k": ["a"], "t": pa.array([5], pa.timestamp("s", "UTC")), "x": [1]}), "t"),
    ["x"],
)


def test_a_store_of_another_kind_computes_serves_and_joins_without_duckdb(tmp_path):
    code = (
        "import runpy, sys\n"
        "sys.modules['duckdb'] = None\n"
        f"sys.argv = ['memory_store.py', {str(tmp_path / 'online')!r}]\n"
        f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "computed": [["EWR", 2.0, "b"], ["LGA", None, "c"]],
        "written": [[2, 2, 0], [2, 0, 2]],
        "temp": [None, 2.0, None, None, None],
        "sky": [None, "b", None, None, None],
        "reason": ["not_yet", "found", "expired", "unknown_entity", "null_key"],
        "fetched": [[2.0, []], [None, ["weather__temp"]]],
        "duckdb": [],
    }


def test_duckdb_has_the_methods_of_the_protocol_with_the_same_arguments():
    import inspect

    methods = [name for name in vars(OfflineStore) if not name.startswith("_")]
    assert methods == ["columns", "snapshot", "read", "compute", "join"]
    for name in methods:
        wanted, found = (inspect.signature(getattr(kind, name)) for kind in (OfflineStore, DuckDBOffline))
        assert list(wanted.parameters) == list(found.parameters), name


def test_batches_have_the_schema_that_is_promised():
    features = DuckDBOffline(threads=1).compute(VIEW)
    assert [batch.schema for batch in features.batches()] == [batch_schema(features.view)]
    nothing = DuckDBOffline(threads=1).compute(VIEW, None, "1970-01-01T00:00:01Z")
    assert nothing.rows == 0
    assert nothing.table.schema.names == ["k", "t", "v__x"]
    assert nothing.table.num_rows == 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"skip": -1}, InputError, "skip must be an int from 0"),
        ({"skip": "1 OR true"}, InputTypeError, "skip must be an int, got str"),
        ({"rows_max": 0}, InputError, "rows_max must be an int from 1"),
        ({"rows_max": 1.5}, InputTypeError, "rows_max must be an int, got float"),
    ],
)
def test_batches_checks_its_counts_before_a_row_is_read(options, error, message):
    features = DuckDBOffline(threads=1).compute(VIEW)
    with pytest.raises(error, match=message):
        features.batches(**options)


def test_reading_and_joining_check_before_they_query():
    store = DuckDBOffline(threads=1)
    view = store.view(VIEW)
    with pytest.raises(InputError, match="columns: the source table has no column 'y'; it has: k, t, x"):
        store.read(view.snapshot, ["k", "y"])
    labels = pa.table({"k": ["a", "b"]})
    with pytest.raises(InputError, match="label_ns: expected 2 instants, got 1"):
        store.join(labels, np.array([1]), [view])
    with pytest.raises(InputError, match="view 'v' needs key column 'k' in the labels, which have: other"):
        store.join(labels.rename_columns(["other"]), np.array([1, 2]), [view])


def test_a_value_that_is_no_view_is_refused_by_name():
    with pytest.raises(ConfigError, match="feature_definition: expected a FeatureView, got str 'v'"):
        DuckDBOffline(threads=1).compute("v")
