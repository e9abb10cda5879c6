"""The frozen form of a program: canonical JSON, its digest, and the files and rows that are read as JSON."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.errors import InputError, ProgramError


def replace_file(target: Path, content: bytes) -> None:
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def canonical(body: dict[str, Any]) -> str:
    return json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest_of(body: dict[str, Any]) -> str:
    try:
        return hashlib.sha256(canonical(body).encode()).hexdigest()
    except ValueError as error:
        raise ProgramError(f"the program cannot be frozen: {error}") from None


def parse_row(data: bytes | str) -> Any:
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
    return json.loads(data, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")
