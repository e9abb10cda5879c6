"""The monitor's native half (csrc/monitor/sketch.hpp), and the capsule through which an engine shows its answers."""

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from typing_extensions import CapsuleType

SHADOW: Final[int]
CANARY: Final[int]
ANSWERS: np.dtype[Any]
LATENCY_UPPER_NS: Final[npt.NDArray[np.int64]]

class Sketch:
    """Counts answers and rows, by bin, source, reason and version, on a native thread of its own. Thread-safe.

    In a child of fork() every method raises ClosedError, except close(), which returns. Observers do nothing there.
    All memory except the bins' is taken here.

    Args:
        features_max: widest row, in features.
        outputs_max: most outputs of an answer.
        ring_rows: answers that wait to be counted, rounded up to a power of two. Further ones are dropped and counted.
        block_rows: rows, output rows or answers after which a block is closed.
        blocks_max: closed blocks that wait to be taken. While there are that many, answers wait in the ring; once a
            quarter of it is full, the open block grows.
        answers_max: answers remembered for labels; the oldest is forgotten first.
        sample_rows: raw rows kept while there is no layout.
        shadow_tolerance: largest difference at which a shadow's first output agrees with the live one.
        decision_threshold: outputs on the same side of it are the same decision.

    Attributes:
        outputs_max: int, as given.
        features_max: int, as given.
    """

    outputs_max: int
    features_max: int
    def __init__(
        self,
        *,
        features_max: int,
        outputs_max: int,
        ring_rows: int = 16384,
        block_rows: int = 50,
        blocks_max: int = 64,
        answers_max: int = 131072,
        sample_rows: int = 0,
        shadow_tolerance: float = 0.01,
        decision_threshold: float = 0.5,
    ) -> None: ...
    @property
    def alive(self) -> bool:
        """False in a child of fork()."""
    @property
    def n_features(self) -> int:
        """Width of the rows; 0 until the first row or a layout decides it."""
    @property
    def ring_bytes(self) -> int:
        """Memory of the ring, in bytes."""
    @property
    def observer(self) -> CapsuleType:
        """A new capsule of csrc/include/engine/observer.h. It keeps the native part alive, not this object."""
    def set_layout(
        self,
        columns: Iterable[tuple[Any, ...]],
        n_features: int,
        drop: bool = True,
    ) -> bool:
        """Set how values become bins. Answers that still wait in the ring are counted by the new bins.

        Args:
            columns: (cuts, bin_of, n_bins) of each feature, then of each output. cuts: float32 [m], ascending. bin_of:
                uint16 [m], the bin of each code, or None for numbers, which have m + 1 bins. A feature may have a
                fourth part: float32 [n_bins], a whole number from -20 to 20 for each bin. Products of these scores are
                then summed for all pairs of such features.
            n_features: how many of the columns are features; 0 where the first row shall decide the width.
            drop: drop the columns of all blocks that were not taken; answers stay counted. Where False and there are
                such blocks, nothing changes, and it returns False.
        """
    def push(
        self,
        id: int,
        *,
        deployment: int = 0,
        started_ns: int = 0,
        deadline_ns: int = 0,
        ready_ns: int = 0,
        row: npt.NDArray[np.float32] | npt.NDArray[np.float64] | None = None,
        values: npt.NDArray[np.float64] | None = None,
        source: int = 0,
        reason: int = 0,
        flags: int = 0,
    ) -> bool:
        """Push one answer through the ring. Return False where the ring was full, or after close().

        Args:
            id: of the answer; a shadow's answer has the id of the live one.
            deployment: number of the version, as given to `deployed`.
            started_ns, deadline_ns, ready_ns: CLOCK_MONOTONIC; a deadline at or before the start is none.
            row: float32 or float64 [n_features], C-contiguous, or None.
            values: float64 [n_outputs], C-contiguous, or None.
            source, reason: places in `engine._common.vocabulary`.
            flags: SHADOW, CANARY or 0.

        Raises:
            MonitorError: an array of another dtype or layout.
        """
    def push_rows(
        self,
        rows: npt.NDArray[np.float32],
        values: npt.NDArray[np.float64],
        first_id: int = 0,
        started_ns: int = 0,
        ready_ns: int = 0,
        deadline_ns: int = 0,
    ) -> int:
        """Push one answer a row, with ids that count up, and return how many the ring took. Releases the GIL.

        Args:
            rows: float32 [n, n_features], C-contiguous.
            values: float64 [n], C-contiguous: one output a row.
            first_id: id of the first row.
            started_ns, ready_ns, deadline_ns: as in `push`, the same for all rows.

        Raises:
            MonitorError: arrays of another dtype, layout or shape.
        """
    def fold_features(self, rows: npt.NDArray[np.float32]) -> None:
        """Count rows, float32 [n, n_features], past the ring: on this thread, without the GIL."""
    def fold_outputs(self, rows: npt.NDArray[np.float64]) -> None:
        """Count outputs, float64 [n, n_outputs], past the ring: on this thread, without the GIL."""
    def drain(self, flush: bool) -> bool:
        """Count what the ring holds, and with `flush` close the open block.

        Return False where it stopped because `blocks_max` blocks are closed: take them, and call it again.
        """
    @property
    def pressed(self) -> bool:
        """Whether blocks should be taken soon, because the queue of closed blocks or the ring fills up."""
    def take(self) -> dict[str, Any] | None:
        """Return the oldest closed block as a dict, or None where there is none.

        Keys: rows, output_rows and answers; first_ns and last_ns on CLOCK_MONOTONIC; counts, uint32 [columns,
        bins_max]; missing, infinite and unseen, uint32 [columns]; runs, uint32 [columns], the longest run of one value
        that ends in the block; sums, float64 [columns, 2], of values and of their squares; deployments, uint64 [v];
        tally, uint32 [v, sources, reasons]; late, uint32 [sources]; output_moments, float64 [v, 3], the count, sum and
        sum of squares of the first output; pair_rows and pair_sums, float32 [p (p + 3) / 2], of the p features with
        scores: the rows, sums of scores, and sums of products of (0, 0), (0, 1), …, (p - 1, p - 1).
        """
    def wait(self, timeout_s: float) -> None:
        """Wait, without the GIL, until a block is closed, the sketch is closed or the time is over."""
    def wait_closed(self, timeout_s: float) -> bool:
        """Wait, without the GIL, until the sketch is closed (True) or the time is over (False)."""
    def totals(self) -> dict[str, Any]:
        """Return counts since the start as a dict.

        Keys: pushed, dropped (the ring was full), wrong_width, folded (counted), remembered, unpaired_shadows; latency,
        uint64 [sources, len(LATENCY_UPPER_NS)]; share, uint64 [40], of latency / budget in bins of 0.05; shadows, one
        dict for each shadow version.
        """
    def deployed(self, deployment: int, version: str) -> None:
        """Announce that answers may carry this deployment number from now on."""
    def versions(self) -> dict[int, str]:
        """Return the latest 1,024 announced versions, by deployment number."""
    def find(self, id: int) -> tuple[int, int, int, bool, bool, npt.NDArray[np.float64]] | None:
        """Return (deployment, ready_ns, source, labelled, canary, outputs) of a remembered answer, or None.

        outputs: float64 [n_outputs], as many as the answer had.
        """
    def label(self, id: int) -> bool:
        """Mark an answer as labelled. Return False where it was already, or is not remembered."""
    def value(self, id: int) -> bool:
        """Mark an answer as worth something. Return False where it was already, or is not remembered."""
    def sample(self) -> npt.NDArray[np.float32]:
        """Return the primary's raw answers of before the first layout, float32 [rows, n_features + outputs_max]."""
    def answers(self, most: int = -1) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
        """Return the latest remembered answers, ANSWERS [n], and their outputs, float64 [n, outputs_max], oldest first.

        At most `most` of them; all where it is below 0.
        """
    def remember(self, entries: npt.NDArray[Any], outputs: npt.NDArray[np.float64]) -> None:
        """Remember answers of another sketch, as `answers` returned them. An answer of an id that is known stays.

        Args:
            entries: ANSWERS [n].
            outputs: float64 [n, outputs_max], C-contiguous.

        Raises:
            MonitorError: arrays of another dtype, layout or shape.
        """
    def close(self) -> None:
        """Count what the ring holds and end the thread. A second call, or one in a child of fork(), does nothing."""

def places_of(
    cuts: npt.NDArray[np.float32],
    bin_of: npt.NDArray[np.uint16] | None,
    n_bins: int,
    values: npt.NDArray[np.float32],
) -> npt.NDArray[np.int64]:
    """Return the bin of each value, int64 [n]: -1 for missing values, -2 for unseen codes. Releases the GIL.

    Args:
        cuts: float32 [m], ascending.
        bin_of: uint16 [m], the bin of each code, or None for numbers.
        n_bins: how many bins there are.
        values: float32 [n].

    Raises:
        MonitorError: values of another dtype or layout.
    """
