"""The kernels of the package as a cubin for one kind of GPU: out of the cache, or compiled now.

Compiling takes seconds, and is done once for each kind of GPU and version of the sources: the result is kept under the
user's cache directory, named by the digest of everything that it depends on. NVRTC compiles where its library is
installed (`nvidia-cuda-nvrtc`, or CuPy's own), nvcc where that is on the PATH. Neither needs a GPU.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

from engine._common import durable
from engine.errors import ConfigError, MissingDependencyError

CAPABILITIES = (75, 80, 86, 89, 90, 100, 120)
# Sums and products are intrinsics that no flag fuses; the flag says so once more.
FLAGS = ("-std=c++20", "-fmad=false")
SOURCES = ("kernels", "csrc/gpu", "csrc/model")
MAIN = "kernels/engine.cu"
# NVRTC has no standard headers.
STANDARD = {
    "cstdint": "namespace std { typedef signed char int8_t; typedef unsigned char uint8_t; typedef short int16_t;\n"
    "typedef unsigned short uint16_t; typedef int int32_t; typedef unsigned int uint32_t;\n"
    "typedef long long int64_t; typedef unsigned long long uint64_t; }\n",
    "cstddef": "namespace std { typedef decltype(sizeof(0)) size_t; }\n",
}


def source_folder() -> Path:
    """Return the folder that holds the sources of the kernels: the package's own, or the checkout."""
    room = Path(__file__).resolve().parent
    installed = room / "sources"
    return installed if installed.is_dir() else room.parents[3]


def sources() -> dict[str, str]:
    """Return the text of every file that the kernels are compiled from, by its name in an `#include`."""
    folder = source_folder()
    found = {MAIN: (folder / MAIN).read_text()}
    wanted = [MAIN]
    while wanted:
        for name in _included(found[wanted.pop()]):
            for root in ("", "kernels/", "csrc/"):
                path = folder / (root + name)
                if name not in found and path.is_file():
                    found[name] = path.read_text()
                    wanted.append(name)
                    break
    return found


def image(capability: int) -> bytes:
    """Return the cubin for a GPU of this compute capability (10 * major + minor).

    Raises:
        ConfigError: the capability is below 7.5, or a compiler refused the sources.
        MissingDependencyError: neither NVRTC nor nvcc is installed, and the cache has no cubin.
    """
    if capability < CAPABILITIES[0]:
        raise ConfigError(
            f"a GPU of compute capability {capability // 10}.{capability % 10} is too old: kernels need 7.5"
        )
    texts = sources()
    path = cache_folder() / f"{digest(texts)}-sm_{capability}.cubin"
    return kept(path, lambda: compiled(texts, capability))


def kept(path: Path, make: Callable[[], bytes]) -> bytes:
    """Return the content of a file of the cache, made and written where there is none."""
    if path.is_file():
        return path.read_bytes()
    made = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        durable.write(path, made, sync=False)
    except OSError:  # a home that cannot be written costs the making again
        pass
    return made


def digest(texts: Mapping[str, str]) -> str:
    """Return the name of a build: sha256 over the sources and flags, as 16 hex digits."""
    content = hashlib.sha256(repr(FLAGS).encode())
    for name in sorted(texts):
        content.update(f"{name}\0{texts[name]}\0".encode())
    return content.hexdigest()[:16]


def cache_folder() -> Path:
    """Return the folder of kept cubins: `deadline-engine/kernels` in XDG_CACHE_HOME, ~/.cache by default."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deadline-engine" / "kernels"


def compiled(texts: Mapping[str, str], capability: int) -> bytes:
    """Compile the sources by NVRTC, or by nvcc. Raise as `image`."""
    library = nvrtc()
    if library is not None:
        return by_nvrtc(library, texts, capability)
    if shutil.which("nvcc") is not None:
        return by_nvcc(texts, capability)
    raise MissingDependencyError(
        "kernels for this GPU have to be compiled once: pip install nvidia-cuda-nvrtc, or put nvcc on the PATH"
    )


def nvrtc() -> ctypes.CDLL | None:
    """Return NVRTC's library: of the package nvidia-cuda-nvrtc, else of the system; None where there is none."""
    for path in _nvrtc_paths():
        try:
            # NVRTC looks for its other half on the system's path alone, and finds what is loaded already.
            for half in sorted(Path(path).parent.glob("libnvrtc-builtins.so.*")) if "/" in path else ():
                ctypes.CDLL(str(half), mode=ctypes.RTLD_GLOBAL)
            return ctypes.CDLL(path)
        except OSError:
            continue
    return None


def _nvrtc_paths() -> Iterator[str]:
    spec = find_spec("nvidia")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        yield from sorted(
            (str(path) for path in Path(folder).glob("*/lib/libnvrtc.so.*") if "alt" not in path.name),
            reverse=True,
        )
    yield from ("libnvrtc.so.13", "libnvrtc.so.12")


def by_nvrtc(library: ctypes.CDLL, texts: Mapping[str, str], capability: int) -> bytes:
    """Compile by NVRTC, in this process. Raise ConfigError with the compiler's messages."""
    headers = {name: text for name, text in {**STANDARD, **texts}.items() if name != MAIN}
    names, bodies = (
        (ctypes.c_char_p * len(headers))(*(part.encode() for part in parts))
        for parts in (headers, headers.values())
    )
    program = ctypes.c_void_p()
    options = [f"-arch=sm_{capability}", *FLAGS]
    library.nvrtcCreateProgram(
        ctypes.byref(program), texts[MAIN].encode(), b"engine.cu", len(headers), bodies, names
    )
    try:
        failed = library.nvrtcCompileProgram(
            program, len(options), (ctypes.c_char_p * len(options))(*(each.encode() for each in options))
        )
        size = ctypes.c_size_t()
        if failed:
            library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
            log = ctypes.create_string_buffer(size.value)
            library.nvrtcGetProgramLog(program, log)
            raise ConfigError(f"NVRTC does not compile the kernels for sm_{capability}: {log.value.decode()}")
        library.nvrtcGetCUBINSize(program, ctypes.byref(size))
        cubin = ctypes.create_string_buffer(size.value)
        library.nvrtcGetCUBIN(program, cubin)
        return cubin.raw
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def by_nvcc(texts: Mapping[str, str], capability: int, *flags: str) -> bytes:
    """Compile by nvcc, in a child process. Raise ConfigError with the compiler's messages."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in texts.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        out = Path(folder, "engine.cubin")
        command = ["nvcc", "-cubin", f"-arch=sm_{capability}", *FLAGS, *flags, f"-I{folder}"]
        done = subprocess.run(
            [*command, str(Path(folder, MAIN)), "-o", str(out)], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise ConfigError(f"nvcc does not compile the kernels for sm_{capability}: {done.stderr}")
        return out.read_bytes()


def _included(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if line.startswith('#include "'):
            yield line.split('"')[1]
