"""Says in the log, under "engine.serving", that a primary fails and what its breaker does.

A handler of `logging` may block, so no request logs. An answer that shows a failure hands its deployment to one thread
of the process, which begins with the first failure. The thread looks at such deployments until they have recovered.
Each deployment gets at most MESSAGES_MAX messages a minute.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

log = logging.getLogger("engine.serving")

LOOK_EVERY_S = 0.02
PERIOD_S = 60.0
MESSAGES_MAX = 10
# A deployment is watched for this long after its last failure.
QUIET_S = 1.0


class Watched(Protocol):
    """A deployment, as far as the log reads it; its primary may be any Model."""

    version: str
    parts: Any

    def _troubles(self) -> tuple[int, bool, int, int]:
        """Failed answers so far; whether the breaker is open; its openings and its probes."""
        ...


class Case:
    """The messages of one deployment: those that were logged, and those that are due.

    Args:
        deployment: the deployment.
        over: returns True once its engine is closed or gone.
        finished: called when it need not be looked at any more.
    """

    def __init__(self, deployment: Watched, over: Callable[[], bool], finished: Callable[[], None]) -> None:
        self._deployment, self._over, self._finished = deployment, over, finished
        self._failures = self._said = self._openings = self._probes = 0
        self._open = self._probing = False
        self._changed_at = 0.0  # monotonic, of the last failure or change
        self._error_at = self._period_began = -PERIOD_S
        self._messages = self._unsaid = 0

    def look(self, now: float) -> bool:
        """Log what has changed. Return False once all is well again, after which the case may be handed in anew."""
        failures, is_open, openings, probes = self._deployment._troubles()
        if failures != self._failures:
            self._changed_at, self._failures = now, failures
            if now - self._error_at >= PERIOD_S:
                self._say_error(failures - self._said, now)
                self._error_at, self._said = now, failures
        if openings != self._openings or is_open != self._open or probes != self._probes:
            self._changed_at = now
            self._say_states(is_open, openings, probes, now)
        if self._over() or (not is_open and now - self._changed_at > QUIET_S):
            self._finished()
            return False
        return True

    def _say_error(self, count: int, now: float) -> None:
        model = self._deployment.parts[0]
        read = getattr(model, "last_error", None)
        text = (read() if read is not None else "").rstrip()
        times = f" ({count} more answers)" if self._said else ""
        what = text.splitlines()[-1] if text else "it gave no usable answer, and no exception"
        message = f"the primary of version {self._deployment.version!r} fails{times}: {what}"
        self._say(now, f"{message}\n{text}" if text else message)

    def _say_states(self, is_open: bool, openings: int, probes: int, now: float) -> None:
        version = f"version {self._deployment.version!r}: "
        if openings != self._openings:
            again = f" ({openings - self._openings} times)" if openings - self._openings > 1 else ""
            self._say(now, f"{version}the breaker opened{again}: the primary rests, and the fallback answers")
            self._open, self._probing = True, False
        if probes != self._probes and not self._probing:
            self._probing = True
            self._say(now, f"{version}the breaker is probing: one request goes to the primary")
        if self._open and not is_open:
            self._say(now, f"{version}the breaker closed: the primary takes requests again")
            self._open = False
        self._openings, self._probes = openings, probes

    def _say(self, now: float, message: str) -> None:
        if now - self._period_began >= PERIOD_S:
            if self._unsaid:
                message += f" ({self._unsaid} messages before this one were left out)"
            self._period_began, self._messages, self._unsaid = now, 0, 0
        self._messages += 1
        if self._messages > MESSAGES_MAX:
            self._unsaid += 1
            return
        log.warning("%s", message)


class _Watcher:
    """The thread that logs."""

    def __init__(self) -> None:
        self._handed_in: queue.SimpleQueue[Case] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def watch(self, case: Case) -> None:
        """Look at a case from now on. Any thread; never blocks for long."""
        self._handed_in.put(case)
        if self._thread is not None and self._thread.is_alive():
            return
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(target=self._run, name="engine-log", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the system gives no thread; the next failure tries again
                    case._finished()
                    return
                self._thread = thread

    def _run(self) -> None:
        cases: list[Case] = []
        while True:
            try:
                cases.append(self._handed_in.get(timeout=LOOK_EVERY_S if cases else None))
            except queue.Empty:
                pass
            cases = [case for case in cases if _look(case)]


def _look(case: Case) -> bool:
    try:
        return case.look(time.monotonic())
    except Exception:  # a model whose last_error raises, a broken handler
        log.exception("the log of a failing primary failed")
        return True


watcher = _Watcher()


def _after_fork() -> None:
    global watcher
    watcher = _Watcher()  # the parent's thread does not exist here


os.register_at_fork(after_in_child=_after_fork)
