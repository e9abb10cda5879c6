"""SIGTERM during training: finished steps are durable already, so the run only has to stop soon."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

from engine.errors import TrainingError

Stop = Callable[[], None]


class TrainingInterrupted(TrainingError):
    """SIGTERM stopped a training run. Every finished step is on the disk, and the same call resumes from there."""


@contextlib.contextmanager
def stopping() -> Iterator[Stop]:
    """Yield a function that raises TrainingInterrupted after SIGTERM. Call it often, between rounds.

    Python delivers signals to its main thread only. On any other thread nothing is caught: SIGTERM ends the process as
    usual, and only the unfinished step is lost.
    """
    came = threading.Event()

    def stop() -> None:
        if came.is_set():
            raise TrainingInterrupted(
                "training was stopped by SIGTERM; run it again to go on from the last step"
            )

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def note(number: int, frame: Any) -> None:
        came.set()

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
