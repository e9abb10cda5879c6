"""The evidence of all columns of one side, block by block (csrc/monitor/charts.hpp)."""

from typing import Any

import numpy as np
import numpy.typing as npt

class Evidence:
    """Charts of all columns, and the sums of the latest blocks. Not thread-safe.

    A chart is a cumulative sum that never falls below 0. It alarms at its threshold, and goes on until it has fallen to
    `cleared` of it. The last chart of a column is the length of the current run of one value.

    Args:
        weights: float64 [columns, bins + 2, charts], what a row adds to a chart: one in each bin, one whose value is
            missing, and one whose value is strange (a new code, or infinite).
        thresholds: float64 [columns, charts + 1]; infinite for a chart that never alarms.
        kept: how many blocks are kept.
        cleared: share of the threshold.

    Attributes:
        weights: float64 [columns, bins + 2, charts], as given.
        thresholds: float64 [columns, charts + 1].
        level: float64 [columns, charts + 1], the sums as shares of their thresholds, 0 to 1.
        alarmed: uint8 [columns, charts + 1], 1 where a chart is alarmed.
        since: int64 [columns, charts + 1], the row at which each chart last left 0.
        until: int64 [columns, charts + 1], the row at which each chart last stood at its threshold.
        gathered: float64 [columns, bins], counts since `gathered` was last set to 0.
        sums: float64 [kept, columns, 6], of the latest blocks: rows, missing, strange, sum, sum of squares, run.
        steps: float64 [kept, columns, charts], what the latest blocks added, as shares of the thresholds.
        ends: int64 [kept], the row count at the end of each of these blocks.
        blocks: int, blocks seen.
    """

    weights: npt.NDArray[np.float64]
    thresholds: npt.NDArray[np.float64]
    level: npt.NDArray[np.float64]
    alarmed: npt.NDArray[np.uint8]
    since: npt.NDArray[np.int64]
    until: npt.NDArray[np.int64]
    gathered: npt.NDArray[np.float64]
    sums: npt.NDArray[np.float64]
    steps: npt.NDArray[np.float64]
    ends: npt.NDArray[np.int64]
    blocks: int
    def __init__(
        self,
        weights: npt.NDArray[np.float64],
        thresholds: npt.NDArray[np.float64],
        *,
        kept: int = 256,
        cleared: float = 0.25,
    ) -> None: ...
    def set_thresholds(self, thresholds: npt.NDArray[np.float64]) -> None:
        """Take other thresholds, float64 [columns, charts + 1]. The sums stay; their shares of the thresholds change.

        Raises:
            MonitorError: another shape.
        """

    def observe(
        self,
        counts: npt.NDArray[Any],
        missing: npt.NDArray[Any],
        infinite: npt.NDArray[Any],
        unseen: npt.NDArray[Any],
        runs: npt.NDArray[Any],
        sums: npt.NDArray[np.float64],
        rows: int,
        before: int,
    ) -> bool:
        """Add a block, and return whether any chart is alarmed.

        Args:
            counts: uint32 [columns, bins].
            missing, infinite, unseen: uint32 [columns].
            runs: uint32 [columns], the longest run of one value that ends in the block.
            sums: float64 [columns, 2], sum and sum of squares of the finite values.
            rows: of the block.
            before: rows before the block.

        Raises:
            MonitorError: an array of another dtype, layout or size.
        """

    def latest(self, most: int | None = None) -> npt.NDArray[np.int64]:
        """Return the places of the kept blocks in `sums`, `steps` and `ends`, the oldest first, at most `most`."""
