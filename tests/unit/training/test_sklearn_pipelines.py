"""scikit-learn Pipelines are trained, registered, served and scored like any other model."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tests.unit.training.test_pipeline import Config, Store, flights

import engine
from engine import transform as t
from engine.registry import ModelRegistry
from engine.scoring import score
from engine.training import TrainingPipeline

SPEC = [t.number("distance"), t.category("carrier").ordinal()]


@pytest.mark.parametrize(
    ("learner", "trust"),
    [
        (make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression()), False),
        (make_pipeline(SimpleImputer(), RandomForestClassifier(5, random_state=1)), True),
    ],
)
def test_a_pipeline_goes_all_the_way(tmp_path, learner, trust):
    registry = ModelRegistry(tmp_path / "registry", default_name="m", code=False, trust=trust)
    pipeline = TrainingPipeline(Store(flights()), registry, learner=learner, spec=SPEC, folds=3)
    run = pipeline.train(Config)
    assert pipeline.train(Config).version == run.version
    assert run.metrics["auc"] > 0.7
    assert run.metrics["cv_auc"] > 0.7
    bundle = registry.resolve(run.version)
    primary = bundle.primary()
    assert (primary.native, bundle.classes) == (True, (0, 1))
    registry.promote("m", run.version)
    with engine.open("m@production", registry=registry) as service:
        answer = service.predict({"distance": 800.0, "carrier": "AA"})
    rows = bundle.program().batch(flights().select(["distance", "carrier"]))
    by_hand = learner.fit(rows[:320].astype(np.float64), flights()["late"].to_numpy()[:320]).predict_proba(
        rows
    )[:, 1]
    np.testing.assert_allclose(primary.predict(rows), by_hand, atol=1e-5)
    assert 0.0 <= answer.value <= 1.0
    pq.write_table(flights().drop_columns(["late"]), tmp_path / "in.parquet")
    assert score(bundle, tmp_path / "in.parquet", tmp_path / "out.parquet").rows == 400
    found = pq.read_table(tmp_path / "out.parquet")["prediction"].to_numpy()
    np.testing.assert_allclose(found, by_hand, atol=1e-5)
