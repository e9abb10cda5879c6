"""The GPUs of this process, each opened once, with the kernels of the package on it.

A thread for each waits, in C++ and without the GIL, until the GPU is lost, and says so once through `logging`: models
that have the CPU to answer for them go on, and nothing else would tell.
"""

from __future__ import annotations

import logging
import os
import threading

from engine.errors import ConfigError
from engine.model.gpu import kernels
from engine.model.gpu._gpu import Gpu

log = logging.getLogger("engine.gpu")

_lock = threading.Lock()
_opened: dict[int, Gpu] = {}


def driver() -> str:
    """Return the driver's library: libcuda.so.1, or what the environment variable ENGINE_CUDA_DRIVER names."""
    return os.environ.get("ENGINE_CUDA_DRIVER", "libcuda.so.1")


def gpu(ordinal: int = 0) -> Gpu:
    """Return a GPU with its kernels. The first call opens it, and may compile for some seconds.

    Raises:
        MissingDependencyError: there is no driver, or the kernels have to be compiled and no compiler is there.
        ConfigError: the driver shows no such GPU, or it is too old.
    """
    with _lock:
        if ordinal not in _opened:
            found = Gpu(ordinal, driver())
            found.load(kernels.image(found.capability))
            _opened[ordinal] = found
            _watch(found)
        return _opened[ordinal]


def _watch(gpu: Gpu) -> None:
    thread = threading.Thread(target=_say_lost, args=(gpu,), name=f"engine-gpu-{gpu.ordinal}", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the system gives no thread: Engine.stats() still tells
        log.warning("no thread to watch GPU %d: its loss will not be logged", gpu.ordinal)


def _say_lost(gpu: Gpu) -> None:
    reason = gpu.wait_until_lost()
    log.error(
        "GPU %d (%s) is lost to this process: %s. Its models are scored on the CPU where they can be, else the"
        " fallback answers. Start the process again to use the GPU.",
        gpu.ordinal,
        gpu.name,
        reason,
    )


def ordinal_of(device: str) -> int:
    """Return the number in "gpu:0". Raise ConfigError for any other text."""
    kind, _, number = device.partition(":")
    if kind != "gpu" or not number.isdecimal():
        raise ConfigError(f"device: expected 'auto', 'cpu' or 'gpu:0' with the GPU's number, got {device!r}")
    return int(number)
