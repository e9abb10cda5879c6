"""Checkpoints: what a run has finished, on the disk before it goes on, and of no use to any other run.

One file a stage: a line of JSON, then the payload. It is written beside its place, synced, renamed, and the folder
synced, so that a kill leaves the last one or the next one, whole.
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
    """A finished step of a stage: its number from 1, the payload, and JSON about it."""

    step: int
    payload: bytes
    about: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: where runs keep theirs; made where it is missing.
        run: digest of everything that decides the run's result. A checkpoint of another run is never taken up.
    """

    def __init__(self, folder: Path, run: str) -> None:
        self.folder = folder / run[:16]
        self.run = run

    def save(self, stage: str, step: int, payload: bytes, about: dict[str, Any] | None = None) -> None:
        """Replaces the stage's checkpoint; durable on return. Raises TrainingError: a full disk, say."""
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
        """The stage's checkpoint; None where there is none.

        Raises:
            TrainingError: it is damaged or another run's. Nothing is trained on top of what cannot be trusted.
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
        """Removes the run's checkpoints, once its result is safe elsewhere."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.folder.parent.rmdir()  # only where it was the last run's
