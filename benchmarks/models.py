"""ONNX networks for the benchmarks, written node by node so that no training library is needed to measure serving."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import engine


def perceptron(layers: Sequence[int], seed: int = 0, *, passes: int = 0) -> bytes:
    """A multilayer perceptron, ReLU between layers: float32 [n, layers[0]] "x" -> float32 [n, layers[-1]] "y".

    `passes` applies one more layer, as wide as the first hidden one, that many times over with the same weights: much
    arithmetic on weights that stay in the cache, so that a row costs nearly the same alone and in a batch.
    """
    random = np.random.default_rng(seed)
    nodes, weights, current = [], [], "x"
    last = len(layers) - 2
    if passes:
        width = layers[1]
        # He et al. (ICCV 2015, section 2.2): this spread keeps the size of activations through ReLU layers.
        matrix = random.normal(size=(width, width), scale=(2.0 / width) ** 0.5).astype(np.float32)
        weights += [
            numpy_helper.from_array(matrix, "again"),
            numpy_helper.from_array(np.zeros(width, np.float32), "bias"),
        ]
    for index, (fan_in, fan_out) in enumerate(itertools.pairwise(layers)):
        matrix = random.normal(size=(fan_in, fan_out), scale=fan_in**-0.5).astype(np.float32)
        weights += [
            numpy_helper.from_array(matrix, f"w{index}"),
            numpy_helper.from_array(np.zeros(fan_out, np.float32), f"b{index}"),
        ]
        target = "y" if index == last else f"z{index}"
        nodes.append(helper.make_node("Gemm", [current, f"w{index}", f"b{index}"], [target]))
        if index != last:
            nodes.append(helper.make_node("Relu", [target], [f"a{index}"]))
        current = f"a{index}"
        for turn in range(passes if index == 0 else 0):
            nodes.append(helper.make_node("Gemm", [current, "again", "bias"], [f"p{turn}"]))
            nodes.append(helper.make_node("Relu", [f"p{turn}"], [f"q{turn}"]))
            current = f"q{turn}"
    graph = helper.make_graph(
        nodes,
        "perceptron",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", layers[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", layers[-1]])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def session(model: bytes) -> Any:
    """An ONNX Runtime session on one thread: with more, the runs of a small machine disturb one another."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def linear(n_features: int, seed: int = 3) -> Any:
    """A native linear model, `engine.Model` with `n_features` columns: as cheap as a model can be."""
    from sklearn.linear_model import LinearRegression

    random = np.random.default_rng(seed)
    rows = random.normal(size=(4 * n_features, n_features))
    return engine.load_model(LinearRegression().fit(rows, rows @ random.normal(size=n_features)))


def pass_through(names: Sequence[str]) -> Any:
    """A feature program that reads these numbers from a dict and changes none of them."""
    from engine import transform

    return engine.FeatureProgram.fit(
        [transform.number(name) for name in names], {name: [0.0] for name in names}
    )
