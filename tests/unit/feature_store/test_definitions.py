"""Definitions: names, windows and versions, and the errors of definitions that make no sense."""

from datetime import timedelta

import pyarrow as pa
import pytest

from engine.errors import ConfigError, InputError
from engine.feature_store import Aggregate, DatasetConfig, Entity, FeatureView, Source

SOURCE = Source("flights/*.parquet", "t", created_time="made")
PLANE = Entity("plane", keys="tailnum")


def view(**changes):
    given = {"name": "delays", "entities": PLANE, "source": SOURCE, "columns": ["delay"], **changes}
    return FeatureView(**given)


@pytest.mark.parametrize(
    "name", ["..", "../up", "a/b", "a.b", "", " a", "9a", "a__b", "a b", "a" * 65, "a\n", None, 7]
)
def test_names_that_could_be_paths_or_anything_else_are_refused(name):
    with pytest.raises(ConfigError, match="the name of a feature view: expected letters, digits"):
        view(name=name)
    with pytest.raises(ConfigError, match="the name of an entity"):
        Entity(name)


def test_an_entity_is_its_own_key_unless_it_names_others():
    assert Entity("origin").keys == ("origin",)
    assert Entity("route", keys=["origin", "dest"]).keys == ("origin", "dest")
    with pytest.raises(ConfigError, match="a name stands there twice: a, a"):
        Entity("route", keys=["a", "a"])
    with pytest.raises(ConfigError, match="needs at least one key"):
        Entity("route", keys=[])


def test_features_are_named_after_view_and_column():
    made = view(columns=["delay", "distance"], aggregates=[Aggregate("mean", "delay", "24h")])
    assert made.columns_out == ("delay", "distance", "delay_mean_24h")
    assert made.feature_names == ("delays__delay", "delays__distance", "delays__delay_mean_24h")
    assert made.keys == ("tailnum",)
    assert made.window_ns_max == 24 * 3600 * 10**9


def test_windows_are_texts_or_timedeltas():
    assert Aggregate("sum", "x", "7d").window_ns == 7 * 86400 * 10**9
    assert Aggregate("sum", "x", timedelta(minutes=90)).window_ns == 5400 * 10**9
    assert Aggregate("sum", "x", timedelta(minutes=90)).name == "x_sum_5400s"
    for window in ("24", "h", "-1h", "1w", 5, timedelta(0), "0h", None):
        with pytest.raises(InputError, match="aggregate sum of 'x', window: expected a time"):
            Aggregate("sum", "x", window)
    with pytest.raises(
        ConfigError,
        match="one of count, sum, mean, min, max, distinct, first, last, std, quantile, got 'median'",
    ):
        Aggregate("median", "x", "1h")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"columns": []}, "needs at least one column or aggregate"),
        ({"columns": ["a", "a"]}, "a name stands there twice"),
        (
            {"columns": ["delay_sum_1h"], "aggregates": [Aggregate("sum", "delay", "1h")]},
            "stands there twice",
        ),
        ({"entities": []}, "expected at least one Entity"),
        ({"entities": ["plane"]}, "expected at least one Entity"),
        ({"entities": [PLANE, PLANE]}, "a name stands there twice"),
        ({"entities": 5}, "expected at least one Entity, got 5"),
        ({"columns": 5}, "columns: expected names of columns, got 5"),
        ({"columns": ["a", ""]}, "columns: expected names of columns"),
        ({"aggregates": 5}, "expected aggregates as Aggregate"),
        ({"source": "flights.parquet"}, "expected a Source, got str"),
        ({"aggregates": ["mean"]}, r"expected aggregates as Aggregate\(function, column, window\), got"),
        ({"columns": [f"c{i}" for i in range(1001)]}, "1,000 features at most, got 1,001"),
    ],
)
def test_definitions_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        view(**changes)


def test_a_version_is_a_digest_of_what_decides_the_features():
    version = view().version
    assert len(version) == 64
    assert version == view().version
    assert version == view(source=Source("elsewhere/flights/*.parquet", "t", created_time="made")).version
    for changes in (
        {"name": "other"},
        {"columns": ["delay", "distance"]},
        {"columns": ["distance"]},
        {"ttl": "1h"},
        {"aggregates": [Aggregate("mean", "delay", "24h")]},
        {"source": Source("flights/*.parquet", "t")},
        {"source": Source("flights/*.parquet", "t", created_time="made", naive="utc")},
        {"entities": Entity("plane")},
    ):
        assert view(**changes).version != version


def test_a_source_says_what_a_missing_zone_means():
    with pytest.raises(ConfigError, match="naive must be one of refuse, utc, got 'local'"):
        Source("x", "t", naive="local")
    with pytest.raises(ConfigError, match="source, event_time: expected the name of a column, got None"):
        Source("x", None)


def test_a_dataset_asks_for_features_that_there_are():
    labels = Source(pa.table({"tailnum": ["N1"], "t": pa.array([0], pa.timestamp("us", "UTC"))}), "t")
    config = DatasetConfig(labels, view(columns=["a", "b"]), features=["delays__b"])
    assert config.feature_names == ("delays__b",)
    with pytest.raises(ConfigError, match="no view has feature 'delays__c'; there are: delays__a, delays__b"):
        DatasetConfig(labels, view(columns=["a", "b"]), features=["delays__c"])
    with pytest.raises(ConfigError, match="views: a name stands there twice: delays, delays"):
        DatasetConfig(labels, [view(), view()])
    with pytest.raises(ConfigError, match="at least one FeatureView"):
        DatasetConfig(labels, [])
    with pytest.raises(ConfigError, match="labels: expected Source"):
        DatasetConfig("labels.parquet", view())
    with pytest.raises(InputError, match="the range is empty"):
        DatasetConfig(labels, view(), start_time="2013-02-01T00:00Z", end_time="2013-02-01T00:00Z")
