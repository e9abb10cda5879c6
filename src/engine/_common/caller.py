"""The caller of a change, as logs name it."""

from __future__ import annotations

import functools
import getpass
import os
import socket


@functools.cache
def _host() -> tuple[str, str]:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container without an entry for its user
        user = f"uid{os.getuid()}"
    return user, socket.gethostname()


def who() -> str:
    """Return user, host and process: "user@host:pid"."""
    user, host = _host()
    return f"{user}@{host}:{os.getpid()}"
