"""CuPy code as a model: captured once on the GPU, then replayed without Python.

CuPy owns the arithmetic, we own the stream, the memory of the batch and the graph. Both use the device's primary
context, so an address is an address.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from engine._common import arguments, optional
from engine.errors import ConfigError, ModelError
from engine.model.gpu import devices
from engine.model.gpu._gpu import DeviceModel
from engine.model.gpu.placement import LANES, ROWS_MAX, GpuModel

COUNT_MAX = 1 << 24
_number = itertools.count(1)


def from_body(
    enqueue: Callable[[int, int, int, int], None],
    *,
    n_features: int,
    n_outputs: int = 1,
    rows_max: int = ROWS_MAX,
    lanes: int = LANES,
    device: str = "gpu:0",
    format: str = "cuda",
    feature_names: Sequence[str] | None = None,
) -> GpuModel:
    """Make a model of work that is put on a CUDA stream.

    Args:
        enqueue: called as enqueue(stream, rows, answers, n) once to warm up and once for each size of batch and lane
            while the stream captures; never afterwards. stream is a CUstream, rows the address of float32 [n,
            n_features], answers that of float64 [n, n_outputs], all as int. It puts the work for n rows on the stream
            and returns at once. Each row's answer must depend on that row alone, because batches are padded.
        n_features, n_outputs: int from 1.
        rows_max: rows of a batch, from 1.
        lanes: batches in flight, 1 to 64.
        device: "gpu:0" with the GPU's number.
        format: value of `Model.format`.
        feature_names: names of the columns in order.

    Raises:
        ConfigError: an argument out of range, or no such GPU.
        MissingDependencyError: no NVIDIA driver, or no compiler for the kernels.
        ResourceError: the GPU's memory does not suffice, or the driver refused to capture the work.
        Exception: `enqueue` raised it.
    """
    for name, value in (
        ("n_features", n_features),
        ("n_outputs", n_outputs),
        ("rows_max", rows_max),
        ("lanes", lanes),
    ):
        arguments.whole(name, value, 1, COUNT_MAX, error=ConfigError)
    gpu = devices.gpu(devices.ordinal_of(device))
    there = DeviceModel(
        gpu, enqueue, kind="body", rows_max=rows_max, lanes=lanes, n_features=n_features, n_outputs=n_outputs
    )
    # Code has no content to digest: each is a model of its own.
    digest = hashlib.sha256(f"{format} {next(_number)}".encode()).hexdigest()
    return GpuModel(there, format=format, digest=digest, feature_names=feature_names)


def from_cupy(
    function: Callable[[Any], Any],
    *,
    n_features: int,
    n_outputs: int = 1,
    rows_max: int = ROWS_MAX,
    lanes: int = LANES,
    device: str = "gpu:0",
    feature_names: Sequence[str] | None = None,
) -> GpuModel:
    """Make a model of a function of CuPy arrays, captured as a CUDA graph for each size of batch.

    Serving runs the graphs alone: no Python, and no GIL.

    Args:
        function: float32 cupy.ndarray [n, n_features] -> [n] or [n, n_outputs]. It is called while the model is made,
            once for each size of batch and lane and once more before each. What it does must not leave the stream: no
            synchronising, no copies to the host, no branches on values. Each row's answer must depend on that row
            alone, because batches are padded. Arrays that it closes over (weights) stay as they are.
        n_features, n_outputs, rows_max, lanes, device, feature_names: as in `from_body`.

    Raises:
        MissingDependencyError: CuPy or NVIDIA's driver is not installed.
        ModelError: the function returned another shape.
        ConfigError, ResourceError, Exception: as `from_body`.

    Example:
        >>> model = from_cupy(lambda x: x @ weights, n_features=256)      # doctest: +SKIP
    """
    cupy = optional.need("cupy", "engine.model.gpu.from_cupy", "gpu")
    ordinal = devices.ordinal_of(device)
    # Temporaries stay where the capture saw them, so nobody else may get this memory. CuPy reuses a block on the
    # stream that freed it alone, so each lane has blocks of its own.
    pool = cupy.cuda.MemoryPool()

    def enqueue(stream: int, rows: int, answers: int, n: int) -> None:
        shape = (n, n_features)
        with cupy.cuda.Device(ordinal), cupy.cuda.using_allocator(pool.malloc), _stream(cupy, stream):
            given = _array(cupy, rows, shape, cupy.float32, ordinal)
            wanted = _array(cupy, answers, (n, n_outputs), cupy.float64, ordinal)
            got = function(given)
            if got.shape not in ((n, n_outputs), *(((n,),) if n_outputs == 1 else ())):
                raise ModelError(f"the CuPy function returned shape {got.shape}, expected ({n}, {n_outputs})")
            wanted[...] = got.reshape(n, n_outputs)

    return from_body(
        enqueue,
        n_features=n_features,
        n_outputs=n_outputs,
        rows_max=rows_max,
        lanes=lanes,
        device=device,
        format="cupy",
        feature_names=feature_names,
    )


class _Handle:
    """A stream of ours under CUDA's stream protocol."""

    def __init__(self, stream: int) -> None:
        self._stream = stream

    def __cuda_stream__(self) -> tuple[int, int]:
        return (0, self._stream)


def _stream(cupy: Any, stream: int) -> Any:
    if hasattr(cupy.cuda.Stream, "from_external"):
        return cupy.cuda.Stream.from_external(_Handle(stream))
    return cupy.cuda.ExternalStream(stream)


def _array(cupy: Any, address: int, shape: tuple[int, int], dtype: Any, ordinal: int) -> Any:
    size = shape[0] * shape[1] * dtype(0).itemsize
    memory = cupy.cuda.UnownedMemory(address, size, None, ordinal)
    return cupy.ndarray(shape, dtype, cupy.cuda.MemoryPointer(memory, 0))
