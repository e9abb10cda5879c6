"""The lint and the tests of changed files: for the minute between an edit and a commit, not instead of `make test`.

python .ci/check.py [--list] [REV]

A file counts as changed if it differs from REV, from where the branch left main, or on main itself from the last
commit. Files that git does not know yet count too. A file of a room brings the tests of that room, in Python and in
C++; a page brings the run of its code. Tests that are marked slow are left out.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
LINTED = (".cpp", ".hpp", ".h", ".inc", ".cu", ".cuh", ".pyx", ".pxd")
# Rooms of the core whose Python has another name.
PYTHON_ROOM = {"scheduler": "serving", "simulator": "simulation", "fault": "testing", "base": "serving"}
# Tests of the whole tree, which take seconds.
ALWAYS = ["layers", "public_names", "stubs", "tidy"]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="print the commands, run none")
    parser.add_argument("rev", nargs="?", help="what to compare with")
    chosen = parser.parse_args(arguments)
    steps = commands(changed(chosen.rev or base()))
    if chosen.list:
        print("\n".join(" ".join(step) for step in steps))
        return 0
    started, failed = time.monotonic(), 0
    for step in steps:
        print(f"== {' '.join(step)}", flush=True)
        failed += subprocess.run(step, cwd=ROOT, check=False).returncode != 0
    print(f"{len(steps) - failed} passed, {failed} failed, in {time.monotonic() - started:.0f} s")
    return min(failed, 1)


def base() -> str:
    """Where this branch left main; the last commit on main itself, or where there is no main."""
    found = git("merge-base", "HEAD", "main", check=False)
    return found[0] if found and found != git("rev-parse", "HEAD") else "HEAD"


def changed(rev: str) -> list[str]:
    """Paths that differ from a revision and are still there, new ones included."""
    names = {*git("diff", "--name-only", rev), *git("ls-files", "--others", "--exclude-standard")}
    return sorted(name for name in names if (ROOT / name).is_file())


def commands(paths: list[str]) -> list[list[str]]:
    """Return the commands for these changed files, cheapest first."""
    steps: list[list[str]] = []
    python = [path for path in paths if path.endswith((".py", ".pyi"))]
    if python:
        steps += [tool("ruff", "check", *python), tool("ruff", "format", "--check", *python)]
    if any(path.startswith(("src/", "tests/typing/")) for path in python):
        steps.append(tool("mypy"))
    linted = [path for path in paths if path.endswith(LINTED)]
    if linted:
        steps.append([sys.executable, ".ci/lint.py", *linted])
    native = sorted({room for path in paths for room in core_rooms(path)})
    tests = sorted({test for path in paths for test in tests_of(path)})
    if tests:
        steps.append([sys.executable, "-m", "pytest", "-q", "-m", "not slow", *tests])
    pages = [Path(path) for path in paths if path.endswith(".md")]
    if pages:
        named = " or ".join(page.name for page in pages)
        steps.append([sys.executable, "-m", "pytest", "-q", "tests/unit/test_docs.py", "-k", named])
    steps += [["make", "-s", f"-j{os.cpu_count()}", "-C", "csrc", "test", f"ROOM={room}"] for room in native]
    return steps


def core_rooms(path: str) -> list[str]:
    """The rooms of csrc whose C++ tests a changed file brings."""
    parts = Path(path).parts
    if parts[0] != "csrc" or len(parts) < 3 or not path.endswith(LINTED):
        return []
    room = parts[2] if parts[1] in ("tests", "fuzz") else parts[1]
    return [room] if (ROOT / "csrc" / "tests" / room).is_dir() else []


def tests_of(path: str) -> list[str]:
    """The Python tests that a changed file brings."""
    parts = Path(path).parts
    always = [f"tests/unit/test_{name}.py" for name in ALWAYS]
    found: list[str] = []
    if parts[0] == "tests" and parts[-1].startswith("test_") and path.endswith(".py"):
        found = [path]
    elif parts[:2] == ("tests", "fixtures"):
        found = ["tests/unit/test_old_files.py"]
    elif parts[0] == "tests" and len(parts) > 2 and path.endswith(".py"):
        found = [str(Path(*parts[:-1]))]
    elif parts[0] == "src" and len(parts) > 3:
        found = [f"tests/unit/{parts[2]}", *always]
    elif parts[0] == "src" or path in ("Makefile", "setup.py", "pyproject.toml", "MANIFEST.in"):
        found = ["tests/unit/test_build.py", *always]
    elif parts[0] == "csrc" and len(parts) > 2:
        room = parts[2] if parts[1] in ("tests", "fuzz") else parts[1]
        found = [f"tests/unit/{PYTHON_ROOM.get(room, room)}", "tests/unit/test_tidy.py"]
    elif parts[0] == "benchmarks" and path.endswith((".py", ".json")):
        found = ["tests/test_benchmarks_smoke.py", "tests/unit/benchmarks", "tests/unit/test_tidy.py"]
    elif parts[0] == ".ci":
        found = ["tests/unit/test_check.py"]
    return [name for name in found if (ROOT / name).exists()]


def tool(name: str, *arguments: str) -> list[str]:
    return [str(BIN / name), *arguments]


def git(*arguments: str, check: bool = True) -> list[str]:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=check)
    return done.stdout.splitlines() if done.returncode == 0 else []


if __name__ == "__main__":
    sys.exit(main())
