"""Rivals whose dependencies would not fit beside ours: each in a virtual environment of its own, made when first asked
for and kept, and driven by a script that prints one JSON object."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from hashlib import sha256
from pathlib import Path
from typing import Any

HOME = Path(__file__).parent.parent / ".venv-rivals"
INSTALL_S_MAX = 900


class RivalMissing(Exception):
    """The rival could not be installed or run; the text says why."""


def python_with(requirements: list[str]) -> Path:
    """The interpreter of an environment that has `requirements` (pip's syntax, versions pinned)."""
    digest = sha256("\n".join([sys.version, *requirements]).encode()).hexdigest()[:12]
    folder = HOME / digest
    python = folder / "bin" / "python"
    if (folder / "installed").exists():
        return python
    venv.create(folder, with_pip=True, clear=True)
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements]
    _run(command, INSTALL_S_MAX, f"installing {', '.join(requirements)}")
    (folder / "installed").write_text("\n".join(requirements) + "\n")
    return python


def measured_in(
    requirements: list[str], script: str | Path, *arguments: str, limit_s: float
) -> dict[str, Any]:
    """Runs `script` with `arguments` there and returns the JSON object that its last line of output is.

    Raises RivalMissing where it cannot be installed, fails, or takes longer than limit_s seconds.
    """
    python = python_with(requirements)
    done = _run([str(python), str(script), *arguments], limit_s, Path(script).name)
    return json.loads(done.stdout.strip().splitlines()[-1])


def _run(command: list[str], limit_s: float, what: str) -> subprocess.CompletedProcess[str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        raise RivalMissing(f"{what}: not done in {limit_s:g} s") from None
    if done.returncode != 0:
        raise RivalMissing(f"{what}: exit code {done.returncode}: {done.stderr.strip()[-400:]}")
    return done
