from collections.abc import Callable as AnyCallable
from typing import Any

from typing_extensions import CapsuleType

class BadShape(ValueError):
    """The callable's answer does not have one value for each row and output."""

class Callable:
    """Calls `fn` with a fresh [n, n_features] array, float32 or float64, reads its answer, keeps its last failure.

    The kept failure holds no traceback, because its frames would keep the caller's locals alive, and with them this
    model.

    Args:
        fn: as in `engine.model.python.from_callable`.
        n_features: values a row, from 1.
        n_outputs: values an answer, from 1.
        float64: give `fn` float64 rows instead of float32.

    Attributes:
        n_features, n_outputs, float64: as given.
        error: the last exception of `fn`, or of the check of its answer; None where no call failed.
        error_text: its traceback as text, at most 8,000 characters; "" where no call failed.
    """

    n_features: int
    n_outputs: int
    float64: bool
    error: BaseException | None
    error_text: str
    def __init__(
        self, fn: AnyCallable[..., Any], n_features: int, n_outputs: int, float64: bool = False
    ) -> None: ...
    def scorer(self) -> CapsuleType:
        """Return a capsule `engine.scorer.v1` over this object, which the capsule keeps alive."""
