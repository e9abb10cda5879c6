"""Contents that no model file should have: each is a named error here, and the caller's process lives on."""

import json
import pickle

import numpy as np
import pytest
from tests.unit.model.handmade_models import (
    lightgbm_text,
    lightgbm_tree,
    stump,
    xgboost_document,
    xgboost_json,
    xgboost_tree,
)

from engine.errors import EngineError, ModelFormatError, UnsupportedModelError
from engine.model import inspect, load_model
from engine.model.readers.ubjson import decode

LIGHTGBM = lightgbm_text([stump("1.5", 10), stump("0.5", 2, feature=1)])
XGBOOST = xgboost_json([xgboost_tree(), xgboost_tree()])


def ubjson(value):
    """Write a document as UBJSON, as far as these tests need it."""
    if isinstance(value, dict):
        inside = b"".join(b"L" + len(k).to_bytes(8, "big") + k.encode() + ubjson(v) for k, v in value.items())
        return b"{" + inside + b"}"
    if isinstance(value, list):
        return b"[" + b"".join(map(ubjson, value)) + b"]"
    if isinstance(value, str):
        return b"SL" + len(value.encode()).to_bytes(8, "big") + value.encode()
    if isinstance(value, float):
        return b"D" + np.float64(value).astype(">f8").tobytes()
    return b"L" + int(value).to_bytes(8, "big", signed=True)


def onnx_linear(dims=(2, 1), raw=None):
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    weights = onnx.TensorProto(name="w", data_type=1, dims=dims)
    weights.raw_data = raw if raw is not None else np.ones(dims, np.float32).tobytes()
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", 1, ["n", 2])],
        [helper.make_tensor_value_info("y", 1, ["n", 1])],
        [weights],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def treelite_checkpoint(tmp_path):
    treelite = pytest.importorskip("treelite")
    path = tmp_path / "sound.txt"
    path.write_bytes(LIGHTGBM)
    return treelite.frontend.load_lightgbm_model(path).serialize_bytes()


def catboost_json(tmp_path):
    catboost = pytest.importorskip("catboost")
    rows = np.random.default_rng(0).normal(size=(60, 2))
    model = catboost.CatBoostRegressor(iterations=2, depth=2, verbose=0, allow_writing_files=False)
    model.fit(rows, rows[:, 0]).save_model(str(tmp_path / "sound.json"), format="json")
    return (tmp_path / "sound.json").read_bytes()


@pytest.fixture
def load(tmp_path):
    def load_bytes(content):
        (tmp_path / "model").write_bytes(content)
        return load_model(tmp_path / "model")

    return load_bytes


@pytest.mark.parametrize("form", ["lightgbm", "xgboost-json", "xgboost-ubj", "treelite", "catboost", "onnx"])
def test_truncated_at_any_byte(tmp_path, form):
    content = {
        "lightgbm": lambda: LIGHTGBM,
        "xgboost-json": lambda: XGBOOST,
        "xgboost-ubj": lambda: ubjson(json.loads(XGBOOST)),
        "treelite": lambda: treelite_checkpoint(tmp_path),
        "catboost": lambda: catboost_json(tmp_path),
        "onnx": lambda: onnx_linear().SerializeToString(),
    }[form]()
    path = tmp_path / "model"
    path.write_bytes(content)
    expected = load_model(path).predict(np.zeros((1, 2)))
    step = max(1, len(content) // 600)  # every byte of a small file
    refused = 0
    for length in range(0, len(content), step):
        path.write_bytes(content[:length])
        try:
            model = load_model(path)
        except ModelFormatError:
            refused += 1
            continue
        # Only white space or parameters after the last tree were lost.
        assert model.predict(np.zeros((1, 2))).tolist() == expected.tolist(), length
    assert refused > 0.5 * len(range(0, len(content), step))


@pytest.mark.parametrize(
    "content",
    [
        b"\x7fELF\x02\x01\x01",
        b"PK\x03\x04rest",
        b"\x89HDF\r\n",
        b"GGUF",
        b"%PDF-1.7",
        b"\0" * 64,
        b"MZ\x90",
        b"\xff\xd8",
    ],
)
def test_foreign_magic(tmp_path, content):
    (tmp_path / "model.txt").write_bytes(content)
    for read in (load_model, inspect):
        with pytest.raises(ModelFormatError, match=r"model\.txt"):
            read(tmp_path / "model.txt")


@pytest.mark.parametrize("suffix", [".txt", ".json", ".ubj", ".onnx", ".skops", ""])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_pickle_dressed_as_a_model(tmp_path, suffix, protocol):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(pickle.dumps(np.ones(3), protocol=protocol))
    for read in (load_model, inspect):
        with pytest.raises(UnsupportedModelError, match="a pickle, which can run any code"):
            read(path)


def test_child_cycles(load):
    to_itself = lightgbm_tree(
        feature="0 1", threshold="1 2", decision="2 2", left="1 0", right="-1 -2", leaf="1 2 3"
    )
    with pytest.raises(ModelFormatError, match="met twice"):
        load(lightgbm_text([to_itself]))
    tree = xgboost_tree()
    tree["left_children"][0] = 0
    with pytest.raises(ModelFormatError):
        load(xgboost_json([tree]))


@pytest.mark.parametrize("leaves", ["2147483647", "4294967296", "-1", "0", "1e9"])
def test_leaves_that_the_file_does_not_hold(load, leaves):
    content = LIGHTGBM.replace(b"num_leaves=2", f"num_leaves={leaves}".encode())
    assert content != LIGHTGBM
    with pytest.raises(ModelFormatError):
        load(content)


@pytest.mark.parametrize("threshold", ["nan", "NaN", "-nan"])
def test_thresholds_that_are_no_numbers(load, threshold):
    with pytest.raises(ModelFormatError):
        load(lightgbm_text([stump(threshold, 10)]))
    tree = xgboost_tree()
    tree["split_conditions"][0] = float("nan")
    with pytest.raises(ModelFormatError):
        load(json.dumps(xgboost_document([tree])).encode())


@pytest.mark.parametrize("runtime", ["c-api", "python", "native"])
def test_onnx_with_a_cycle_or_huge_dims(runtime):
    from engine.model.onnx import load_onnx

    pytest.importorskip("onnxruntime")
    cyclic = onnx_linear()
    cyclic.graph.node[0].input[0] = "z"
    cyclic.graph.node.append(pytest.importorskip("onnx").helper.make_node("Relu", ["y"], ["z"]))
    with pytest.raises(ModelFormatError):
        load_onnx(cyclic.SerializeToString(), runtime=runtime)
    for dims in ((2**40, 2**30), (2, 2**62), (2**31, 2), (-1, 1)):
        with pytest.raises(ModelFormatError):
            load_onnx(onnx_linear(dims, b"\0" * 8).SerializeToString(), runtime=runtime)


def test_ubjson_lengths_beyond_the_file():
    for content in (
        b"{L\x7f\xff\xff\xff\xff\xff\xff\xff",
        b"[$d#L\x7f\xff\xff\xff\xff\xff\xff\xff",
        b"[" * 100_000,
    ):
        with pytest.raises(EngineError):
            decode(content, "model")
