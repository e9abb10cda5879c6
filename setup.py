"""Builds the native core and the compiled bindings.

`csrc` is compiled once, into a static archive, by its own Makefile. Each binding is one thin .pyx beside the Python of
its room, linked with that archive. No whole file is compiled for an instruction set: files that use one name it per
function, and the choice is made at run time. Contraction is off, so the same arithmetic gives the same bits everywhere.

ENGINE_DEBUG_BUILD=1 compiles with assertions and debug information. ENGINE_NATIVE_BUILD names another folder than
build/csrc for the core's objects.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

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

# Relative paths, because make cannot handle a folder with a blank in its name; a checkout may lie in one.
NATIVE = Path(os.environ.get("ENGINE_NATIVE_BUILD", "build/csrc"))
ARCHIVE = NATIVE / ("lib_debug" if DEBUG else "lib") / "libengine.a"
# The simulator links an archive with assertions, because it drives the scheduler through what serving seldom meets.
CHECKED = ARCHIVE if DEBUG else NATIVE / "lib_checked" / "libengine.a"
PACKAGE = Path("src/engine")
HEADERS = Path("csrc/include/engine")
# What engine.model.gpu compiles for the GPU that it finds: kernels, and the headers that they share with the core.
KERNELS = ("kernels/*.cu", "kernels/*.cuh", "kernels/*.hpp", "csrc/gpu/*_view.hpp", "csrc/gpu/batch.hpp")
KERNELS += ("csrc/model/functions.hpp", "csrc/model/functions.inc")
# Not setuptools' build_temp, which is a new folder at every editable install.
OBJECTS = Path("build", "bindings", sysconfig.get_config_var("SOABI") + ("-debug" if DEBUG else ""))
DIRECTIVES = {
    "language_level": "3",
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "binding": True,
    "embedsignature": False,
}


def extension(path: Path) -> Extension:
    return Extension(
        ".".join(["engine", *path.relative_to(PACKAGE).with_suffix("").parts]),
        [str(path)],
        include_dirs=["csrc/include", "csrc"],
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
        # Beside each other: Cython uses one core, which is the longer half of the way on a small machine.
        archives = self._make_archives()
        sources = generated(self.extensions)
        for ext in self.extensions:
            ext.sources = sources[ext.name]
        if archives.wait() != 0:
            raise SystemExit("csrc does not compile: the messages of the compiler are above")
        # Otherwise setuptools would leave a file in place that is newer than the one linked now, of a debug build say.
        self.force = True
        super().build_extensions()

    def _make_archives(self) -> subprocess.Popen[bytes]:
        goals = sorted({ARCHIVE.parent.name, CHECKED.parent.name})
        build = os.path.relpath(NATIVE, "csrc")
        return subprocess.Popen(["make", "-s", f"-j{self.parallel}", "-C", "csrc", *goals, f"BUILD={build}"])

    def build_extension(self, ext: Extension) -> None:
        import numpy

        source = Path(ext.sources[0])
        made = (OBJECTS / source).with_suffix(".o")
        if out_of_date(made, [Path("setup.py"), *(written_down(made.with_suffix(".d")) or [source])]):
            flags = [*ext.extra_compile_args, "-MMD", "-MF", str(made.with_suffix(".d"))]
            made.parent.mkdir(parents=True, exist_ok=True)
            self.compiler.compile(
                [str(source)],
                output_dir=str(OBJECTS),
                macros=ext.define_macros,
                include_dirs=[*ext.include_dirs, numpy.get_include()],
                extra_postargs=flags,
            )
        # Linked beside its object and then copied, so that debug and release builds never pass for one another.
        linked = made.with_suffix(".so")
        objects = [str(made), *ext.extra_objects]
        if out_of_date(linked, [Path(each) for each in objects]):
            self.compiler.link_shared_object(
                objects, str(linked), extra_postargs=ext.extra_link_args, target_lang="c++"
            )
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        # A new file: a process that runs the old one keeps it.
        target.unlink(missing_ok=True)
        shutil.copy2(linked, target)


class Python(build_py):
    """Python modules, and as data of the package the headers of the C ABI (`engine.get_include()`) and the kernels."""

    def run(self) -> None:
        if not self.editable_mode:
            # Remove the last build, because its modules would go into the wheel, deleted ones included.
            shutil.rmtree(Path(self.build_lib, "engine"), ignore_errors=True)
        super().run()
        for header, copy in self._headers().items():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(header, copy)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [*super().get_outputs(include_bytecode), *map(str, self._headers().values())]

    def _headers(self) -> dict[Path, Path]:
        """Each header and its place in the build; none for an editable install, which reads them in csrc."""
        if self.editable_mode:
            return {}
        folder = Path(self.build_lib, "engine", "include", "engine")
        headers = {header: folder / header.name for header in sorted(HEADERS.glob("*.h"))}
        folder = Path(self.build_lib, "engine", "model", "gpu", "sources")
        return {**headers, **{path: folder / path for glob in KERNELS for path in sorted(Path().glob(glob))}}


def generated(extensions: list[Extension]) -> dict[str, list[str]]:
    """The C++ that Cython makes of each binding, by the binding's name.

    Made here and not for every command: building an sdist needs neither it nor NumPy. Cython makes it again where the
    .pyx or a .pxd that it cimports is newer; where the directives above changed, this does.
    """
    from Cython.Build import cythonize

    folder = Path("build", "cython")
    made = [(folder / ext.sources[0]).with_suffix(".cpp") for ext in extensions]
    done = cythonize(
        [Extension(ext.name, list(ext.sources), language="c++") for ext in extensions],
        build_dir=str(folder),
        include_path=["src"],
        compiler_directives=DIRECTIVES,
        force=any(each.exists() and out_of_date(each, [Path("setup.py")]) for each in made) or None,
    )
    return {ext.name: ext.sources for ext in done}


def written_down(path: Path) -> list[Path]:
    """The files that the compiler read for an object, from its make rule; empty where there is none."""
    if not path.exists():
        return []
    # A blank within a name has a backslash before it.
    _, _, names = path.read_text().replace("\\\n", " ").partition(":")
    return [Path(re.sub(r"\\(.)", r"\1", name)) for name in re.findall(r"(?:\\.|\S)+", names)]


def out_of_date(made: Path, sources: list[Path]) -> bool:
    """True where a file is missing, or older than one of its sources, or a source is gone."""
    if not made.exists():
        return True
    built = made.stat().st_mtime_ns
    return any(not source.exists() or source.stat().st_mtime_ns > built for source in sources)


if __name__ == "__main__":
    setup(
        ext_modules=[extension(path) for path in sorted(PACKAGE.rglob("_*.pyx"))],
        cmdclass={"build_ext": Build, "build_py": Python},
    )
