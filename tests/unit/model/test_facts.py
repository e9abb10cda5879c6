"""`inspect` names the facts of a file, and runs nothing to find them."""

import hashlib
import pickle

import pytest
from tests.unit.model.handmade_models import lightgbm_text, stump, xgboost_json, xgboost_tree

from engine.errors import ModelFormatError, UnsupportedModelError
from engine.model import inspect


def test_a_forest(tmp_path):
    content = lightgbm_text([stump("1", 0), stump("2", 0)])
    path = tmp_path / "model.txt"
    path.write_bytes(content)
    facts = inspect(path)
    assert (facts.format, facts.size_bytes) == ("lightgbm", len(content))
    assert (facts.trees, facts.leaves, facts.depth) == (2, 4, 1)
    assert (facts.n_features, facts.n_outputs, facts.feature_names) == (2, 1, ("f0", "f1"))
    assert facts.digest == hashlib.sha256(content).hexdigest()
    assert facts.us_row_1 > 0
    assert facts.us_row_64 > 0
    shown = str(facts)
    assert "format        lightgbm\n" in shown
    assert "trees         2\n" in shown
    assert "feature_names f0, f1\n" in shown
    assert "us for one row" in shown


def test_the_objective_is_named_as_its_library_does(tmp_path):
    path = tmp_path / "model"
    path.write_bytes(xgboost_json([xgboost_tree()], objective="reg:squarederror"))
    assert inspect(path).objective == "reg:squarederror"


def test_onnx_is_walked_and_not_run(tmp_path, monkeypatch):
    helper = pytest.importorskip("onnx.helper")
    import onnx

    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 2]) for name in "xy")
    model = helper.make_model(helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y]))
    helper.set_model_props(model, {"trained_on": "flights"})
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)  # importing it would fail
    facts = inspect(str(path))
    assert facts.format == "onnx"
    assert "trained_on: flights" in facts.notes
    assert facts.trees is None
    assert "us for" not in str(facts)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was run",))


def test_refusals(tmp_path):
    path = tmp_path / "model"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UnsupportedModelError, match="pickle"):
        inspect(path)
    path.write_bytes(lightgbm_text([stump("1", 0)])[:-60])
    with pytest.raises(ModelFormatError, match="truncated"):
        inspect(path)
    with pytest.raises(ModelFormatError, match="directory"):
        inspect(tmp_path)
    with pytest.raises(FileNotFoundError):
        inspect(tmp_path / "none")
