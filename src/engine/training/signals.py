"""SIGTERM during training: what is done is durable already, so the run only has to stop soon and say so."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

from engine.errors import TrainingError

Stop = Callable[[], None]


class TrainingInterrupted(TrainingError):
    """SIGTERM came; every finished step is on the disk, and the same call goes on from there."""


@contextlib.contextmanager
def stopping() -> Iterator[Stop]:
    """Gives a function that raises TrainingInterrupted once SIGTERM has come; call it often, between rounds.

    Signals are Python's main thread's: on any other thread nothing is caught, and SIGTERM ends the process as it
    always did, which loses the step under way and nothing else.
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
