"""Chooses the input that takes the rows and the output that holds the scores.

Pure decisions on names, element types and shapes: no session, no onnxruntime.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from engine.errors import ConfigError, UnsupportedModelError

FLOAT, DOUBLE, INT64, STRING = 1, 11, 7, 8  # ONNX's numbers of element types
ELEMENTS = {FLOAT: "float", DOUBLE: "double", INT64: "int64", STRING: "string"}


@dataclass(frozen=True)
class Port:
    """One input or output of a model.

    Attributes:
        name: as the model gives it.
        element: ONNX's number of its element type; None for a sequence, a map or a sparse tensor.
        shape: of its axes, -1 for a dynamic one.
    """

    name: str
    element: int | None
    shape: tuple[int, ...]

    def __str__(self) -> str:
        known = ELEMENTS.get(self.element or 0, f"element type {self.element}")
        kind = "no tensor" if self.element is None else known
        axes = ", ".join("?" if size < 0 else str(size) for size in self.shape)
        return f"'{self.name}' ({kind} [{axes}])"


@dataclass(frozen=True)
class Choice:
    """The input and the output in use.

    Attributes:
        input, output: their names.
        input_element: FLOAT or DOUBLE.
        n_features: values a row.
        row_by_row: the model's batch axis is fixed at one row.
        labelled: a label output lies beside the scores, so the model is a classifier.
    """

    input: str
    input_element: int
    n_features: int
    output: str
    row_by_row: bool
    labelled: bool

    @property
    def probe_rows(self) -> int:
        """Rows of the trial run: two tell a batch axis from any other, where the model takes two."""
        return 1 if self.row_by_row else 2


@dataclass(frozen=True)
class Columns:
    """The columns [first, first + count) of an output of `total` columns, which are the answer."""

    total: int
    first: int
    count: int


def choose(
    inputs: Sequence[Port], outputs: Sequence[Port], *, output: str | None, n_features: int | None
) -> Choice:
    """Choose the input and the output.

    Args:
        inputs, outputs: all of the model's.
        output: name of the output that holds the scores, where the caller gave one.
        n_features: values a row, where the caller gave them.

    Raises:
        UnsupportedModelError: no input or output fits, or several do; the message lists them.
        ConfigError: an output that does not exist, or n_features that is not the model's.
    """
    given = _choose_input(inputs)
    scores = _choose_output(outputs, output)
    rows, features = given.shape
    if rows not in (-1, 1):
        raise UnsupportedModelError(
            f"input {given} takes exactly {rows} rows at once: export the model with a dynamic batch axis"
        )
    if features < 1 and n_features is None:
        raise UnsupportedModelError(f"input {given} leaves the number of features open: pass n_features=")
    if n_features is not None and (n_features < 1 or features not in (-1, n_features)):
        raise ConfigError(f"n_features={n_features} does not fit input {given}")
    assert given.element is not None
    return Choice(
        input=given.name,
        input_element=given.element,
        n_features=n_features or features,
        output=scores.name,
        row_by_row=rows == 1,
        labelled=any(port.element in (INT64, STRING) for port in outputs),
    )


def _choose_input(inputs: Sequence[Port]) -> Port:
    if len(inputs) != 1:
        raise UnsupportedModelError(
            f"expected one input of all features, got {len(inputs)}: {_listed(inputs)}; export the model with one "
            f"float tensor [batch, n_features]"
        )
    if inputs[0].element not in (FLOAT, DOUBLE) or len(inputs[0].shape) != 2:
        raise UnsupportedModelError(f"expected a float or double input [batch, n_features], got {inputs[0]}")
    return inputs[0]


def _choose_output(outputs: Sequence[Port], name: str | None) -> Port:
    candidates = [port for port in outputs if port.element in (FLOAT, DOUBLE)]
    if name is not None:
        named = [port for port in outputs if port.name == name]
        if not named:
            raise ConfigError(f"the model has no output {name!r}; it has {_listed(outputs)}")
        if named[0] not in candidates:
            raise UnsupportedModelError(f"expected a float or double tensor of scores, got {named[0]}")
        return named[0]
    if len(candidates) > 1:  # skl2onnx and onnxmltools call it so
        candidates = [port for port in candidates if port.name == "probabilities"] or candidates
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise UnsupportedModelError(
            f"several outputs could hold the scores: pass output= one of {_listed(candidates)}"
        )
    if any(port.element is None for port in outputs):
        raise UnsupportedModelError(
            f"no output is a tensor of scores, only {_listed(outputs)}: a ZipMap makes a dictionary of each row; "
            f"export with zipmap=False (skl2onnx: options={{'zipmap': False}})"
        )
    raise UnsupportedModelError(f"no output is a float or double tensor of scores: {_listed(outputs)}")


def columns(choice: Choice, probed: Port) -> Columns:
    """The columns of the answer, from the output of a trial run on `choice.probe_rows` rows.

    A classifier's two columns become one, the second: the probability of class 1.

    Raises:
        UnsupportedModelError: the output is not [batch] or [batch, n_outputs] of float or double.
    """
    shape = probed.shape
    if probed.element not in (FLOAT, DOUBLE) or len(shape) not in (1, 2) or shape[0] != choice.probe_rows:
        raise UnsupportedModelError(
            f"expected scores [batch] or [batch, n_outputs], got {probed} for {choice.probe_rows} rows"
        )
    total = shape[1] if len(shape) == 2 else 1
    if total < 1:
        raise UnsupportedModelError(f"output {probed} holds no scores")
    if choice.labelled and total == 2:
        return Columns(total, first=1, count=1)
    return Columns(total, first=0, count=total)


def feature_names(properties: dict[str, str], n_features: int) -> list[str] | None:
    """The metadata entry `feature_names`, where it is a JSON list of exactly n_features strings; else None."""
    try:
        names = json.loads(properties.get("feature_names", "null"))
    except ValueError:
        return None
    fits = (
        isinstance(names, list) and len(names) == n_features and all(isinstance(name, str) for name in names)
    )
    return names if fits else None


def _listed(ports: Sequence[Port]) -> str:
    return ", ".join(str(port) for port in ports) or "none"
