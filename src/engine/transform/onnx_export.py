"""A feature program as an ONNX graph, for other runtimes.

A number is a float64 input [rows, 1], a vector [rows, size], NaN where missing; a category is a text input [rows, 1].
ONNX has no missing text, so one text is declared to mean it. The output is float32 [rows, outputs] with the bits of
`batch`, except for logarithms, powers and sines: each runtime computes these in its own way, within 1e-6 of the value.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from engine._common import optional
from engine.errors import ProgramError
from engine.transform import number_ops, text_ops, vector_ops
from engine.transform.ops import Op
from engine.transform.plan import TEXT, TIMESTAMP, VECTOR, kind_and_size
from engine.transform.spec import Feature

OPSET, ML_OPSET, IR_VERSION = 17, 3, 8
OUTPUT = "engine/features"

# Kind of feature or name of an op -> the reason why ONNX cannot express it.
_REFUSED = {
    "hash": "ONNX has no XXH64",
    "tokens": "ONNX has no XXH64",
    "cross": "ONNX has no XXH64",
    "length": "ONNX has no length of a text in UTF-8 bytes",
    "map": "ONNX cannot refuse a row",
    "function": "a function of your own is native code",
    "timestamp": "ONNX has no time zones",
    "geo_distance": "runtimes compute its sines and arcs to different precisions",
}


def to_onnx_model(
    features: Sequence[Feature],
    inputs: Sequence[tuple[str, str]],
    output_names: Sequence[str],
    digest: str,
    missing_text: str,
) -> Any:
    """Return an onnx ModelProto.

    Args:
        features: fitted, in output order.
        inputs: (name, kind) of each input, in order.
        output_names: the columns, written into the model's metadata.
        digest: of the program, written into the model's metadata.
        missing_text: the text that means a missing category.

    Raises:
        ProgramError: a feature that ONNX cannot express; names the feature, the op and the reason.
        MissingDependencyError: onnx is not installed.
    """
    graph = _Graph(missing_text)
    columns: list[str] = []
    for feature in features:
        try:
            columns += graph.columns(feature)
        except ProgramError as error:
            raise ProgramError(f"feature {feature.label!r} cannot be exported: {error}") from None
    graph.node("Concat", *columns, axis=1, named=OUTPUT)
    return graph.model(inputs, output_names, digest)


class _Graph:
    """Collects nodes and constants. A value is the name of a tensor [rows, columns]."""

    def __init__(self, missing_text: str) -> None:
        self._onnx = optional.need("onnx", "exporting a feature program", "onnx")
        self._missing_text = missing_text
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}

    def node(self, kind: str, *values: str, named: str = "", domain: str = "", **fields: Any) -> str:
        name = named or f"engine/v{len(self._nodes)}"
        self._nodes.append(self._onnx.helper.make_node(kind, list(values), [name], domain=domain, **fields))
        return name

    def constant(self, value: Any, dtype: Any = np.float64) -> str:
        array = np.asarray(value, dtype=dtype)
        name = f"engine/c{len(self._constants)}"
        self._constants[name] = self._onnx.numpy_helper.from_array(array, name)
        return name

    def columns(self, feature: Feature) -> list[str]:
        """Return the float32 tensors that make up the feature's outputs, in order."""
        if feature.gives == TEXT and not (feature.ops and feature.ops[-1].final):
            raise ProgramError("it ends as a category")
        *before, last = feature.ops or (None,)
        if isinstance(last, number_ops.Cyclic):
            turns = self._turns(self._value(feature, before), last.period)
            return [self._as_float(self.node(kind, turns)) for kind in ("Sin", "Cos")]
        if isinstance(last, number_ops.OneHotCodes):
            codes = self.constant(np.arange(last.n or 0)[None])
            return [self._as_float(self.node("Equal", self._value(feature, before), codes))]
        if isinstance(last, (text_ops.OneHot, vector_ops.Embed)):
            return [self._rows_of(feature, before, last)]
        return [self._as_float(self._value(feature, feature.ops))]

    def _rows_of(self, feature: Feature, before: Sequence[Op], last: Any) -> str:
        """Return the row of a float32 table that belongs to the category. An unknown or missing one has row `other`."""
        if isinstance(last, text_ops.OneHot):
            n = len(last.categories or ())
            places, table, other = last.categories or (), np.eye(n + 1, n, dtype=np.float32), n
        else:
            places, table = last.categories, np.array(last.vectors, np.float32)
            other = len(table) if last.unknown is None else places.index(last.unknown)
            table = np.vstack([table, np.zeros((1, table.shape[1]), np.float32)])
        place = self._place(feature, before, places, unknown=other, missing=other)
        flat = self.node("Reshape", place, self.constant([-1], np.int64))
        return self.node("Gather", self.constant(table, np.float32), flat, axis=0)

    def _place(
        self, feature: Feature, before: Sequence[Op], keys: Sequence[str], unknown: int, missing: int
    ) -> str:
        """Return int64 [rows, 1]: the category's index among `keys`, else `unknown` or `missing`."""
        if self._missing_text in keys:
            raise ProgramError(
                f"{self._missing_text!r} is one of its categories; declare another missing_text"
            )
        for op in before:
            if not isinstance(op, text_ops.ImputeText):
                raise ProgramError(f"op {op.op!r}: {_REFUSED.get(op.op, 'ONNX cannot express it')}")
        imputed = next((op.value for op in before if isinstance(op, text_ops.ImputeText)), None)
        if imputed is not None:
            missing = keys.index(imputed) if imputed in keys else unknown
        return self.node(
            "LabelEncoder",
            feature.input or "",
            domain="ai.onnx.ml",
            keys_strings=[*keys, self._missing_text],
            values_int64s=[*range(len(keys)), missing],
            default_int64=unknown,
        )

    def _value(self, feature: Feature, ops: Sequence[Op]) -> str:
        """Return the feature after `ops`: float64 [rows, 1], or [rows, size] for a vector."""
        if feature.kind == TEXT:
            first = next((i for i, op in enumerate(ops) if not isinstance(op, text_ops.ImputeText)), len(ops))
            value = self._of_text(feature, ops[:first], ops[first])
            ops = ops[first + 1 :]
        else:
            value = self._source(feature)
        for op in ops:
            made = _NUMBER_OPS.get(type(op))
            if made is None:
                raise ProgramError(f"op {op.op!r}: {_REFUSED.get(op.op, 'ONNX cannot express it')}")
            value = made(self, op, value)
        return value

    def _of_text(self, feature: Feature, before: Sequence[Op], op: Any) -> str:
        """Return the number that an op gives for a category, from a float64 table."""
        if isinstance(op, text_ops.MissingText):
            place = self._place(feature, before, [], unknown=1, missing=0 if not before else 1)
            return self._gather([1.0, 0.0], place)
        keys: Sequence[str] = getattr(op, "categories", None) or ()
        if isinstance(op, text_ops.Ordinal):
            values, other = [float(i) for i in range(len(keys))], (op.missing, op.unknown)
        elif isinstance(op, text_ops.Map) and op.refuse is None:
            values, other = list(op.values), (op.missing, math.nan if op.unknown is None else op.unknown)
        elif isinstance(op, text_ops.Count):
            values, other = list(map(float, op.counts or ())), (None, 0.0)
        elif isinstance(op, text_ops.Target):
            values, other = list(op.means or ()), (None, op.prior or 0.0)
        else:
            raise ProgramError(f"op {op.op!r}: {_REFUSED.get(op.op, 'ONNX cannot express it')}")
        n = len(keys)
        place = self._place(feature, before, keys, missing=n, unknown=n + 1)
        return self._gather([*values, math.nan if other[0] is None else other[0], other[1]], place)

    def _gather(self, table: Sequence[float], place: str) -> str:
        return self.node("Gather", self.constant(table), place, axis=0)

    def _source(self, feature: Feature) -> str:
        if feature.kind in _REFUSED:
            raise ProgramError(f"{feature.kind}: {_REFUSED[feature.kind]}")
        if feature.input is not None:
            index = feature.parameter("index")
            if feature.kind == VECTOR and index is not None:
                return self.node("Gather", feature.input, self.constant([index], np.int64), axis=1)
            return feature.input
        a, b = (self._value(part, part.ops) for part in feature.of)
        if feature.kind == "difference":
            return self.node("Sub", a, b)
        if feature.kind == "product":
            return self.node("Mul", a, b)
        if feature.kind == "ratio":
            zero = feature.parameter("when_zero")
            over = self._where(
                self.node("Equal", b, self.constant(0.0)),
                self.constant(math.nan if zero is None else zero),
                self.node("Div", a, b),
            )
            return self._where(self.node("IsNaN", a), a, over)
        return self._cross_codes(a, b, feature.of[1].n_codes or 0)

    def _cross_codes(self, a: str, b: str, count: int) -> str:
        """Return a * count + b, or NaN where either part is no code: NaN, negative, too large or not whole."""
        zero = self.constant(0.0)
        conditions = [self.node("GreaterOrEqual", a, zero), self.node("GreaterOrEqual", b, zero)]
        conditions.append(self.node("Less", b, self.constant(float(count))))
        conditions += [self.node("Equal", v, self.node("Floor", v)) for v in (a, b)]
        holds = conditions[0]
        for condition in conditions[1:]:
            holds = self.node("And", holds, condition)
        pair = self.node("Add", self.node("Mul", a, self.constant(float(count))), b)
        return self._where(holds, pair, self.constant(math.nan))

    def _where(self, condition: str, then: str, otherwise: str) -> str:
        return self.node("Where", condition, then, otherwise)

    def _as_float(self, value: str) -> str:
        return self.node("Cast", value, to=self._onnx.TensorProto.FLOAT)

    def impute(self, op: Any, value: str) -> str:
        return self._where(self.node("IsNaN", value), self.constant(op.value), value)

    def missing(self, op: Any, value: str) -> str:
        return self._where(self.node("IsNaN", value), self.constant(1.0), self.constant(0.0))

    def scale(self, op: Any, value: str) -> str:
        shift, divisor = op.shift_and_divisor()
        return self.node("Div", self.node("Sub", value, self.constant(shift)), self.constant(divisor or 1.0))

    def affine(self, op: Any, value: str) -> str:
        return self.node("Add", self.node("Mul", value, self.constant(op.factor)), self.constant(op.offset))

    def map_number(self, op: Any, value: str) -> str:
        if op.refuse is not None:
            raise ProgramError(f"op 'map': {_REFUSED['map']}")
        keys = self.constant(np.array([op.keys]))
        equal = self._where(self.node("Equal", value, keys), self.constant(1.0), self.constant(0.0))
        # At most one key is equal, so the sums have one term that is not 0.
        axis = self.constant([1], np.int64)
        found = self.node("ReduceSum", equal, axis, keepdims=1)
        values = self._where(
            self.node("Equal", value, keys), self.constant(np.array([op.values])), self.constant(0.0)
        )
        known = self.node("ReduceSum", values, axis, keepdims=1)
        unknown = self.constant(math.nan if op.unknown is None else op.unknown)
        missing = self.constant(math.nan if op.missing is None else op.missing)
        made = self._where(self.node("Greater", found, self.constant(0.0)), known, unknown)
        return self._where(self.node("IsNaN", value), missing, made)

    def clip(self, op: Any, value: str) -> str:
        for kind, edge in (("Less", op.low), ("Greater", op.high)):
            if edge is not None:
                value = self._where(self.node(kind, value, self.constant(edge)), self.constant(edge), value)
        return value

    def log1p(self, op: Any, value: str) -> str:
        # v * (log(u) / (u - 1)) with u = 1 + v: rounding u changes the logarithm and the divisor alike.
        one, infinity = self.constant(1.0), self.constant(math.inf)
        u = self.node("Add", value, one)
        exact = self.node("Mul", value, self.node("Div", self.node("Log", u), self.node("Sub", u, one)))
        tiny = self._where(self.node("Equal", u, one), value, exact)
        return self._where(self.node("Equal", u, infinity), infinity, tiny)

    def sqrt(self, op: Any, value: str) -> str:
        return self.node("Sqrt", value)

    def power(self, op: Any, value: str) -> str:
        # In C, NaN to the power 0 is 1, and -inf to a fractional power is infinite. Here both are NaN.
        undefined = self.node("IsNaN", value)
        if op.exponent != math.floor(op.exponent):
            undefined = self.node("Or", undefined, self.node("Less", value, self.constant(0.0)))
        made = self.node("Pow", value, self.constant(op.exponent))
        return self._where(undefined, self.constant(math.nan), made)

    def bucketize(self, op: Any, value: str) -> str:
        kind = "Greater" if op.edge == "right" else "GreaterOrEqual"
        above = self.node(kind, value, self.constant(np.array([op.edges])))
        flags = self._where(above, self.constant(1.0), self.constant(0.0))
        count = self.node("ReduceSum", flags, self.constant([1], np.int64), keepdims=1)
        return self._where(self.node("IsNaN", value), value, count)

    def _turns(self, value: str, period: float) -> str:
        """Return the angle in radians, reduced to one turn first."""
        turns = self.node("Div", value, self.constant(period))
        part = self.node("Sub", turns, self.node("Floor", turns))
        return self.node("Mul", part, self.constant(2.0 * math.pi))

    def model(self, inputs: Sequence[tuple[str, str]], output_names: Sequence[str], digest: str) -> Any:
        helper, kinds = self._onnx.helper, self._onnx.TensorProto
        made = []
        for name, kind in inputs:
            word, size = kind_and_size(kind)
            if word.startswith(TIMESTAMP):
                raise ProgramError(f"input {name!r} cannot be exported: {_REFUSED['timestamp']}")
            made.append(
                helper.make_tensor_value_info(
                    name, kinds.STRING if word == TEXT else kinds.DOUBLE, ["rows", size]
                )
            )
        output = helper.make_tensor_value_info(OUTPUT, kinds.FLOAT, ["rows", len(output_names)])
        graph = helper.make_graph(
            self._nodes, "engine.features", made, [output], list(self._constants.values())
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, producer_name="deadline-engine")
        model.ir_version = IR_VERSION
        facts = {"engine.digest": digest, "engine.outputs": json.dumps(list(output_names))}
        helper.set_model_props(model, {**facts, "engine.missing_text": self._missing_text})
        self._onnx.checker.check_model(model)
        return model


_NUMBER_OPS: dict[type[Op], Callable[[_Graph, Any, str], str]] = {
    number_ops.Impute: _Graph.impute,
    number_ops.Missing: _Graph.missing,
    number_ops.Standardise: _Graph.scale,
    number_ops.MinMax: _Graph.scale,
    number_ops.Robust: _Graph.scale,
    number_ops.Affine: _Graph.affine,
    number_ops.MapNumber: _Graph.map_number,
    number_ops.Clip: _Graph.clip,
    number_ops.Log1p: _Graph.log1p,
    number_ops.Sqrt: _Graph.sqrt,
    number_ops.Power: _Graph.power,
    number_ops.Bucketize: _Graph.bucketize,
}
