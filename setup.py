"""Builds the compiled bindings in src/engine/core.

Each extension is one thin .pyx and the C++ files it stands on. Nothing here asks for an instruction set: files that
use one name it per function, and the choice is made at run time. Contraction is off so that the same arithmetic gives
the same bits in every file.
"""

import glob
import os
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
    "_rows": [],
    "_statistics": RUNTIME,
    "_forest": ["forest*", "cpu"],
    "_dense": ["dense*", "cpu"],
    "_onnx": ["onnx*"],
    "_callable": [],
    "_values": [],
    "_columns": [],
    "_program": ["transform*"],
    "_fault": ["fault*"],
    "_runtime": RUNTIME,
    "_simulator": [*SCHEDULER, "breaker", "deployment", "slot", "simulator*"],
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


def extension(name: str, patterns: list[str]) -> Extension:
    headers = glob.glob("csrc/include/engine/*") + glob.glob("csrc/src/detail/*")
    return Extension(
        f"engine.core.{name}",
        [f"src/engine/core/{name}.pyx", *sources(patterns)],
        include_dirs=["csrc/include", "csrc/src", numpy.get_include()],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
        extra_compile_args=COMPILE,
        extra_link_args=["-pthread", "-ldl"],
        depends=headers,
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
