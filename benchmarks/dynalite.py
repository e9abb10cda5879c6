"""A DynamoDB for benchmarks and tests: dynalite, which npm installs once into a folder, on a free port of 127.0.0.1."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VERSION = "dynalite@4.0.0"
# Without the delays that it imitates when a table is made.
OPTIONS = ["--host", "127.0.0.1", "--createTableMs", "0", "--deleteTableMs", "0", "--updateTableMs", "0"]
STARTED_S_MAX = 60.0


class Missing(Exception):
    """Node.js or npm is not installed, which dynalite needs."""


def command() -> list[str]:
    """The command line that starts it, but for `--port`. Raises Missing without Node.js and npm."""
    folder = Path(sys.prefix) / "share" / "engine-test-servers" / VERSION
    program = folder / "node_modules" / "dynalite" / "cli.js"
    if shutil.which("node") is None or (not program.exists() and shutil.which("npm") is None):
        raise Missing("dynalite needs Node.js and npm: apt-get install nodejs npm")
    if not program.exists():
        folder.mkdir(parents=True, exist_ok=True)
        npm = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), VERSION]
        subprocess.run(npm, check=True, stdout=subprocess.DEVNULL)
    return ["node", str(program), *OPTIONS]


@contextmanager
def running() -> Iterator[str]:
    """The URL of a new one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen([*command(), "--port", str(port)], stdout=subprocess.DEVNULL)
    try:
        give_up = time.monotonic() + STARTED_S_MAX
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=0.2).close()
                break
            except OSError:
                if time.monotonic() > give_up or server.poll() is not None:
                    raise RuntimeError("dynalite did not start") from None
                time.sleep(0.02)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()
