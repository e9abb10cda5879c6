"""Chains of dense layers in ONNX: the native net's answers are ONNX Runtime's, within the roundings of folding."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import EngineError, ModelFormatError, UnsupportedModelError
from engine.model.onnx import load_onnx

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

STEPS = (
    "gemm",
    "gemm-transposed",
    "matmul",
    "norm",
    "add",
    "sub",
    "from",
    "mul",
    "div",
    "identity",
    "flatten",
)


def network(seed, widths, steps, activation, last, double=False):
    """A model with the nodes of `steps` behind every layer, and also in front of the first."""
    rng = np.random.default_rng(seed)
    dtype = np.float64 if double else np.float32
    element = TensorProto.DOUBLE if double else TensorProto.FLOAT
    nodes, constants, current = [], [], "x"

    def constant(*shape, positive=False):
        values = rng.normal(size=shape)
        name = f"c{len(constants)}"
        constants.append(
            numpy_helper.from_array((np.abs(values) + 0.5 if positive else values).astype(dtype), name)
        )
        return name

    def node(op, *inputs, **attributes):
        nonlocal current
        made = f"v{len(nodes)}"
        nodes.append(helper.make_node(op, list(inputs), [made], **attributes))
        current = made

    def decorate(width):
        for step in steps:
            if step == "norm":
                stats = [constant(width), constant(width), constant(width), constant(width, positive=True)]
                node("BatchNormalization", current, *stats, epsilon=1e-3)
            elif step == "add":
                node("Add", current, constant(1, width))
            elif step == "sub":
                node("Sub", current, constant(width))
            elif step == "from":
                node("Sub", constant(width), current)
            elif step == "mul":
                node("Mul", constant(1), current)
            elif step == "div":
                node("Div", current, constant(width, positive=True))
            elif step == "identity":
                node("Identity", current)
            elif step == "flatten":
                node("Flatten", current)

    decorate(widths[0])
    for at, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
        if "gemm-transposed" in steps:
            node("Gemm", current, constant(fan_out, fan_in), constant(fan_out), alpha=0.3, beta=0.5, transB=1)
        elif "gemm" in steps:
            node("Gemm", current, constant(fan_in, fan_out), constant(fan_out))
        else:
            node("MatMul", current, constant(fan_in, fan_out))
        decorate(fan_out)
        final = at == len(widths) - 2
        if not final or last:
            node(last if final else activation, current)
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", element, ["n", widths[0]])],
        [helper.make_tensor_value_info(current, element, ["n", widths[-1]])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    widths=st.lists(st.integers(1, 20), min_size=2, max_size=4),
    steps=st.lists(st.sampled_from(STEPS), max_size=4),
    activation=st.sampled_from(["Relu", "Tanh", "Sigmoid"]),
    last=st.sampled_from([None, "Relu", "Tanh", "Sigmoid", "Softmax"]),
    double=st.booleans(),
)
def test_the_answers_are_onnx_runtimes(seed, widths, steps, activation, last, double):
    content = network(seed, widths, steps, activation, last, double)
    model = load_onnx(content, runtime="native")
    assert (model.native, model.describe()["runtime"]) == (True, "native")
    assert model.n_features == widths[0]
    rows = (
        np.random.default_rng(seed).normal(size=(9, widths[0])).astype(np.float64 if double else np.float32)
    )
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    expected = session.run(None, {"x": rows})[0]
    got = model.predict(rows).reshape(expected.shape)
    # The terms may be far larger than their sum.
    scale = max(1.0, float(np.abs(expected).max())) * (1e-10 if double else 2e-4)
    np.testing.assert_allclose(got, expected, rtol=0, atol=scale)
    assert np.concatenate([np.ravel(model.predict(row[None])) for row in rows]).tobytes() == got.tobytes()


def test_a_folded_batch_norm_is_a_plain_layer():
    plain = load_onnx(network(1, [6, 5, 1], ["gemm"], "Relu", None), runtime="native")
    folded = load_onnx(network(1, [6, 5, 1], ["gemm", "norm"], "Relu", None), runtime="native")
    assert plain.describe()["layers"] == folded.describe()["layers"] == [6, 5, 1]


def refused(nodes, constants, message, **more):
    graph = helper.make_graph(
        [helper.make_node(*node) for node in nodes],
        "graph",
        [helper.make_tensor_value_info("x", more.get("element", TensorProto.FLOAT), ["n", 2])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in more.get("outputs", ["y"])],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()],
    )
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()
    with pytest.raises(UnsupportedModelError, match=message):
        load_onnx(content, runtime="native")


def test_what_is_no_chain_is_refused_with_its_first_node():
    two = {"w": np.ones((2, 2)), "b": np.ones(2)}
    refused([("Elu", ["x"], ["y"])], {}, "Elu 'y'")
    refused([("Relu", ["x"], ["y"])], {}, "follows no layer")
    refused([("Add", ["x", "x"], ["y"])], {}, "takes 2 values that vary")
    refused([("MatMul", ["x", "w"], ["h"]), ("Add", ["h", "x"], ["y"])], two, "takes 2 values that vary")
    refused([("MatMul", ["w", "x"], ["y"])], two, "MatMul 'y'")
    refused([("Add", ["x", "b"], ["y"])], two, "no layer")
    relu_then_add = [("MatMul", ["x", "w"], ["h"]), ("Relu", ["h"], ["r"]), ("Add", ["r", "b"], ["y"])]
    refused(relu_then_add, two, "a scaling that no layer follows")
    softmax_first = [("MatMul", ["x", "w"], ["h"]), ("Softmax", ["h"], ["s"]), ("MatMul", ["s", "w"], ["y"])]
    refused(softmax_first, two, "softmax before the last layer")
    refused([("Relu", ["y"], ["z"]), ("Relu", ["z"], ["y"])], {}, "nothing makes 'y' from the input")
    refused([("MatMul", ["x", "w"], ["y"])], two, "expected one output", outputs=["y", "z"])
    refused(
        [("MatMul", ["x", "w"], ["y"])], two, "expected a float or double input", element=TensorProto.INT64
    )


def test_damage_gives_named_errors():
    content = network(3, [4, 3, 2], ["gemm", "norm"], "Relu", "Softmax")
    rng = np.random.default_rng(20260402)
    for length in range(len(content)):
        with pytest.raises(EngineError):
            load_onnx(content[:length], runtime="native")
    outcomes = set()
    for _ in range(1500):
        damaged = bytearray(content)
        for at in rng.integers(0, len(content), rng.integers(1, 5)):
            damaged[at] = rng.integers(0, 256)
        try:
            load_onnx(bytes(damaged), runtime="native")
            outcomes.add("read")
        except (ModelFormatError, EngineError):
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}
