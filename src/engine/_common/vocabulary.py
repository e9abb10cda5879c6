"""The words of answers and requests, as tuples: a word's position is its code in native code.

csrc/scheduler/request.hpp has the same order. The bindings compare the two at import.
"""

from __future__ import annotations

from collections.abc import Sequence

SOURCES = ("primary", "fallback", "default")
REASONS = (
    "ok", "late", "stalled", "full", "timeout", "released", "expired", "no_time", "primary_error",
    "primary_bad_shape", "primary_not_finite", "fallback_error", "closing", "shed", "breaker_open", "out_of_time",
    "default_error",
)  # fmt: skip
PRIORITIES = ("critical", "normal", "sheddable")
# Words for Engine's `lane`, `on_error`, `expired` and `unknown_keys`; native code has flags for them.
LANES = ("auto", "inline", "batch")
ERROR_RULES = ("fallback", "default")
EXPIRED_RULES = ("raise", "answer")
UNKNOWN_KEY_RULES = ("ignore", "raise")


def require_same(what: str, ours: Sequence[str], native: Sequence[str]) -> None:
    """Compare words with those of a compiled module, in order. Raise ImportError if they differ: one of them is old."""
    if tuple(ours) != tuple(native):
        raise ImportError(
            f"{what} differ: Python has {', '.join(ours)}; the compiled module has {', '.join(native)}. Build the "
            f"package again: pip install --force-reinstall ."
        )
