"""Removes each barrier of the kernels in turn: the tests must notice, or the barrier is superfluous.

    barriers.py CXX FOLDER ARCHIVE SHIM_OBJECT TSAN_ARCHIVE TSAN_SHIM_OBJECT

Each mutant is first run under the four orders of threads; one whose bits stay right is run under ThreadSanitizer, where
a missing barrier is a race whatever the order. Exits 1 where a mutant passes both.
"""

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CSRC = Path(__file__).resolve().parents[2]
KERNELS = CSRC.parent / "kernels"
BARRIER = "__syncthreads();"
FLAGS = [
    "-std=c++20",
    "-ffp-contract=off",
    "-O1",
    "-g",
    "-w",
    "-DENGINE_KERNELS_SHORT",
    "-DENGINE_KERNEL_SEEDS=6",
]


def mutants():
    for path in sorted(KERNELS.glob("*.cuh")):
        source = path.read_text()
        for found in re.finditer(re.escape(BARRIER), source):
            line = source[: found.start()].count("\n") + 1
            yield f"{path.name}:{line}", path.name, source[: found.start()] + ";" + source[found.end() :]


def noticed(name, file, source, compiler, folder, plain, tsan):
    """What noticed that the barrier is gone; None where nothing did."""
    place = folder / name.replace(":", "_")
    kernels = place / "kernels"
    kernels.mkdir(parents=True, exist_ok=True)
    for path in KERNELS.iterdir():
        (kernels / path.name).write_text(source if path.name == file else path.read_text())
    text = (CSRC / "tests/gpu/test_kernels.cpp").read_text()
    (place / "test.cpp").write_text(text)
    for way, flags, objects in (("orders", [], plain), ("races", ["-fsanitize=thread"], tsan)):
        folders = (place, kernels, CSRC / "include", CSRC, CSRC / "tests/gpu/shim")
        includes = [f"-I{folder}" for folder in folders]
        binary = place / way
        command = [
            *compiler,
            *FLAGS,
            *flags,
            *includes,
            str(place / "test.cpp"),
            *objects,
            "-pthread",
            "-ldl",
        ]
        subprocess.run([*command, "-o", str(binary)], check=True)
        if subprocess.run([str(binary)], capture_output=True).returncode != 0:
            return way
    return None


def main(compiler, folder, *objects):
    plain, tsan = objects[1::-1], objects[3:1:-1]
    arguments = (compiler.split(), Path(folder), plain, tsan)
    with ThreadPoolExecutor(2) as pool:
        found = {each[0]: pool.submit(noticed, *each, *arguments) for each in mutants()}
    for name, way in found.items():
        print(f"{name}: {way.result() or 'NOT NOTICED: the barrier is superfluous, or a test is missing'}")
    print(f"{len(found)} barriers, {sum(way.result() is None for way in found.values())} not noticed")
    return any(way.result() is None for way in found.values()) or not found


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
