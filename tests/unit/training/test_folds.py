"""Cross-validation: folds by hand, and their metrics in a registered version."""

import os
import signal

import numpy as np
import pyarrow as pa
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression
from tests.unit.training.test_pipeline import Config, Store, flights, sampled

from engine.errors import ConfigError, TrainingError
from engine.registry import ModelRegistry
from engine.training import TrainingInterrupted, TrainingPipeline
from engine.training.folds import folds, summary


def lists(*arguments, **options):
    return [(learn.tolist(), judge.tolist()) for learn, judge in folds(*arguments, **options)]


@pytest.fixture
def registry(tmp_path):
    return ModelRegistry(tmp_path / "registry", default_name="m", code=False)


def test_by_order_each_part_is_judged_by_the_parts_before_it():
    assert lists(7, 2, "order") == [([0, 1], [2, 3]), ([0, 1, 2, 3], [4, 5, 6])]


def test_rows_of_one_instant_come_into_one_part():
    # The first cut would be at row 3, in the middle of instant 1.
    found = lists(9, 2, "time", instants=np.array([0, 0, 1, 1, 1, 2, 2, 3, 3]))
    assert found == [([0, 1], [2, 3, 4]), ([0, 1, 2, 3, 4], [5, 6, 7, 8])]
    with pytest.raises(TrainingError, match="6 rows before the split are too few instants for 2 folds"):
        lists(6, 2, "time", instants=np.array([0, 0, 0, 1, 1, 1]))


def test_groups_are_never_on_both_sides():
    groups = np.array([0, 1, 0, 2, 1, 3])
    assert lists(6, 2, "order", groups=groups) == [([0, 1], [3]), ([0, 1, 2, 3], [5])]
    for learn, judge in folds(60, 5, "random", groups=np.arange(60) // 4):
        assert not set(learn // 4) & set(judge // 4)
    judged = np.concatenate([judge for _, judge in folds(60, 5, "random")])
    assert sorted(judged.tolist()) == list(range(60)), "each row is judged once"


def test_too_many_folds_are_refused():
    with pytest.raises(TrainingError, match="3 groups before the split are too few for 4 folds"):
        lists(9, 4, "random", groups=np.arange(9) // 3)
    with pytest.raises(TrainingError, match="2 rows before the split are too few for 5 folds"):
        lists(2, 5, "order")
    for wrong in (1, 101, 2.5, True):
        with pytest.raises(ConfigError, match="folds must be an int"):
            TrainingPipeline(Store(flights()), None, folds=wrong)


def test_the_summary_is_of_the_metrics_that_every_fold_has():
    assert summary([{"auc": 0.5, "r2": 1.0}, {"auc": 1.0}]) == {"cv_auc": 0.75, "cv_auc_std": 0.125**0.5}


def test_a_version_has_the_metrics_of_its_folds(registry):
    run = TrainingPipeline(Store(flights()), registry, learner=sampled(), folds=4).train(Config)
    assert 0.7 < run.metrics["cv_auc"] < 1.0
    assert 0.0 < run.metrics["cv_auc_std"] < 0.3
    assert registry.resolve(run.version).metrics == run.metrics
    assert registry.resolve(run.version).lineage["config"]["folds"] == 4
    plain = TrainingPipeline(Store(flights()), registry, learner=sampled()).train(Config)
    assert plain.run != run.run
    assert not [name for name in plain.metrics if name.startswith("cv_")]
    assert {name: value for name, value in run.metrics.items() if not name.startswith("cv_")} == plain.metrics


def test_a_line_is_found_by_every_fold(registry):
    """y = 2 x + 1 without noise: each fold has no error, by hand."""
    x = np.arange(40.0)
    table = pa.table({"x": x, "late": 2 * x + 1, "at": pa.array(range(40))})
    pipeline = TrainingPipeline(
        Store(table), registry, learner=LinearRegression(), folds=3, fallback_budget_us=None, golden_rows=2
    )
    run = pipeline.train(Config)
    assert run.metrics["cv_rmse"] < 1e-4
    assert run.metrics["cv_r2"] > 0.999999


def test_classes_that_a_fold_lacks_are_named(registry):
    labels = ["a"] * 20 + ["b"] * 10 + ["c"] * 10
    table = pa.table({"x": np.arange(40.0), "late": labels, "at": pa.array(range(40))})
    pipeline = TrainingPipeline(
        Store(table), registry, learner=LogisticRegression(), folds=3, split="order", fallback_budget_us=None
    )
    with pytest.raises(TrainingError, match=r"fold \d: .*lack some of the|the learner failed"):
        pipeline.train(Config)
    random = TrainingPipeline(
        Store(table), registry, learner=LogisticRegression(), folds=3, split="random", fallback_budget_us=None
    )
    assert 0.5 < random.train(Config).metrics["cv_accuracy"] <= 1.0


def test_a_killed_run_does_no_fold_twice(registry, monkeypatch):
    pipeline = TrainingPipeline(Store(flights()), registry, learner=sampled(), folds=3)
    done = []
    fold = TrainingPipeline._fold

    def counted(self, made, place, *rest):
        if len(done) == 2:
            done.append("killed")
            os.kill(os.getpid(), signal.SIGTERM)
        done.append(place)
        return fold(self, made, place, *rest)

    monkeypatch.setattr(TrainingPipeline, "_fold", counted)
    with pytest.raises(TrainingInterrupted):
        pipeline.train(Config)
    run = pipeline.train(Config)
    assert done == [0, 1, "killed", 2, 2]
    monkeypatch.undo()
    other = ModelRegistry(registry.path.parent / "other", default_name="m", code=False)
    whole = TrainingPipeline(Store(flights()), other, learner=sampled(), folds=3).train(Config)
    assert whole.version.digest == run.version.digest
