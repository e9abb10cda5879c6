from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
from typing_extensions import CapsuleType

class ScorerInfo(TypedDict):
    n_features: int
    n_outputs: int
    takes_gil: bool
    reentrant: bool
    native: bool
    float64_rows: bool
    stops: bool
    in_flight_max: int
    rows_max: int

def describe(capsule: CapsuleType) -> ScorerInfo:
    """Return shape and flags of a scorer capsule.

    Keys: n_features, n_outputs, takes_gil, reentrant, native, float64_rows (takes rows in double), stops (can give
    up at a deadline), in_flight_max (batches that may be out at once; 0 where every batch is a call), rows_max (of
    such a batch).

    Raises:
        ConfigError: no scorer capsule, or of a version that is not read.
    """

def score(
    capsule: CapsuleType, rows: Any, threads: int = 1, deadline_ns: int | None = None
) -> npt.NDArray[np.float64]:
    """Score a 2-D array through a scorer capsule. The GIL is released, unless the scorer takes it.

    Args:
        capsule: PyCapsule `engine.scorer.v1`.
        rows: float32 or float64 [n, n_features]. Read in place where the last axis is contiguous, else copied once. A
            float64 array stays float64 where the scorer takes that; else it is rounded to float32, and a value beyond
            float32's range becomes an infinity of its sign, without a warning.
        threads: from 1; up to this many threads share the rows, 256 at a time. A scorer that is not reentrant gets one.
        deadline_ns: a point on `time.monotonic_ns()`. One thread then scores, and a scorer that can stop gives up once
            the deadline has passed. A scorer that is not reentrant is waited for until then.

    Returns:
        float64 [n] for one output, [n, n_outputs] for several.

    Raises:
        ConfigError: no scorer capsule.
        InputError: another shape or dtype, or threads below 1.
        ModelError: the scorer failed or gave up.
    """

def is_plain(rows: object, float64: bool) -> bool:
    """Return whether rows are a NumPy array of float32 or, with `float64`, of float64, and of no subclass.

    Such rows hold no names, no masked values, and no numbers that the model would round without a word.
    """

def lost(rows: npt.NDArray[Any]) -> tuple[int, int] | None:
    """Return (row, column) of the first whole number of a 2-D array that float32 cannot hold, or None.

    Numbers from 2^53 on in a float array do not count. Arrays of other types than int or float hold none.
    """

def with_missing(capsule: CapsuleType, missing: float) -> CapsuleType:
    """Return a scorer capsule that takes `missing`, as float32, for a missing value, and passes the rows on.

    It copies the rows, 64 at a time, and has the entries and flags of the scorer in `capsule`.

    Raises:
        ConfigError: no scorer capsule.
    """

def reordered(capsule: CapsuleType, order: Sequence[int]) -> CapsuleType:
    """Return a scorer capsule that takes columns in another order. It copies the rows, and has the inner one's flags.

    Args:
        capsule: PyCapsule `engine.scorer.v1`.
        order: order[i] is the given rows' column that is the inner scorer's column i; each column once.

    Raises:
        ConfigError: no scorer capsule, or `order` is no permutation of its columns.
    """
