"""ONNX as people export it: with a ZipMap, with an input for each column, with labels of text."""

import numpy as np
import pytest

from engine.errors import UnsupportedModelError
from engine.model import load_model

pytest.importorskip("onnxruntime")
skl2onnx = pytest.importorskip("skl2onnx")
ensemble = pytest.importorskip("sklearn.ensemble")
from skl2onnx.common.data_types import (  # noqa: E402
    DoubleTensorType,
    FloatTensorType,
    Int64TensorType,
    StringTensorType,
)
from sklearn.compose import ColumnTransformer  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import OneHotEncoder, StandardScaler  # noqa: E402

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(200, 3)).astype(np.float32)


@pytest.mark.parametrize("labels", [["no", "yes"], [0, 1], ["a", "b", "c"], [3, 5, 9]])
def test_a_zipmap_gives_its_probabilities(tmp_path, labels):
    y = np.array(labels)[np.digitize(ROWS[:, 0], np.linspace(-0.5, 0.5, len(labels) - 1))]
    fitted = ensemble.RandomForestClassifier(5, random_state=0).fit(ROWS, y)
    path = tmp_path / "model.onnx"
    path.write_bytes(skl2onnx.to_onnx(fitted, ROWS[:1]).SerializeToString())
    wanted = fitted.predict_proba(ROWS)
    model = load_model(path)
    np.testing.assert_allclose(model.predict(ROWS), wanted[:, 1] if len(labels) == 2 else wanted, atol=1e-5)
    named = load_model(path, output="output_probability")
    assert named.predict(ROWS).tolist() == model.predict(ROWS).tolist()
    assert model.digest == named.digest


def test_an_input_for_each_column(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {"a": ROWS[:, 0], "n": RNG.integers(0, 2**40, 200), "d": ROWS[:, 2].astype(float)}
    )
    scaled = ColumnTransformer([("scaled", StandardScaler(), ["a", "n", "d"])])
    fitted = make_pipeline(scaled, LogisticRegression()).fit(frame, frame["n"] > 2**39)
    types = [
        ("a", FloatTensorType([None, 1])),
        ("n", Int64TensorType([None, 1])),
        ("d", DoubleTensorType([None, 1])),
    ]
    path = tmp_path / "model.onnx"
    try:
        path.write_bytes(skl2onnx.to_onnx(fitted, initial_types=types).SerializeToString())
        model = load_model(path)
    except UnsupportedModelError:
        pytest.skip("this skl2onnx mixes types in a way that ONNX Runtime refuses")
    assert model.feature_names == ("a", "n", "d")
    turned = frame[["d", "n", "a"]]
    np.testing.assert_allclose(model.predict(turned), fitted.predict_proba(frame)[:, 1], atol=1e-5)


def test_floats_an_input_each_and_by_name(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(ROWS, columns=["a", "b", "c"])
    fitted = make_pipeline(
        ColumnTransformer([("scaled", StandardScaler(), ["a", "b", "c"])]), LogisticRegression()
    ).fit(frame, ROWS[:, 0] > 0)
    types = [(name, FloatTensorType([None, 1])) for name in "abc"]
    path = tmp_path / "model.onnx"
    path.write_bytes(skl2onnx.to_onnx(fitted, initial_types=types).SerializeToString())
    model = load_model(path)
    assert (model.n_features, model.feature_names) == (3, ("a", "b", "c"))
    np.testing.assert_allclose(
        model.predict(frame[["c", "a", "b"]]), fitted.predict_proba(frame)[:, 1], atol=1e-5
    )


def test_an_input_of_text_is_refused_by_name(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"kind": RNG.choice(["x", "y"], 200), "b": ROWS[:, 1]})
    fitted = make_pipeline(
        ColumnTransformer([("kind", OneHotEncoder(), ["kind"])], remainder="passthrough"),
        LogisticRegression(),
    ).fit(frame, ROWS[:, 1] > 0)
    types = [("kind", StringTensorType([None, 1])), ("b", FloatTensorType([None, 1]))]
    path = tmp_path / "model.onnx"
    path.write_bytes(skl2onnx.to_onnx(fitted, initial_types=types).SerializeToString())
    with pytest.raises(UnsupportedModelError, match="input 'kind' is text"):
        load_model(path)


def test_one_input_of_whole_numbers(tmp_path):
    fitted = ensemble.RandomForestRegressor(3, random_state=0).fit(np.round(ROWS * 9), ROWS[:, 0])
    path = tmp_path / "model.onnx"
    types = [("X", Int64TensorType([None, 3]))]
    path.write_bytes(skl2onnx.to_onnx(fitted, initial_types=types).SerializeToString())
    np.testing.assert_allclose(
        load_model(path).predict(np.round(ROWS * 9)), fitted.predict(np.round(ROWS * 9)), atol=1e-5
    )
