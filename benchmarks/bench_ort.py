"""ONNX Runtime without the GIL: one ONNX network served by its C API and by its Python API, beside a busy event loop.

Engine, model, fallback and load are the same twice; only the way of a batch into ONNX Runtime differs. The event loop
that submits requests and takes answers has other work too, pieces of `BUSY_US` of Python one after the other, like a
service that parses and renders. An executor with the Python API has to win the GIL from that loop for every batch;
with the C API it never asks for the GIL. Poisson arrivals at 0.5x and 2x of the primary's closed-loop capacity, 10 ms
deadlines, phases of both interleaved and repeated, medians.

`native_goodput_2x` is the primary's answers in time per second over its capacity, `python_goodput_2x` the same by the
Python API, and `native_vs_python_goodput_2x` their ratio. `largest_difference` is between both answers to the same
rows: the library is the same, so it must be 0. A late generator is noted and its figures kept, because it shares the
busy loop. `us_b1_p50` and `us_row_b64` are calls on an idle loop, beside `InferenceSession.run`. Sessions on several
threads are not measured.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import engine
from benchmarks import conditions, models, timing
from engine.loadgen import drive, load
from engine.model.onnx import load_onnx

DEADLINE_MS = 10.0
LAYERS = (32, 256, 1)
PASSES = 96  # some 150 us a row: the primary saturates before the generator and the loop
ROWS_MAX = 16
FACTORS = {"0.5x": 0.5, "2x": 2.0}
RUNTIMES = {"native": "c-api", "python": "python"}
BUSY_US = 200.0


def run(smoke: bool) -> dict[str, Any]:
    seconds, repeats = (0.3, 1) if smoke else (6.0, 5)
    content = models.perceptron(LAYERS, passes=PASSES)
    session = models.session(content)
    rows = np.random.default_rng(11).normal(size=(2048, LAYERS[0])).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "primary.onnx"
        path.write_bytes(content)
        served = {name: load_onnx(path, runtime=runtime) for name, runtime in RUNTIMES.items()}
    difference = largest_difference(served["native"], served["python"], rows)
    capacity_per_s = capacity(served["native"], rows, 0.05 if smoke else 0.3)
    print(f"  capacity {capacity_per_s:,.0f} rows/s", flush=True)
    fallback = models.linear(LAYERS[0])
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in served}
    late = []
    for repeat in range(repeats):
        for phase, factor in FACTORS.items():
            schedule = load.poisson(factor * capacity_per_s, seconds, 100 * repeat + len(phase))
            for name, primary in served.items():
                found, worked = asyncio.run(phase_of(primary, fallback, rows, schedule, smoke))
                if (
                    found.void
                ):  # kept, because the busy loop makes the generator late, and that loop is the subject
                    late.append(f"{phase} {name}: {found.void}")
                figures[name].append(
                    {
                        f"goodput_{phase}": found.primary_in_time_per_s / capacity_per_s,
                        f"on_time_{phase}": float(found.on_time.mean()),
                        f"busy_pieces_per_s_{phase}": worked / schedule.seconds,
                    }
                )
                print(f"  {phase:<5} {name:<7} {figures[name][-1]}", flush=True)
    native, python = (timing.median_of(figures[name]) for name in ("native", "python"))
    calls = 200 if smoke else 5_000
    direct = {name: call_times(model.predict, rows, calls) for name, model in served.items()}
    plain = call_times(lambda block: session.run(None, {"x": block}), rows, calls)
    metrics = {f"native_{key}": value for key, value in native.items()} | direct["native"]
    metrics |= {f"python_{key}": value for key, value in python.items()}
    metrics["native_vs_python_goodput_2x"] = native["goodput_2x"] / max(python["goodput_2x"], 1e-3)
    metrics["native_vs_python_goodput_0.5x"] = native["goodput_0.5x"] / max(python["goodput_0.5x"], 1e-3)
    metrics["largest_difference"] = difference
    metrics["capacity_per_s"] = capacity_per_s
    return {
        "metrics": metrics,
        "rivals": {"engine_python_api": direct["python"], "session_run": plain},
        "conditions": {
            "arrivals": "Poisson, open loop, latency from the scheduled arrival",
            "event_loop": f"asyncio, busy with pieces of {BUSY_US:g} us of Python",
            "deadline_ms": DEADLINE_MS,
            "primary": f"perceptron {LAYERS[0]}-{LAYERS[1]} x {PASSES}-{LAYERS[2]}, ONNX Runtime, 1 thread",
            "fallback": "native linear",
            "runtime_version": served["native"].describe()["runtime_version"],
            "phase_s": seconds,
            "repeats": repeats,
            "generator_late": late,
            "spread": {name: timing.spread_of(found) for name, found in figures.items()},
            "checksum": conditions.checksum(served["native"].predict(rows[:64])),
        },
    }


def largest_difference(one: Any, other: Any, rows: np.ndarray) -> float:
    """Largest difference between the answers of two models, alone and in batches."""
    return max(
        float(np.abs(one.predict(rows[:size]) - other.predict(rows[:size])).max())
        for size in (1, 7, ROWS_MAX, 64)
    )


def capacity(primary: Any, rows: np.ndarray, seconds: float) -> float:
    """Rows a second of the best batch size, in the best of several short windows."""
    best = 0.0
    for size in (1, 4, ROWS_MAX) * 4:
        done, started = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - started) < seconds / 4:
            primary.predict(rows[:size])
            done += size
        best = max(best, done / elapsed)
    return best


async def phase_of(
    primary: Any, fallback: Any, rows: np.ndarray, schedule: load.Schedule, smoke: bool
) -> tuple[load.Run, int]:
    """One phase of one contender, and the pieces of other work that the loop did beside it."""
    count, worked, stop = len(rows), 0, False
    document = {"rows": [float(value) for value in rows[0]]}

    def piece() -> None:
        until = time.perf_counter_ns() + int(BUSY_US * 1e3)
        while time.perf_counter_ns() < until:
            json.loads(json.dumps(document))

    async def busy() -> None:
        nonlocal worked
        while not stop:
            piece()
            worked += 1
            await asyncio.sleep(0)

    with engine.Engine(
        primary,
        fallback=fallback,
        default=0.0,
        deadline_ms=DEADLINE_MS,
        batch_rows_max=ROWS_MAX,
        lane="batch",
        warmup=rows[:64],
    ) as served:

        def submit(index: int, deadline_ns: int) -> Any:
            return served.predict_async(rows[index % count], deadline_ns=deadline_ns)

        task = asyncio.ensure_future(busy())
        try:
            found = await drive.drive_async(submit, schedule, deadline_ms=DEADLINE_MS, grace_s=0.3)
        finally:
            stop = True
            await task
    return found, worked


def call_times(predict: Any, rows: np.ndarray, calls: int) -> dict[str, float]:
    single, block = rows[:1].copy(), rows[:64].copy()
    return {
        "us_b1_p50": statistics.median(timing.latencies_us(lambda: predict(single), calls)),
        "us_row_b64": statistics.median(timing.latencies_us(lambda: predict(block), max(calls // 20, 20)))
        / 64,
    }
