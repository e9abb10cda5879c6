"""Event loops that the engine's awaitables run on: asyncio's, and others with its rules (uvloop, anyio on asyncio)."""

from __future__ import annotations

import asyncio
import sys
import warnings

from engine.errors import ConfigError


def no_loop() -> ConfigError:
    """The error for an await outside of asyncio; it says what to await instead."""
    kind = _other_kind()
    where = f"this await runs on {kind[0]}" if kind else "no such loop runs in this thread"
    way_out = kind[1] if kind else "call predict, or await inside asyncio.run(…)"
    return ConfigError(f"the engine's async methods need an asyncio event loop, and {where}: {way_out}")


def require_loop() -> None:
    """Raise ConfigError where no asyncio loop runs in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise no_loop() from None


def warn_of_gevent() -> None:
    """Warn that waiting in native code stops gevent's hub, where gevent has replaced the threads."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and monkey.is_module_patched("threading"):
        warnings.warn(
            "gevent: a request of the batch lane waits in native code, which stops this thread's hub until the answer "
            "is there, at most until its deadline. Other greenlets go on where the hub's thread pool waits: "
            "gevent.get_hub().threadpool.apply(engine.predict, (row,))",
            UserWarning,
            stacklevel=4,
        )


def _other_kind() -> tuple[str, str] | None:
    """Name of the library whose task runs here, and what to await in it; None for none."""
    trio, curio = sys.modules.get("trio"), sys.modules.get("curio")
    if trio is not None:
        try:
            trio.lowlevel.current_task()
            return (
                "trio",
                "await trio.to_thread.run_sync(engine.predict, row), which gives up the GIL while it waits",
            )
        except RuntimeError:
            pass
    if curio is not None and curio.meta.curio_running():
        return (
            "curio",
            "await curio.run_in_thread(engine.predict, row), which gives up the GIL while it waits",
        )
    return None
