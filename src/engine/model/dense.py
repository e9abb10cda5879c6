"""Dense nets from arrays: linear and logistic models and multi-layer perceptrons."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine._common import arguments
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
    """Make a native model of dense layers: a linear or logistic model, or a multi-layer perceptron.

    Args:
        weights: one array [n_in, n_out] a layer, n_out from 1 to 1,024. The net computes in float32 where all
            weights and biases are float32, else in double. Copied.
        biases: one array [n_out] a layer. Copied.
        activation: of every layer but the last: "identity", "relu", "tanh" or "logistic".
        output: of the last layer: one of those, "exponential" or "softmax".
        feature_names: names of the columns in order.
        format: value of `Model.format`.

    Returns:
        A `Model`. The same row gives the same bits at any batch size and instruction set.

    Raises:
        ConfigError: no layers, another number of biases than of weights, or an unknown activation.
        ModelFormatError: shapes that do not fit together, a layer too wide, or a weight that is not finite.

    Example:
        >>> line = dense([np.array([[2.0], [1.0]])], [np.array([0.5])])
        >>> line.predict([[1.0, 10.0]])
        array([12.5])
    """
    hidden = {name: ACTIVATIONS[name] for name in ("identity", "relu", "tanh", "logistic")}
    arguments.one_of("activation", activation, tuple(hidden), error=ConfigError)
    arguments.one_of("output", output, tuple(ACTIVATIONS), error=ConfigError)
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
    """sha256 over shapes, types, values and activations: an array's bytes alone leave its shape open."""
    digest = hashlib.sha256(bytes(kinds))
    for array in arrays:
        digest.update(f"{array.shape}{array.dtype.str}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
