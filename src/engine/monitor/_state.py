"""The state of a monitor as one file, written whole or not at all, so that a process that starts again goes on.

The file is an uncompressed .npz: a JSON text, "state", and the arrays that it names. No pickles are read.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import logging
import os
import re
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from engine._common import durable
from engine.errors import MonitorError
from engine.monitor._packed import put_arrays, take_arrays
from engine.monitor.reference import Reference

FORMAT = "engine.monitor.state/1"
# The environment variable that names a folder of state files, and how many of one monitor it may have.
FOLDER = "ENGINE_MONITOR_STATE"
FILES_MAX = 256
LOGGER = logging.getLogger("engine.monitor")


def digest(reference: Reference) -> str:
    """Return a text that equal references have in common."""
    return hashlib.sha256(reference.to_json().encode()).hexdigest()


def state_file(path: str | Path | None, name: str, reference: Reference | None) -> StateFile:
    """Return the state file of a monitor: as named, or one in the folder that ENGINE_MONITOR_STATE names, or none.

    Files of that folder have the monitor's name and the digest of its reference, and a number, because one process has
    a file: a process takes the first one that no other holds.
    """
    folder = os.environ.get(FOLDER)
    if path is not None or not folder:
        return StateFile(path)
    stem = re.sub(r"[^A-Za-z0-9._-]", "_", name) or "model"
    stem += f"-{digest(reference)[:12]}" if reference is not None else "-learned"
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for number in range(1, FILES_MAX + 1):
            found = Path(folder) / f"{stem}-{number}.state"
            held = open(f"{found}.lock", "ab")  # noqa: SIM115  (held until the monitor is closed)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held.close()
                continue
            return StateFile(found, held)
    except OSError as error:
        LOGGER.error("the monitor keeps no state: %s=%s: %s", FOLDER, folder, error)
    return StateFile(None)


class StateFile:
    """The file of one monitor. Without a path it does nothing. Thread-safe.

    Attributes:
        path: Path, or None.
    """

    # How often `save_at_times` writes.
    EVERY_S = 60.0

    def __init__(self, path: str | Path | None, held: BinaryIO | None = None) -> None:
        """`held`: an open file whose lock says that the state is in use; closed by `release`."""
        self._held = held
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

    def release(self) -> None:
        """Let another process take the file."""
        if self._held is not None:
            self._held.close()

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
    text = json.dumps({"format": FORMAT, "state": take_arrays(state, arrays)})
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
            state: dict[str, Any] = put_arrays(made["state"], found)
            return state
    except (ValueError, KeyError, TypeError, EOFError, OSError, zipfile.BadZipFile, RecursionError) as error:
        raise MonitorError(f"the state of the monitor is damaged: {type(error).__name__}: {error}") from error
