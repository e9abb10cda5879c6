"""Reads a model file in a child process first: a parser that crashes, hangs or eats memory ends the child alone.

Our own readers check every length and need none of this. Other parsers do: scikit-learn's trees, in skops files and
pickles, believe the sizes that a file gives them, and ONNX Runtime parses what it is given. The child protects this
process from damage, not from a program: a trusted pickle runs in the child, and then here.
"""

from __future__ import annotations

import json
import multiprocessing.spawn
import os
import signal
import subprocess
import sys
from pathlib import Path

from engine import errors
from engine._common import arguments
from engine.errors import ConfigError, EngineError, ModelFormatError

SECONDS_MAX = 120
MEMORY_BYTES_MAX = 8 << 30

# Loads as load_model does, scores two rows, and prints the outcome as its last line.
_CHILD = """
import json, resource, sys
path, trust, seconds, memory = sys.argv[1], sys.argv[2] == "1", int(sys.argv[3]), int(sys.argv[4])
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
from engine.errors import EngineError, InputError
from engine.model import load
try:
    model = load.load_path(path, trust=trust, probed=True)
    if model.n_features <= 1 << 20:
        import numpy as np
        rows = np.zeros((2, model.n_features), np.float32) if model.probe_rows is None else model.probe_rows[:2]
        try:
            model.predict(rows)
        except InputError:  # the model says no to such rows, and lives
            pass
    outcome = {}
except EngineError as error:
    outcome = {"error": type(error).__name__, "text": str(error)}
except MemoryError:
    outcome = {"error": "ModelFormatError", "text": f"{path}: reading it needs over {memory:,} bytes of memory"}
print("\\n" + json.dumps(outcome))
"""


def probe(
    path: str | os.PathLike[str],
    *,
    trust: bool = False,
    seconds: int = SECONDS_MAX,
    memory_bytes: int = MEMORY_BYTES_MAX,
) -> None:
    """Load a model file in a child process of limited time and memory, and score two rows of zeros there.

    Blocks until the child ends; starting it takes some tenths of a second. Nothing is loaded in this process.

    Args:
        path: str or path-like, the file.
        trust: as in `load_model`.
        seconds: int from 1, limit of the child's processor time; twice that is the limit of elapsed time.
        memory_bytes: int from 1, limit of the child's address space.

    Raises:
        EngineError: any error that `load_model` raises for the file, of the same type.
        ModelFormatError: a signal ended the child, or it took too long or too much memory.
        ConfigError: `seconds` or `memory_bytes` is no int, or below 1.
    """
    arguments.whole("seconds", seconds, 1, 2**31 - 1, error=ConfigError)
    arguments.whole("memory_bytes", memory_bytes, 1, 2**62, error=ConfigError)
    path = Path(path).absolute()
    # The child finds what this process finds, and starts no pool of threads, whose stacks count as memory.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    executable = multiprocessing.spawn.get_executable() or sys.executable
    command = [
        os.fsdecode(executable),
        "-c",
        _CHILD,
        str(path),
        str(int(trust)),
        str(seconds),
        str(memory_bytes),
    ]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            env=environment,
            stdin=subprocess.DEVNULL,
            timeout=2 * seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ModelFormatError(f"{path.name}: reading it took over {2 * seconds} s") from None
    if done.returncode:
        raise ModelFormatError(f"{path.name}: reading it ended the process that tried: {_how(done)}")
    outcome = json.loads(done.stdout.splitlines()[-1])
    if outcome:
        kind = getattr(errors, outcome["error"], ModelFormatError)
        raise (kind if issubclass(kind, EngineError) else ModelFormatError)(outcome["text"])


def _how(done: subprocess.CompletedProcess[bytes]) -> str:
    if done.returncode < 0:
        return f"signal {signal.Signals(-done.returncode).name}"
    said = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return f"exit status {done.returncode}, {said[-1][:200] if said else 'without a message'}"
