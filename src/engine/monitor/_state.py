"""The state of a monitor as one file, written whole or not at all, so that a process that starts again goes on.

The file is an uncompressed .npz: a JSON text, "state", and the arrays that it names. No pickles are read.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from engine._common import durable
from engine.errors import MonitorError
from engine.monitor.reference import Reference

FORMAT = "engine.monitor.state/1"


def digest(reference: Reference) -> str:
    """Return a text that equal references have in common."""
    return hashlib.sha256(reference.to_json().encode()).hexdigest()


def write(path: Path, state: dict[str, Any]) -> None:
    """Write nested dicts and lists of plain values and arrays. Raises OSError; the former file then stays."""
    arrays: list[np.ndarray] = []
    text = json.dumps({"format": FORMAT, "state": _without_arrays(state, arrays)})
    stream = io.BytesIO()
    named: dict[str, Any] = {f"a{place}": array for place, array in enumerate(arrays)}
    np.savez(stream, state=np.frombuffer(text.encode(), dtype=np.uint8), **named)
    durable.write(path, stream.getvalue())


def read(path: Path) -> dict[str, Any] | None:
    """Return what `write` wrote; None where there is no file.

    Raises:
        OSError: the file cannot be read.
        MonitorError: it is no state, one of another format, or damaged.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as found:
            made = json.loads(found["state"].tobytes())
            if made["format"] != FORMAT:
                raise MonitorError(f"{path}: expected a state of format {FORMAT!r}, got {made['format']!r}")
            state: dict[str, Any] = _with_arrays(made["state"], found)
            return state
    except (ValueError, KeyError, TypeError, EOFError, OSError, zipfile.BadZipFile, RecursionError) as error:
        raise MonitorError(
            f"{path}: the state of the monitor is damaged: {type(error).__name__}: {error}"
        ) from error


def _without_arrays(value: Any, arrays: list[np.ndarray]) -> Any:
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return {"array": f"a{len(arrays) - 1}"}
    if isinstance(value, dict):
        return {key: _without_arrays(inner, arrays) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_arrays(inner, arrays) for inner in value]
    if isinstance(value, np.generic):
        return value.item()
    return value


def _with_arrays(value: Any, found: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"array"}:
            return found[value["array"]]
        return {key: _with_arrays(inner, found) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_arrays(inner, found) for inner in value]
    return value
