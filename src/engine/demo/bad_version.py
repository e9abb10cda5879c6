"""A bad version that looks good: it passes its golden rows, and answers NaN to the shortest flights."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.demo.events import Events
from engine.registry import ModelRegistry, Version


def register_bad(registry: ModelRegistry, name: str, good: Version, made: Events, share: float) -> Version:
    """Register the good version with another primary: the logarithm of the miles beyond the shortest flights.

    Args:
        share: of the flights, the shortest, that have no such logarithm.
    """
    bundle = registry.resolve(str(good))
    program, golden = bundle.program(), bundle.golden
    assert program is not None, "the pipeline registers one"
    assert golden is not None, "the pipeline registers some"
    column = program.output_names.index("distance")
    rows = np.asarray(golden.rows)
    shortest = float(np.quantile(made.flights["distance"], share))
    return registry.register(
        _logarithm(rows.shape[1], column, shortest),
        name=name,
        fallback=bundle.content("fallback"),
        default=bundle.default,
        program=program,
        golden=rows[rows[:, column] > shortest + 1.0],
        reference=bundle.reference,
        policy=bundle.policy,
        note="a simpler model, by the logarithm of the distance",
    )


def _logarithm(n_features: int, column: int, shortest: float) -> bytes:
    from onnx import TensorProto, checker, helper, numpy_helper

    def constant(name: str, value: Any, dtype: Any) -> Any:
        return numpy_helper.from_array(np.array(value, dtype=dtype), name)

    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["x", "column"], ["miles"], axis=1),
            helper.make_node("Sub", ["miles", "shortest"], ["beyond"]),
            helper.make_node("Log", ["beyond"], ["logarithm"]),
            helper.make_node("Mul", ["logarithm", "slope"], ["y"]),
        ],
        "logarithm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", n_features])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 1])],
        [
            constant("column", [column], np.int64),
            constant("shortest", shortest, np.float32),
            constant("slope", 0.03, np.float32),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    return bytes(model.SerializeToString())
