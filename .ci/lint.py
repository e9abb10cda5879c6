"""The lint of C++ and Cython: form by clang-format, names and a few mistakes by clang-tidy, Cython by cython-lint.

python .ci/lint.py [FILE ...]      all files, or only these

The tools are those beside the interpreter (extra `lint`), at the versions that pyproject.toml names.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = Path(sys.executable).parent
CPP = (".cpp", ".hpp", ".h", ".inc", ".cu", ".cuh")
CYTHON = (".pyx", ".pxd")
FLAGS = ["-std=c++20", "-pthread", "-Icsrc", "-Icsrc/include"]


def main(given: list[str]) -> int:
    chosen = [Path(name) for name in given] or [
        path.relative_to(ROOT)
        for folder in ("csrc", "src", "kernels")
        for path in sorted((ROOT / folder).rglob("*"))
    ]
    cpp = [path for path in chosen if path.suffix in CPP]
    # A header is read with the files that include it; the tests have macros for names.
    compiled = [path for path in cpp if path.suffix == ".cpp" and path.parts[1] not in ("tests", "fuzz")]
    failed = sum(
        [
            run("clang-format", [["--dry-run", "-Werror", "--style=file", *part] for part in parts(cpp)]),
            run("clang-tidy", [["--quiet", str(path), "--", *FLAGS] for path in compiled]),
            run("cython-lint", [[*part] for part in parts(path for path in chosen if path.suffix in CYTHON)]),
        ]
    )
    return min(failed, 1)


def parts(paths: Iterable[Path]) -> list[list[str]]:
    """The paths in parts of a size that one call takes well."""
    names = [str(path) for path in paths]
    return [names[at : at + 40] for at in range(0, len(names), 40)]


def run(tool: str, calls: list[list[str]]) -> int:
    """Runs a tool once for each list of arguments, side by side; the number of calls that found something."""
    binary = TOOLS / tool
    if not binary.exists():
        print(f"{tool}: not installed: pip install -e '.[lint]'")
        return 1
    environment = {**os.environ, "PATH": f"{TOOLS}{os.pathsep}{os.environ.get('PATH', '')}"}

    def call(arguments: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [binary, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done = list(pool.map(call, calls))
    for each in done:
        if each.returncode != 0:
            print(each.stdout + each.stderr, end="")
    failed = sum(each.returncode != 0 for each in done)
    print(f"{tool}: {'nothing to do' if not calls else 'fine' if not failed else 'see above'}")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
