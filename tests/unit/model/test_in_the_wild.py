"""Healthy files that were once refused, and files that are not read but named as what they are."""

import gzip
import lzma
import pickle
import struct

import numpy as np
import pytest
from tests.unit.model.handmade_models import lightgbm_text, stump

from engine.errors import ModelFormatError, UnsupportedModelError
from engine.model import inspect, load_model

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(300, 4))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: text + b"\n\n\n",
        lambda text: text + b"\r\n",
        lambda text: b"\n" + text,
        lambda text: text.replace(b"version=v4", b"version=v2"),
        lambda text: text.replace(b"version=v4", b"version=v3"),
    ],
    ids=["CRLF", "blank lines", "a CRLF at the end", "a blank line first", "v2", "v3"],
)
def test_lightgbm_text_that_other_tools_touched(load, change):
    text = lightgbm_text([stump("1", 0)])
    assert load(change(text)).predict([[0.0, 0.0], [2.0, 0.0]]).tolist() == [10.0, 20.0]


@pytest.mark.parametrize("objective", ["regression", "binary", "multiclass"])
def test_linear_trees(tmp_path, objective):
    lightgbm = pytest.importorskip("lightgbm")
    target = ROWS[:, 0] * 2 + ROWS[:, 1] ** 2
    labels = {"regression": target, "binary": target > 0, "multiclass": np.digitize(target, [-1, 1])}[
        objective
    ]
    more = {"num_class": 3} if objective == "multiclass" else {}
    booster = lightgbm.train(
        {"objective": objective, "linear_tree": True, "num_leaves": 5, "verbose": -1, **more},
        lightgbm.Dataset(ROWS, labels),
        4,
    )
    path = tmp_path / "model.txt"
    booster.save_model(path)
    rows = ROWS.copy()
    rows[3, 0] = np.nan
    for source in (booster, path):
        model = load_model(source)
        np.testing.assert_allclose(model.predict(rows), booster.predict(rows), rtol=1e-13)
        assert not model.native
    np.testing.assert_allclose(
        load_model(path, iteration_range=(1, 3)).predict(rows),
        booster.predict(rows, start_iteration=1, num_iteration=2),
        rtol=1e-13,
    )
    with pytest.raises(UnsupportedModelError, match="use load_model"):
        inspect(path)
    damaged = path.read_bytes().replace(b"num_features=0", b"num_features=9", 1)
    path.write_bytes(damaged)
    with pytest.raises(ModelFormatError, match="tree 0: expected"):
        load_model(path)


@pytest.mark.parametrize(
    "compress", [gzip.compress, lzma.compress, lambda text: lzma.compress(text, lzma.FORMAT_ALONE)]
)
@pytest.mark.parametrize("protocol", [0, 1, 2, 5])
def test_pickles_of_any_age_and_compression(tmp_path, compress, protocol):
    fitted = pytest.importorskip("sklearn.linear_model").Ridge().fit(ROWS, ROWS[:, 0])
    plain = pickle.dumps(fitted, protocol=protocol)
    path = tmp_path / "model"
    for content in (plain, compress(plain)):
        path.write_bytes(content)
        with pytest.raises(UnsupportedModelError, match="trust=True"):
            load_model(path)
        with pytest.raises(UnsupportedModelError, match="trust=True"):
            inspect(path)
    path.write_bytes(plain)
    np.testing.assert_allclose(load_model(path, trust=True).predict(ROWS), fitted.predict(ROWS))


@pytest.mark.parametrize("compress", [0, 3, ("gzip", 3), ("bz2", 3), ("lzma", 3), ("xz", 3)], ids=str)
def test_joblibs_files(tmp_path, compress):
    joblib = pytest.importorskip("joblib")
    fitted = pytest.importorskip("sklearn.linear_model").Ridge().fit(ROWS, ROWS[:, 0])
    joblib.dump(fitted, tmp_path / "model", compress=compress)
    np.testing.assert_allclose(load_model(tmp_path / "model", trust=True).predict(ROWS), fitted.predict(ROWS))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (
            struct.pack("<fIi", 0.5, 3, 0) + bytes(124) + struct.pack("<Q", 15) + b"binary:logistic",
            "old binary.*save_model",
        ),
        (b"binf" + bytes(40), "old binary.*save_model"),
        (b'[\n  { "nodeid": 0, "depth": 0 }]', "JSON dump of XGBoost.*save_model"),
        (b"booster[0]:\n0:[f0<1] yes=1,no=2\n", "text dump of XGBoost.*save_model"),
        (b'{"name": "tree", "tree_info": []}', "LightGBM JSON dump.*save_model"),
        (b"\x28\xb5\x2f\xfdrest", "zstd"),
        (b"\x04\x22\x4d\x18lz4", "compressed file; say trust=True"),
    ],
)
def test_files_that_are_named_with_the_way_out(load, content, text):
    with pytest.raises(UnsupportedModelError, match=text):
        load(content)


def test_expectile_regression_of_xgboost():
    xgboost = pytest.importorskip("xgboost")
    try:
        booster = xgboost.train(
            {"objective": "reg:expectileerror", "expectile_alpha": [0.2, 0.8]},
            xgboost.QuantileDMatrix(ROWS, ROWS[:, 0]),
            5,
        )
    except xgboost.core.XGBoostError as error:
        pytest.skip(f"this xgboost does not train it: {str(error)[:60]}")
    np.testing.assert_allclose(
        load_model(booster).predict(ROWS), booster.predict(xgboost.DMatrix(ROWS)), rtol=1e-5, atol=1e-6
    )


def test_onnx_of_a_support_vector_classifier_without_probabilities(load):
    """ONNX Runtime answers [f, -f], where f above 0 is class 1."""
    skl2onnx = pytest.importorskip("skl2onnx")
    svm = pytest.importorskip("sklearn.svm")
    rows = ROWS.astype(np.float32)
    fitted = svm.SVC().fit(rows, rows[:, 0] > 0)
    for zipmap in (True, False):
        onnx = skl2onnx.to_onnx(fitted, rows[:1], options={id(fitted): {"zipmap": zipmap}})
        with pytest.raises(UnsupportedModelError, match=r"load_model\(svc\)"):
            load(onnx.SerializeToString())
    np.testing.assert_allclose(load_model(fitted).predict(ROWS), fitted.decision_function(ROWS))
