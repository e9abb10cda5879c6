"""One side of a model, its inputs or its outputs, compared with the reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import MonitorError
from engine.monitor.drift.detector import DriftDetector, Episode


class Distribution:
    """The rows of one side of a model, and whether they still look like the reference. Thread-safe.

    A ModelMonitor makes two: `input_distribution` and `output_distribution`.

    Attributes:
        kind: str, "input_drift" or "output_drift": the kind of its alerts.
        severity: str, of its alerts.
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
        self._rows = 0

    def update(self, rows: Any) -> None:
        """Count rows that were not logged, and test them. Blocks until they are counted, without the GIL.

        Args:
            rows: inputs: one mapping or sequence, a matrix [n, n_features], or a table as in `Reference.fit`.
                Outputs: a number, [n], or [n, n_outputs].

        Raises:
            MonitorError: a row is of another width than the reference's, or a value is no number.
            ClosedError: this is a child of fork().
        """
        self._update(rows)

    def drift_detected(self) -> bool:
        """Return whether a change lasts in any column, after testing everything that was counted.

        Raises:
            MonitorError: there is no reference yet.
            ClosedError: this is a child of fork().
        """
        self._check()
        if self._detector is None:
            raise MonitorError(
                "no reference to compare with: give ModelMonitor one, call set_reference, or log more rows, because "
                "the first learn_rows rows become the reference"
            )
        return bool(self._detector.open)

    @property
    def drifted(self) -> tuple[str, ...]:
        """Names of the drifted columns, the earliest first."""
        return tuple(self._detector.open) if self._detector else ()

    @property
    def rows(self) -> int:
        """Rows counted since there is a reference, up to the last test; another reference does not restart them.

        The last ones, fewer than `block_rows`, wait for the others of their block and are tested with them.
        """
        return self._rows

    def columns(self) -> dict[str, dict[str, Any]]:
        """Return the figures of every column by name; empty without a reference.

        Keys: drifted, bool; nearest_alarm, the nearest sequential test as a share of its threshold (1 is an alarm).
        After the first row also, of the latest rows and of the reference (with the suffix _reference): rows; codes;
        mean; std; missing_share; unseen_share; psi; ks_distance; p_value; rows_dependent, how many rows tell as much as
        one independent row.
        """
        if self._detector is None:
            return {}
        return {column.name: figures for column, figures in self._detector.state()}

    # The rest is called by the monitor, which holds its lock.

    def restart(self, detector: DriftDetector | None, part: slice) -> list[Episode]:
        """Compare with another reference from now on: `part` of a block's columns by `detector`.

        Return the episodes of columns that are gone. All others go on until `detector` sees no change any more.
        """
        before, self._part = self._detector, part
        self._detector = detector if detector is not None and detector.columns else None
        if before is None:
            return []
        if self._detector is not None:
            return self._detector.go_on_from(before)
        for episode in before.open.values():
            episode.ended_row = before.rows
        return list(before.open.values())

    def saved(self) -> dict[str, Any]:
        """Return what `restore` takes."""
        return {
            "rows": self._rows,
            "detector": self._detector.saved() if self._detector is not None else None,
        }

    def restore(self, saved: Mapping[str, Any], same_reference: bool) -> None:
        """Go on from what `saved` returned. Raises ValueError, KeyError or TypeError where it is damaged."""
        if self._detector is not None and saved["detector"] is not None:
            self._detector.restore(saved["detector"], same_reference)
        self._rows = int(saved["rows"])

    def finish(self) -> list[Episode]:
        """Test the rows that wait for their block, and return the episodes that began or ended with them."""
        return [] if self._detector is None else self._detector.finish()

    def observe(self, block: dict[str, Any]) -> list[Episode]:
        """Add a block of the native counter, and return the episodes that began or ended with it."""
        rows = block["rows"] if self.kind == "input_drift" else block["output_rows"]
        if self._detector is None or not rows:
            return []
        self._rows += rows
        names = ("counts", "missing", "infinite", "unseen", "runs", "sums")
        pairs = (block["pair_rows"], block["pair_sums"]) if self.kind == "input_drift" else ()
        return self._detector.observe(rows, *(block[name][self._part] for name in names), *pairs)

    def histograms(self) -> list[tuple[Any, npt.NDArray[np.float64], dict[str, Any]]]:
        """Return (column, counts [bins], figures) of each column; counts are those of the last one or two windows."""
        if self._detector is None:
            return []
        counts = self._detector.recent_counts
        return [
            (column, counts[place, : column.bins.n_bins], figures)
            for place, (column, figures) in enumerate(self._detector.state())
        ]


def as_outputs(rows: Any) -> npt.NDArray[np.float64]:
    """Return float64 [n, n_outputs] of a number, [n] or [n, n_outputs]. Raises MonitorError for anything else."""
    if type(rows) is float:
        return np.array([[rows]])
    try:
        array = np.asarray(rows, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise MonitorError(f"expected outputs as numbers, got {type(rows).__name__}: {error}") from None
    if array.ndim < 2:
        array = array.reshape(-1, 1)
    if array.ndim != 2:
        raise MonitorError(f"expected outputs [n] or [n, n_outputs], got shape {list(array.shape)}")
    return np.ascontiguousarray(array)
