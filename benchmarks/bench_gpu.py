"""Models on an NVIDIA GPU: each case as measured over its floor, the bits against the CPU, and deadlines under a stall.

Outside `all`: it needs a GPU, and says so where there is none. Floors come first: what a launch, a graph with an empty
body and a copy of 1 KB, 64 KB and 1 MB cost here. `graph_over_floor_b*` is a call of an MLP 256-256-128-1 over the same
graph with an empty body plus the kernel's own time, which is the slope of graphs that do the work 1 and 11 times.
`submit_us_cpu_16_rows` is the processor's time of one submission; no GIL is held, because submissions are C++.
`forest_*` are the models of the forest case, `vs_core` against one core of this machine. `bits_equal_share` is the
share of answers whose bytes are the CPU's, on rows that no earlier call had. `on_time_2x` offers twice the rows that a
model of 1 ms a batch can take, due in 5 ms; `on_time_stall_2x` does so while a kernel of 200 ms takes the whole device.
Rivals are measured where they are installed, and named where they are not.

Not measured: tensor cores, TensorRT, several GPUs, other processes on the device, and the walk's own memory floor.
Results of each stage are in build/bench_gpu.json as soon as it ends.
"""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import json
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import bench_forest
from benchmarks.runner import NothingToMeasure
from engine.errors import ConfigError, MissingDependencyError
from engine.loadgen import drive, load
from engine.model import dense, load_model
from engine.model.gpu import devices, from_body, place
from engine.model.gpu._gpu import DeviceModel
from engine.serving import Engine

STAGES_FILE = Path("build") / "bench_gpu.json"
BATCHES = (1, 64, 1024)
LAYERS = (256, 256, 128, 1)
DEADLINE_MS = 5.0
STALL_NS = 200_000_000
SLOW_NS = 1_000_000  # of the model under load, a batch
SLOW_ROWS = 64
REPEATED = 11
SEED = 13

Figures = dict[str, float]


def run(smoke: bool) -> dict[str, Any]:
    try:
        gpu = devices.gpu(0)
    except (MissingDependencyError, ConfigError) as error:
        raise NothingToMeasure(str(error)) from error
    metrics: Figures = {}
    rivals: dict[str, Figures] = {}
    missing: dict[str, str] = {}
    driver = Driver()
    stages: list[tuple[str, Callable[[], None]]] = [
        ("floors", lambda: metrics.update(floors(driver, smoke))),
        ("perceptron", lambda: metrics.update(perceptron(driver, smoke))),
        ("forests", lambda: metrics.update(forests(smoke))),
        ("deadlines", lambda: metrics.update(deadlines(driver, smoke))),
        ("rivals", lambda: add_rivals(metrics, rivals, missing, smoke)),
        ("sanitizers", lambda: metrics.update(sanitizers(missing, smoke))),
    ]
    for name, stage in stages:
        started = time.monotonic()
        stage()
        print(f"  {name}: {time.monotonic() - started:.1f} s", flush=True)
        STAGES_FILE.parent.mkdir(exist_ok=True)
        STAGES_FILE.write_text(
            json.dumps({"metrics": metrics, "rivals": rivals, "missing": missing}, indent=1)
        )
    conditions = {"gpu": gpu.name, "capability": gpu.capability, "not measured": missing}
    return {"metrics": metrics, "rivals": rivals, "conditions": conditions}


class Driver:
    """The few calls of the driver that a benchmark makes itself."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL(devices.driver())
        self.context = ctypes.c_void_p()
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(self.context), 0)
        self.call("cuCtxSetCurrent", self.context)
        from engine.model.gpu import kernels

        self.module = ctypes.c_void_p()
        image = kernels.image(devices.gpu(0).capability)
        self.call("cuModuleLoadData", ctypes.byref(self.module), image)

    def call(self, name: str, *arguments: Any) -> None:
        status = getattr(self.library, name)(*arguments)
        if status != 0:
            raise RuntimeError(f"{name}: CUDA error {status}")

    def kernel(self, name: str) -> ctypes.c_void_p:
        found = ctypes.c_void_p()
        self.call("cuModuleGetFunction", ctypes.byref(found), self.module, name.encode())
        return found

    def launch(
        self, kernel: ctypes.c_void_p, stream: Any, *arguments: Any, blocks: int = 1, threads: int = 1
    ) -> None:
        addresses = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(each) for each in arguments))
        self.call(
            "cuLaunchKernel", kernel, blocks, 1, 1, threads, 1, 1, 0, ctypes.c_void_p(stream), addresses, None
        )

    @contextmanager
    def stream(self) -> Iterator[ctypes.c_void_p]:
        made = ctypes.c_void_p()
        self.call("cuStreamCreateWithPriority", ctypes.byref(made), 1, 0)
        try:
            yield made
        finally:
            self.call("cuStreamDestroy_v2", made)

    def spinning(self, ns: int, *, blocks: int = 1, threads: int = 1) -> Callable[..., None]:
        """A body that takes this long, whatever the rows."""
        spin = self.kernel("spin")

        def enqueue(stream: int, rows: int, answers: int, n: int) -> None:
            self.launch(spin, stream, ctypes.c_ulonglong(ns), blocks=blocks, threads=threads)

        return enqueue


def median_us(call: Callable[[], Any], smoke: bool, repeats: int = 2000) -> float:
    """The median of single calls, after 20 to warm up."""
    taken = []
    for index in range(3 if smoke else repeats + 20):
        start = time.perf_counter_ns()
        call()
        if smoke or index >= 20:
            taken.append((time.perf_counter_ns() - start) / 1e3)
    return statistics.median(taken)


def floors(driver: Driver, smoke: bool) -> Figures:
    """A launch, and copies of three sizes from pageable and page-locked memory, each with its synchronisation."""
    found: Figures = {}
    with driver.stream() as stream:
        spin = driver.kernel("spin")

        def launch() -> None:
            driver.launch(spin, stream.value, ctypes.c_ulonglong(0))
            driver.call("cuStreamSynchronize", stream)

        found["floor_launch_us"] = median_us(launch, smoke)
        for name, n_bytes in (("1kb", 1 << 10), ("64kb", 1 << 16), ("1mb", 1 << 20)):
            device, pinned = ctypes.c_ulonglong(), ctypes.c_void_p()
            driver.call("cuMemAlloc_v2", ctypes.byref(device), ctypes.c_size_t(n_bytes))
            driver.call("cuMemHostAlloc", ctypes.byref(pinned), ctypes.c_size_t(n_bytes), 3)
            pageable = ctypes.create_string_buffer(n_bytes)
            for kind, source in (("pinned", pinned), ("pageable", ctypes.cast(pageable, ctypes.c_void_p))):

                def copy(source: ctypes.c_void_p = source, to: Any = device, size: int = n_bytes) -> None:
                    driver.call("cuMemcpyHtoDAsync_v2", to, source, ctypes.c_size_t(size), stream)
                    driver.call("cuStreamSynchronize", stream)

                found[f"floor_copy_{name}_{kind}_us"] = median_us(copy, smoke)
            driver.call("cuMemFree_v2", device)
            driver.call("cuMemFreeHost", pinned)
    return found


def net() -> Any:
    """The MLP in float32."""
    random = np.random.default_rng(SEED)
    pairs = list(itertools.pairwise(LAYERS))
    weights = [random.normal(size=pair, scale=pair[0] ** -0.5).astype(np.float32) for pair in pairs]
    return dense(weights, [np.zeros(n, np.float32) for _, n in pairs])


def on_gpu(model: Any, repeats: int = 1) -> Any:
    """A `DeviceModel` of one lane that does the work so often a batch."""
    from engine.model import _dense, _forest

    native = _forest.native(model.scorer)
    kind = "dense" if native is None else "forest"
    source = _dense.native(model.scorer) if native is None else native
    return DeviceModel(devices.gpu(0), source, kind=kind, rows_max=max(BATCHES), lanes=1, repeats=repeats)


def perceptron(driver: Driver, smoke: bool) -> Figures:
    model = net()
    rows = np.random.default_rng(SEED + 1).standard_normal((max(BATCHES), LAYERS[0])).astype(np.float32)
    once, often = on_gpu(model), on_gpu(model, REPEATED)
    empty = from_body(driver.spinning(0), n_features=LAYERS[0], rows_max=max(BATCHES), lanes=1)
    found: Figures = {}
    repeats = 2 if smoke else 2000
    for batch in BATCHES[: 1 if smoke else None]:
        given = rows[:batch]
        taken, taken_often = once.time_us(given, repeats), often.time_us(given, repeats)
        kernel = max((taken_often - taken) / (REPEATED - 1), 0.0)
        floor = empty.native_model.time_us(given, repeats)
        found |= {
            f"mlp_us_b{batch}": taken,
            f"mlp_kernel_us_b{batch}": kernel,
            f"floor_graph_us_b{batch}": floor,
            f"graph_over_floor_b{batch}": taken / (floor + kernel),
        }
    found["submit_us_cpu_16_rows"] = once.submit_us(rows[:16], repeats)
    found["bits_equal_share"] = equal_share(model, rows)
    return found


def equal_share(model: Any, rows: Any) -> float:
    """The share of answers that have the CPU's bytes."""
    placed = place(model, "gpu:0", rows_max=max(BATCHES))
    there, here = placed.predict(rows), model.predict(rows)
    return float(np.mean(there.view(np.uint64) == here.view(np.uint64)))


def forests(smoke: bool) -> Figures:
    paths, rows = bench_forest.prepare(smoke)
    found: Figures = {}
    for name, path in paths.items():
        model = load_model(path)
        there = on_gpu(model)
        for batch in BATCHES[: 1 if smoke else None]:
            given = np.ascontiguousarray(rows[:batch])
            gpu_us = there.time_us(given, 2 if smoke else 500)
            cpu_us = median_us(lambda given=given, model=model: model.predict(given), smoke, 200)
            found |= {
                f"forest_{name}_us_b{batch}": gpu_us,
                f"forest_{name}_b{batch}_vs_core": cpu_us / gpu_us,
            }
        found[f"forest_{name}_bits_equal_share"] = equal_share(model, np.ascontiguousarray(rows[:64]))
    return found


def deadlines(driver: Driver, smoke: bool) -> Figures:
    """Twice the rows that the model can take, alone, and beside a kernel that takes the device for 200 ms a second."""
    slow = from_body(driver.spinning(20_000 if smoke else SLOW_NS), n_features=8, rows_max=SLOW_ROWS, lanes=2)
    fallback = dense([np.zeros((8, 1), np.float32)], [np.array([0.25], np.float32)])
    seconds, rate = (0.2, 500.0) if smoke else (8.0, 2 * SLOW_ROWS * 1e9 / SLOW_NS)
    calm = offered(slow, fallback, rate, seconds)
    with stalling(driver, 20_000_000 if smoke else STALL_NS):
        stalled = offered(slow, fallback, rate, seconds)
    return {
        "on_time_2x": float(calm.on_time.mean()),
        "on_time_stall_2x": float(stalled.on_time.mean()),
        "primary_goodput_2x": calm.primary_in_time_per_s / (rate / 2),
    }


def offered(primary: Any, fallback: Any, rate: float, seconds: float) -> load.Run:
    schedule = load.poisson(rate, seconds, SEED)
    rows = np.zeros((len(schedule), 8), np.float32)

    async def drive_it() -> load.Run:
        with Engine(
            primary, fallback=fallback, deadline_ms=DEADLINE_MS, batch_rows_max=SLOW_ROWS, executors=2
        ) as served:

            def submit(start: int, stop: int, deadlines_ns: Any) -> Any:
                return served.predict_many_async(rows[start:stop], deadline_ns=deadlines_ns)

            return await drive.drive_async_many(submit, schedule, deadline_ms=DEADLINE_MS)

    return asyncio.run(drive_it())


@contextmanager
def stalling(driver: Driver, ns: int) -> Iterator[None]:
    """Another stream's kernel takes every multiprocessor for this long, once a second."""
    over = threading.Event()

    def stall() -> None:
        driver.call("cuCtxSetCurrent", driver.context)
        spin = driver.kernel("spin")
        with driver.stream() as stream:
            while not over.wait(1.0 if ns == STALL_NS else 0.05):
                blocks, threads = (2048, 1024) if ns == STALL_NS else (1, 1)
                driver.launch(spin, stream.value, ctypes.c_ulonglong(ns), blocks=blocks, threads=threads)
                driver.call("cuStreamSynchronize", stream)

    thread = threading.Thread(target=stall)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def add_rivals(metrics: Figures, rivals: dict[str, Figures], missing: dict[str, str], smoke: bool) -> None:
    """torch, eager and as a CUDA graph, and nvForest, each from a request's row to its answer on the host."""
    for name, measure in (("torch", torch_rivals), ("nvforest", nvforest_rivals)):
        try:
            rivals.update(measure(metrics, smoke))
        except (ImportError, RuntimeError, AssertionError) as error:
            missing[name] = f"{type(error).__name__}: {error}"[:300]


def torch_rivals(metrics: Figures, smoke: bool) -> dict[str, Figures]:
    import torch

    layers: list[Any] = []
    for n_in, n_out in itertools.pairwise(LAYERS):
        layers += [torch.nn.Linear(n_in, n_out), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1]).cuda().eval()
    row = torch.zeros((1, LAYERS[0])).pin_memory()
    static = torch.zeros((1, LAYERS[0]), device="cuda")
    with torch.inference_mode():

        def eager() -> float:
            return float(model(row.cuda(non_blocking=True)).cpu())

        eager_us = median_us(eager, smoke)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            answer = model(static)

        def replay() -> float:
            static.copy_(row, non_blocking=True)
            graph.replay()
            return float(answer.cpu())

        graph_us = median_us(replay, smoke)
    metrics["vs_torch_eager_b1"] = eager_us / metrics["mlp_us_b1"]
    metrics["vs_torch_graph_b1"] = graph_us / metrics["mlp_us_b1"]
    return {"torch eager": {"mlp_us_b1": eager_us}, "torch graph": {"mlp_us_b1": graph_us}}


def nvforest_rivals(metrics: Figures, smoke: bool) -> dict[str, Figures]:
    import nvforest

    paths, rows = bench_forest.prepare(smoke)
    figures: Figures = {}
    for name, path in paths.items():
        forest = nvforest.load_model(str(path), model_type="lightgbm", device="gpu")
        for batch in BATCHES[: 1 if smoke else None]:
            given = np.ascontiguousarray(rows[:batch])
            taken = median_us(
                lambda given=given, forest=forest: np.asarray(forest.predict(given)), smoke, 200
            )
            figures[f"forest_{name}_us_b{batch}"] = taken
            metrics[f"forest_{name}_vs_nvforest_b{batch}"] = taken / metrics[f"forest_{name}_us_b{batch}"]
    return {"nvForest": figures}


def sanitizers(missing: dict[str, str], smoke: bool) -> Figures:
    """How many of compute-sanitizer's three tools find an error in a small run of the forest and dense kernels."""
    if smoke or shutil.which("compute-sanitizer") is None:
        missing["compute-sanitizer"] = "not on the PATH" if not smoke else "not in a smoke run"
        return {}
    errors = 0
    for tool in ("memcheck", "racecheck", "synccheck"):
        command = [
            "compute-sanitizer",
            f"--tool={tool}",
            "--error-exitcode=9",
            sys.executable,
            "-m",
            "pytest",
        ]
        done = subprocess.run(
            [*command, "-q", "-m", "gpu", "tests/unit/model/gpu"], capture_output=True, text=True, check=False
        )
        errors += done.returncode == 9
    return {"sanitizer_errors": float(errors)}
