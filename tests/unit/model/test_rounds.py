"""Early stopping and wrapper parameters: one model gives one answer, as an object and as a file."""

import pickle

import numpy as np
import pytest

from engine.errors import ConfigError, UnsupportedModelError
from engine.model import dense, inspect, load_model

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(600, 5))
TARGET = ROWS[:, 0] * 2 + ROWS[:, 1] * ROWS[:, 2] + RNG.normal(size=600)
CLASSES = np.digitize(TARGET, [-1, 1])


@pytest.mark.parametrize("suffix", ["json", "ubj"])
@pytest.mark.parametrize("kind", ["binary", "multi", "parallel"])
def test_xgboost_stopped_early(tmp_path, suffix, kind):
    xgboost = pytest.importorskip("xgboost")
    labels = CLASSES if kind == "multi" else (TARGET > 0).astype(int)
    more = {"num_parallel_tree": 3} if kind == "parallel" else {}
    fitted = xgboost.XGBClassifier(
        n_estimators=100, max_depth=6, learning_rate=0.5, early_stopping_rounds=4, **more
    ).fit(ROWS[:400], labels[:400], eval_set=[(ROWS[400:], labels[400:])], verbose=False)
    path = tmp_path / f"model.{suffix}"
    fitted.save_model(path)
    wanted = fitted.predict_proba(ROWS)
    wanted = wanted if kind == "multi" else wanted[:, 1]
    total, best = fitted.get_booster().num_boosted_rounds(), fitted.best_iteration
    assert best + 1 < total
    a_round = {"binary": 1, "multi": 3, "parallel": 3}[kind]
    for source in (fitted, fitted.get_booster(), path):
        model = load_model(source)
        np.testing.assert_allclose(model.predict(ROWS), wanted, rtol=1e-5, atol=1e-6)
        about = model.describe()
        assert (about["trees_used"], about["trees_total"], about["best_iteration"]) == (
            (best + 1) * a_round,
            total * a_round,
            best,
        )
    facts = inspect(path)
    assert (facts.trees_used, facts.trees_total, facts.best_iteration) == (
        (best + 1) * a_round,
        total * a_round,
        best,
    )
    assert f"best iteration, {best}" in str(facts)
    for asked in ((0, 0), (0, 2), (1, 3)):
        wanted = fitted.get_booster().predict(xgboost.DMatrix(ROWS), iteration_range=asked)
        found = load_model(path, iteration_range=asked).predict(ROWS)
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    assert (
        load_model(path, num_trees=2).predict(ROWS).tolist()
        == load_model(path, iteration_range=(0, 2)).predict(ROWS).tolist()
    )
    with pytest.raises(ConfigError, match=rf"rounds within 0 to {total}, got 0 to {total + 1}"):
        load_model(path, num_trees=total + 1)


def test_lightgbm_stopped_early(tmp_path):
    lightgbm = pytest.importorskip("lightgbm")
    fitted = lightgbm.LGBMClassifier(n_estimators=12, verbose=-1).fit(ROWS, CLASSES)
    rounds, best = 12, 4
    fitted.booster_.best_iteration = best + 1  # as training that stopped early leaves it
    path = tmp_path / "model.txt"
    fitted.booster_.save_model(path)
    for source in (fitted, fitted.booster_, path):
        np.testing.assert_allclose(
            load_model(source).predict(ROWS), fitted.booster_.predict(ROWS), rtol=1e-12
        )
    assert load_model(fitted).digest == load_model(path).digest
    about = load_model(fitted).describe()
    assert (about["trees_used"], about["trees_total"], about["best_iteration"]) == (
        3 * best + 3,
        3 * rounds,
        best,
    )
    about = load_model(path).describe()
    assert (about["trees_used"], about["trees_total"], about["best_iteration"]) == (
        3 * best + 3,
        3 * best + 3,
        None,
    )
    for first, end in ((0, 2), (1, 3), (0, rounds)):
        wanted = fitted.predict_proba(ROWS, start_iteration=first, num_iteration=end - first)
        np.testing.assert_allclose(
            load_model(fitted, iteration_range=(first, end)).predict(ROWS), wanted, rtol=1e-12
        )


def test_rounds_of_an_averaged_lightgbm_and_of_catboost():
    lightgbm, catboost = pytest.importorskip("lightgbm"), pytest.importorskip("catboost")
    forest = lightgbm.LGBMRegressor(
        n_estimators=9, boosting_type="rf", subsample=0.5, subsample_freq=1, verbose=-1
    ).fit(ROWS, TARGET)
    np.testing.assert_allclose(
        load_model(forest, num_trees=4).predict(ROWS), forest.predict(ROWS, num_iteration=4), rtol=1e-12
    )
    boosted = catboost.CatBoostRegressor(iterations=12, verbose=False, allow_writing_files=False).fit(
        ROWS, TARGET
    )
    for first, end in ((0, 5), (3, 7), (0, 12)):
        np.testing.assert_allclose(
            load_model(boosted, iteration_range=(first, end)).predict(ROWS),
            boosted.predict(ROWS, ntree_start=first, ntree_end=end),
            rtol=1e-12,
            atol=1e-12,
        )


def test_rounds_are_for_boosted_models():
    model = dense([np.ones((2, 1))], [np.zeros(1)])
    with pytest.raises(ConfigError, match="is for a boosted model"):
        load_model(model, num_trees=1)
    forest = pytest.importorskip("sklearn.ensemble").RandomForestRegressor(2).fit(ROWS, TARGET)
    with pytest.raises(ConfigError, match="LightGBM, XGBoost and CatBoost"):
        load_model(forest, num_trees=1)
    for options in (
        {"num_trees": 0},
        {"iteration_range": (0, 1, 2)},
        {"iteration_range": (-1, 2)},
        {"num_trees": 1, "iteration_range": (0, 1)},
    ):
        with pytest.raises(ConfigError):
            load_model(forest, **options)


@pytest.mark.parametrize("missing", [-999.0, 0.0, float("inf"), 0.1])
@pytest.mark.parametrize("booster", ["gbtree", "gblinear"])
def test_the_missing_number_of_xgboosts_wrappers(tmp_path, missing, booster):
    xgboost = pytest.importorskip("xgboost")
    rows = np.where(RNG.random(ROWS.shape) < 0.2, missing, ROWS)
    rows[5, 2] = np.nan
    if booster == "gblinear" and missing == 0.1:
        pytest.skip("a linear model cannot tell 0.1 from its neighbours in this test")
    fitted = xgboost.XGBRegressor(n_estimators=15, missing=missing, booster=booster).fit(rows, TARGET)
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(fitted))
    for source in (fitted, path):
        model = load_model(source, trust=True)
        np.testing.assert_allclose(model.predict(rows), fitted.predict(rows), rtol=1e-5, atol=1e-5)
        assert model.describe()["missing"] == missing
        assert model.predict(rows).tolist() == [float(model.predict(row[None])[0]) for row in rows]
        assert model.predict(rows, threads=3).tolist() == model.predict(rows).tolist()
    assert load_model(fitted).digest != load_model(fitted.get_booster()).digest
    assert "missing" not in load_model(fitted.get_booster()).describe()


def test_the_missing_number_in_wide_rows_and_in_an_engine():
    xgboost = pytest.importorskip("xgboost")
    from engine import Engine

    rows = np.where(RNG.random((300, 80)) < 0.2, -1.0, RNG.normal(size=(300, 80)))
    fitted = xgboost.XGBRegressor(n_estimators=5, missing=-1).fit(rows, rows[:, 0])
    wanted = fitted.predict(rows)
    np.testing.assert_allclose(load_model(fitted).predict(rows), wanted, rtol=1e-5, atol=1e-5)
    with Engine(load_model(fitted), default=-1.0, deadline_ms=2_000) as engine:
        np.testing.assert_allclose(np.ravel(engine.predict_many(rows).values), wanted, rtol=1e-5, atol=1e-5)


def test_a_classifier_under_multi_softmax_gives_probabilities():
    xgboost = pytest.importorskip("xgboost")
    fitted = xgboost.XGBClassifier(n_estimators=3, objective="multi:softmax").fit(ROWS, CLASSES)
    np.testing.assert_allclose(load_model(fitted).predict(ROWS), fitted.predict_proba(ROWS), rtol=1e-5)
    wanted = fitted.get_booster().predict(xgboost.DMatrix(ROWS))
    assert load_model(fitted.get_booster()).predict(ROWS).tolist() == wanted.tolist()


def test_a_lightgbm_wrapper_that_stops_within_a_row_is_refused():
    lightgbm = pytest.importorskip("lightgbm")
    fitted = lightgbm.LGBMClassifier(n_estimators=3, verbose=-1, pred_early_stop=True).fit(ROWS, TARGET > 0)
    with pytest.raises(UnsupportedModelError, match=r"set_params\(pred_early_stop=False\)"):
        load_model(fitted)
    load_model(fitted.set_params(pred_early_stop=False))
