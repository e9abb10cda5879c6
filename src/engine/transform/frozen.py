"""The frozen form of a program, and the JSON that programs and rows are read from."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

from engine._common import canonical
from engine.errors import InputError, ProgramError


def digest_of(body: dict[str, Any]) -> str:
    """Return the digest of a program's body: sha256 of its canonical JSON, 64 hex digits.

    Raises:
        ProgramError: a value that JSON has no form for, as NaN.
    """
    try:
        return canonical.digest(body)
    except ValueError as error:
        raise ProgramError(f"the program cannot be frozen: {error}") from None


def parse_row(data: bytes | str) -> Any:
    """Return a row from JSON, by orjson if it is installed. Raise InputError for anything that is no JSON."""
    try:
        return _json_reader()(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"expected a row as JSON: {error}") from None


@functools.cache
def _json_reader() -> Callable[[bytes | str], Any]:
    try:
        from orjson import loads
    except ImportError:
        return plain_loads
    return loads


def plain_loads(data: bytes | str) -> Any:
    """Return a value from JSON. Raise ValueError for anything that is no JSON, NaN and Infinity included."""
    return json.loads(data, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")
