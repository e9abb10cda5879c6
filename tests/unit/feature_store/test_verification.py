"""Online against offline: every reason for a difference, made on purpose; the metrics; and the command line."""

import json
import re
import sys
import textwrap
import time
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.cli import main
from engine.errors import ConfigError, InputError, InputTypeError
from engine.feature_store import (
    Aggregate,
    DuckDBOffline,
    Entity,
    FeatureStore,
    FeatureView,
    LMDBOnline,
    RedisOnline,
    Source,
)

START = datetime(2013, 1, 1, tzinfo=UTC)
END = START + timedelta(days=30)
HOUR = timedelta(hours=1)


def view(rows, columns=("x",), **options):
    """Rows of (key, hour, value, created hour)."""
    kinds = {"t": pa.timestamp("us", "UTC"), "made": pa.timestamp("us", "UTC")}
    table = pa.table(
        {
            "k": pa.array([row[0] for row in rows], pa.string()),
            "t": pa.array([START + row[1] * HOUR for row in rows], kinds["t"]),
            "x": pa.array([row[2] for row in rows], pa.float64()),
            "made": pa.array(
                [START + row[3] * HOUR if len(row) > 3 else START for row in rows], kinds["made"]
            ),
            "id": list(range(len(rows))),
        }
    )
    source = Source(table, "t", options.pop("created_time", None), options.pop("event_id", None))
    return FeatureView("v", Entity("k"), source, columns, **options)


@pytest.fixture(params=["lmdb", "redis"])
def store(request, tmp_path):
    online = (
        LMDBOnline(tmp_path / "online")
        if request.param == "lmdb"
        else RedisOnline(request.getfixturevalue("redis_url"), namespace=tmp_path.name)
    )
    return FeatureStore(DuckDBOffline(threads=1), online)


ROWS = [("a", 0, 1.0), ("b", 0, 2.0), ("c", 5, float("nan")), ("d", 7, None)]


def test_what_was_materialised_is_equal(store):
    made = view(ROWS, aggregates=[Aggregate("mean", "x", "24h")])
    store.materialize(made, None, END)
    outcome = store.verify(made)
    assert (outcome.view, outcome.rows, outcome.checked, outcome.equal) == ("v", 4, 4, 4)
    assert (outcome.differing, outcome.examples, outcome.ok) == ({}, (), True)
    # The newest row is of the seventh hour.
    newest = (START + 7 * HOUR).timestamp()
    assert outcome.freshness_s == pytest.approx(time.time() - newest, abs=600)
    assert outcome.lag_s == 0.0


def test_a_row_that_is_not_online_is_missing(store):
    made = view(ROWS)
    outcome = store.verify(made)
    assert (outcome.differing, outcome.ok) == ({"missing": 4}, False)
    assert (outcome.freshness_s, outcome.lag_s) == (None, None)
    store.materialize(made, None, START + HOUR)
    outcome = store.verify(made)
    assert (outcome.equal, outcome.differing, outcome.ok) == (2, {"missing": 2}, False)
    found = {(each.reason, each.keys["k"], each.online_ns) for each in outcome.examples}
    assert found == {("missing", "c", None), ("missing", "d", None)}


def test_rows_that_came_since_are_late(store):
    """A newer row, a correction by created time, and an event that came into a window."""
    store.materialize(view(ROWS), None, END)
    outcome = store.verify(view([*ROWS, ("a", 3, 9.0)]))
    assert (outcome.equal, outcome.differing, outcome.lag_s) == (3, {"late": 1}, 3 * 3600.0)
    [late] = outcome.examples
    start_ns = int(START.timestamp()) * 10**9
    assert (late.keys, late.source_ns, late.online_ns) == ({"k": "a"}, start_ns + 3 * 3600 * 10**9, start_ns)
    summed = {"columns": (), "aggregates": [Aggregate("sum", "x", "24h")]}
    store.materialize(view(ROWS, **summed), None, END)
    outcome = store.verify(view([("b", -2, 5.0), *ROWS], **summed))
    assert (outcome.equal, outcome.differing) == (3, {"late": 1})


def test_a_correction_is_late_until_it_is_materialised(store):
    rows = [("a", 0, 1.0, 1), ("b", 0, 2.0, 1)]
    store.materialize(view(rows, created_time="made"), None, END)
    corrected = view([*rows, ("a", 0, 5.0, 2)], created_time="made")
    assert store.verify(corrected).differing == {"late": 1}
    store.materialize(corrected, None, END)
    assert store.verify(corrected).ok


def test_a_pushed_row_is_ahead(store):
    made = view(ROWS)
    store.materialize(made, None, END)
    store.push(made, {"k": "a", "t": START + 9 * HOUR, "x": 5.0})
    outcome = store.verify(made)
    assert (outcome.differing, outcome.ok) == ({"ahead": 1}, False)


def test_deleted_and_expired_rows_are_served_rightly(store):
    made = view(ROWS, ttl="48h")
    store.materialize(made, None, END)
    store.delete(made, {"k": "a"})
    outcome = store.verify(made)
    assert (outcome.equal, outcome.differing, outcome.ok) == (3, {"deleted": 1}, True)
    # All of these are years old: what is behind, or gone, serves nothing either way.
    store.delete(made, {"k": "b"}, mark=False)
    outcome = store.verify(view([*ROWS, ("c", 8, 1.0)], ttl="48h"))
    assert (outcome.differing, outcome.ok) == ({"deleted": 1, "expired": 2}, True)
    # A row that came after the deletion.
    later = datetime.now(UTC)
    more = view([*ROWS, ("a", (later - START) / HOUR, 3.0)], ttl="48h")
    assert store.verify(more).differing == {"late": 1, "expired": 1}


def test_another_version_and_another_definition_are_told_apart(store):
    store.materialize(view(ROWS), None, END)
    wider = view(ROWS, columns=("x", "id"))
    assert store.verify(wider).differing == {"other_version": 4}
    # The same schema, of another definition: copies of an event count once.
    twice = [("a", 0, 1.0), ("a", 0, 1.0)]
    summed = {"columns": (), "aggregates": [Aggregate("count", "x", "24h")]}
    store.materialize(view(twice, **summed), None, END)
    outcome = store.verify(view(twice[:1], event_id="id", **summed))
    assert (outcome.differing, outcome.ok) == ({"other_definition": 1}, False)


def test_bytes_that_are_no_row_are_foreign(store):
    made = view(ROWS)
    store.materialize(made, None, END)
    key = store.online.prefix("v") + b"a"
    store.online.erase({key: b"somebody else's"}, None, b"{}")
    assert store.verify(made).differing == {"foreign": 1}


def test_a_sample_is_drawn_without_a_row_twice(store):
    made = view([(f"e{i}", 0, float(i)) for i in range(300)])
    store.materialize(made, None, START)
    outcome = store.verify(made, sample=50)
    assert (outcome.rows, outcome.checked, outcome.differing["missing"]) == (300, 50, 50)
    one, two, same = (store.verify(made, 20, seed=seed).examples for seed in (1, 2, 1))
    assert one == same != two
    assert len({each.keys["k"] for each in one}) == len(one) == 3


def test_views_in_a_role_and_windows_of_the_request_are_compared_as_they_are_stored(store):
    made = view(ROWS, aggregates=[Aggregate("count", "x", "24h")], as_of="request")
    store.materialize(made, None, END)
    assert store.verify(made).equal == 4
    assert store.verify(made.with_key_map({"k": "other"}, name="role")).equal == 4


def test_mistakes_are_explained(store):
    with pytest.raises(ConfigError, match="view: expected a FeatureView"):
        store.verify("v")
    with pytest.raises(InputError, match="sample"):
        store.verify(view(ROWS), 0)
    with pytest.raises(InputTypeError, match="sample"):
        store.verify(view(ROWS), 1.5)


def test_the_metrics_are_valid_prometheus_text(store):
    from prometheus_client.parser import text_string_to_metric_families

    made = view(ROWS)
    store.materialize(made, None, START + HOUR)
    families = {
        each.name: each.samples for each in text_string_to_metric_families(store.verify(made).metrics_text())
    }
    assert families["engine_features_checked_rows"][0].value == 4
    by_reason = {each.labels["reason"]: each.value for each in families["engine_features_differing_rows"]}
    assert (by_reason["missing"], by_reason["late"], by_reason["deleted"]) == (2, 0, 0)
    assert families["engine_features_lag_seconds"][0].value == 0
    assert families["engine_features_freshness_seconds"][0].labels == {"view": "v"}


DEFINITIONS = """
    from engine.feature_store import *

    store = FeatureStore(DuckDBOffline({folder!r}, threads=1), {folder!r} + "/online")
    weather = FeatureView("weather", Entity("origin"), Source("weather.parquet", "t"), ["temp"], ttl="900000h")
    plane = FeatureView("plane", Entity("tail"), Source("weather.parquet", "t"), ["seats"])
"""


@pytest.fixture
def definitions(tmp_path):
    times = pa.array([0, 3600], pa.timestamp("s", "UTC"))
    rows = {"origin": ["EWR", "LGA"], "tail": [1, 2], "t": times, "temp": [1.0, 2.0], "seats": [3, 4]}
    pq.write_table(pa.table(rows), tmp_path / "weather.parquet")
    path = tmp_path / "definitions.py"
    path.write_text(textwrap.dedent(DEFINITIONS.format(folder=str(tmp_path))))
    return path


def test_views_are_listed_shown_and_verified(definitions, tmp_path, capsys):
    assert main(["materialize", str(definitions), "weather"]) == 0
    capsys.readouterr()
    assert main(["features", "list", str(definitions)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["VIEW", "KEYS", "FEATURES", "TTL", "VERSION", "ONLINE"]
    assert re.fullmatch(r"weather +origin +1 +3,240,000,000 s +[0-9a-f]{12} +yes", lines[1])
    assert re.fullmatch(r"plane +tail +1 +- +[0-9a-f]{12} +no", lines[2])
    assert main(["features", "show", str(definitions), "weather", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["keys"], shown["features"], shown["online"]) == (["origin"], {"temp": "float"}, "yes")
    assert main(["features", "show", str(definitions), "weather"]) == 0
    assert "features:\n  weather__temp: float\n" in capsys.readouterr().out
    assert main(["features", "verify", str(definitions), "weather"]) == 0
    assert capsys.readouterr().out.startswith("weather: 2 of 2 rows compared: 2 equal\n  newest row ")


def test_verify_exits_1_on_a_mismatch_and_writes_metrics(definitions, tmp_path, capsys):
    assert main(["materialize", str(definitions), "weather", "--end", "1970-01-01T00:30:00Z"]) == 0
    capsys.readouterr()
    metrics = tmp_path / "features.prom"
    assert (
        main(["features", "--json", "verify", str(definitions), "--sample", "10", "--metrics", str(metrics)])
        == 1
    )
    weather, plane = map(json.loads, capsys.readouterr().out.splitlines())
    assert (weather["equal"], weather["differing"], weather["ok"]) == (1, {"missing": 1}, False)
    assert (plane["differing"], plane["ok"]) == ({"missing": 2}, False)
    assert 'engine_features_differing_rows{view="plane",reason="missing"} 2' in metrics.read_text()
    assert main(["features", "verify", str(definitions), "weather"]) == 1
    out = capsys.readouterr().out
    assert "weather: 2 of 2 rows compared: 1 equal, 1 missing\n" in out
    assert "  missing: origin='LGA': source 1970-01-01T01:00:00+00:00, nothing online\n" in out


def test_mistakes_of_the_command_line_are_explained(definitions, capsys, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert main(["features", "verify", str(definitions), "none"]) == 1
    assert "defines no view 'none'; there are: plane, weather" in capsys.readouterr().err
    assert main(["features", "verify", str(definitions), "--sample", "0"]) == 1
    assert "--sample: expected 1 to" in capsys.readouterr().err
