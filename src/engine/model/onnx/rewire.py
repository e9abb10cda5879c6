"""Gives an ONNX model the shape that the engine reads: one matrix of rows in, one tensor of scores out.

Two changes of the graph, which change no number: a ZipMap, which makes a dictionary of each row, becomes an
Identity; and inputs of one or few columns each (or of whole numbers) are taken out of one matrix by Gather and Cast.
"""

from __future__ import annotations

import json
import struct
from typing import Any

from engine.errors import UnsupportedModelError
from engine.model.onnx import protobuf
from engine.model.onnx.ports import DOUBLE, FLOAT, INT64, STRING

_NUMBERS = {
    FLOAT: 24,
    DOUBLE: 53,
    INT64: 53,
    6: 32,
    9: 1,
    2: 8,
    3: 8,
    4: 16,
    5: 16,
    12: 32,
}  # element -> bits that it needs
# Fields of ModelProto, GraphProto, NodeProto and ValueInfoProto.
_GRAPH, _OPSET = 7, 8
_NODE, _INITIALIZER, _INPUT, _OUTPUT = 1, 5, 11, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_OP, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 4, 5, 7
ROWS = "engine_rows"

Entries = list[tuple[int, int, Any]]


def rewired(content: bytes, properties: dict[str, str]) -> bytes:
    """Return the model with one input matrix and tensors for outputs; the bytes themselves where it has them already.

    The names of single columns go to `properties["feature_names"]`, unless the model has that.

    Raises:
        ModelFormatError: damaged bytes.
        UnsupportedModelError: an input of text beside others; a support vector classifier without probabilities.
    """
    model = protobuf.entries(content, "the model")
    at = next((place for place, entry in enumerate(model) if entry[0] == _GRAPH), None)
    if at is None:
        return content
    graph = protobuf.entries(model[at][2], "the graph")
    _require_probabilities(graph)
    changed = _without_zipmaps(graph)
    graph, columns = _one_input(graph)
    if not changed and columns is None:
        return content
    if columns:
        properties.setdefault("feature_names", json.dumps(columns))
    model[at] = (_GRAPH, 2, protobuf.encode(graph))
    if not any(not protobuf.fields(value, "opset").get(1) for number, _, value in model if number == _OPSET):
        model.append((_OPSET, 2, protobuf.encode([(2, 0, 13)])))
    return protobuf.encode(model)


def _require_probabilities(graph: Entries) -> None:
    """Refuse a support vector classifier that gives no probabilities: of two classes its columns are f and -f, and the
    second, which is class 1 everywhere else, is turned."""
    for number, _, value in graph:
        if number != _NODE or b"SVMClassifier" not in value:
            continue
        node = protobuf.entries(value, "a node")
        names = {
            protobuf.fields(attribute, "an attribute").get(1, [b""])[0]
            for field, _, attribute in node
            if field == _NODE_ATTRIBUTE
        }
        if (_NODE_OP, 2, b"SVMClassifier") in node and b"prob_a" not in names:
            raise UnsupportedModelError(
                "a support vector classifier without probabilities, whose scores ONNX turns: load the fitted "
                "object itself, load_model(svc)"
            )


def _without_zipmaps(graph: Entries) -> bool:
    """Make an Identity of each ZipMap, in place, and a tensor of its output."""
    mapped = set()
    for place, (number, kind, value) in enumerate(graph):
        if number != _NODE:
            continue
        node = protobuf.entries(value, "a node")
        if (_NODE_OP, 2, b"ZipMap") not in node:
            continue
        kept = [entry for entry in node if entry[0] not in (_NODE_OP, _NODE_ATTRIBUTE, _NODE_DOMAIN)]
        graph[place] = (number, kind, protobuf.encode([*kept, (_NODE_OP, 2, b"Identity")]))
        mapped |= {text for field, _, text in node if field == _NODE_OUTPUT}
    for place, (number, kind, value) in enumerate(graph):
        if number == _OUTPUT and protobuf.fields(value, "an output").get(1, [b""])[0] in mapped:
            name = protobuf.fields(value, "an output")[1][0]
            graph[place] = (number, kind, _value_info(name, FLOAT, None))
    return bool(mapped)


def _one_input(graph: Entries) -> tuple[Entries, list[str] | None]:
    """The graph with one input, and the names of its columns; None where nothing was to be done."""
    constants = {
        protobuf.fields(value, "a tensor").get(8, [b""])[0]
        for number, _, value in graph
        if number == _INITIALIZER
    }
    inputs = [(place, *_port(value)) for place, (number, _, value) in enumerate(graph) if number == _INPUT]
    inputs = [one for one in inputs if one[1] not in constants]
    if not inputs or (len(inputs) == 1 and inputs[0][2] in (FLOAT, DOUBLE)):
        return graph, None
    for _, name, element, width in inputs:
        if element == STRING:
            raise UnsupportedModelError(
                f"input {name.decode('utf-8', 'replace')!r} is text, and rows hold numbers: load the fitted pipeline "
                f"itself, load_model(pipeline), or export the model without its encoder"
            )
        if element not in _NUMBERS or width < 1:
            return graph, None  # the choice of ports says what is wrong
    element = DOUBLE if max(_NUMBERS[element] for _, _, element, _ in inputs) > _NUMBERS[FLOAT] else FLOAT
    total = sum(width for *_, width in inputs)
    places = {place for place, *_ in inputs}
    nodes, names, first = [], [], 0
    for _, name, wanted, width in inputs:
        text = name.decode("utf-8", "replace")
        names += [text] if width == 1 else [f"{text}_{at}" for at in range(width)]
        indices = name + b"__engine_columns"
        graph.append((_INITIALIZER, 2, _int64s(indices, list(range(first, first + width)))))
        taken = name if wanted == element else name + b"__engine_taken"
        nodes.append(_node(b"Gather", [ROWS.encode(), indices], taken, b"axis", 1))
        if wanted != element:
            nodes.append(_node(b"Cast", [taken], name, b"to", wanted))
        first += width
    kept = [entry for place, entry in enumerate(graph) if place not in places]
    rows = (_INPUT, 2, _value_info(ROWS.encode(), element, total))
    return [*nodes, *kept, rows], names


def _port(value: bytes) -> tuple[bytes, int, int]:
    """Name, element type (0 for no tensor) and columns of an input; 0 columns where it is not [rows, columns]."""
    found = protobuf.fields(value, "an input")
    name = found.get(1, [b""])[0]
    kinds = protobuf.fields(found[2][0], "a type").get(1) if found.get(2) else None
    if not kinds:
        return name, 0, 0
    tensor = protobuf.fields(kinds[0], "a tensor type")
    element = int(tensor.get(1, [0])[0])
    axes = protobuf.fields(tensor[2][0], "a shape").get(1, []) if tensor.get(2) else []
    sizes = [protobuf.fields(axis, "an axis").get(1, [0])[0] for axis in axes]
    return name, element, int(sizes[1]) if len(sizes) == 2 and sizes[0] == 0 else 0


def _value_info(name: bytes, element: int, columns: int | None) -> bytes:
    tensor: Entries = [(1, 0, element)]
    if columns is not None:
        axes = [(1, 2, protobuf.encode([(2, 2, b"rows")])), (1, 2, protobuf.encode([(1, 0, columns)]))]
        tensor.append((2, 2, protobuf.encode(axes)))
    kind = protobuf.encode([(1, 2, protobuf.encode(tensor))])
    return protobuf.encode([(1, 2, name), (2, 2, kind)])


def _node(
    op: bytes, inputs: list[bytes], output: bytes, attribute: bytes, value: int
) -> tuple[int, int, bytes]:
    number = protobuf.encode([(1, 2, attribute), (3, 0, value), (20, 0, 2)])  # name, i, type INT
    entries: Entries = [(_NODE_INPUT, 2, name) for name in inputs]
    return (
        _NODE,
        2,
        protobuf.encode(
            [*entries, (_NODE_OUTPUT, 2, output), (_NODE_OP, 2, op), (_NODE_ATTRIBUTE, 2, number)]
        ),
    )


def _int64s(name: bytes, values: list[int]) -> bytes:
    return protobuf.encode(
        [(1, 0, len(values)), (2, 0, INT64), (8, 2, name), (9, 2, struct.pack(f"<{len(values)}q", *values))]
    )
