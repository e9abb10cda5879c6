"""Checkpoints: the finished steps of one run, durable before the next step begins. No other run takes them up.

One file a stage: a line of JSON, then the payload. A kill leaves the last file or the next one, whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine._common import durable
from engine.errors import TrainingError
from engine.training.signals import Stop

FORMAT = "engine.checkpoint"
ABANDONED_S = 30 * 86_400.0
WAIT_S = 0.1
ATTEMPTS = 20
_RUN = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A finished step of a stage.

    Attributes:
        step: its number, from 1.
        payload: the bytes that the next step begins with.
        about: plain JSON.
    """

    step: int
    payload: bytes
    about: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: of all runs; made when the first checkpoint is saved.
        run: digest of everything that decides the run's result.
    """

    def __init__(self, folder: Path, run: str) -> None:
        self.folder = folder / run[:16]
        self.run = run

    def save(self, stage: str, step: int, payload: bytes, about: dict[str, Any] | None = None) -> None:
        """Replace the stage's checkpoint. Durable on return. Raises TrainingError if it cannot be written."""
        head = {
            "format": FORMAT,
            "run": self.run,
            "stage": stage,
            "step": step,
            "about": about or {},
            "bytes": len(payload),
            "sha256": hashlib.sha256(payload).hexdigest(),
        }
        content = json.dumps(head, sort_keys=True).encode() + b"\n" + payload
        target = self.folder / f"{stage}.checkpoint"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            durable.write(target, content)
        except OSError as error:
            raise TrainingError(f"the checkpoint {target} cannot be written: {error.strerror}") from None

    def load(self, stage: str) -> Checkpoint | None:
        """Return the stage's checkpoint, or None without one.

        Raises:
            TrainingError: it is damaged, belongs to another run, or cannot be read.
        """
        path = self.folder / f"{stage}.checkpoint"
        try:
            head, _, payload = path.read_bytes().partition(b"\n")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise TrainingError(f"the checkpoint {path} cannot be read: {error.strerror}") from None
        try:
            found = json.loads(head)
            whole = (
                found["format"] == FORMAT
                and found["stage"] == stage
                and found["bytes"] == len(payload)
                and found["sha256"] == hashlib.sha256(payload).hexdigest()
            )
        except (ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            raise TrainingError(
                f"the checkpoint {path} is damaged; delete {self.folder} to train from the start"
            )
        if found["run"] != self.run:
            raise TrainingError(f"the checkpoint {path} is of another run; delete {self.folder}")
        return Checkpoint(found["step"], payload, found["about"])

    @contextlib.contextmanager
    def held(self, stop: Stop) -> Iterator[None]:
        """Hold the run alone, among the processes of this machine. Wait for another process that has it.

        Abandoned checkpoints of other runs are removed on the way: nobody has touched them for ABANDONED_S.

        Args:
            stop: called while it waits.

        Raises:
            TrainingError: the folder cannot be written.
        """
        path = self.folder.with_suffix(".lock")
        lock = self._locked(path, stop)
        try:
            self._collect()
            yield
        finally:
            # Unlinked while it is held: a waiter that gets the lock of an unlinked file opens the path again.
            path.unlink(missing_ok=True)
            os.close(lock)
            self._leave()

    def _locked(self, path: Path, stop: Stop) -> int:
        for attempt in itertools.count():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
            except OSError as error:
                if isinstance(error, FileNotFoundError) and attempt < ATTEMPTS:
                    continue  # another run has just removed the empty folder
                raise TrainingError(
                    f"the checkpoints in {path.parent} cannot be written: {error.strerror}"
                ) from None
            try:
                while True:
                    stop()
                    try:
                        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        break
                    except BlockingIOError:
                        time.sleep(WAIT_S)
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(lock), path.stat()):
                        return lock
            except BaseException:
                os.close(lock)
                raise
            os.close(lock)
        raise AssertionError("the loop ends by return or raise")

    def clear(self) -> None:
        """Remove the run's checkpoints. Call it when the result is durable elsewhere."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._leave()

    def _leave(self) -> None:
        with contextlib.suppress(OSError):
            self.folder.parent.rmdir()  # fails while other runs have theirs here

    def _collect(self) -> None:
        """Remove folders of runs that hold checkpoints alone, all of them older than ABANDONED_S."""
        with contextlib.suppress(OSError):
            for folder in self.folder.parent.iterdir():
                if folder == self.folder or not _RUN.fullmatch(folder.name) or folder.is_symlink():
                    continue
                files = list(folder.iterdir())
                ages = [time.time() - path.lstat().st_mtime for path in (folder, *files)]
                if min(ages) > ABANDONED_S and all(path.suffix == ".checkpoint" for path in files):
                    shutil.rmtree(folder, ignore_errors=True)
