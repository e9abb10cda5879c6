"""ONNX networks through TensorRT: one plan for each size of batch, built once and kept, then captured as graphs.

Two libraries have the same face: TensorRT-RTX (the wheels `tensorrt-rtx-cu13-libs` and `-bindings`, which build on a
machine without a GPU) and TensorRT 10 or 11. A plan depends on the network, the size of the batch, the library's
version and the kind of GPU, and is kept under the name of all four; two builds of one network differ in their bytes.
"""

from __future__ import annotations

import hashlib
import os
from importlib import import_module
from pathlib import Path
from typing import Any

from engine._common import optional
from engine.errors import ConfigError, MissingDependencyError, UnsupportedModelError
from engine.model.gpu import devices, kernels
from engine.model.gpu._gpu import DeviceBuffer
from engine.model.gpu.cupy import from_body
from engine.model.gpu.placement import LANES, GpuModel

# Bindings, and the module that brings their libraries; the first that is installed is taken.
PROVIDERS = (("tensorrt_rtx_bindings", "tensorrt_rtx_libs"), ("tensorrt_bindings", "tensorrt_libs"))
ROWS_MAX = 64
TREES = "ai.onnx.ml"
# The names that this module uses, by class of the bindings. A test looks for them in the bindings installed.
SURFACE = {
    "Builder": ("create_network", "create_builder_config", "build_serialized_network"),
    "OnnxParser": ("parse", "num_errors", "get_error"),
    "INetworkDefinition": ("get_input",),
    "ITensor": ("shape",),
    "IBuilderConfig": ("set_flag",),
    "Runtime": ("deserialize_cuda_engine",),
    "ICudaEngine": ("create_execution_context", "num_io_tensors", "get_tensor_name", "get_tensor_mode"),
    "IExecutionContext": ("set_tensor_address", "execute_async_v3", "device_memory"),
    "ExecutionContextAllocationStrategy": ("USER_MANAGED",),
    "NetworkDefinitionCreationFlag": ("STRONGLY_TYPED",),
    "TensorIOMode": ("INPUT",),
    "Logger": ("ERROR",),
}


def bindings() -> Any:
    """Return the bindings that are installed, TensorRT-RTX's first.

    Raises:
        MissingDependencyError: neither library is installed.
    """
    for name, libraries in PROVIDERS:
        try:
            import_module(libraries)
            return import_module(name)
        except ImportError:
            continue
    raise MissingDependencyError(
        "engine.model.gpu.from_onnx needs TensorRT: pip install 'deadline-engine[tensorrt-rtx]', or [tensorrt]"
    )


def check(content: bytes, name: str) -> tuple[int, int]:
    """Return the features and outputs of a network that can go to TensorRT.

    Raises:
        UnsupportedModelError: trees and other nodes of `ai.onnx.ml`, which TensorRT does not parse; or another input
            than one float32 [n, n_features], or another output than one float32 [n] or [n, n_outputs].
        ModelFormatError: the file is no ONNX.
    """
    onnx = optional.need("onnx", "engine.model.gpu.from_onnx", "onnx")
    graph = onnx.load_from_string(content).graph
    foreign = sorted({node.op_type for node in graph.node if node.domain == TREES})
    if foreign:
        raise UnsupportedModelError(
            f"{name}: TensorRT does not parse {', '.join(foreign)} ({TREES}): load the model that was exported by"
            " load_model(…, device='gpu:0'), whose kernels score trees"
        )
    weights = {each.name for each in graph.initializer}
    inputs = [each for each in graph.input if each.name not in weights]
    for what, tensors, ranks in (("input", inputs, (2,)), ("output", list(graph.output), (1, 2))):
        shape = tensors[0].type.tensor_type.shape.dim if len(tensors) == 1 else ()
        if len(shape) not in ranks or tensors[0].type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
            raise UnsupportedModelError(
                f"{name}: expected one {what} of float32 [n, columns], got {len(tensors)} of ranks"
                f" {[len(each.type.tensor_type.shape.dim) for each in tensors]}"
            )
    columns = [dims[1].dim_value if len(dims) == 2 else 1 for dims in _dims(inputs[0], graph.output[0])]
    if not all(columns):
        raise UnsupportedModelError(
            f"{name}: the number of columns has to be in the file, only rows may be open"
        )
    return columns[0], columns[1]


def _dims(*tensors: Any) -> list[Any]:
    return [tensor.type.tensor_type.shape.dim for tensor in tensors]


def build(content: bytes, rows: int, *, name: str = "the network") -> bytes:
    """Build a plan for batches of exactly `rows` rows. Needs no GPU with TensorRT-RTX. Blocks for up to seconds.

    Raises:
        UnsupportedModelError: TensorRT refuses the network; the message has its reason.
        MissingDependencyError: as `bindings`.
    """
    trt = bindings()
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(content):
        errors = "; ".join(str(parser.get_error(index).desc()) for index in range(parser.num_errors))
        raise UnsupportedModelError(f"{name}: TensorRT does not parse it: {errors}")
    config = builder.create_builder_config()
    if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):  # an allocation spoils a capture
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    given = network.get_input(0)
    given.shape = (rows, *tuple(given.shape)[1:])  # static: a capture freezes what depends on a shape
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise UnsupportedModelError(
            f"{name}: TensorRT builds no plan for {rows} rows; its log on stderr says why"
        )
    return bytes(plan)


def plan(content: bytes, rows: int, device: str, *, name: str = "the network") -> bytes:
    """Return the plan for batches of `rows` rows, out of the cache or built now.

    Args:
        device: the kind of GPU, such as "sm_90"; a part of the plan's name.
    """
    path = kernels.cache_folder().parent / "plans" / f"{plan_name(content, rows, device)}.plan"
    return kernels.kept(path, lambda: build(content, rows, name=name))


def plan_name(content: bytes, rows: int, device: str) -> str:
    """Return the name of a plan in the cache: of the network's content, the rows, the library and the kind of GPU."""
    trt = bindings()
    library = f"{trt.__name__} {trt.__version__}"
    inputs = f"{hashlib.sha256(content).hexdigest()} {rows} {library} {device}"
    return hashlib.sha256(inputs.encode()).hexdigest()[:32]


def from_onnx(
    path: str | os.PathLike[str], *, rows_max: int = ROWS_MAX, lanes: int = LANES, device: str = "gpu:0"
) -> GpuModel:
    """Load an ONNX network and score it by TensorRT. Its answers are TensorRT's: near the CPU's, not their bits.

    Blocks while plans are built, for each size of batch (1, 2, 4, … rows_max) once; they are kept.

    Args:
        path: a network with one float32 input [n, n_features] and one float32 output [n] or [n, n_outputs], weights
            inside.
        rows_max, lanes, device: as in `from_body`.

    Raises:
        UnsupportedModelError: as `check` and `build`, or TensorRT refuses the plan on this GPU.
        MissingDependencyError: no TensorRT, no `onnx`, or no NVIDIA driver.
        ConfigError, ResourceError: as `from_body`.
    """
    path = Path(path)
    content = path.read_bytes()
    n_features, n_outputs = check(content, path.name)
    gpu = devices.gpu(devices.ordinal_of(device))  # first: TensorRT without a driver ends the process
    trt = bindings()
    runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    plans = _Plans(trt, runtime, gpu, content, path.name, n_outputs)
    return from_body(
        plans.enqueue,
        n_features=n_features,
        n_outputs=n_outputs,
        rows_max=rows_max,
        lanes=lanes,
        device=device,
        format="onnx",
    )


class _Plans:
    """The engines by rows, and their contexts by stream and rows: a context serves one stream at a time."""

    def __init__(self, trt: Any, runtime: Any, gpu: Any, content: bytes, name: str, n_outputs: int) -> None:
        self.trt, self.runtime, self.gpu = trt, runtime, gpu
        self.content, self.name, self.n_outputs = content, name, n_outputs
        self.engines: dict[int, Any] = {}
        self.contexts: dict[tuple[int, int], tuple[Any, DeviceBuffer, DeviceBuffer]] = {}

    def enqueue(self, stream: int, rows: int, answers: int, n: int) -> None:
        if n not in self.engines:
            made = plan(self.content, n, f"sm_{self.gpu.capability}", name=self.name)
            self.engines[n] = self.runtime.deserialize_cuda_engine(made)
            if self.engines[n] is None:
                raise UnsupportedModelError(
                    f"{self.name}: {self.trt.__name__} {self.trt.__version__} refuses its plan on {self.gpu.name}"
                    f" (sm_{self.gpu.capability}); another version of TensorRT may take it"
                )
        engine = self.engines[n]
        if (stream, n) not in self.contexts:
            self.contexts[stream, n] = self._context(engine, n)
        context, _, narrow = self.contexts[stream, n]
        for name in (engine.get_tensor_name(index) for index in range(engine.num_io_tensors)):
            is_input = engine.get_tensor_mode(name) == self.trt.TensorIOMode.INPUT
            context.set_tensor_address(name, rows if is_input else narrow.address)
        # A refused enqueue records nothing, and the graph would replay what lies in the buffers.
        if not context.execute_async_v3(stream):
            raise ConfigError(f"{self.name}: TensorRT refused to run {n} rows; its log on stderr says why")
        self.gpu.widen(stream, narrow.address, answers, n * self.n_outputs)

    def _context(self, engine: Any, n: int) -> tuple[Any, DeviceBuffer, DeviceBuffer]:
        strategy = self.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = engine.create_execution_context(strategy)
        size = next(
            getattr(engine, name)
            for name in ("device_memory_size_v2", "device_memory_size")
            if hasattr(engine, name)
        )
        scratch = DeviceBuffer(self.gpu, max(int(size), 1), "TensorRT's activations")
        if hasattr(context, "set_device_memory"):
            context.set_device_memory(scratch.address, int(size))
        else:
            context.device_memory = scratch.address
        return context, scratch, DeviceBuffer(self.gpu, 4 * n * self.n_outputs, "TensorRT's answers")
