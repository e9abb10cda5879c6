"""The GPUs of this process, each opened once, with the kernels of the package on it."""

from __future__ import annotations

import os
import threading

from engine.errors import ConfigError
from engine.model.gpu import kernels
from engine.model.gpu._gpu import Gpu

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
        return _opened[ordinal]


def ordinal_of(device: str) -> int:
    """Return the number in "gpu:0". Raise ConfigError for any other text."""
    kind, _, number = device.partition(":")
    if kind != "gpu" or not number.isdecimal():
        raise ConfigError(f"device: expected 'auto', 'cpu' or 'gpu:0' with the GPU's number, got {device!r}")
    return int(number)
