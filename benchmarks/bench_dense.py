"""A small perceptron, 32-128-64-1 with ReLU in float32, against NumPy and ONNX Runtime; the Python call included.

Timed per call with 1 and 64 rows, each call other rows, one thread each. Contenders take turns, because a neighbour on
the other half of the core slows vector code by a fifth for seconds, and would otherwise hit one contender alone.
`us_b*_p50` is the median over the turns, `spread` the fastest and the slowest turn. Wide nets are not measured: there a
matrix library's own blocking matters more than the call.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.model import _forest, dense

SEED = 7
WIDTHS = (32, 128, 64, 1)
BATCHES = (1, 64)

Rows = npt.NDArray[np.float32]
Predict = Callable[[Rows], Any]


def layers() -> tuple[list[Rows], list[Rows]]:
    rng = np.random.default_rng(SEED)
    pairs = list(itertools.pairwise(WIDTHS))
    weights = [(rng.normal(size=pair) / np.sqrt(pair[0])).astype(np.float32) for pair in pairs]
    return weights, [rng.normal(size=width).astype(np.float32) for width in WIDTHS[1:]]


def numpy_net(weights: list[Rows], biases: list[Rows]) -> Predict:
    with contextlib.suppress(ImportError):  # comes with scikit-learn
        from threadpoolctl import threadpool_limits

        threadpool_limits(1)

    def predict(rows: Rows) -> Rows:
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            rows = np.maximum(rows @ weight + bias, 0)
        return (rows @ weights[-1] + biases[-1])[:, 0]

    return predict


def onnxruntime_net(weights: list[Rows], biases: list[Rows]) -> Predict | None:
    try:
        import onnx
        import onnxruntime as ort
        from onnx import TensorProto, helper, numpy_helper
    except ImportError:
        return None
    nodes, constants, last = [], [], "x"
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        constants += [numpy_helper.from_array(weight, f"w{i}"), numpy_helper.from_array(bias, f"b{i}")]
        nodes.append(helper.make_node("Gemm", [last, f"w{i}", f"b{i}"], [f"g{i}"]))
        last = f"g{i}"
        if i + 1 < len(weights):
            nodes.append(helper.make_node("Relu", [last], [f"r{i}"]))
            last = f"r{i}"
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDTHS[0]])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["n", 1])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda rows: session.run(None, {"x": rows})[0][:, 0]


def times_us(predict: Predict, rows: Rows, batch: int, calls: int) -> list[float]:
    """Microseconds of each of `calls` calls with `batch` rows, without the first few."""
    times = []
    for i in range(calls + 20):
        first = i * batch % (len(rows) - batch + 1)
        block = rows[first : first + batch]
        start = time.perf_counter_ns()
        predict(block)
        times.append((time.perf_counter_ns() - start) / 1e3)
    return times[20:]


def by_turns(
    contenders: dict[str, Predict], rows: Rows, batch: int, turns: int, calls: int
) -> dict[str, list[Any]]:
    """The times of each contender, turn by turn."""
    turned: dict[str, list[Any]] = {name: [] for name in contenders}
    for _ in range(turns):
        for name, predict in contenders.items():
            turned[name].append(times_us(predict, rows, batch, calls))
    return turned


def run(smoke: bool) -> dict[str, Any]:
    """Runs the case; `metrics` as issue-named keys, each rival's figures under its name."""
    weights, biases = layers()
    model = dense(weights, biases)
    rows = np.random.default_rng(SEED).normal(size=(4096, WIDTHS[0])).astype(np.float32)
    turns, calls = (2, 25) if smoke else (60, 500)
    offered: dict[str, Predict | None] = {
        "engine": model.predict,
        "numpy": numpy_net(weights, biases),
        "onnxruntime": onnxruntime_net(weights, biases),
    }
    contenders = {name: predict for name, predict in offered.items() if predict is not None}
    expected = model.predict(rows)
    figures: dict[str, dict[str, float]] = {name: {} for name in contenders}
    spread: dict[str, dict[str, list[float]]] = {name: {} for name in contenders}
    for batch in BATCHES:
        for name, turned in by_turns(contenders, rows, batch, turns, calls).items():
            medians = np.median(turned, axis=1)
            figures[name] |= {
                f"us_b{batch}_p50": float(np.median(medians)),
                f"us_b{batch}_min": float(np.min(turned)),
            }
            spread[name][f"us_b{batch}"] = [float(medians.min()), float(medians.max())]
    metrics = figures.pop("engine")
    for name, entry in figures.items():
        entry["largest_difference"] = float(np.abs(contenders[name](rows) - expected).max())
    for batch in BATCHES:
        best = min(entry[f"us_b{batch}_p50"] for entry in figures.values())
        metrics[f"vs_best_rival_b{batch}"] = best / metrics[f"us_b{batch}_p50"]
    conditions = {
        "net": "-".join(map(str, WIDTHS)),
        "threads": 1,
        "instruction_set": _forest.instruction_sets()[1],
        "checksum": round(float(expected.sum()), 4),
        "not_installed": sorted(set(offered) - set(contenders)),
        "turns": turns,
        "spread": spread,
        "smoke": smoke,
    }
    return {"metrics": metrics, "rivals": figures, "conditions": conditions}
