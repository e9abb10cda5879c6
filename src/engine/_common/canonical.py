"""Canonical JSON and its digest: equal contents give equal bytes on every machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any


def to_bytes(body: Any, *, default: Callable[[Any], Any] | None = None) -> bytes:
    """Return `body` as JSON in UTF-8, with sorted keys and no spaces. Floats read back to the same bits.

    Args:
        default: turns a value that is no JSON into one, as for `json.dumps`.

    Raises:
        ValueError, TypeError, RecursionError: `body` holds NaN, infinity, or a value that is no JSON.
    """
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False, default=default)
    return text.encode()


def digest(body: Any, *, default: Callable[[Any], Any] | None = None) -> str:
    """Return the sha256 of `to_bytes(body)`, 64 hex digits. Raises as `to_bytes` does."""
    return hashlib.sha256(to_bytes(body, default=default)).hexdigest()
