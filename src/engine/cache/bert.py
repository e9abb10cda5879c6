"""BERT encoders as ONNX graphs whose rows are token ids: attention, pooling and normalisation in one native call.

The graph's input is float32 [texts, tokens_max], because rows of models are: ids are whole numbers below 2^24, and a
place behind the end of a text holds -1. The graph cuts the places that no text of a batch uses.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine._common import optional
from engine.errors import ModelFormatError, UnsupportedModelError

Weights = Mapping[str, npt.NDArray[np.float32]]
OPSET, IR_VERSION = 17, 8
ABSENT = -1.0  # the id of a place behind the end of a text
MASKED = -1e9  # added to the attention that such a place gets


@dataclass(frozen=True)
class Shape:
    """The shape of a BERT, from a folder of sentence-transformers.

    Attributes:
        layers, heads, hidden: of the transformer.
        epsilon: of its layer norms.
        tokens_max: the most tokens of a text, its marks for begin and end included.
        pooling: "mean" or "cls".
        normalize: whether embeddings have length 1.
    """

    layers: int
    heads: int
    hidden: int
    epsilon: float
    tokens_max: int
    pooling: str
    normalize: bool


def shape_of(folder: Path) -> Shape:
    """Read the configuration of a folder.

    Raises:
        FileNotFoundError: no config.json.
        ModelFormatError: a file that is no JSON, or lacks a field.
        UnsupportedModelError: another architecture, pooling or activation.
    """
    config = _json(folder / "config.json")
    if config.get("model_type") != "bert" or config.get("position_embedding_type", "absolute") != "absolute":
        raise UnsupportedModelError(
            f"{folder}: expected a BERT with absolute positions, got model_type={config.get('model_type')!r}; wrap "
            "another encoder in engine.cache.Encoder"
        )
    if config.get("hidden_act") != "gelu":
        raise UnsupportedModelError(
            f"{folder}: expected the activation gelu, got {config.get('hidden_act')!r}"
        )
    pooling = _optional_json(folder / "1_Pooling" / "config.json")
    mode = "cls" if pooling.get("pooling_mode_cls_token") else "mean"
    others = [name for name, on in pooling.items() if name.startswith("pooling_mode_") and on is True]
    if len(others) > 1 or (
        others and others[0] not in ("pooling_mode_cls_token", "pooling_mode_mean_tokens")
    ):
        raise UnsupportedModelError(f"{folder}: expected pooling by mean or of the first token, got {others}")
    modules = folder / "modules.json"
    normalize = modules.exists() and any(
        str(each.get("type", "")).endswith("Normalize") for each in _json(modules)
    )
    length = _optional_json(folder / "sentence_bert_config.json").get("max_seq_length")
    try:
        positions = int(config["max_position_embeddings"])
        return Shape(
            layers=int(config["num_hidden_layers"]),
            heads=int(config["num_attention_heads"]),
            hidden=int(config["hidden_size"]),
            epsilon=float(config["layer_norm_eps"]),
            tokens_max=min(int(length or positions), positions),
            pooling=mode,
            normalize=normalize,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFormatError(
            f"{folder / 'config.json'}: a field is missing or no number: {error}"
        ) from error


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelFormatError(f"{path}: expected JSON: {error}") from error


def _optional_json(path: Path) -> dict[str, Any]:
    return _json(path) if path.exists() else {}


class _Graph:
    """Nodes and constants of a graph, each result named by a number."""

    def __init__(self, onnx: Any) -> None:
        self._helper, self._numpy_helper = onnx.helper, onnx.numpy_helper
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def __call__(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        names = [f"r{len(self.nodes)}_{number}" for number in range(outputs)]
        self.nodes.append(self._helper.make_node(op, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"c{len(self.constants)}"
        array = np.ascontiguousarray(value, dtype=dtype)
        self.constants.append(self._numpy_helper.from_array(array.reshape(np.shape(value)), name))
        return name

    def ints(self, *values: int) -> str:
        return self.constant(list(values), np.int64)


def graph(weights: Weights, shape: Shape) -> bytes:
    """Return the ONNX model of a BERT: input `tokens` float32 [texts, tokens_max], output `embedding`.

    Args:
        weights: by the names that transformers gives them.
        shape: from `shape_of`.

    Raises:
        ModelFormatError: a weight is missing or has another shape.
        MissingDependencyError: onnx is not installed.
    """
    onnx = optional.need("onnx", "a sentence encoder", "cache")
    make = _Graph(onnx)
    tensor = onnx.TensorProto
    try:
        tokens, mask = _tokens(make, tensor)
        states = _embedded(make, tensor, weights, shape, tokens)
        # [texts, 1, 1, tokens]: nothing is added for a token, and MASKED for a place without one.
        bias = make("Mul", make("Sub", make.constant(1.0), mask), make.constant(MASKED))
        bias = make("Unsqueeze", bias, make.ints(1, 2))
        for number in range(shape.layers):
            states = _layer(make, weights, f"encoder.layer.{number}.", shape, states, bias)
    except KeyError as missing:
        raise ModelFormatError(f"the weights lack {missing.args[0]!r}") from None
    _pooled(make, shape, states, mask)
    io = [
        onnx.helper.make_tensor_value_info("tokens", tensor.FLOAT, ["texts", shape.tokens_max]),
        onnx.helper.make_tensor_value_info("embedding", tensor.FLOAT, ["texts", shape.hidden]),
    ]
    made = onnx.helper.make_graph(make.nodes, "sentence-encoder", io[:1], io[1:], make.constants)
    model = onnx.helper.make_model(
        made, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    return model.SerializeToString()


def _tokens(make: _Graph, tensor: Any) -> tuple[str, str]:
    """The ids of the places that a text of the batch uses, float32, and 1.0 where there is a token."""
    present = make("Cast", make("Greater", "tokens", make.constant(-0.5)), to=tensor.FLOAT)
    longest = make("ReduceMax", make("ReduceSum", present, make.ints(1), keepdims=0), keepdims=1)
    # At least one place: a batch of nothing but absent tokens still has a shape.
    longest = make("Cast", make("Max", longest, make.constant([1.0])), to=tensor.INT64)
    cut = [make("Slice", each, make.ints(0), longest, make.ints(1)) for each in ("tokens", present)]
    return cut[0], cut[1]


def _embedded(make: _Graph, tensor: Any, weights: Weights, shape: Shape, tokens: str) -> str:
    ids = make("Cast", make("Max", tokens, make.constant(0.0)), to=tensor.INT64)
    words = make("Gather", make.constant(weights["embeddings.word_embeddings.weight"]), ids)
    # The type of every token is 0.
    places = (
        weights["embeddings.position_embeddings.weight"]
        + weights["embeddings.token_type_embeddings.weight"][0]
    )
    count = make("Slice", make("Shape", tokens), make.ints(1), make.ints(2), make.ints(0))
    places = make("Slice", make.constant(places), make.ints(0), count, make.ints(0))
    return _norm(make, weights, "embeddings.LayerNorm", shape, make("Add", words, places))


def _norm(make: _Graph, weights: Weights, name: str, shape: Shape, states: str) -> str:
    scale, bias = make.constant(weights[f"{name}.weight"]), make.constant(weights[f"{name}.bias"])
    return make("LayerNormalization", states, scale, bias, axis=-1, epsilon=shape.epsilon)


def _linear(make: _Graph, weights: Weights, name: str, states: str) -> str:
    product = make("MatMul", states, make.constant(weights[f"{name}.weight"].T))
    return make("Add", product, make.constant(weights[f"{name}.bias"]))


def _layer(make: _Graph, weights: Weights, name: str, shape: Shape, states: str, bias: str) -> str:
    size = shape.hidden // shape.heads
    parts = []
    for part, order in (("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3])):
        made = _linear(make, weights, f"{name}attention.self.{part}", states)
        made = make("Reshape", made, make.ints(0, 0, shape.heads, size))
        parts.append(make("Transpose", made, perm=order))
    query, key, value = parts
    scores = make("Mul", make("MatMul", query, key), make.constant(size**-0.5))
    attention = make("Softmax", make("Add", scores, bias), axis=-1)
    mixed = make("Transpose", make("MatMul", attention, value), perm=[0, 2, 1, 3])
    mixed = make("Reshape", mixed, make.ints(0, 0, shape.hidden))
    mixed = make("Add", _linear(make, weights, f"{name}attention.output.dense", mixed), states)
    states = _norm(make, weights, f"{name}attention.output.LayerNorm", shape, mixed)
    wide = _linear(make, weights, f"{name}intermediate.dense", states)
    # Gelu in the form that ONNX Runtime knows as one operation.
    gate = make("Add", make("Erf", make("Div", wide, make.constant(2.0**0.5))), make.constant(1.0))
    wide = make("Mul", make("Mul", wide, gate), make.constant(0.5))
    mixed = make("Add", _linear(make, weights, f"{name}output.dense", wide), states)
    return _norm(make, weights, f"{name}output.LayerNorm", shape, mixed)


def _pooled(make: _Graph, shape: Shape, states: str, mask: str) -> None:
    if shape.pooling == "cls":
        pooled = make("Gather", states, make.constant(0, np.int64), axis=1)
    else:
        weighted = make("Mul", states, make("Unsqueeze", mask, make.ints(2)))
        count = make("Max", make("ReduceSum", mask, make.ints(1), keepdims=1), make.constant(1e-9))
        pooled = make("Div", make("ReduceSum", weighted, make.ints(1), keepdims=0), count)
    if shape.normalize:
        length = make("Max", make("ReduceL2", pooled, axes=[1], keepdims=1), make.constant(1e-12))
        pooled = make("Div", pooled, length)
    make.nodes.append(make._helper.make_node("Identity", [pooled], ["embedding"]))
