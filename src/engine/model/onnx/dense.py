"""Reads ONNX networks that are one chain of dense layers, and makes a native net of them: no ONNX Runtime, no GIL.

The chain may hold Gemm, MatMul, Add, Sub, Mul, Div and BatchNormalization with constants; Relu, Tanh, Sigmoid and
Softmax; and nodes without effect at inference (Identity, Dropout, Flatten of rows). A node that multiplies or adds
constants by column is folded into the layer beside it, in double, and each folded weight is then rounded once to the
network's own type. So a batch norm costs nothing, and answers differ from ONNX Runtime's by a few roundings (1e-6 of
the terms added), as two versions of ONNX Runtime do. A net without such nodes has exactly the file's weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import ModelFormatError, UnsupportedModelError
from engine.model import _dense
from engine.model.dense import ACTIVATIONS
from engine.model.model import Model
from engine.model.onnx import protobuf

_FLOAT, _INT64, _DOUBLE = 1, 7, 11
_DTYPES: dict[int, np.dtype[Any]] = {
    _FLOAT: np.dtype("<f4"),
    _INT64: np.dtype("<i8"),
    _DOUBLE: np.dtype("<f8"),
}
_ACTIVATIONS = {"Relu": "relu", "Tanh": "tanh", "Sigmoid": "logistic", "Softmax": "softmax"}
_NOTHING = ("Identity", "Dropout")

WEIGHTS_MAX = 2**26
FEATURES_MAX = 2**20

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class _Node:
    op: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.op} '{self.outputs[0] if self.outputs else '?'}'"


@dataclass
class _Chain:
    """Layers so far, and the affine map (x * scale + shift, by column) that is to be folded into the next one."""

    width: int
    weights: list[Array] = field(default_factory=list)
    biases: list[Array] = field(default_factory=list)
    activations: list[str] = field(default_factory=list)
    scale: Array | None = None
    shift: Array | None = None

    @property
    def open(self) -> bool:
        """Whether the last layer has no activation yet, so that an affine map can be folded into it."""
        return bool(self.activations) and self.activations[-1] == "identity"

    def multiply(self, matrix: Array, node: _Node) -> None:
        if matrix.ndim != 2 or matrix.shape[0] != self.width:
            raise ModelFormatError(
                f"{node}: expected a matrix of {self.width} rows, got {list(matrix.shape)}"
            )
        bias = np.zeros(matrix.shape[1])
        if self.scale is not None and self.shift is not None:
            bias = self.shift @ matrix
            matrix = self.scale[:, None] * matrix
            self.scale = self.shift = None
        self.width = matrix.shape[1]
        # A file of kilobytes can apply one matrix a million times over.
        if sum(weights.size for weights in self.weights) + matrix.size > WEIGHTS_MAX:
            raise UnsupportedModelError(f"{node}: over {WEIGHTS_MAX:,} weights in all")
        self.weights.append(matrix)
        self.biases.append(bias)
        self.activations.append("identity")

    def affine(self, scale: Array, shift: Array, node: _Node) -> None:
        """Append x * scale + shift; each of the two is a number, or one number a column."""
        for part in (scale, shift):
            if part.size not in (1, self.width) or part.ndim > 2 or part.shape[:-1] not in ((), (1,)):
                raise UnsupportedModelError(
                    f"{node}: expected a constant a column, {self.width} in all, got shape {list(part.shape)}"
                )
        scale, shift = (np.broadcast_to(part.reshape(-1), self.width) for part in (scale, shift))
        if self.open:
            self.weights[-1] = self.weights[-1] * scale
            self.biases[-1] = self.biases[-1] * scale + shift
            return
        before = (1.0, 0.0) if self.scale is None or self.shift is None else (self.scale, self.shift)
        self.scale, self.shift = before[0] * scale, before[1] * scale + shift

    def activate(self, name: str, node: _Node) -> None:
        if not self.open:
            raise UnsupportedModelError(f"{node}: an activation that follows no layer")
        self.activations[-1] = name


def load_onnx_dense(
    content: bytes, name: str, digest: str, *, output: str | None = None, names: Sequence[str] | None = None
) -> Model:
    """Make a native model of an ONNX file that is one chain of dense layers.

    Args:
        content: the file's bytes.
        name: stands for the file in messages.
        digest: value of `Model.digest`.
        output: name of the output that holds the scores, where there are several.
        names: the columns' names.

    Raises:
        ModelFormatError: the file is damaged.
        UnsupportedModelError: not such a chain, naming the first node that does not fit; or tensors in other files.
    """
    graph = _Graph(content, name)
    try:
        chain, element = graph.chain(output)
        if chain.scale is not None:
            raise UnsupportedModelError("a scaling that no layer follows")
        if "softmax" in chain.activations[:-1]:
            raise UnsupportedModelError("a softmax before the last layer")
        net = _dense.Dense(
            [
                (weights, bias, ACTIVATIONS[activation])
                for weights, bias, activation in zip(
                    chain.weights, chain.biases, chain.activations, strict=True
                )
            ],
            float32=element == _FLOAT,
        )
    except UnsupportedModelError as error:
        raise UnsupportedModelError(f"{name}: not one chain of dense layers: {error}") from None
    except ModelFormatError as error:
        raise ModelFormatError(f"{name}: {error}") from None
    details = {
        "runtime": "native",
        "layers": [chain.weights[0].shape[0], *(weights.shape[1] for weights in chain.weights)],
        "activations": chain.activations,
        "precision": "float32" if element == _FLOAT else "float64",
    }
    return Model(net.scorer, format="onnx", digest=digest, feature_names=names, details=details)


class _Graph:
    """Nodes, constants, inputs and outputs of a ModelProto."""

    def __init__(self, content: bytes, name: str) -> None:
        self.name = name
        model = protobuf.fields(content, name)
        graphs = _messages(model, 7)
        if len(graphs) != 1:
            raise ModelFormatError(f"{name}: expected one graph in an ONNX model, got {len(graphs)}")
        graph = protobuf.fields(graphs[0], name)
        self.opset = self._opset(model)
        self.constants: dict[str, Array] = {}
        for tensor in _messages(graph, 5):
            key, value = self._tensor(tensor)
            self.constants[key] = value
        self.makers: dict[str, _Node] = {}
        for message in _messages(graph, 1):
            node = self._node(message)
            if node.op == "Constant" and isinstance(node.attributes.get("value"), np.ndarray):
                self.constants[node.outputs[0]] = node.attributes["value"]
                continue
            for made in node.outputs:
                self.makers[made] = node
        ports = [self._port(message) for message in _messages(graph, 11)]
        self.inputs = [port for port in ports if port[0] not in self.constants]
        self.outputs = [self._port(message) for message in _messages(graph, 12)]

    def chain(self, output: str | None) -> tuple[_Chain, int]:
        """Return the layers from the one input to the output, and the input's element type."""
        if len(self.inputs) != 1:
            raise UnsupportedModelError(f"expected one input, got {len(self.inputs)}")
        start, element, shape = self.inputs[0]
        if element not in (_FLOAT, _DOUBLE) or len(shape) != 2 or not 0 < shape[1] <= FEATURES_MAX:
            raise UnsupportedModelError(
                f"expected a float or double input [batch, n_features], got type {element}, shape {shape}"
            )
        wanted = [port for port in self.outputs if output is None or port[0] == output]
        if len(wanted) != 1:
            raise UnsupportedModelError(f"expected one output, got {[port[0] for port in wanted]}")
        path, at = [], wanted[0][0]
        while at != start:
            node = self.makers.pop(at, None)  # popped: a cycle ends here too
            if node is None:
                raise UnsupportedModelError(f"nothing makes '{at}' from the input")
            path.append(node)
            varying = [made for made in node.inputs if made and made not in self.constants]
            if len(varying) != 1:
                raise UnsupportedModelError(f"{node} takes {len(varying)} values that vary")
            at = varying[0]
        chain = _Chain(width=shape[1])
        for node in reversed(path):
            self._add(chain, node)
        if not chain.weights:
            raise UnsupportedModelError("no layer")
        return chain, element

    def _add(self, chain: _Chain, node: _Node) -> None:
        given = [self.constants.get(made) for made in node.inputs]
        first = given[0] if given else None
        other = next((value for value in given if value is not None), None)
        if node.op in _NOTHING or (node.op == "Flatten" and node.attributes.get("axis", 1) == 1):
            return
        if node.op in _ACTIVATIONS:
            axis = node.attributes.get("axis", 1 if self.opset < 13 else -1)
            if node.op == "Softmax" and axis not in (1, -1):
                raise UnsupportedModelError(f"{node}: over axis {axis}")
            chain.activate(_ACTIVATIONS[node.op], node)
        elif node.op == "Gemm":
            self._gemm(chain, node, given)
        elif node.op == "MatMul" and first is None and other is not None:
            chain.multiply(other.astype(np.float64), node)
        elif node.op == "BatchNormalization":
            self._batch_norm(chain, node, given)
        elif node.op in ("Add", "Sub", "Mul", "Div") and other is not None:
            self._elementwise(chain, node, other.astype(np.float64), constant_first=first is not None)
        else:
            raise UnsupportedModelError(f"{node}")

    @staticmethod
    def _gemm(chain: _Chain, node: _Node, given: list[Array | None]) -> None:
        if len(given) < 2 or given[0] is not None or given[1] is None or node.attributes.get("transA", 0):
            raise UnsupportedModelError(f"{node}: expected rows times a constant matrix")
        matrix = given[1].astype(np.float64)
        if matrix.ndim != 2:
            raise ModelFormatError(f"{node}: expected a matrix, got shape {list(matrix.shape)}")
        matrix = matrix.T if node.attributes.get("transB", 0) else matrix
        chain.multiply(matrix * node.attributes.get("alpha", 1.0), node)
        if len(given) > 2 and given[2] is not None:
            shift = given[2].astype(np.float64) * node.attributes.get("beta", 1.0)
            chain.affine(np.ones(1), shift, node)

    @staticmethod
    def _batch_norm(chain: _Chain, node: _Node, given: list[Array | None]) -> None:
        if (
            len(given) != 5
            or any(part is None for part in given[1:])
            or node.attributes.get("training_mode", 0)
        ):
            raise UnsupportedModelError(f"{node}: expected constant scale, bias, mean and variance")
        gain, bias, mean, variance = (np.asarray(part, np.float64) for part in given[1:])
        if any(part.shape != (chain.width,) for part in (gain, bias, mean, variance)):
            raise ModelFormatError(
                f"{node}: expected {chain.width} values of each of scale, bias, mean, variance"
            )
        with np.errstate(invalid="ignore", divide="ignore"):  # a weight that is not finite is refused later
            scale = gain / np.sqrt(variance + node.attributes.get("epsilon", 1e-5))
        chain.affine(scale, bias - mean * scale, node)

    @staticmethod
    def _elementwise(chain: _Chain, node: _Node, value: Array, *, constant_first: bool) -> None:
        one, zero = np.ones(1), np.zeros(1)
        if node.op == "Add":
            chain.affine(one, value, node)
        elif node.op == "Mul":
            chain.affine(value, zero, node)
        elif node.op == "Sub":
            chain.affine(-one if constant_first else one, value if constant_first else -value, node)
        elif constant_first or np.any(value == 0):
            raise UnsupportedModelError(f"{node}: expected a division by constants other than 0")
        else:
            chain.affine(1.0 / value, zero, node)

    def _opset(self, model: dict[int, list[Any]]) -> int:
        for message in _messages(model, 8):
            entry = protobuf.fields(message, self.name)
            if _text(entry, 1) in ("", "ai.onnx"):
                version = entry[2][-1] if entry[2] else 0
                if isinstance(version, int) and version > 0:
                    return version
        raise ModelFormatError(
            f"{self.name}: the model names no version of ONNX's own operators (opset_import)"
        )

    def _node(self, message: bytes) -> _Node:
        node = protobuf.fields(message, self.name)
        attributes: dict[str, Any] = {}
        for attribute in _messages(node, 5):
            entry = protobuf.fields(attribute, self.name)
            key = _text(entry, 1)
            if entry[5]:
                attributes[key] = self._tensor(_messages(entry, 5)[-1])[1]
            elif entry[3]:
                attributes[key] = protobuf.integers(entry[3], self.name)[-1]
            elif entry[2]:
                attributes[key] = protobuf.single(entry[2], 0.0)
        domain = _text(node, 7)
        op = _text(node, 4) if domain in ("", "ai.onnx") else f"{domain}.{_text(node, 4)}"
        names = [[part.decode("utf-8", "replace") for part in _messages(node, which)] for which in (1, 2)]
        return _Node(op, names[0], names[1], attributes)

    def _tensor(self, message: bytes) -> tuple[str, Array]:
        tensor = protobuf.fields(message, self.name)
        key = _text(tensor, 8)
        if tensor[13] or (tensor[14] and tensor[14][-1] == 1):
            raise UnsupportedModelError(f"{self.name}: tensor '{key}' lies in a file of its own")
        element = tensor[2][-1] if tensor[2] else 0
        dims = protobuf.integers(tensor[1], self.name)
        if element not in _DTYPES:
            return key, np.empty(
                0
            )  # no dense layer has such a tensor: one that asks for it finds the shape wrong
        dtype = _DTYPES[element]
        if tensor[9]:
            raw = _messages(tensor, 9)[-1]
        elif element == _INT64:
            raw = np.array(protobuf.integers(tensor[7], self.name), np.int64).tobytes()
        else:
            raw = b"".join(_messages(tensor, 4 if element == _FLOAT else 10))
        if len(dims) > 8:
            raise UnsupportedModelError(f"{self.name}: tensor '{key}' of {len(dims):,} axes")
        size = 1
        for dim in dims:
            size *= dim if dim >= 0 else 2**63
        if size * dtype.itemsize != len(raw):
            raise ModelFormatError(
                f"{self.name}: tensor '{key}' of shape {dims[:8]} needs {size * dtype.itemsize:,} bytes, got "
                f"{len(raw):,}"
            )
        return key, np.frombuffer(raw, dtype).reshape(dims)

    def _port(self, message: bytes) -> tuple[str, int, list[int]]:
        """Name, element type and shape, -1 for an open axis."""
        port = protobuf.fields(message, self.name)
        kinds = [protobuf.fields(part, self.name) for part in _messages(port, 2)]
        tensors = [protobuf.fields(part, self.name) for kind in kinds for part in _messages(kind, 1)]
        if not tensors:
            return _text(port, 1), 0, []
        element = tensors[-1][1][-1] if tensors[-1][1] else 0
        shapes = [protobuf.fields(part, self.name) for part in _messages(tensors[-1], 2)]
        dims = [protobuf.fields(part, self.name) for shape in shapes for part in _messages(shape, 1)]
        sizes = [dim[1][-1] if dim[1] and isinstance(dim[1][-1], int) else -1 for dim in dims]
        return _text(port, 1), element if isinstance(element, int) else 0, sizes


def _messages(entry: dict[int, list[Any]], number: int) -> list[bytes]:
    values = entry.get(number, [])
    if any(not isinstance(value, bytes) for value in values):
        raise ModelFormatError(f"damaged: field {number} is a number where a message was expected")
    return values


def _text(entry: dict[int, list[Any]], number: int) -> str:
    values = _messages(entry, number)
    return values[-1].decode("utf-8", "replace") if values else ""
