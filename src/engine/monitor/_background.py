"""The thread that tests what was counted, a few times a second."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from typing import Any

from engine.errors import ClosedError
from engine.monitor._sketch import Sketch

# How long blocks wait. They grow meanwhile, so the thread takes the GIL as rarely at a million rows a second as at a
# thousand.
EVERY_S = 0.2


def watch(check: Callable[[], Any], sketch: Sketch) -> threading.Thread:
    """Start a thread that calls `check`, a bound method, until the sketch is closed.

    The thread holds no reference to the method's object. An abandoned monitor is therefore collected, and its thread
    ends.
    """
    method = weakref.WeakMethod(check)
    thread = threading.Thread(target=_run, args=(method, sketch), name="engine-monitor", daemon=True)
    thread.start()
    return thread


def _run(method: weakref.WeakMethod[Callable[[], Any]], sketch: Sketch) -> None:
    while True:
        try:
            if sketch.wait_closed(EVERY_S):
                return
            check = method()
            if check is None:
                return
            check()
        except ClosedError:
            return
        except Exception:
            # One block that cannot be tested must not stop the tests of all later ones.
            logging.getLogger("engine.monitor").exception("the monitor could not test what it counted")
        finally:
            check = None
