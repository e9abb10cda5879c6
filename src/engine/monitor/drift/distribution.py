"""One side of a model, what goes in or what comes out, against its reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import MonitorError
from engine.monitor.drift.detector import DriftDetector, Episode


class Distribution:
    """Rows go in, drift comes out; made by a ModelMonitor. Thread-safe.

    Attributes:
        kind: "input_drift" or "output_drift".
        severity: of its alerts.
    """

    def __init__(
        self, kind: str, severity: str, update: Callable[[Any], None], check: Callable[[], Any]
    ) -> None:
        self.kind = kind
        self.severity = severity
        self._update = update
        self._check = check
        self._detector: DriftDetector | None = None
        self._part = slice(0, 0)

    def update(self, rows: Any) -> None:
        """Counts rows that were not logged: one mapping or sequence, or many as a matrix, a table or a list.

        Outputs are a number, [n] or [n, n_outputs]. Blocks while they are counted, without the GIL.

        Raises:
            MonitorError: another width than the reference's.
        """
        self._update(rows)

    def drift_detected(self) -> bool:
        """True while a change lasts in any column, by all that was counted up to now.

        Raises:
            MonitorError: there is no reference yet.
        """
        self._check()
        if self._detector is None:
            raise MonitorError(
                "no reference to compare with: give ModelMonitor one, call set_reference, or log more rows so that the "
                "first of them become it"
            )
        return bool(self._detector.open)

    @property
    def drifted(self) -> tuple[str, ...]:
        """Columns whose change lasts, in the order it was seen."""
        return tuple(self._detector.open) if self._detector else ()

    @property
    def rows(self) -> int:
        """Rows tested since the reference was set."""
        return self._detector.rows if self._detector else 0

    def columns(self) -> dict[str, dict[str, Any]]:
        """Per column: drifted, nearest_alarm (1 is one), and recent figures beside the reference's."""
        if self._detector is None:
            return {}
        return {column.name: figures for column, figures in self._detector.state()}

    # What follows is the monitor's, under its lock.

    def restart(self, detector: DriftDetector | None, part: slice) -> None:
        self._detector = detector if detector is not None and detector.columns else None
        self._part = part

    def observe(self, block: dict[str, Any]) -> list[Episode]:
        rows = block["rows"] if self.kind == "input_drift" else block["output_rows"]
        if self._detector is None or not rows:
            return []
        names = ("counts", "missing", "infinite", "unseen", "sums")
        return self._detector.observe(rows, *(block[name][self._part] for name in names))

    def histograms(self) -> list[tuple[Any, npt.NDArray[np.float64], dict[str, Any]]]:
        """(column, recent counts [bins], figures) of each column; recent is the last one or two windows."""
        if self._detector is None:
            return []
        counts = self._detector.recent_counts
        return [
            (column, counts[place, : column.bins.n_bins], figures)
            for place, (column, figures) in enumerate(self._detector.state())
        ]


def as_outputs(rows: Any) -> npt.NDArray[np.float64]:
    """float64 [n, n_outputs] of a number, [n] or [n, n_outputs]."""
    try:
        array = np.asarray(rows, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise MonitorError(f"expected outputs as numbers, got {type(rows).__name__}: {error}") from None
    if array.ndim < 2:
        array = array.reshape(-1, 1)
    if array.ndim != 2:
        raise MonitorError(f"expected outputs [n] or [n, n_outputs], got shape {list(array.shape)}")
    return np.ascontiguousarray(array)
