"""From a feature store through training and the registry into a running service with a monitor, on the real parts."""

import numpy as np
import pyarrow as pa
import pytest

from engine.errors import RegistryError
from engine.feature_store import (
    Aggregate,
    DatasetConfig,
    DuckDBOffline,
    Entity,
    FeatureStore,
    FeatureView,
    LMDBOnline,
    Source,
)
from engine.monitor import ModelMonitor
from engine.registry import ModelRegistry
from engine.rollout import open as open_service
from engine.training import LightGBM, TrainingPipeline

HOURS = 24 * 40
START = np.datetime64("2013-01-01T00:00:00", "us")
VIEW_TEMPERATURES = {"EWR": 40.0, "JFK": 60.0}
ROW = {"origin": "JFK", "distance": 1500.0}


def stamps(hours):
    return pa.array(START + (np.asarray(hours) * 3600).astype("timedelta64[s]"), pa.timestamp("us", tz="UTC"))


def weather():
    """Every hour at two airports. The temperature is constant at each, so every look-up is known."""
    origins = list(VIEW_TEMPERATURES)
    table = pa.table(
        {
            "origin": np.repeat(origins, HOURS),
            "time": stamps(np.tile(np.arange(HOURS), 2)),
            "temp": np.repeat(list(VIEW_TEMPERATURES.values()), HOURS),
        }
    )
    means = [Aggregate("mean", "temp", "24h")]
    return FeatureView("weather", Entity("origin"), Source(table, event_time="time"), ["temp"], means)


def config(view, n=2000):
    """Flights that are late if they go far from JFK; only the temperature tells JFK apart."""
    rng = np.random.default_rng(7)
    origin, distance = rng.choice(list(VIEW_TEMPERATURES), n), rng.uniform(100, 2000, n)
    labels = pa.table(
        {
            "origin": origin,
            "at": stamps(np.sort(rng.uniform(0, HOURS, n))),
            "distance": distance,
            "late": ((origin == "JFK") & (distance > 1000)).astype(int),
        }
    )
    return DatasetConfig(Source(labels, event_time="at"), [view], label="late")


@pytest.fixture
def parts(tmp_path):
    view = weather()
    store = FeatureStore(DuckDBOffline(), LMDBOnline(tmp_path / "online"))
    store.materialize(view)
    registry = ModelRegistry(tmp_path / "registry", default_name="flight-delay", code=False)
    return view, store, registry


@pytest.mark.slow
def test_the_loop(parts):
    view, store, registry = parts
    dataset = config(view)
    run = TrainingPipeline(store, registry, learner=LightGBM(30)).train(dataset)
    bundle = registry.resolve(run.version)
    assert run.metrics["auc"] > 0.99
    assert bundle.program().input_names == ("distance", "weather__temp", "weather__temp_mean_24h")
    assert bundle.lineage["views"] == {"weather": view.version}
    assert bundle.lineage["dataset"]["digest"] == store.dataset_digest(dataset)
    assert bundle.lineage["without_reference"] is None
    registry.promote("flight-delay", run.version)
    monitor = ModelMonitor()
    options = {"registry": registry, "store": store, "views": [view], "monitor": monitor, "poll_ms": None}
    try:
        with open_service("flight-delay@production", deadline_ms=1000.0, **options) as service:
            answer = service.predict(ROW)
            assert answer.value > 0.5
            assert (answer.version, answer.missing_features) == ("flight-delay@1", ())
            assert service.predict({**ROW, "origin": "EWR"}).value < 0.5
            assert service.predict({**ROW, "origin": "LGA"}).missing_features == (
                "weather__temp",
                "weather__temp_mean_24h",
            )
            assert (
                monitor.reference.to_json() == type(monitor.reference).from_json(bundle.reference).to_json()
            )
            # Another policy: an engine of its own, shown to the same monitor.
            again = TrainingPipeline(store, registry, learner=LightGBM(30), policy={"deadline_ms": 500.0})
            registry.promote("flight-delay", again.train(dataset).version)
            service.follow()
            assert service.predict(ROW).version == "flight-delay@2"
            service.rollback()
            assert service.predict(ROW).version == "flight-delay@1"
    finally:
        monitor.close()


@pytest.mark.slow
def test_a_view_that_was_redefined_is_not_served(parts):
    view, store, registry = parts
    run = TrainingPipeline(store, registry, learner=LightGBM(5), fallback_budget_us=None).train(config(view))
    other = FeatureView("weather", view.entities, view.source, view.columns, view.aggregates, ttl="1h")
    with pytest.raises(RegistryError, match=r"was trained on version .* of feature view 'weather'"):
        open_service(str(run.version), registry=registry, store=store, views=[other])
