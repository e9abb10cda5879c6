"""Work on a thread of its own, which the caller can leave: for models that may not come back."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from typing import Any

from engine.errors import ModelTimeoutError
from engine.serving._executors import no_thread


def apart(work: Callable[[], Any], timeout_s: float, late: str) -> None:
    """Run `work` on another thread and wait for it.

    Args:
        work: a function of nothing; what it raises is raised here.
        timeout_s: the longest to wait, in seconds; infinity for no limit.
        late: message of the error.

    Raises:
        ModelTimeoutError: the time was up. The thread goes on until the work is done.
        ResourceError: the system refuses a thread.

    A signal whose handler raises (Ctrl-C) ends the wait too.
    """
    done = threading.Event()
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=run, name="engine-trial", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        raise no_thread(OSError(errno.EAGAIN, "")) from None
    if not done.wait(None if timeout_s > threading.TIMEOUT_MAX else timeout_s):
        raise ModelTimeoutError(f"{late}; the version before serves on")
    if raised:
        raise raised[0]
