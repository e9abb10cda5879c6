"""One run is one version: in other registries, beside other processes, and with an estimator that needs trust."""

import os
import threading
import time

import numpy as np
import pytest
from tests.unit.training.test_labels import Store, logistic, table_of

from engine.errors import ConfigError, RegistryError
from engine.registry import ModelRegistry
from engine.training import Fitted, LightGBM, TrainingPipeline
from engine.training import distill as distilling
from engine.training.checkpoints import ABANDONED_S, Checkpoints
from engine.training.learners import Rows


def pipeline(path, learner=None, *, trust=False, **keywords):
    registry = ModelRegistry(path, code=False, trust=trust)
    return TrainingPipeline(
        Store(table_of([0, 1])),
        registry,
        learner=LightGBM(20, 5) if learner is None else learner,
        label="y",
        time="at",
        **keywords,
    )


def test_a_run_in_two_registries_has_one_digest(tmp_path, monkeypatch):
    first = pipeline(tmp_path / "one").train(object())
    slow = iter([50.0, 40.0, 1.5, 9.0])
    monkeypatch.setattr(distilling, "measured_us_row", lambda model, rows: next(slow))
    second = pipeline(tmp_path / "two").train(object())
    assert second.fallback["us_row"] == 1.5
    assert (first.run, first.version.digest) == (second.run, second.version.digest)
    assert first.fallback["trees"] == second.fallback["trees"] == 100
    assert first.metrics == second.metrics


def test_a_fallback_that_is_always_too_slow_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(distilling, "measured_us_row", lambda model, rows: 9.0)
    assert pipeline(tmp_path / "one").train(object()).fallback is None


def test_three_trainings_at_once_register_one_version(tmp_path):
    runs, trained = [], []

    class Counted(LightGBM):
        def step(self, data, index, so_far, stop):
            trained.append(index)
            time.sleep(0.02)
            return super().step(data, index, so_far, stop)

    def train():
        runs.append(pipeline(tmp_path / "registry", Counted(20, 5)).train(object()))

    threads = [threading.Thread(target=train) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [run.version.number for run in runs] == [1, 1, 1]
    assert len({run.version.digest for run in runs}) == 1
    assert trained == [0, 1, 2, 3]
    assert not (tmp_path / "registry" / "training").exists()


def test_abandoned_checkpoints_are_collected_and_others_stay(tmp_path):
    old, young = Checkpoints(tmp_path, "a" * 64), Checkpoints(tmp_path, "b" * 64)
    for saved in (old, young):
        saved.save("primary", 1, b"model")
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (tmp_path / ("d" * 16)).mkdir()
    (tmp_path / ("d" * 16) / "notes.txt").write_text("keep")
    past = time.time() - ABANDONED_S - 60
    for path in (old.folder / "primary.checkpoint", old.folder, foreign, tmp_path / ("d" * 16) / "notes.txt"):
        os.utime(path, (past, past))
    os.utime(tmp_path / ("d" * 16), (past, past))
    with Checkpoints(tmp_path, "c" * 64).held(lambda: None):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b" * 16, "d" * 16, "mine"]


def forest():
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(5, random_state=0)


def test_trust_is_said_once(tmp_path):
    run = pipeline(tmp_path / "one", forest(), trust=True, fallback_budget_us=None).train(object())
    assert run.metrics["auc"] > 0.9
    both = pipeline(tmp_path / "two", Fitted(forest(), trust=True), trust=True, fallback_budget_us=None)
    assert both.train(object()).version.digest == run.version.digest


def test_a_model_that_the_registry_refuses_is_refused_before_the_fit(tmp_path, monkeypatch):
    from sklearn.ensemble import RandomForestClassifier

    fitted = []
    fit = RandomForestClassifier.fit

    def counted(self, rows, *others, **keywords):
        fitted.append(len(rows))
        return fit(self, rows, *others, **keywords)

    monkeypatch.setattr(RandomForestClassifier, "fit", counted)
    with pytest.raises(RegistryError, match=r"ModelRegistry\(…, trust=True\)"):
        pipeline(tmp_path / "one", forest()).train(object())
    assert max(fitted, default=0) <= 48
    with pytest.raises(RegistryError, match=r"leave out Fitted\(…, trust=False\)"):
        pipeline(tmp_path / "one", Fitted(forest(), trust=False), trust=True).train(object())
    with pytest.raises(ConfigError, match=r"open it with ModelRegistry\(…, trust=True\) too"):
        pipeline(tmp_path / "one", Fitted(forest(), trust=True))


def test_a_learner_without_weights_is_refused_before_the_fit(tmp_path):
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from engine.errors import TrainingError

    table = table_of([0, 1], w=np.ones(600))
    registry = ModelRegistry(tmp_path / "registry", code=False, trust=True)

    def train(learner):
        given = TrainingPipeline(
            Store(table), registry, learner=learner, label="y", time="at", weight="w", fallback_budget_us=None
        )
        return given.train(object())

    with pytest.raises(TrainingError, match=r"KNeighborsClassifier.fit has no sample_weight"):
        train(KNeighborsClassifier())
    with pytest.raises(TrainingError, match="give its function a third parameter, weights"):
        train(lambda rows, labels: logistic().fit(rows, labels))
    own = train(lambda rows, labels, weights: logistic().fit(rows, labels, sample_weight=weights))
    assert own.metrics["auc"] > 0.9
    weights = Fitted(make_pipeline(StandardScaler(), logistic()))._weights(
        Rows(None, None, (), weights=np.ones(2))
    )
    assert list(weights) == ["logisticregression__sample_weight"]
