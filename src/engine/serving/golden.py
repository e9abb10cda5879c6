"""Golden rows: what a model must answer before it may take traffic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import ConfigError, ModelError
from engine.model import Model

TOLERANCE = 1e-6

Golden = tuple[npt.ArrayLike | Sequence[Any], npt.ArrayLike]


def check(model: Model, role: str, rows: npt.NDArray[Any], values: npt.ArrayLike) -> None:
    """Scores `rows` [n, n_features] and compares with `values`, within 1e-6 of the larger of 1 and the value.

    Raises:
        ConfigError: rows and values do not fit.
        ModelError: the model failed, answered NaN or infinity, or another value; says which row, what was expected
            and what came.
    """
    expected = np.asarray(values, dtype=np.float64)
    shape = (len(rows),) if model.n_outputs == 1 else (len(rows), model.n_outputs)
    if expected.shape != shape or len(rows) == 0:
        raise ConfigError(
            f"golden values must have shape {list(shape)} for {len(rows)} rows (at least one), got "
            f"{list(expected.shape)}"
        )
    got = model.predict(rows)
    wrong = ~(np.abs(got - expected) <= TOLERANCE * np.maximum(1.0, np.abs(expected)))
    wrong |= ~np.isfinite(got)
    if wrong.any():
        failing = np.unique(np.argwhere(wrong)[:, 0])
        row = failing[0]
        raise ModelError(
            f"the {role} fails {len(failing)} of {len(rows)} golden rows: row {row} gave {got[row]}, expected "
            f"{expected[row]}"
        )
