"""Where a model is scored: on the CPU, on a GPU, or on either by the size of the batch.

A forest or dense net has the same bits on both, so the GPU takes the batches that it answers sooner, and the CPU takes
the rest. Load measures both for batches of 1, 2, 4, … rows.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import ConfigError, MissingDependencyError, ResourceError, UnsupportedModelError
from engine.model import _dense, _forest, _scorer
from engine.model.gpu import devices
from engine.model.gpu._gpu import DeviceModel
from engine.model.model import Model

ROWS_MAX = 1024
LANES = 2
REPEATS = 5
SEED = 5


class GpuModel(Model):
    """A model on a GPU. `describe()` has, beside the model's own facts, those of the device and of the placement.

    Attributes:
        native_model: the `DeviceModel`, for tests and benchmarks.
    """

    __slots__ = ("native_model",)

    def __init__(self, native_model: DeviceModel, **facts: Any) -> None:
        super().__init__(native_model.scorer, **facts)
        self.native_model = native_model

    def describe(self) -> dict[str, Any]:
        """Return the facts of `Model.describe`, and `device`, `device_name`, `device_layout`, `device_bytes`,
        `device_lost`, `device_batches` and `device_rescued` (calls that the CPU answered for the device) of now;
        `break_even_rows` and `placement_us` where the model was measured on both.
        """
        return {**super().describe(), **self.native_model.describe()}

    @property
    def device_lost(self) -> bool:
        """Whether the GPU failed in a way that CUDA does not get over: it stays lost to this process."""
        return bool(self.native_model.describe()["device_lost"])


def place(model: Model, device: str, *, rows_max: int = ROWS_MAX, lanes: int = LANES) -> Model:
    """Return the model where `device` says.

    Args:
        model: any model; a forest or a dense net can go to a GPU.
        device: "cpu" gives the model itself. "gpu:0" scores every batch on that GPU, and raises where that cannot be.
            "auto" measures both and sends each batch where it is answered sooner; without a GPU, or where the CPU is
            sooner for all batches, it gives the model itself, with the reason in `describe()["device_reason"]`.
        rows_max: rows of a batch on the GPU, from 1; larger ones go in parts.
        lanes: batches in flight on the GPU, 1 to 64.

    Raises:
        ConfigError: another device, or one that is not there.
        MissingDependencyError: "gpu:0" without NVIDIA's driver, or without a compiler for the kernels.
        ResourceError: the GPU's memory does not suffice.
        UnsupportedModelError: a model of another kind, for "gpu:0".
    """
    if device == "cpu":
        return model
    if device == "auto":
        try:
            return _measured(model, _on_gpu(model, 0, rows_max, lanes), rows_max)
        except (MissingDependencyError, ConfigError, ResourceError, UnsupportedModelError) as error:
            return _on_cpu(model, str(error))
    placed = _on_gpu(model, devices.ordinal_of(device), rows_max, lanes)
    placed.add_details(break_even_rows=1)
    return placed


def _on_gpu(model: Model, ordinal: int, rows_max: int, lanes: int) -> GpuModel:
    forest, net = _forest.native(model.scorer), _dense.native(model.scorer)
    native = net if forest is None else forest
    if native is None:
        raise UnsupportedModelError(
            "a GPU takes forests and dense nets without a number for missing values, got a model of format"
            f" {model.format!r}: use device='cpu', or engine.model.gpu.from_cupy"
        )
    gpu = devices.gpu(ordinal)
    kind = "dense" if forest is None else "forest"
    there = DeviceModel(gpu, native, kind=kind, rows_max=rows_max, lanes=lanes, cpu=model.scorer)
    return _like(model, there)


def _like(model: Model, there: DeviceModel) -> GpuModel:
    facts = {key: value for key, value in model.describe().items() if key not in _OWN}
    return GpuModel(
        there,
        format=model.format,
        digest=model.digest,
        feature_names=model.feature_names,
        categories=model.categories,
        details=facts,
    )


_OWN = ("format", "digest", "n_features", "n_outputs", "native", "device", "device_reason")


def _on_cpu(model: Model, reason: str) -> Model:
    model.add_details(device="cpu", device_reason=reason)
    return model


def _measured(model: Model, placed: GpuModel, rows_max: int) -> Model:
    """The placed model, with its break-even; the model itself where the CPU is sooner for all batches."""
    times = measure(model, placed, rows_max)
    rows = break_even(times)
    if rows is None:
        return _on_cpu(model, f"the CPU is sooner for batches of up to {rows_max} rows")
    placed.native_model.set_rows_min(rows)
    placed.add_details(break_even_rows=rows, placement_us=times)
    return placed


def measure(model: Model, placed: GpuModel, rows_max: int) -> dict[int, tuple[float, float]]:
    """Return rows of a batch -> (microseconds on the CPU, on the GPU), the fastest of 5 calls each."""
    rows = np.random.default_rng(SEED).standard_normal((rows_max, model.n_features)).astype(np.float32)
    sizes = [1 << power for power in range(rows_max.bit_length()) if 1 << power < rows_max] + [rows_max]
    return {n: (_cpu_us(model, rows[:n]), placed.native_model.time_us(rows[:n], REPEATS)) for n in sizes}


def break_even(times: dict[int, tuple[float, float]]) -> int | None:
    """Return the fewest rows from which on the GPU is sooner for all sizes measured; None where it is for none."""
    found = None
    for rows, (cpu, gpu) in sorted(times.items(), reverse=True):
        if gpu >= cpu:
            break
        found = rows
    return found


def _cpu_us(model: Model, rows: npt.NDArray[np.float32]) -> float:
    def once() -> float:
        start = time.perf_counter_ns()
        _scorer.score(model.scorer, rows)
        return (time.perf_counter_ns() - start) / 1e3

    return min(once() for _ in range(REPEATS))


__all__ = ["GpuModel", "break_even", "measure", "place"]
