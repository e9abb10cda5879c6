"""Frozen values of columns that keep a value for long by nature: their companions tell.

The temperature of three airports may stay the same for hours, and so does their humidity then. A sensor that hangs
shows one temperature while the humidity moves on. The reference shows how far the columns that move together with a
column move while it keeps one value; twice as far means that it is frozen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from engine.monitor.drift.bins import FloatArray
from engine.monitor.drift.calibration import BLOCK_ROWS
from engine.monitor.drift.column import Column

# Shorter runs than this are seen soon by their length alone.
RUN_MIN = 50
# Runs of two blocks and more in the reference, without which it shows nothing.
RUNS_MIN = 5
# How many times farther companions must move, and the least that counts, in standard deviations.
TIMES = 2.0
MOVED_MIN = 0.1


def with_companions(
    columns: Sequence[Column],
    values: Mapping[str, npt.NDArray[np.float32]],
    together: Sequence[Sequence[str]],
) -> list[Column]:
    """Return the columns, with the movement of companions from which on each is frozen.

    Args:
        columns: of a reference.
        values: float32 [n] by name; NaN is missing.
        together: names of the columns of each group that moves together.
    """
    by_name = {column.name: column for column in columns}
    limits = {}
    for group in together:
        scores: dict[str, FloatArray] = {}
        for name in group:
            calibration = by_name[name].calibration
            if calibration is None or calibration.run < RUN_MIN or calibration.run > by_name[name].rows / 8:
                continue
            if not scores:
                scores = {other: _scores(by_name[other], values[other]) for other in group}
            others = [scores[other] for other in group if other != name]
            limits[name] = _limit(values[name], others)
    return [
        column
        if not limits.get(column.name) or column.calibration is None
        else replace(column, calibration=replace(column.calibration, moved=limits[column.name]))
        for column in columns
    ]


def _scores(column: Column, values: npt.NDArray[np.float32]) -> FloatArray:
    """Return the location score of each value, NaN where it is missing."""
    made = column.scores()
    index = column.bins.index(values)
    if made is None:
        return np.full(len(values), np.nan)
    return np.where(index >= 0, made.location[np.maximum(index, 0)], np.nan)


def _limit(values: npt.NDArray[np.float32], others: list[FloatArray]) -> float:
    """Return twice the farthest that companions moved in a long run of one value; 0 where that is not known."""
    there = np.flatnonzero(~np.isnan(values))
    present = values[there]
    changes = np.flatnonzero(present[1:] != present[:-1])
    starts, ends = np.append(0, changes + 1), np.append(changes, len(present) - 1)
    moved = []
    for start, end in zip(there[starts].tolist(), there[ends].tolist(), strict=True):
        if end + 1 - start >= 2 * BLOCK_ROWS:
            moved.append(max(movement(_block_means(other[start : end + 1])) for other in others))
    return max(TIMES * max(moved), MOVED_MIN) if len(moved) >= RUNS_MIN else 0.0


def _block_means(scores: FloatArray) -> FloatArray:
    blocks = len(scores) // BLOCK_ROWS
    parts = scores[: blocks * BLOCK_ROWS].reshape(blocks, BLOCK_ROWS)
    counts = (~np.isnan(parts)).sum(axis=1)
    means: FloatArray = np.where(counts > 0, np.nansum(parts, axis=1) / np.maximum(counts, 1), np.nan)
    return means


def movement(means: FloatArray) -> float:
    """Return the distance of the largest from the smallest of some means; NaN is none."""
    known = means[~np.isnan(means)]
    return float(known.max() - known.min()) if len(known) else 0.0
