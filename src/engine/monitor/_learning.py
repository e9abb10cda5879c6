"""Makes a reference of the first rows, where none was given."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import MonitorError
from engine.monitor._sketch import Sketch
from engine.monitor._table import as_rows
from engine.monitor.reference import ROWS_MIN, Reference

LOGGER = logging.getLogger("engine.monitor")


class Learning:
    """Keeps the first `rows` rows, at least 100, for one Reference, and the rows that come while it is made.

    Not thread-safe, except what `enough` returns.
    """

    # Inputs wait for outputs that come in calls of their own until there are this many times the wanted rows.
    WAITING_MAX = 4

    def __init__(self, rows: int, n_features: int | None = None) -> None:
        """`n_features`: width of every row; None where the first one tells."""
        self._wanted = max(rows, ROWS_MIN)
        self._n_features = n_features
        self._outputs_apart = False
        self._inputs: list[dict[str, Any] | npt.NDArray[np.float64]] = []
        self._outputs: list[npt.NDArray[np.float64]] = []
        self._fitting = False
        self._too_wide = False
        self._sample_failed = False

    @property
    def width(self) -> int:
        """Width of the rows; 0 before the first."""
        return len(self._inputs[0]) if self._inputs else 0

    def add(self, features: Any, outputs: npt.NDArray[np.float64]) -> None:
        """Add one logged row and its outputs, float64 [n_outputs]. Raises MonitorError, and then adds nothing."""
        self._inputs.append(self._row(features))
        self._outputs.append(outputs)

    def add_inputs(self, rows: Any) -> None:
        """Add rows without outputs: a mapping, a sequence, several of them, a matrix, or a table as in `Reference.fit`.

        Raises MonitorError, and then adds nothing.
        """
        matrix = isinstance(rows, np.ndarray) and rows.ndim == 2
        several = isinstance(rows, Sequence) and rows and isinstance(rows[0], (Mapping, Sequence, np.ndarray))
        if matrix or several:
            many = list(rows)
        elif isinstance(rows, Mapping) and not _has_columns(rows):
            many = [rows]
        elif isinstance(rows, (Sequence, np.ndarray)) and np.ndim(rows) == 1:
            many = [rows] if len(rows) else []
        else:
            many = as_rows(rows)
        self._inputs += [self._row(row) for row in many]

    def _row(self, features: Any) -> dict[str, Any] | npt.NDArray[np.float64]:
        """Return a copy of a row, as a dict or float64 [n]. Raises MonitorError where it is not like the first one."""
        first = self._inputs[0] if self._inputs else None
        if self._n_features is not None and _length(features) != self._n_features:
            raise MonitorError(f"expected a row of {self._n_features} features, got {_length(features)}")
        if isinstance(features, Mapping):
            if isinstance(first, np.ndarray):
                raise MonitorError(f"expected a row of {len(first)} numbers, as the first one, got a mapping")
            return {str(name): value for name, value in features.items()}
        try:
            row = np.array(features, dtype=np.float64)
        except (TypeError, ValueError, OverflowError):
            raise MonitorError(
                "without a reference, a row of text or other values must be a mapping by name; a sequence holds "
                "numbers and None"
            ) from None
        if isinstance(first, dict):
            raise MonitorError(f"expected a mapping by name, as the first row, got {type(features).__name__}")
        if row.ndim != 1 or (first is not None and len(row) != len(first)):
            expected = (
                "a row of numbers" if first is None else f"a row of {len(first)} features, as the first one"
            )
            raise MonitorError(f"expected {expected}, got shape {list(row.shape)}")
        return row

    def add_outputs(self, rows: npt.NDArray[np.float64]) -> None:
        """Add outputs, float64 [n, n_outputs], of rows that come by `add_inputs`."""
        self._outputs += list(rows)
        self._outputs_apart = True

    def forget(self) -> None:
        """Forget all rows, and begin again."""
        self._inputs, self._outputs = [], []
        self._fitting = False

    def enough(self, sketch: Sketch) -> Callable[[], Reference | None] | None:
        """Return a function that makes the reference, once there are enough rows, logged or shown by an engine.

        Return None before, and while the function of another call is at work. The function needs no lock. It returns
        None where no reference can be made, which it logs.
        """
        if self._fitting:
            return None
        if len(self._inputs) >= self._wanted and not self._waits_for_outputs():
            inputs, outputs = self._inputs[: self._wanted], self._outputs[: self._wanted]
            self._fitting = True
            return lambda: _logged(self._from_logged, inputs, outputs)
        totals = sketch.totals()
        if totals["wrong_width"] >= self._wanted and not self._too_wide:
            self._too_wide = True
            LOGGER.error(
                "no reference can be learned: %d rows have more than %d features; give ModelMonitor n_features= or a "
                "reference",
                totals["wrong_width"],
                sketch.features_max,
            )
        if totals["folded"] < self._wanted or self._sample_failed:
            return None
        sample = sketch.sample()
        if len(sample) < self._wanted:
            return None
        self._fitting = True
        self._sample_failed = True  # the native part keeps no other rows to try again with
        return lambda: _logged(self._from_sample, sample, sketch.n_features)

    def _waits_for_outputs(self) -> bool:
        few = self._outputs_apart and len(self._outputs) < self._wanted
        return few and len(self._inputs) < self.WAITING_MAX * self._wanted

    def rest(self, reference: Reference) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
        """Return the rows that came after those of the reference, and their outputs, and forget all rows.

        float32 [n, n_features] and float64 [n, n_outputs]. A row that the reference cannot read is logged and left out.
        """
        inputs, outputs = self._inputs[self._wanted :], self._outputs[self._wanted :]
        self.forget()
        rows = []
        for row in inputs:
            try:
                rows.append(reference.row(row))
            except MonitorError as error:
                LOGGER.error("a row that came while the reference was made is not tested: %s", error)
        width = len(reference.outputs)
        outputs = [row for row in outputs if len(row) == width]
        return (
            np.array(rows, dtype=np.float32).reshape(len(rows), len(reference.features)),
            np.array(outputs, dtype=np.float64).reshape(len(outputs), width),
        )

    @staticmethod
    def _from_logged(inputs: list[Any], outputs: list[npt.NDArray[np.float64]]) -> Reference:
        table = inputs if isinstance(inputs[0], Mapping) else np.stack(inputs)
        whole = len(outputs) == len(inputs) and len({len(row) for row in outputs}) == 1
        return Reference.fit(table, outputs=np.array(outputs) if whole else None)

    @staticmethod
    def _from_sample(sample: npt.NDArray[np.float32], n_features: int) -> Reference:
        outputs = sample[:, n_features:]
        outputs = outputs[:, ~np.isnan(outputs).all(axis=0)]
        return Reference.fit(sample[:, :n_features], outputs=outputs if outputs.shape[1] else None)


def _length(features: Any) -> int | str:
    return len(features) if hasattr(features, "__len__") else type(features).__name__


def _logged(fit: Callable[..., Reference], *arguments: Any) -> Reference | None:
    try:
        return fit(*arguments)
    except (MonitorError, ValueError):
        LOGGER.exception("no reference can be made of the first rows")
        return None


def _has_columns(rows: Mapping[str, Any]) -> bool:
    return any(not isinstance(value, (str, bytes)) and hasattr(value, "__len__") for value in rows.values())
