"""The words that answers carry, as tuples: a word's place is its code in native code.

csrc/scheduler/request.hpp has the same order. The binding compares the two when it is imported.
"""

from __future__ import annotations

SOURCES = ("primary", "fallback", "default")
REASONS = (
    "ok", "late", "stalled", "full", "timeout", "released", "expired", "no_time", "primary_error",
    "primary_bad_shape", "primary_not_finite", "fallback_error", "closing", "shed", "breaker_open", "out_of_time",
    "default_error",
)  # fmt: skip
PRIORITIES = ("critical", "normal", "sheddable")
# Words for Engine's `lane` and `on_error`; native code has flags for them.
LANES = ("auto", "inline", "batch")
ERROR_RULES = ("fallback", "default")
