"""Where and how a benchmark ran: what a reader needs to judge a figure or to repeat it."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
import zlib
from pathlib import Path
from typing import Any

import numpy as np

LIBRARIES = (
    "deadline-engine",
    "numpy",
    "cython",
    "treelite",
    "lightgbm",
    "xgboost-cpu",
    "scikit-learn",
    "onnxruntime",
    "onnx",
    "uvloop",
)


def describe() -> dict[str, Any]:
    """Commit, date, machine, compiler and library versions."""
    return {
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "compiler": compiler(),
        "versions": versions(),
    }


def commit() -> str:
    """The commit that was measured, marked where the tree held changes besides results and rendered tables."""
    try:
        here = Path(__file__).parent
        name = _output(["git", "-C", str(here), "rev-parse", "--short=12", "HEAD"])
        changed = _output(
            [
                "git",
                "-C",
                str(here.parent),
                "status",
                "--porcelain",
                "--untracked-files=no",
                "--",
                "src",
                "csrc",
                "setup.py",
                "benchmarks/*.py",
            ]
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{name}, with uncommitted changes" if changed else name


def cpu() -> str:
    """The processor's name and the widest vector instructions it has that matter here."""
    fields: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    flags = fields.get("flags", "").split()
    widest = next((name for name in ("avx512f", "avx2") if name in flags), "no AVX2")
    return f"{fields.get('model name', platform.machine())} ({widest})"


def compiler() -> str:
    try:
        return _output([os.environ.get("CXX", "g++"), "--version"]).splitlines()[0]
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            pass
    return found


def checksum(*arrays: Any) -> str:
    """A short digest of what a case computed, so that two runs can be seen to have done the same work."""
    value = 0
    for array in arrays:
        value = zlib.crc32(np.ascontiguousarray(array).tobytes(), value)
    return f"{value:08x}"


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
