"""Builds the native core and the compiled bindings.

`csrc` is compiled once, into a static archive, by its own Makefile. Each binding is one thin .pyx beside the Python of
its room, linked with that archive. No whole file is compiled for an instruction set: files that use one name it per
function, and the choice is made at run time. Contraction is off, so the same arithmetic gives the same bits everywhere.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

if not sys.platform.startswith("linux"):
    raise SystemExit("deadline-engine needs Linux: its waits are futexes and its wake-ups eventfds")

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

NATIVE = Path(os.environ.get("ENGINE_NATIVE_BUILD", "build/csrc")).resolve()
ARCHIVE = NATIVE / ("lib_debug" if DEBUG else "lib") / "libengine.a"
# The simulator's own, with assertions: it drives the scheduler through what serving seldom meets.
CHECKED = ARCHIVE if DEBUG else NATIVE / "lib_checked" / "libengine.a"
PACKAGE = Path("src/engine")
# Not setuptools' build_temp, which is a new folder at every editable install.
OBJECTS = Path("build", "bindings", sysconfig.get_config_var("SOABI") + ("-debug" if DEBUG else ""))


def extension(path: Path) -> Extension:
    return Extension(
        ".".join(["engine", *path.relative_to(PACKAGE).with_suffix("").parts]),
        [str(path)],
        include_dirs=["csrc/include", "csrc", numpy.get_include()],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
        extra_compile_args=COMPILE,
        extra_link_args=["-pthread", "-ldl"],
        extra_objects=[str(CHECKED if path.stem == "_simulator" else ARCHIVE)],
        language="c++",
    )


class Build(build_ext):
    """Makes the archive, then compiles and links the bindings side by side, each only where it is out of date.

    The compiler writes down which headers a binding includes (-MMD). setuptools would have to be told, and compiles a
    binding again whenever the archive is newer.
    """

    def finalize_options(self) -> None:
        super().finalize_options()
        if self.parallel is None:
            self.parallel = os.cpu_count() or 1

    def build_extensions(self) -> None:
        if shutil.which("make") is None:
            raise SystemExit(
                "compiling deadline-engine needs make and g++ 12 or newer; make is not on the PATH"
            )
        goals = sorted({ARCHIVE.parent.name, CHECKED.parent.name})
        jobs = f"-j{self.parallel}"
        subprocess.run(["make", "-s", jobs, "-C", "csrc", *goals, f"BUILD={NATIVE}"], check=True)
        # Bindings that are up to date in place are linked again only where something under them changed.
        self.force = True
        super().build_extensions()

    def build_extension(self, ext: Extension) -> None:
        source = Path(ext.sources[0])
        target = Path(self.get_ext_fullpath(ext.name))
        made = (OBJECTS / source).with_suffix(".o")
        if out_of_date(made, written_down(made.with_suffix(".d")) or [source]):
            flags = [*ext.extra_compile_args, "-MMD", "-MF", str(made.with_suffix(".d"))]
            made.parent.mkdir(parents=True, exist_ok=True)
            self.compiler.compile(
                [str(source)],
                output_dir=str(OBJECTS),
                macros=ext.define_macros,
                include_dirs=ext.include_dirs,
                extra_postargs=flags,
            )
        objects = [str(made), *ext.extra_objects]
        if out_of_date(target, [Path(each) for each in objects]):
            self.compiler.link_shared_object(
                objects, str(target), extra_postargs=ext.extra_link_args, target_lang="c++"
            )


def written_down(path: Path) -> list[Path]:
    """The files that the compiler read for an object, from its make rule; empty where there is none."""
    if not path.exists():
        return []
    return [Path(word) for word in path.read_text().replace("\\\n", " ").split()[1:]]


def out_of_date(made: Path, sources: list[Path]) -> bool:
    if not made.exists():
        return True
    built = made.stat().st_mtime_ns
    return any(not source.exists() or source.stat().st_mtime_ns > built for source in sources)


setup(
    ext_modules=cythonize(
        [extension(path) for path in sorted(PACKAGE.rglob("_*.pyx"))],
        build_dir="build/cython",
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
    cmdclass={"build_ext": Build},
)
