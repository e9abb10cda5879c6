"""The thread that tests what has been counted, a few times a second."""

from __future__ import annotations

import logging
import threading
import weakref
from typing import TYPE_CHECKING

from engine.errors import ClosedError
from engine.monitor._sketch import Sketch

if TYPE_CHECKING:
    from engine.monitor.monitor import ModelMonitor

# Blocks wait for so long; they grow meanwhile, so that the GIL is held as rarely at a million rows a second as at a
# thousand.
EVERY_S = 0.2


def watch(monitor: ModelMonitor, sketch: Sketch) -> threading.Thread:
    """Starts it. It holds no reference to the monitor, so an abandoned one is collected and the thread ends."""
    thread = threading.Thread(
        target=_run, args=(weakref.ref(monitor), sketch), name="engine-monitor", daemon=True
    )
    thread.start()
    return thread


def _run(reference: weakref.ref[ModelMonitor], sketch: Sketch) -> None:
    while True:
        try:
            if sketch.wait_closed(EVERY_S):
                return
            monitor = reference()
            if monitor is None:
                return
            monitor.check()
        except ClosedError:
            return
        except Exception:
            # One block that cannot be tested must not end the watch for all that follow.
            logging.getLogger("engine.monitor").exception("the monitor could not test what it counted")
        finally:
            monitor = None
