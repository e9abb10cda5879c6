"""Golden rows: rows whose answers are known, which a model must give before it takes traffic."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import ConfigError, EngineError, InputError, ModelError
from engine.model.model import Model

TOLERANCE = 1e-6

# Golden rows as a caller gives them: (rows, values).
Given = tuple[npt.ArrayLike | Sequence[Any], npt.ArrayLike]


@dataclass(frozen=True, slots=True, eq=False)
class Golden:
    """Rows and the answers that a model must give to them.

    Attributes:
        rows: float32 or float64 [n, n_features], as the models take them.
        values: float64 [n] or [n, n_outputs], the expected answers; finite.
    """

    rows: npt.NDArray[Any]
    values: npt.NDArray[np.float64]

    @classmethod
    def of(cls, rows: Any, values: Any, *, error: type[EngineError] = InputError) -> Golden:
        """Return golden rows of copies of `rows` and `values`.

        Args:
            rows: numbers [n, n_features], at least one row. float32 stays float32, anything else becomes float64.
            values: numbers [n] or [n, n_outputs].

        Raises:
            error: the two are no numbers, their shapes do not fit, or a value is NaN or infinite.
        """
        single = getattr(rows, "dtype", None) == np.float32
        try:
            rows = np.array(rows, dtype=np.float32 if single else np.float64)
            values = np.array(values, dtype=np.float64)
        except (TypeError, ValueError) as problem:
            raise error(f"golden must be (rows, values) of numbers: {problem}") from None
        if rows.ndim != 2 or values.ndim not in (1, 2) or len(rows) != len(values) or not len(rows):
            raise error(
                f"golden must be at least one row [n, n_features] with values [n] or [n, n_outputs], got shapes "
                f"{list(rows.shape)} and {list(values.shape)}"
            )
        if not np.isfinite(values).all():
            row = int(np.argwhere(~np.isfinite(values))[0][0])
            raise error(f"golden row {row}: expected a finite value, got {_shown(values[row])}")
        return cls(rows, values)

    def mismatch(self, found: npt.NDArray[np.float64]) -> str | None:
        """Return how `found` differs from the expected values, naming the first row; None where it does not.

        An answer matches within 1e-6 of the expected value, relative to the larger of 1 and that value. NaN and
        infinity match nothing.
        """
        if found.shape != self.values.shape:
            return (
                f"golden rows: expected answers of shape {list(self.values.shape)}, got {list(found.shape)}"
            )
        if not len(found):
            return None
        # Negated, because a comparison with NaN is false.
        wrong = ~(np.abs(found - self.values) <= TOLERANCE * np.maximum(1.0, np.abs(self.values)))
        if not wrong.any():
            return None
        row = int(np.argwhere(wrong)[0][0])
        return (
            f"golden row {row}: expected {_shown(self.values[row])}, got {_shown(found[row])} "
            f"({int(wrong.reshape(len(found), -1).any(axis=1).sum())} of {len(found)} rows differ)"
        )

    def check(self, model: Model, role: str) -> None:
        """Score the rows by `model` and compare.

        Args:
            role: the subject of an error, "primary" for example.

        Raises:
            ConfigError: the values have not as many outputs a row as the model.
            ModelError: the model failed, or answered NaN, infinity or another value.
        """
        shape = (len(self.rows),) if model.n_outputs == 1 else (len(self.rows), model.n_outputs)
        if self.values.shape != shape:
            raise ConfigError(
                f"golden values must have shape {list(shape)} for {len(self.rows)} rows, got {list(self.values.shape)}"
            )
        if wrong := self.mismatch(model.predict(self.rows)):
            raise ModelError(f"the {role} does not answer as expected: {wrong}")

    def to_bytes(self) -> bytes:
        """Return both arrays in NumPy's npy format, rows first. Equal contents give equal bytes."""
        out = io.BytesIO()
        for array in (self.rows, self.values):
            np.lib.format.write_array(out, np.ascontiguousarray(array), allow_pickle=False)
        return out.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> Golden:
        """Return the golden rows that `to_bytes` wrote. Raises InputError for anything else."""
        source = io.BytesIO(content)
        try:
            rows, values = (np.lib.format.read_array(source, allow_pickle=False) for _ in range(2))
        except (ValueError, EOFError, MemoryError) as error:
            raise InputError(f"the golden rows cannot be read: {error}") from None
        return cls.of(rows, values)


def _shown(values: Any) -> str:
    found = np.atleast_1d(values)
    return (
        f"{found[0]:.9g}" if len(found) == 1 else "[" + ", ".join(f"{value:.9g}" for value in found[:4]) + "]"
    )
