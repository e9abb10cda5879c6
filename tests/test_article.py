"""The article's five listings on the real parts: DuckDB, a Redis server, LightGBM, the registry's folder, the monitor.

Names and positions of arguments are the article's. One test each (two where Redis comes in), by rows small enough to
work out by hand, and one that chains all five on real flights.
"""

from __future__ import annotations

import shutil
import threading
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from tests.servers import RedisServer

import engine
from engine import transform as t

pa = pytest.importorskip("pyarrow")
pytest.importorskip("duckdb")
pytest.importorskip("redis")
pytest.importorskip("scipy")
lightgbm = pytest.importorskip("lightgbm")

from engine.feature_store import (  # noqa: E402
    Aggregate,
    DatasetConfig,
    DuckDBOffline,
    Entity,
    FeatureStore,
    FeatureView,
    RedisOnline,
    Source,
)
from engine.monitor import Reference  # noqa: E402
from engine.training import LightGBM  # noqa: E402

# Long enough that no busy machine makes an answer late. A test in which time must run out sets its own.
FAR_MS = 60_000.0
BEGIN = datetime(2013, 1, 1, tzinfo=UTC)


def hours(*after: float) -> list[datetime]:
    return [BEGIN + timedelta(hours=each) for each in after]


@pytest.fixture
def store(redis_url):
    made = FeatureStore(offline_store=DuckDBOffline(threads=1), online_store=RedisOnline(redis_url))
    yield made
    made.online.close()


@pytest.fixture
def own_redis(tmp_path):
    """A Redis server of this test alone, which the test stops."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    server = RedisServer(tmp_path)
    yield server
    server.stop()


@pytest.fixture
def model_registry(tmp_path):
    return engine.ModelRegistry(tmp_path / "registry", default_name="flight-delay", code=False)


def delays() -> FeatureView:
    """N1 was 5 minutes late at 0:00 and 25 at 2:00; N2 was on time at 1:00."""
    events = pa.table({"tailnum": ["N1", "N1", "N2"], "time": hours(0, 2, 1), "delay": [5.0, 25.0, 0.0]})
    source = Source(events, event_time="time")
    return FeatureView(
        "plane", Entity("plane", keys="tailnum"), source, ["delay"], [Aggregate("mean", "delay", "24h")]
    )


def doubling() -> engine.Model:
    """A model that answers twice its one feature."""
    return engine.load_model(lambda rows: 2.0 * rows[:, 0], n_features=1)


def stump(below: float, above: float) -> lightgbm.Booster:
    """A tree on one feature, with the answers `below` for 0 and `above` for 1."""
    rows = np.repeat([[0.0], [1.0]], 50, axis=0)
    given = {
        "objective": "regression",
        "learning_rate": 1.0,
        "num_leaves": 2,
        "verbosity": -1,
        "num_threads": 1,
    }
    return lightgbm.train(given, lightgbm.Dataset(rows, np.repeat([below, above], 50)), num_boost_round=1)


@pytest.mark.slow
def test_listing_1_a_pipeline_trains_from_a_dataset_config_and_registers(store, model_registry):
    n = 400
    at = hours(*range(n))
    distance = np.arange(n) * 7 % 10.0
    flown = pa.table({"tailnum": ["N1"] * n, "time": at, "distance": distance})
    labels = pa.table({"tailnum": ["N1"] * n, "at": at, "late": (distance > 5).astype(int)})
    view = FeatureView("flown", Entity("plane", "tailnum"), Source(flown, event_time="time"), ["distance"])
    dataset_config = DatasetConfig(Source(labels, event_time="at"), [view], label="late")

    pipeline = engine.TrainingPipeline(feature_store=store, model_registry=model_registry)
    run = pipeline.train(dataset_config)

    assert run.metrics["auc"] == 1.0
    assert model_registry.versions("flight-delay") == [run.version]
    bundle = model_registry.resolve(run.version)
    assert bundle.lineage["dataset"]["digest"] == dataset_config.digest
    assert bundle.lineage["dataset"]["learned_from"] == 320
    assert bundle.lineage["views"] == {"flown": view.version}
    assert bundle.fallback().native
    # By position too; the pipeline finds a registered run again.
    assert engine.TrainingPipeline(store, model_registry).train(dataset_config).version == run.version


def test_listing_2_one_definition_gives_training_rows_and_online_rows(store):
    feature_definition = delays()
    start_time, end_time = BEGIN, BEGIN + timedelta(days=1)
    written = store.materialize(feature_definition, start_time, end_time)
    assert (written.rows, written.written) == (2, 2)
    # The steps of materialize; a repetition changes nothing.
    features = store.offline.compute(feature_definition, start_time, end_time)
    assert features.table["plane__delay_mean_24h"].to_pylist() == [15.0, 0.0]
    again = store.online.upsert(features)
    assert (again.written, again.same) == (0, 2)
    # An older range never overwrites newer rows.
    older = store.materialize(
        feature_definition=feature_definition, start_time=start_time, end_time=hours(1)[0]
    )
    assert (older.written, older.older) == (0, 1)

    labels = pa.table({"tailnum": ["N1", "N3", "N1"], "at": hours(3, 3, 0), "late": [1, 0, 0]})
    table = store.get_training_features(DatasetConfig(Source(labels, event_time="at"), feature_definition))
    assert table["late"].to_pylist() == [1, 0, 0]
    assert table["plane__delay"].to_pylist() == [25.0, None, 5.0]
    assert table["plane__delay_mean_24h"].to_pylist() == [15.0, None, 5.0]

    program = t.FeatureProgram.fit([t.number("plane__delay").impute(0.0)], table)
    online = store.online_features(program, [feature_definition])
    row, missing = online.fetch({"tailnum": "N1"}, deadline_ns=2**62)
    assert (row["plane__delay"], missing) == (25.0, ())
    online.close()


def test_listing_3_predict_then_a_simple_fallback_then_a_default():
    go = threading.Event()

    def slow_or_failing(rows):
        if rows[0, 0] == 0.0:
            go.wait(60)
        if rows[0, 0] == 1.0:
            raise RuntimeError("no answer")
        return rows[:, 0]

    primary = engine.load_model(slow_or_failing, n_features=1)
    for on_error, spare in (("fallback", ("fallback", 20.0)), ("default", ("default", -1.0))):
        with engine.Engine(
            primary, stump(10.0, 20.0), default=-1.0, deadline_ms=FAR_MS, on_error=on_error
        ) as served:
            answer = served.predict([7.0])
            assert (answer.source, answer.reason, answer.value) == ("primary", "ok", 7.0)
            failed = served.predict([1.0])
            assert (failed.source, failed.reason) == (spare[0], "primary_error")
            assert failed.value == pytest.approx(spare[1])
            timed_out = served.predict([0.0], deadline_ms=50)
            assert (timed_out.source, timed_out.reason) == ("fallback", "timeout")
            assert timed_out.value == pytest.approx(10.0)
            go.set()
        go.clear()
    # Without a fallback the default answers.
    with engine.Engine(primary, default=lambda: 0.5, deadline_ms=FAR_MS) as served:
        answer = served.predict([1.0])
        assert (answer.source, answer.reason, answer.value) == ("default", "primary_error", 0.5)


def test_listing_3_takes_online_features_from_redis_inside_the_deadline(own_redis):
    view = delays()
    store = FeatureStore(DuckDBOffline(threads=1), RedisOnline(own_redis.url))
    store.materialize(view, BEGIN, BEGIN + timedelta(days=1))
    program = t.FeatureProgram.fit([t.number("plane__delay").impute(-3.0)], {"plane__delay": [1.0]})
    features = store.online_features(program, [view])
    with engine.Engine(
        doubling(), stump(0.0, 1.0), default=0.5, features=features, deadline_ms=FAR_MS
    ) as served:
        found = served.predict({"tailnum": "N1"})
        assert (found.value, found.source, found.missing_features) == (50.0, "primary", ())
        unknown = served.predict({"tailnum": "N3"})
        assert (unknown.value, unknown.source) == (-6.0, "primary")
        assert unknown.missing_features == ("plane__delay",)
        # No time at all: the default, which needs neither Redis nor a model.
        too_late = served.predict({"tailnum": "N1"}, deadline_ms=0)
        assert (too_late.value, too_late.source, too_late.reason) == (0.5, "default", "expired")
        # Without Redis the feature is missing, never the answer.
        own_redis.kill()
        without = served.predict({"tailnum": "N1"})
        assert (without.value, without.source) == (-6.0, "primary")
        assert without.missing_features == ("plane__delay",)
    stats = features.stats()
    assert (stats["found"], stats["not_found"], stats["store_down"]) == (1, 1, 1)
    features.close()


def test_listing_4_register_promote_open_and_roll_back(model_registry):
    first = model_registry.register(stump(1.0, 2.0), metrics={"auc": 0.71})
    second = model_registry.register(stump(3.0, 4.0), metrics={"auc": 0.74})
    assert [str(first), str(second)] == ["flight-delay@1", "flight-delay@2"]
    assert model_registry.resolve(second).metrics == {"auc": 0.74}

    model_registry.promote("flight-delay", first)
    with engine.open(
        "flight-delay@production", registry=model_registry, poll_ms=None, deadline_ms=FAR_MS
    ) as service:
        answer = service.predict([1.0])
        assert (answer.version, answer.source) == ("flight-delay@1", "primary")
        assert answer.value == pytest.approx(2.0)
        model_registry.promote("flight-delay", second)
        service.follow()
        answer = service.predict([1.0])
        assert (answer.version, answer.value) == ("flight-delay@2", pytest.approx(4.0))
        assert model_registry.rollback("flight-delay").number == 1
        service.follow()
        assert service.predict([1.0]).version == "flight-delay@1"
        assert [entry.action for entry in model_registry.history("flight-delay", "production")] == [
            "promote", "promote", "rollback",
        ]  # fmt: skip


def test_listing_5_a_monitor_logs_sees_drift_and_alerts():
    rng = np.random.default_rng(0)
    usual = {"temp": rng.normal(10, 5, 2000), "wind": rng.normal(8, 2, 2000)}
    alerts = []
    with engine.ModelMonitor(
        Reference.fit(usual, outputs=rng.random(2000)), handlers=[alerts.append]
    ) as monitor:
        answer_id = monitor.log_prediction({"temp": 12.5, "wind": 7.0}, 0.3, 1.2)
        again = monitor.log_prediction(
            input_features={"temp": 9.5, "wind": 8.0}, prediction=0.6, latency_ms=0.8
        )
        assert monitor.outcome(answer_id, 1) == monitor.outcome(again, 0) == "joined"

        monitor.input_distribution.update({"temp": rng.normal(10, 5, 500), "wind": rng.normal(8, 2, 500)})
        assert not monitor.input_distribution.drift_detected()
        monitor.input_distribution.update({"temp": rng.normal(25, 5, 500), "wind": rng.normal(8, 2, 500)})
        assert monitor.input_distribution.drift_detected()
        assert monitor.input_distribution.drifted == ("temp",)
        assert not monitor.output_distribution.drift_detected()
        monitor.output_distribution.update(rng.random(500) + 1.0)
        assert monitor.output_distribution.drift_detected()

        monitor.alert("retraining begins", severity="warning")
        monitor.alert("bookings are down", "critical")
        assert [(alert.severity, alert.kind) for alert in alerts] == [
            ("warning", "input_drift"),
            ("critical", "output_drift"),
            ("warning", "message"),
            ("critical", "message"),
        ]


@pytest.fixture(scope="module")
def flights():
    """Flights of January and July with their departure `at` and label, and the hourly weather at three airports."""
    pandas = pytest.importorskip("pandas")
    from engine.demo.flights import LATE_MINUTES, data_folder
    from engine.errors import MissingDependencyError

    try:
        folder = data_folder()
    except MissingDependencyError as error:
        pytest.skip(str(error))
    asked = ["origin", "carrier", "distance", "hour"]
    flown = pandas.read_csv(
        folder / "flights.csv.zip", usecols=[*asked, "month", "minute", "time_hour", "arr_delay"]
    )
    flown = flown[flown["arr_delay"].notna() & flown["month"].isin((1, 7))]
    due = pandas.to_datetime(flown["time_hour"], utc=True) + pandas.to_timedelta(flown["minute"], unit="min")
    flown = flown.assign(at=due, late=(flown["arr_delay"] > LATE_MINUTES).astype(int))
    flown = flown.sort_values("at", kind="stable")[[*asked, "month", "at", "late"]]
    weather = pandas.read_csv(
        folder / "weather.csv", usecols=["origin", "time_hour", "temp", "wind_speed", "visib"]
    )
    weather["time_hour"] = pandas.to_datetime(weather["time_hour"], utc=True)
    return flown, pa.Table.from_pandas(weather, preserve_index=False)


@pytest.mark.slow
def test_the_five_chained_on_real_flights(flights, store, model_registry):
    flown, hourly = flights
    learned, served = (flown[flown["month"] == month].drop(columns="month") for month in (1, 7))

    # Features and a model of January's flights, each with the weather of its scheduled hour.
    weather = FeatureView(
        "weather",
        Entity("airport", keys="origin"),
        Source(hourly, event_time="time_hour"),
        ["temp", "wind_speed", "visib"],
    )
    labels = Source(pa.Table.from_pandas(learned, preserve_index=False), event_time="at")
    dataset_config = DatasetConfig(labels, [weather], label="late")
    # Two weeks are held out. The monitor's reference is made of them, and one week of weather would be too little.
    learner, policy = LightGBM(20, num_leaves=15), {"deadline_ms": FAR_MS}
    pipeline = engine.TrainingPipeline(store, model_registry, learner=learner, holdout=0.5, policy=policy)
    run = pipeline.train(dataset_config)
    # 27,004 flights left in January; 606 of them never arrived.
    assert model_registry.resolve(run.version).lineage["dataset"]["rows"] == len(learned) == 26_398
    assert run.metrics["auc"] > 0.6
    model_registry.promote("flight-delay", run.version)

    # A second, useless version, to be promoted by mistake and rolled back.
    bundle = model_registry.resolve(run.version)
    program = bundle.program()
    n_features = len(program.output_names)
    flat = lightgbm.train(
        {"objective": "binary", "verbosity": -1, "num_threads": 1, "min_data_in_leaf": 1, "num_leaves": 2},
        lightgbm.Dataset(np.arange(200.0 * n_features).reshape(200, n_features), np.arange(200) % 2),
        num_boost_round=1,
    )
    poor = model_registry.register(flat, metrics={"auc": 0.5}, program=program, default=bundle.default)

    alerts = []
    monitor = engine.ModelMonitor(handlers=[alerts.append])
    with engine.open(
        "flight-delay@production",
        registry=model_registry,
        store=store,
        views=[weather],
        monitor=monitor,
        poll_ms=None,
        deadline_ms=FAR_MS,
    ) as service:
        asked = served[["origin", "carrier", "distance", "hour"]].to_dict("records")
        # The online store is empty: every flight gets an answer, and the answer names the missing features.
        before = service.predict(asked[0])
        assert (before.source, set(before.missing_features)) == ("primary", set(weather.feature_names))
        # July, six hours at a time: the weather goes online, then its flights are predicted.
        answered, found = 0, 0
        for begin, part in served.groupby(served["at"].dt.floor("6h")):
            if (begin.month, begin.day) > (7, 14):
                break
            store.materialize(weather, begin - timedelta(days=1), begin)
            requests = part.to_dict("records")
            answers = service.predict_many(requests)
            assert set(answers.sources) == {"primary"}
            assert np.isfinite(answers.values).all()
            answered += len(answers)
            found += sum(not missing for missing in answers.missing_features)
            joined = [
                monitor.outcome(int(number), request["late"])
                for number, request in zip(answers.ids, requests, strict=True)
            ]
            assert joined == ["joined"] * len(requests)
        assert found == answered > 10_000

        # July is warmer than January, and that is one warning.
        assert monitor.input_distribution.drift_detected()
        assert "weather__temp" in monitor.input_distribution.drifted
        warm = [(alert.severity, alert.kind) for alert in alerts if alert.column == "weather__temp"]
        assert warm == [("warning", "input_drift")]

        # The mistake, and one step back: the answers are the same as before, bit for bit.
        good = service.predict(asked[-1])
        model_registry.promote("flight-delay", poor)
        service.follow()
        bad = service.predict(asked[-1])
        assert (bad.version, bad.value != good.value) == (str(poor), True)
        monitor.alert(f"{poor} knows nothing", severity="critical")
        model_registry.rollback("flight-delay")
        service.follow()
        after = service.predict(asked[-1])
        assert (after.version, after.value) == (str(run.version), good.value)
        assert alerts[-1].severity == "critical"
    monitor.close()
