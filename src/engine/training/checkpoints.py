"""Checkpoints: the finished steps of one run, durable before the next step begins. No other run takes them up.

One file a stage: a line of JSON, then the payload. A kill leaves the last file or the next one, whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine._common import durable
from engine.errors import TrainingError

FORMAT = "engine.checkpoint"


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

    def clear(self) -> None:
        """Remove the run's checkpoints. Call it when the result is durable elsewhere."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.folder.parent.rmdir()  # fails while other runs have theirs here
