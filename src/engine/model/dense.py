"""Dense nets from arrays: linear and logistic models and multi-layer perceptrons."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import ConfigError
from engine.model import _dense
from engine.model.model import Model

ACTIVATIONS = {"identity": 0, "relu": 1, "tanh": 2, "logistic": 3, "exponential": 4, "softmax": 5}


def dense(
    weights: Sequence[npt.ArrayLike],
    biases: Sequence[npt.ArrayLike],
    *,
    activation: str = "relu",
    output: str = "identity",
    feature_names: Sequence[str] | None = None,
    format: str = "arrays",
) -> Model:
    """A native model of dense layers.

    Args:
        weights: one array [n_in, n_out] a layer, at most 1,024 outputs. Computed in float32 where every array
            is float32, else in double. Copied.
        biases: one array [n_out] a layer.
        activation: between layers: identity, relu, tanh, logistic.
        output: of the last layer: those, exponential or softmax.
        feature_names: names of the columns in order.
        format: what `Model.format` says.

    Returns:
        A `Model`; the same row gives the same bits at any batch size and instruction set.

    Raises:
        ConfigError: no layers, as many biases as weights are not given, an activation that is not known.
        ModelFormatError: shapes that do not fit together, too wide a layer, a weight that is not finite.

    Example:
        >>> line = dense([np.array([[2.0], [1.0]])], [np.array([0.5])])
        >>> line.predict([[1.0, 10.0]])
        array([12.5])
    """
    hidden = {name: ACTIVATIONS[name] for name in ("identity", "relu", "tanh", "logistic")}
    if activation not in hidden or output not in ACTIVATIONS:
        raise ConfigError(
            f"expected an activation of {', '.join(hidden)} and an output of {', '.join(ACTIVATIONS)}, "
            f"got {activation!r} and {output!r}"
        )
    if not weights or len(weights) != len(biases):
        raise ConfigError(f"expected one bias a layer, got {len(weights)} weights and {len(biases)} biases")
    arrays = [np.asarray(array) for pair in zip(weights, biases, strict=True) for array in pair]
    float32 = all(array.dtype == np.float32 for array in arrays)
    kinds = [ACTIVATIONS[activation]] * (len(weights) - 1) + [ACTIVATIONS[output]]
    net = _dense.Dense(
        [(arrays[2 * i], arrays[2 * i + 1], kind) for i, kind in enumerate(kinds)], float32=float32
    )
    return Model(
        net.scorer,
        format=format,
        digest=_digest(arrays, kinds),
        feature_names=feature_names,
        details={
            "layers": [int(arrays[0].shape[0]), *(int(array.shape[1]) for array in arrays[::2])],
            "activation": activation,
            "output": output,
            "precision": "float32" if float32 else "float64",
        },
    )


def _digest(arrays: Sequence[npt.NDArray[Any]], kinds: Sequence[int]) -> str:
    """sha256 over shapes, types, values and activations; an array's bytes alone would not tell its shape."""
    digest = hashlib.sha256(bytes(kinds))
    for array in arrays:
        digest.update(f"{array.shape}{array.dtype.str}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
