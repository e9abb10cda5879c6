"""Builds the compiled bindings in src/engine/core.

Each extension is one thin .pyx and the C++ files it stands on. Nothing here asks for an instruction set: files that
use one name it per function, and the choice is made at run time. Contraction is off so that the same arithmetic gives
the same bits in every file.
"""

import glob
import os
import re
import sys

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SCHEDULER = ["cost", "guard", "histogram", "policy", "sharing"]
RUNTIME = [*SCHEDULER, "breaker", "deployment", "executors", "rescuer", "shadow", "slot", "runtime*"]

# extension -> the C++ files of csrc/src (without suffix, globs allowed) that are compiled into it
EXTENSIONS = {
    "_scorer": ["score_threads"],
    "_answer": [],
    "_futures": [],
    "_rows": [],
    "_statistics": RUNTIME,
    "_forest": ["forest*", "cpu"],
    "_dense": ["dense*", "cpu"],
    "_onnx": ["onnx*"],
    "_callable": [],
    "_values": [],
    "_columns": [],
    "_row_reader": ["transform_hash", "transform_json"],
    "_program": ["transform*"],
    "_windows": ["window"],
    "_online": [],
    "_descriptor": [],
    "_fault": ["fault*"],
    "_runtime": RUNTIME,
    "_simulator": [*SCHEDULER, "breaker", "deployment", "slot", "simulator*"],
    "_sketch": ["sketch*", "histogram"],
}

DEBUG = os.environ.get("ENGINE_DEBUG_BUILD") == "1"
COMPILE = [
    "-std=c++20",
    "-ffp-contract=off",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wno-unused-function",
]
COMPILE += ["-O1", "-g", "-UNDEBUG"] if DEBUG else ["-O3", "-g0", "-DNDEBUG"]


def sources(patterns: list[str]) -> list[str]:
    found: list[str] = []
    for pattern in patterns:
        found += sorted(glob.glob(f"csrc/src/{pattern}.cpp"))
    return found


MENTIONED = re.compile(
    r'#include "([^"]+)"|extern from "([^"]+)"|from engine\.core\.(\w+) cimport|^include "([^"]+)"',
    re.MULTILINE,
)


def included(paths: list[str]) -> list[str]:
    """The headers and declarations that these files rest on, so that an edit compiles what it touches, no more."""
    found: set[str] = set()
    unread = list(paths)
    while unread:
        with open(unread.pop(), encoding="utf-8") as file:
            mentioned = MENTIONED.findall(file.read())
        for header, extern, module, part in mentioned:
            name = header or extern
            choices = (
                [f"csrc/include/{name}", f"csrc/src/{name}", f"csrc/src/detail/{name}"]
                if name
                else [f"src/engine/core/{part or module + '.pxd'}"]
            )
            new = [path for path in choices if os.path.exists(path) and path not in found]
            found.update(new)
            unread += new
    return sorted(found)


def extension(name: str, patterns: list[str]) -> Extension:
    files = [f"src/engine/core/{name}.pyx", *sources(patterns)]
    own = f"src/engine/core/{name}.pxd"
    return Extension(
        f"engine.core.{name}",
        files,
        include_dirs=["csrc/include", "csrc/src", numpy.get_include()],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
        extra_compile_args=COMPILE,
        extra_link_args=["-pthread", "-ldl"],
        depends=included([*files, *([own] if os.path.exists(own) else [])]),
        language="c++",
    )


class ParallelBuild(build_ext):
    """build_ext that compiles the extensions side by side unless told how many at a time."""

    def finalize_options(self) -> None:
        super().finalize_options()
        if self.parallel is None:
            self.parallel = os.cpu_count() or 1


if not sys.platform.startswith("linux"):
    raise SystemExit("deadline-engine needs Linux: its waits are futexes and its wake-ups eventfds")

setup(
    ext_modules=cythonize(
        [
            extension(name, patterns)
            for name, patterns in EXTENSIONS.items()
            if os.path.exists(f"src/engine/core/{name}.pyx")
        ],
        include_path=["src"],
        nthreads=0,
        compiler_directives={
            "language_level": "3",
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "binding": True,
            "embedsignature": False,
        },
    ),
    cmdclass={"build_ext": ParallelBuild},
)
