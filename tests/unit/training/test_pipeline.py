"""Training: the split, the registered version, and runs that resume to the same bits."""

import json
import os
import signal

import numpy as np
import pyarrow as pa
import pytest

from engine import transform as t
from engine.errors import ConfigError, RegistryError, TrainingError
from engine.registry import ModelRegistry
from engine.training import Fitted, LightGBM, TrainingInterrupted, TrainingPipeline, XGBoost
from engine.training.checkpoints import Checkpoints
from engine.training.dataset import by_time, digest_of, features_of
from engine.training.evaluate import agreement, auc, measured


class View:
    name, version, keys = "flights", "f" * 64, ("plane",)


class Config:
    """The part of a DatasetConfig that the pipeline reads."""

    label, views = "late", (View,)

    class labels:
        event_time = "at"


class Store:
    """A feature store of one table."""

    def __init__(self, table):
        self.table = table

    def get_training_features(self, dataset_config):
        return self.table


def flights(n=400, seed=5):
    """Flights an hour apart. Those over 500 miles are late; one in ten is the other way around."""
    rng = np.random.default_rng(seed)
    distance = rng.uniform(0, 1000, n)
    late = (distance > 500) ^ (rng.random(n) < 0.1)
    at = np.datetime64("2013-01-01") + np.arange(n).astype("timedelta64[h]")
    table = pa.table(
        {
            "plane": [f"N{i}" for i in range(n)],
            "at": pa.array(at.astype("datetime64[us]"), pa.timestamp("us", tz="UTC")),
            "late": late.astype(int),
            "distance": distance,
            "carrier": rng.choice(["AA", "UA"], n),
        }
    )
    about = {"digest": "d" * 64, "views": {"flights": "f" * 64}, "missing": {"flights": {"expired": 3}}}
    return table.replace_schema_metadata({"engine.dataset": json.dumps(about)})


@pytest.fixture
def registry(tmp_path):
    return ModelRegistry(tmp_path / "registry", default_name="flight-delay", code=False)


def sampled(**keywords):
    """A learner of four steps, with trees that depend on random choices."""
    return LightGBM(
        20,
        5,
        num_leaves=7,
        min_data_in_leaf=5,
        bagging_fraction=0.6,
        bagging_freq=1,
        feature_fraction=0.5,
        **keywords,
    )


def test_a_dataset_becomes_a_version_with_all_that_serving_needs(registry):
    run = TrainingPipeline(Store(flights()), registry, learner=sampled()).train(Config)
    assert str(run.version) == "flight-delay@1"
    bundle = registry.resolve(run.version)
    assert bundle.program().input_names == ("distance", "carrier")
    assert bundle.manifest["shape"] == {"n_features": 2, "n_outputs": 1}
    assert bundle.metrics == run.metrics
    assert run.metrics["auc"] > 0.8
    assert run.metrics["fallback_auc"] > 0.8
    golden = bundle.golden
    assert len(golden.rows) == 64
    assert golden.mismatch(bundle.primary().predict(golden.rows)) is None
    assert bundle.fallback().native
    assert run.fallback["us_row"] <= run.fallback["budget_us"] == 2.0
    assert run.fallback["agreement"]["correlation"] > 0.9
    assert bundle.lineage["fallback"] == run.fallback
    table = flights()
    assert bundle.default == pytest.approx(np.mean(table["late"].to_numpy()[:320]))
    dataset = bundle.lineage["dataset"]
    assert (dataset["digest"], dataset["missing"]) == ("d" * 64, {"flights": {"expired": 3}})
    assert (dataset["rows"], dataset["learned_from"], dataset["judged_by"]) == (400, 320, 80)
    assert bundle.lineage["views"] == {"flights": "f" * 64}
    assert bundle.lineage["config"]["learner"]["parameters"]["num_leaves"] == 7
    assert bundle.lineage["environment"]["packages"]["lightgbm"]
    assert bundle.lineage["run"] == run.run
    assert not (registry.path / "training").exists()


def test_the_same_dataset_and_settings_give_the_same_version(registry):
    made = [TrainingPipeline(Store(flights()), registry, learner=sampled()) for _ in range(2)]
    first, second = (pipeline.train(Config) for pipeline in made)
    assert (first.run, first.version, first.fallback) == (second.run, second.version, second.fallback)
    assert (first.resumed_step, second.resumed_step) == (0, 4)
    other = TrainingPipeline(Store(flights()), registry, learner=sampled(seed=99)).train(Config)
    assert other.run != first.run
    assert other.version.number == 2
    hurried = TrainingPipeline(Store(flights()), registry, learner=sampled(), policy={"deadline_ms": 2.0})
    assert hurried.train(Config).version.number == 3


class Dying:
    """A learner that dies before one of its steps, by an exception that nothing catches."""

    def __init__(self, learner, at):
        self.learner, self.at, self.steps = learner, at, learner.steps

    def settings(self):
        return self.learner.settings()

    def step(self, data, index, so_far, stop):
        if index == self.at:
            raise KeyboardInterrupt
        return self.learner.step(data, index, so_far, stop)


@pytest.mark.parametrize("make", [sampled, lambda: XGBoost(12, 3, subsample=0.5, colsample_bytree=0.5)])
@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(tmp_path, make, at):
    whole = ModelRegistry(tmp_path / "whole", code=False)
    straight = TrainingPipeline(Store(flights()), whole, learner=make(), fallback_budget_us=None).train(
        Config
    )
    registry = ModelRegistry(tmp_path / "stopped", code=False)
    stopped = TrainingPipeline(Store(flights()), registry, learner=Dying(make(), at), fallback_budget_us=None)
    with pytest.raises(KeyboardInterrupt):
        stopped.train(Config)
    assert registry.names() == []
    run = TrainingPipeline(Store(flights()), registry, learner=make(), fallback_budget_us=None).train(Config)
    assert (run.resumed_step, run.run) == (at, straight.run)
    assert run.version.digest == straight.version.digest
    assert registry.resolve(run.version).content("primary") == whole.resolve(straight.version).content(
        "primary"
    )


def test_what_was_measured_in_time_is_kept_when_registering_failed(registry, monkeypatch):
    pipeline = TrainingPipeline(Store(flights()), registry, learner=sampled())
    register = registry.register

    def full(*arguments, **keywords):
        raise RegistryError("the disk is full")

    monkeypatch.setattr(registry, "register", full)
    with pytest.raises(RegistryError):
        pipeline.train(Config)
    (kept,) = (registry.path / "training").glob("*/outcome.checkpoint")
    about = json.loads(kept.read_bytes().split(b"\n")[0])["about"]
    monkeypatch.setattr(registry, "register", register)
    run = pipeline.train(Config)
    assert run.resumed_step == 4
    assert run.fallback == about["fallback"]


def test_sigterm_ends_the_run_between_rounds_and_the_next_goes_on(registry):
    before = signal.getsignal(signal.SIGTERM)

    class Signalled(Dying):
        def step(self, data, index, so_far, stop):
            if index == self.at:
                os.kill(os.getpid(), signal.SIGTERM)
            return self.learner.step(data, index, so_far, stop)

    pipeline = TrainingPipeline(
        Store(flights()), registry, learner=Signalled(sampled(), 2), fallback_budget_us=None
    )
    with pytest.raises(TrainingInterrupted, match="run it again to go on"):
        pipeline.train(Config)
    assert signal.getsignal(signal.SIGTERM) is before
    run = TrainingPipeline(Store(flights()), registry, learner=sampled(), fallback_budget_us=None).train(
        Config
    )
    assert run.resumed_step == 2


def test_scikit_learn_and_functions_learn_in_one_step(registry):
    from sklearn.linear_model import LogisticRegression

    spec = [t.number("distance").standardise()]
    run = TrainingPipeline(Store(flights()), registry, learner=LogisticRegression(), spec=spec).train(Config)
    bundle = registry.resolve(run.version)
    assert bundle.manifest["artifacts"]["primary"]["format"] == "skops"
    assert run.metrics["auc"] > 0.8

    def fit(rows, labels):
        return LogisticRegression(C=0.5).fit(rows, labels)

    again = TrainingPipeline(Store(flights()), registry, learner=fit, spec=spec, name="other").train(Config)
    assert str(again.version) == "other@1"

    def broken(rows, labels):
        raise ValueError("no luck")

    with pytest.raises(TrainingError, match="the learner failed: ValueError: no luck"):
        TrainingPipeline(Store(flights()), registry, learner=broken).train(Config)


def test_numbers_are_regressed(registry):
    table = flights()
    table = table.set_column(2, "late", pa.array(table["distance"].to_numpy() * 2))
    run = TrainingPipeline(Store(table), registry, learner="lightgbm").train(Config)
    assert run.metrics["r2"] > 0.9
    assert run.metrics["fallback_r2"] > 0.9
    assert "auc" not in run.metrics


def small(at, late, **columns):
    columns = columns or {"x": [0.0] * len(at)}
    return pa.table({"at": pa.array(at, pa.timestamp("us")), "late": late, **columns})


def test_a_split_is_in_order_of_time_and_keeps_an_instant_together():
    table = small([5, 1, 4, 4, 2], [50, 10, 40, 41, 20])
    split = by_time(table, "late", "at", 0.4)
    assert split.learn_labels.tolist() == [10, 20]
    assert split.judge_labels.tolist() == [40, 41, 50]
    assert split.learn["late"].to_pylist() == [10, 20]


def test_rows_without_a_label_are_left_out_and_counted():
    split = by_time(small([1, 2, 3, 4], [1.0, None, float("nan"), 0.0]), "late", "at", 0.5)
    assert (split.learn_labels.tolist(), split.judge_labels.tolist(), split.dropped) == ([1], [0], 2)


@pytest.mark.parametrize(
    ("table", "text"),
    [
        (small([], []), "0 rows with a label and a time"),
        (small([1], [1]), "1 rows with a label"),
        (small([1, 1, 1], [1, 0, 1]), "too few instants"),
        (small([1, 2], ["yes", "no"]), "label column 'late' must hold numbers"),
        (pa.table({"at": ["a", "b"], "late": [0, 1]}), "time column 'at' must hold timestamps, got string"),
        (pa.table({"at": [1, 2]}), "no label column 'late'; it has: at"),
        (pa.table({"late": [1, 2]}), "no time column 'at'"),
    ],
)
def test_datasets_that_cannot_be_learned_from(registry, table, text):
    with pytest.raises(TrainingError, match=text):
        TrainingPipeline(Store(table), registry).train(Config)


def test_a_table_without_features_and_a_pipeline_that_knows_no_label(registry):
    with pytest.raises(TrainingError, match="no column to make a feature of"):
        features_of(pa.table({"at": [1], "late": [1]}), ["at", "late"])
    with pytest.raises(TrainingError, match="needs to know the label and time columns"):
        TrainingPipeline(Store(flights()), registry).train(object())
    run = TrainingPipeline(
        Store(flights()), registry, label="late", time="at", fallback_budget_us=None
    ).train(object())
    assert run.version.number == 1


@pytest.mark.parametrize(
    ("keywords", "text"),
    [
        ({"learner": "forest"}, "learner must be one of lightgbm, xgboost"),
        ({"learner": 5}, "a learner must be a scikit-learn estimator"),
        ({"holdout": 0.0}, "holdout must be a number above 0 and below 1, got 0"),
        ({"fallback_budget_us": -1.0}, "fallback_budget_us must be a number above 0"),
        ({"golden_rows": 0}, "golden_rows must be an int from 1 to"),
    ],
)
def test_settings_that_make_no_sense(registry, keywords, text):
    with pytest.raises(ConfigError, match=text):
        TrainingPipeline(Store(flights()), registry, **keywords)


def test_checkpoints_of_another_run_or_damaged_ones_are_not_taken_up(tmp_path):
    saved = Checkpoints(tmp_path, "a" * 64)
    assert saved.load("primary") is None
    saved.save("primary", 3, b"model", {"x": 1})
    found = saved.load("primary")
    assert (found.step, found.payload, found.about) == (3, b"model", {"x": 1})
    assert [path.name for path in saved.folder.iterdir()] == ["primary.checkpoint"]
    other = Checkpoints(tmp_path, "a" * 16 + "b" * 48)  # the folder's name alone is the same
    with pytest.raises(TrainingError, match="of another run"):
        other.load("primary")
    path = saved.folder / "primary.checkpoint"
    for content in (path.read_bytes()[:-1], path.read_bytes()[:-1] + b"L", b"", b"\xff\n"):
        path.write_bytes(content)
        with pytest.raises(TrainingError, match="is damaged"):
            saved.load("primary")
    saved.clear()
    assert not tmp_path.joinpath("a" * 16).exists()


@pytest.mark.parametrize("folder", ["a file", "/proc/engine"])
def test_a_checkpoint_that_cannot_be_read_or_written_is_said(registry, tmp_path, folder):
    (tmp_path / "a file").write_text("in the way")
    pipeline = TrainingPipeline(Store(flights()), registry, learner=sampled(), checkpoints=tmp_path / folder)
    with pytest.raises(TrainingError, match=r"primary.checkpoint cannot be (read|written): "):
        pipeline.train(Config)
    assert registry.names() == []


def test_the_digest_of_a_table_does_not_depend_on_its_chunks():
    table = flights()
    cut = pa.concat_tables([table.slice(0, 7), table.slice(7)])
    assert cut["distance"].num_chunks == 2
    assert digest_of(cut) == digest_of(table)
    assert digest_of(table.slice(1)) != digest_of(table)


def test_figures_by_hand():
    labels = np.array([0.0, 0.0, 1.0, 1.0])
    assert auc(labels, np.array([0.1, 0.4, 0.35, 0.8])) == 0.75
    assert auc(labels, np.array([0.5, 0.5, 0.5, 0.5])) == 0.5
    assert np.isnan(auc(np.ones(3), np.ones(3)))
    found = measured(labels, np.array([0.5, 0.5, 0.5, 0.5]))
    assert found == {"auc": 0.5, "log_loss": pytest.approx(np.log(2)), "brier": 0.25, "base_rate": 0.5}
    assert measured(np.array([1.0, 3.0]), np.array([2.0, 2.0])) == {"rmse": 1.0, "mae": 1.0, "r2": 0.0}
    assert measured(np.array([2.0, 2.0]), np.array([2.0, 2.0])) == {"rmse": 0.0, "mae": 0.0}
    classes = measured(np.array([0.0, 1.0]), np.array([[0.5, 0.5], [0.9, 0.1]]))
    assert classes["accuracy"] == 0.5
    near = agreement(np.array([0.0, 1.0]), np.array([0.0, 0.9]))
    assert near == pytest.approx(
        {"correlation": 1.0, "apart_mean": 0.05, "apart_max": 0.1, "share_near": 0.5}
    )


def test_a_learner_says_what_decides_its_model():
    assert LightGBM(10, 4).steps == 3
    assert LightGBM(10, 4, num_leaves=5).settings()["parameters"] == {"num_leaves": 5}
    assert (
        Fitted(lambda rows, labels: None).settings()["code"]
        != Fitted(lambda rows, labels: rows).settings()["code"]
    )
    with pytest.raises(ConfigError, match="rounds must be an int from 1 to"):
        LightGBM(0)
