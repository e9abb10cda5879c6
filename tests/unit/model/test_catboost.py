"""CatBoost as people keep it: cbm files, categories, and its many losses, all against catboost's own answers."""

import numpy as np
import pytest

from engine.errors import InputError, ModelFormatError, UnsupportedModelError
from engine.model import inspect, load_model

catboost = pytest.importorskip("catboost")
pandas = pytest.importorskip("pandas")
RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(300, 3))
TARGET = ROWS[:, 0] * 2 + ROWS[:, 1]
QUIET = {"iterations": 8, "verbose": False, "allow_writing_files": False, "thread_count": 1, "random_seed": 0}
MIXED = pandas.DataFrame(
    {"kind": RNG.choice(["red", "green", "blue"], 300), "x": ROWS[:, 0], "n": RNG.integers(0, 4, 300)}
)


def test_a_binary_file_of_numbers_is_read_natively(tmp_path):
    fitted = catboost.CatBoostClassifier(**QUIET).fit(ROWS, TARGET > 0)
    path = tmp_path / "model.cbm"
    fitted.save_model(str(path))
    model = load_model(path)
    assert model.native
    np.testing.assert_allclose(model.predict(ROWS), fitted.predict_proba(ROWS)[:, 1], rtol=1e-12)
    np.testing.assert_allclose(
        load_model(path, num_trees=3).predict(ROWS), fitted.predict_proba(ROWS, ntree_end=3)[:, 1], rtol=1e-12
    )
    with pytest.raises(UnsupportedModelError, match="use load_model"):
        inspect(path)


def test_a_damaged_binary_file_ends_no_process(tmp_path):
    path = tmp_path / "model.cbm"
    path.write_bytes(b"CBM1" + b"\xff" * 40)
    with pytest.raises(ModelFormatError, match=r"model\.cbm"):
        load_model(path)


@pytest.mark.parametrize("kind", ["classifier", "multi", "regressor"])
def test_categories_go_through_catboost(tmp_path, kind):
    y = MIXED["x"] + (MIXED["kind"] == "red") * 2 + MIXED["n"]
    maker = catboost.CatBoostRegressor if kind == "regressor" else catboost.CatBoostClassifier
    target = y if kind == "regressor" else np.digitize(y, [1.5] if kind == "classifier" else [1, 3])
    fitted = maker(**QUIET).fit(MIXED, target, cat_features=["kind", "n"])
    wanted = fitted.predict(MIXED) if kind == "regressor" else fitted.predict_proba(MIXED)
    wanted = wanted[:, 1] if kind == "classifier" else wanted
    path = tmp_path / "model.cbm"
    fitted.save_model(str(path))
    for source in (fitted, path):
        model = load_model(source)
        assert not model.native
        np.testing.assert_allclose(model.predict(MIXED[["n", "x", "kind"]]), wanted, rtol=1e-12)
        np.testing.assert_allclose(model.predict(MIXED.astype({"kind": "category"})), wanted, rtol=1e-12)
        assert (
            model.predict([{"kind": "red", "x": 0.5, "n": 3}]).tolist()
            == model.predict(pandas.DataFrame({"x": [0.5], "n": [3], "kind": ["red"]})).tolist()
        )
        assert np.isfinite(model.predict({"kind": "never seen", "x": 0.5, "n": 3})).all()
    assert load_model(fitted, num_trees=2).describe()["trees_used"] == 2


@pytest.mark.parametrize(
    ("loss", "target"),
    [
        ("RMSE", TARGET), ("MAE", TARGET), ("Quantile:alpha=0.3", TARGET), ("LogLinQuantile", np.exp(TARGET)),
        ("Poisson", np.abs(TARGET)), ("Tweedie:variance_power=1.5", np.abs(TARGET)), ("MAPE", np.abs(TARGET) + 1),
        ("Huber:delta=1", TARGET), ("Expectile:alpha=0.3", TARGET), ("Lq:q=3", TARGET), ("LogCosh", TARGET),
        ("MultiRMSE", np.c_[TARGET, -TARGET]), ("MultiRMSEWithMissingValues", np.c_[TARGET, -TARGET]),
        ("RMSEWithUncertainty", TARGET), ("Cox", TARGET), ("SurvivalAft", np.c_[np.abs(TARGET), np.abs(TARGET) + 1]),
    ],
)  # fmt: skip
def test_losses_of_the_regressor(loss, target):
    try:
        fitted = catboost.CatBoostRegressor(loss_function=loss, **QUIET).fit(ROWS, target)
    except catboost.CatBoostError as error:
        pytest.skip(f"this catboost does not train it: {error}")
    if loss == "RMSEWithUncertainty":
        with pytest.raises(UnsupportedModelError, match="callable"):
            load_model(fitted)
        return
    model = load_model(fitted)
    np.testing.assert_allclose(model.predict(ROWS), fitted.predict(ROWS), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("loss", "target"),
    [
        ("Logloss", TARGET > 0),
        ("CrossEntropy", (TARGET > 0).astype(float)),
        ("Focal:focal_alpha=0.5;focal_gamma=1", TARGET > 0),
        ("MultiClass", np.digitize(TARGET, [-1, 1])),
        ("MultiClassOneVsAll", np.digitize(TARGET, [-1, 1])),
        ("MultiLogloss", np.c_[TARGET > 0, TARGET > 1].astype(int)),
        ("MultiCrossEntropy", np.c_[TARGET > 0, TARGET > 1].astype(float)),
    ],
)
def test_losses_of_the_classifier(loss, target):
    try:
        fitted = catboost.CatBoostClassifier(loss_function=loss, **QUIET).fit(ROWS, target)
    except catboost.CatBoostError as error:
        pytest.skip(f"this catboost does not train it: {error}")
    wanted = fitted.predict_proba(ROWS)
    if not loss.startswith("Multi"):
        wanted = wanted[:, 1]
    np.testing.assert_allclose(load_model(fitted).predict(ROWS), wanted, rtol=1e-10, atol=1e-12)


def test_a_category_of_bools():
    frame = MIXED.assign(flag=MIXED["n"] > 1)[["flag", "x"]]
    fitted = catboost.CatBoostRegressor(**QUIET).fit(frame, MIXED["n"], cat_features=["flag"])
    np.testing.assert_allclose(load_model(fitted).predict(frame), fitted.predict(frame), rtol=1e-12)


def test_text_features_are_refused():
    frame = pandas.DataFrame({"t": ["a b", "b c", "c d"] * 20, "x": RNG.normal(size=60)})
    fitted = catboost.CatBoostClassifier(**QUIET).fit(frame, [0, 1, 1] * 20, text_features=["t"])
    with pytest.raises(UnsupportedModelError, match="text features"):
        load_model(fitted)


def test_a_category_of_an_array_is_a_whole_number():
    fitted = catboost.CatBoostRegressor(**QUIET).fit(MIXED[["x", "n"]], TARGET, cat_features=["n"])
    rows = MIXED[["x", "n"]].to_numpy(float)
    np.testing.assert_allclose(
        load_model(fitted).predict(rows), fitted.predict(MIXED[["x", "n"]]), rtol=1e-12
    )
    with pytest.raises(InputError):
        load_model(fitted).predict({"x": "text", "n": 1})
