"""Fields within structs as columns; errors that name column, file and row."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.errors import InputError
from engine.feature_store import (
    Aggregate,
    DatasetConfig,
    DuckDBOffline,
    Entity,
    FeatureStore,
    FeatureView,
    Source,
)

START = datetime(2013, 1, 1, tzinfo=UTC)
AT = pa.timestamp("us", "UTC")
STORE = FeatureStore(DuckDBOffline(threads=1), None)


def hours(n):
    return pa.array([START + timedelta(hours=i) for i in range(n)], AT)


def rows():
    where = [{"city": "Oslo", "at": {"lat": 1.0}}, {"city": "Rome", "at": {"lat": 2.0}}, None]
    return pa.table(
        {
            "id": [{"plane": "a"}, {"plane": "a"}, {"plane": "b"}],
            "when": pa.StructArray.from_arrays([hours(3)], ["t"]),
            "where": where,
            "where.city": ["x", "y", "z"],
            "codes": [[1, 2], [], None],
        }
    )


@pytest.mark.parametrize("as_file", [False, True])
def test_fields_within_structs_are_columns(tmp_path, as_file):
    data = rows()
    if as_file:
        pq.write_table(data, tmp_path / "a.parquet")
        data = tmp_path / "a.parquet"
    view = FeatureView(
        "v", Entity("plane", "id.plane"), Source(data, "when.t"),
        ["where.at.lat", "where.city", "codes"], [Aggregate("sum", "where.at.lat", "7d")],
    )  # fmt: skip
    labels = pa.table({"id.plane": ["a", "b", "c"], "at": [START + timedelta(days=1)] * 3})
    table = STORE.get_training_features(DatasetConfig(Source(labels, "at"), [view]))
    assert table["v__where.at.lat"].to_pylist() == [2.0, None, None]
    # A column of that very name comes before a field.
    assert table["v__where.city"].to_pylist() == ["y", "z", None]
    assert table["v__codes"].to_pylist() == [[], None, None]
    assert table["v__where.at.lat_sum_7d"].to_pylist() == [3.0, None, None]
    with pytest.raises(InputError, match=r"has no column 'where.at.lon'; it has: id, when, where"):
        STORE.offline.view(
            FeatureView("v", Entity("e", "id.plane"), Source(data, "when.t"), ["where.at.lon"])
        )


def named_files(tmp_path, column, values, kind):
    for name, part in (("1.parquet", [0, 1]), ("2.parquet", [2, 3, 4])):
        table = pa.table(
            {
                "k": ["a"] * len(part),
                "t": hours(5).take(pa.array(part)),
                column: pa.array([values[i] for i in part], kind),
            }
            if column != "t"
            else {
                "k": ["a"] * len(part),
                "x": [1.0] * len(part),
                "t": pa.array([values[i] for i in part], kind),
            }
        )
        pq.write_table(table, tmp_path / name)
    return tmp_path / "*.parquet"


def test_a_value_out_of_range_is_named_with_column_file_and_row(tmp_path):
    data = named_files(tmp_path, "x", [1, 2, 3, 2**64 - 1, 5], pa.uint64())
    view = FeatureView("v", Entity("k"), Source(data, "t"), ["x"])
    wanted = (
        r"column 'x' of .* has type uint64 and a value that is out of range, first in row 1 of .*2\.parquet: "
    )
    with pytest.raises(InputError, match=wanted):
        STORE.offline.compute(view)
    labels = pa.table({"k": ["a"], "at": [START + timedelta(days=1)]})
    with pytest.raises(InputError, match=wanted):
        STORE.get_training_features(DatasetConfig(Source(labels, "at"), [view]))


def test_a_row_without_an_event_time_is_named_with_file_and_row(tmp_path):
    times = [*hours(4).to_pylist(), None]
    data = named_files(tmp_path, "t", times, AT)
    view = FeatureView("v", Entity("k"), Source(data, "t"), ["x"])
    with pytest.raises(
        InputError, match=r"column 't' of .* is null in 1 of 5 rows, first in row 2 of .*2\.parquet;"
    ):
        STORE.offline.compute(view)
    # Statistics say how many are null; a file without them is read.
    for name in ("1.parquet", "2.parquet"):
        table = pq.read_table(tmp_path / name)
        pq.write_table(table, tmp_path / name, write_statistics=False)
    with pytest.raises(InputError, match=r"first in row 2 of .*2\.parquet;"):
        STORE.offline.compute(view)
    memory = pa.table({"k": ["a"] * 5, "t": pa.array(times, AT), "x": [1.0] * 5})
    with pytest.raises(InputError, match="is null in 1 of 5 rows, first in row 4; a row needs an event time"):
        STORE.offline.compute(FeatureView("v", Entity("k"), Source(memory, "t"), ["x"]))
