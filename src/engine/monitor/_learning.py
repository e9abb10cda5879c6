"""Makes a reference of the first rows, where none was given."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import MonitorError
from engine.monitor._sketch import Sketch
from engine.monitor.reference import ROWS_MIN, Reference


class Learning:
    """Keeps the first `rows` rows, at least 100, and makes one Reference of them. Not thread-safe."""

    def __init__(self, rows: int) -> None:
        self._wanted = max(rows, ROWS_MIN)
        self._inputs: list[Any] = []
        self._outputs: list[npt.NDArray[np.float64]] = []
        self._stopped = False

    def add(self, features: Any, outputs: npt.NDArray[np.float64]) -> None:
        """Add one logged row and its outputs, float64 [n_outputs]."""
        self._inputs.append(features)
        self._outputs.append(outputs)

    def add_inputs(self, rows: Any) -> None:
        """Add rows without outputs: a mapping, a sequence, several of them, or a matrix."""
        if isinstance(rows, np.ndarray) and rows.ndim == 2:
            self._inputs += list(rows)
        elif isinstance(rows, Sequence) and rows and isinstance(rows[0], (Mapping, Sequence, np.ndarray)):
            self._inputs += rows
        elif isinstance(rows, Mapping) or np.ndim(rows) == 1:
            self._inputs.append(rows)
        else:
            raise MonitorError(
                f"without a reference, update takes mappings, sequences or a matrix, got {type(rows).__name__}; "
                f"Reference.fit takes any table"
            )

    def add_outputs(self, rows: npt.NDArray[np.float64]) -> None:
        """Add outputs, float64 [n, n_outputs]."""
        self._outputs += list(rows)

    def stop(self) -> None:
        """Forget all rows and keep no more."""
        self._stopped = True
        self._inputs, self._outputs = [], []

    def reference(self, sketch: Sketch) -> Reference | None:
        """Return the reference once there are enough rows, logged or shown by an engine; None before.

        Raises:
            MonitorError: no reference can be made of the logged rows. They are forgotten, and later rows kept instead.
        """
        if self._stopped:
            return None
        if len(self._inputs) >= self._wanted:
            return self._from_logged()
        if sketch.totals()["folded"] < self._wanted:
            return None
        sample = sketch.sample()
        if len(sample) >= self._wanted:
            return self._from_sample(sample, sketch.n_features)
        return None

    def _from_logged(self) -> Reference:
        inputs, outputs = self._inputs[: self._wanted], self._outputs[: self._wanted]
        table = inputs if isinstance(inputs[0], Mapping) else np.array(inputs, dtype=np.float64)
        whole = len(outputs) == len(inputs) and len({len(row) for row in outputs}) == 1
        try:
            return Reference.fit(table, outputs=np.array(outputs) if whole else None)
        except (MonitorError, ValueError):
            # With other rows it may work, and memory stays bounded.
            self._inputs, self._outputs = [], []
            raise

    def _from_sample(self, sample: npt.NDArray[np.float32], n_features: int) -> Reference | None:
        outputs = sample[:, n_features:]
        outputs = outputs[:, ~np.isnan(outputs).all(axis=0)]
        try:
            return Reference.fit(sample[:, :n_features], outputs=outputs if outputs.shape[1] else None)
        except MonitorError:
            logging.getLogger("engine.monitor").exception("no reference can be made of the first rows")
            self.stop()
            return None
