"""The part of a lineage that the registering process can tell: the code and the environment."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

DIFF_BYTES_MAX = 1 << 20
GIT_S_MAX = 10.0
# Packages that decide the bits of a model or of its answers.
PACKAGES = (
    "deadline-engine",
    "numpy",
    "lightgbm",
    "xgboost",
    "xgboost-cpu",
    "catboost",
    "scikit-learn",
    "onnxruntime",
    "onnx",
    "skops",
    "pandas",
    "polars",
    "pyarrow",
    "duckdb",
)


@functools.cache
def environment() -> dict[str, Any]:
    """Return Python, platform and the versions of PACKAGES. Read once a process."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "packages": versions,
    }


@functools.cache
def code(folder: Path) -> tuple[dict[str, Any], bytes]:
    """Return the git commit of a folder and the diff of its tracked files. Read once a process and folder.

    Returns:
        {"commit": 40 digits, "dirty": bool} and the diff. A diff is cut off at 1 MiB, and "diff_cut": True is added
        then. Without git, or outside a repository, {"commit": None} and no diff.
    """
    try:
        commit = _git(folder, "rev-parse", "HEAD").decode().strip()
        # Fixed options, so that the same changes give the same bytes on every machine.
        diff = _git(
            folder, "-c", "core.quotepath=true", "diff", "HEAD", "--no-color", "--no-ext-diff", "--full-index"
        )
    except (OSError, subprocess.SubprocessError):
        return {"commit": None}, b""
    found: dict[str, Any] = {"commit": commit, "dirty": bool(diff)}
    if len(diff) > DIFF_BYTES_MAX:
        found["diff_cut"] = True
    return found, diff[:DIFF_BYTES_MAX]


def _git(folder: Path, *arguments: str) -> bytes:
    return subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, check=True, timeout=GIT_S_MAX
    ).stdout
