"""Networks through TensorRT: what it takes and refuses, the cache, and real plans by TensorRT-RTX without a GPU."""

import importlib.util
import sys

import numpy as np
import pytest

from engine.errors import MissingDependencyError, UnsupportedModelError
from engine.model.gpu import from_onnx, tensorrt

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

RTX = importlib.util.find_spec("tensorrt_rtx_bindings") is not None
with_rtx = pytest.mark.skipif(not RTX, reason="tensorrt-rtx-cu13-bindings is not installed")


def network(nodes, weights, *, columns=4, outputs=1, inputs=None, domain=""):
    graph = helper.make_graph(
        nodes,
        "network",
        inputs or [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", columns])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", outputs])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 3)] if domain else [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def floats(*shape):
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def perceptron():
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "v", "c"], ["y"]),
    ]
    return network(nodes, {"w": floats(4, 8), "b": floats(8), "v": floats(8, 1), "c": floats(1)})


def normalised():
    """A layer with batch normalisation."""
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"]),
        helper.make_node("BatchNormalization", ["h", "s", "t", "m", "u"], ["k"]),
        helper.make_node("Gemm", ["k", "v"], ["y"]),
    ]
    ones = np.ones(8, np.float32)
    weights = {
        "w": floats(4, 8),
        "b": floats(8),
        "s": ones,
        "t": ones,
        "m": ones,
        "u": ones,
        "v": floats(8, 1),
    }
    return network(nodes, weights)


def interaction():
    """Embeddings of two columns and the dot product of their vectors, as in a DLRM."""
    axis = np.array([1], np.int64)
    nodes = [
        helper.make_node("Cast", ["x"], ["ids"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "ids"], ["vectors"]),
        helper.make_node("Split", ["vectors"], ["left", "right"], axis=1, num_outputs=None),
        helper.make_node("Mul", ["left", "right"], ["both"]),
        helper.make_node("ReduceSum", ["both", "last"], ["sums"], keepdims=0),
        helper.make_node("Identity", ["sums"], ["y"]),
    ]
    nodes[2] = helper.make_node("Split", ["vectors", "halves"], ["left", "right"], axis=1)
    return network(
        nodes,
        {
            "table": floats(10, 6),
            "halves": np.array([1, 1], np.int64),
            "last": np.array([2], np.int64),
            "axis": axis,
        },
        columns=2,
    )


def attention():
    """Self-attention over four fields of three numbers each, then a mean."""
    nodes = [
        helper.make_node("Reshape", ["x", "fields"], ["t"]),
        helper.make_node("MatMul", ["t", "q"], ["queries"]),
        helper.make_node("MatMul", ["t", "k"], ["keys"]),
        helper.make_node("Transpose", ["keys"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["queries", "turned"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["shares"], axis=-1),
        helper.make_node("MatMul", ["shares", "t"], ["mixed"]),
        helper.make_node("ReduceMean", ["mixed"], ["means"], axes=[1], keepdims=0),
        helper.make_node("Gemm", ["means", "v"], ["y"]),
    ]
    weights = {
        "fields": np.array([-1, 4, 3], np.int64),
        "q": floats(3, 3),
        "k": floats(3, 3),
        "v": floats(3, 1),
    }
    return network(nodes, weights, columns=12)


def missing_values():
    """NaN becomes 0.5, then a softmax over three outputs."""
    nodes = [
        helper.make_node("IsNaN", ["x"], ["holes"]),
        helper.make_node("Where", ["holes", "half", "x"], ["filled"]),
        helper.make_node("Gemm", ["filled", "w"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["y"], axis=1),
    ]
    return network(nodes, {"half": np.array(0.5, np.float32), "w": floats(4, 3)}, outputs=3)


NETWORKS = {
    "perceptron": (perceptron, 4, 1),
    "batch normalisation": (normalised, 4, 1),
    "interaction": (interaction, 2, 1),
    "attention": (attention, 12, 1),
    "missing values": (missing_values, 4, 3),
}


@pytest.mark.parametrize(("make", "columns", "outputs"), NETWORKS.values(), ids=NETWORKS)
def test_features_and_outputs_are_read(make, columns, outputs):
    assert tensorrt.check(make(), "net.onnx") == (columns, outputs)


def test_trees_are_refused_with_the_way_out():
    trees = helper.make_node("TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml")
    with pytest.raises(
        UnsupportedModelError, match=r"net.onnx: TensorRT does not parse TreeEnsembleRegressor .*kernels"
    ):
        tensorrt.check(network([trees], {}, domain="ai.onnx.ml"), "net.onnx")


def test_two_inputs_are_refused():
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("x", "z")]
    content = network([helper.make_node("Add", ["x", "z"], ["y"])], {}, inputs=inputs)
    with pytest.raises(
        UnsupportedModelError, match=r"expected one input of float32 \[n, columns\], got 2 of ranks"
    ):
        tensorrt.check(content, "net.onnx")


def test_an_open_number_of_columns_is_refused():
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "k"])]
    content = network([helper.make_node("Relu", ["x"], ["y"])], {}, inputs=inputs)
    with pytest.raises(UnsupportedModelError, match="the number of columns has to be in the file"):
        tensorrt.check(content, "net.onnx")


def test_without_tensorrt_the_extra_is_named(monkeypatch):
    for name in ("tensorrt_rtx_libs", "tensorrt_libs"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match=r"deadline-engine\[tensorrt-rtx\]"):
        tensorrt.bindings()


def test_no_class_of_tensorrt_is_touched_without_a_driver(monkeypatch, tmp_path):
    """TensorRT without a driver ends the process: the driver is looked for first."""
    path = tmp_path / "net.onnx"
    path.write_bytes(perceptron())
    monkeypatch.setenv("ENGINE_CUDA_DRIVER", "libcuda-of-nobody.so.1")
    monkeypatch.setattr("engine.model.gpu.devices._opened", {})
    monkeypatch.setattr(tensorrt, "bindings", lambda: pytest.fail("touched"))
    with pytest.raises(MissingDependencyError, match="a GPU needs NVIDIA's driver"):
        from_onnx(path)


@with_rtx
def test_the_bindings_have_what_is_used():
    trt = tensorrt.bindings()
    for owner, names in tensorrt.SURFACE.items():
        assert [name for name in names if not hasattr(getattr(trt, owner), name)] == [], owner


@with_rtx
@pytest.mark.slow
@pytest.mark.parametrize("make", [each[0] for each in NETWORKS.values()], ids=NETWORKS)
def test_plans_are_built_without_a_gpu(make):
    for rows in (1, 16):
        assert len(tensorrt.build(make(), rows)) > 1000


@with_rtx
@pytest.mark.slow
def test_what_tensorrt_refuses_is_its_own_words():
    content = network([helper.make_node("NoSuchOperator", ["x"], ["y"])], {})
    with pytest.raises(
        UnsupportedModelError, match=r"net.onnx: TensorRT does not parse it: .*NoSuchOperator"
    ):
        tensorrt.build(content, 1, name="net.onnx")


def test_a_plan_is_built_once_for_its_rows_and_device(monkeypatch, tmp_path):
    class Library:
        __name__, __version__ = "library", "1.0"

    calls = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(tensorrt, "bindings", Library)
    monkeypatch.setattr(
        tensorrt, "build", lambda content, rows, name: calls.append(rows) or b"plan %d" % rows
    )
    assert tensorrt.plan(b"net", 4, "sm_90") == tensorrt.plan(b"net", 4, "sm_90") == b"plan 4"
    assert tensorrt.plan(b"net", 8, "sm_90") == b"plan 8"
    tensorrt.plan(b"net", 4, "sm_86")
    tensorrt.plan(b"another", 4, "sm_90")
    monkeypatch.setattr(Library, "__version__", "1.1")
    tensorrt.plan(b"net", 4, "sm_90")
    assert calls == [4, 8, 4, 4, 4]
