"""The state of a monitor as one file, written whole or not at all, so that a process that starts again goes on.

The file is an uncompressed .npz: a JSON text, "state", and the arrays that it names. No pickles are read.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from engine._common import durable
from engine.errors import MonitorError
from engine.monitor.reference import Reference

FORMAT = "engine.monitor.state/1"
LOGGER = logging.getLogger("engine.monitor")


def digest(reference: Reference) -> str:
    """Return a text that equal references have in common."""
    return hashlib.sha256(reference.to_json().encode()).hexdigest()


class StateFile:
    """The file of one monitor. Without a path it does nothing. Thread-safe.

    Attributes:
        path: Path, or None.
    """

    # How often `save_at_times` writes.
    EVERY_S = 60.0

    def __init__(self, path: str | Path | None) -> None:
        self.path = None if path is None else Path(path)
        self._lock = threading.Lock()
        self._saved_at = time.monotonic()

    def read(self) -> tuple[dict[str, Any] | None, Reference | None]:
        """Return what a process that has ended knew, and the reference that it learned; None where there is none.

        A damaged file is put aside.
        """
        if self.path is None:
            return None, None
        try:
            found = read(self.path)
            learned = found["reference"] if found is not None else None
            return found, Reference.from_json(learned) if learned is not None else None
        except (MonitorError, KeyError, TypeError) as error:
            self.put_aside(error)
            return None, None

    def put_aside(self, error: Exception) -> None:
        """Rename a damaged file to "….damaged", and log why."""
        assert self.path is not None
        LOGGER.error("the monitor starts anew: %s: %s", self.path, error)
        with contextlib.suppress(OSError):
            self.path.replace(f"{self.path}.damaged")

    def save(self, knowledge: Callable[[], dict[str, Any]]) -> None:
        """Write what `knowledge` returns. Raises OSError; the former file then stays."""
        if self.path is None:
            return
        with self._lock:
            self._saved_at = time.monotonic()
            write(self.path, knowledge())

    def try_save(self, knowledge: Callable[[], dict[str, Any]]) -> None:
        """Write, and log where the file cannot be written."""
        try:
            self.save(knowledge)
        except OSError:
            LOGGER.exception("the monitor could not save its state to %s", self.path)

    def save_at_times(self, knowledge: Callable[[], dict[str, Any]]) -> None:
        """Write where a minute has passed since the last time."""
        if self.path is not None and time.monotonic() - self._saved_at >= self.EVERY_S:
            self.try_save(knowledge)


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
                raise MonitorError(f"expected a state of format {FORMAT!r}, got {made['format']!r}")
            state: dict[str, Any] = _with_arrays(made["state"], found)
            return state
    except (ValueError, KeyError, TypeError, EOFError, OSError, zipfile.BadZipFile, RecursionError) as error:
        raise MonitorError(f"the state of the monitor is damaged: {type(error).__name__}: {error}") from error


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
