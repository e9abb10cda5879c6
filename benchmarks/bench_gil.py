"""The GIL: a Python primary on an executor's thread, beside an event loop or a busy thread that wants the GIL as well.

The primary is a Python callable around an ONNX Runtime session on one thread, so every batch takes the GIL twice: to
call the callable, and when ONNX Runtime comes back. Asyncio callers, Poisson arrivals, 10 ms deadlines, the network,
the capacity and the figures of `deadline`. Nothing changes the interpreter's switch interval, except for the run that
the engine is compared with: `goodput_vs_short_interval` is `primary_goodput_2x` over that of an engine in a process
whose interval is 0.1 ms. `short_of_ideal_*` is the share in time of an engine that answers at once, less the engine's.

In the phase `spinner` a second thread counts in plain Python, at half of the capacity. It gives the GIL up only when it
is made to, after a switch interval of 5 ms. `late_over_ideal_spinner` is the engine's share of late answers less the
ideal's; `primary_goodput_spinner` the primary's answers in time per second over the rows per second of the same
callable looped alone beside the same thread; `breaker_opened_spinner` how often the breaker opened on a primary that
never failed. Phases of all contenders are interleaved and repeated, and the medians are given.

It says nothing of several busy threads, of callables that keep the GIL while they compute, or of several processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import engine
from benchmarks import conditions, models, rivals, timing
from benchmarks.bench_deadline import DEADLINE_MS, LAYERS, PASSES, ROWS_MAX, TIMEOUT_MS
from engine.loadgen import drive, load

SHORT_INTERVAL_S = 1e-4
# (times the capacity, beside a busy thread, with a short switch interval)
PHASES = {
    "0.5x": (0.5, False, False),
    "2x": (2.0, False, False),
    "2x_short": (2.0, False, True),
    "spinner": (0.5, True, False),
}


def run(smoke: bool) -> dict[str, Any]:
    case = Case(seconds=0.4 if smoke else 6.0, repeats=1 if smoke else 5, smoke=smoke)
    for repeat in range(case.repeats):
        for phase in PHASES:
            case.run_phase(phase, repeat)
    return case.result()


@contextlib.contextmanager
def spinning(wanted: bool) -> Iterator[None]:
    """A thread that counts in plain Python meanwhile, where it is wanted."""
    stop = False

    def spin() -> None:
        count = 0
        while not stop:
            count += 1

    thread = threading.Thread(target=spin)
    if wanted:
        thread.start()
    try:
        yield
    finally:
        stop = True
        if wanted:
            thread.join()


@contextlib.contextmanager
def switching_after(seconds: float | None) -> Iterator[None]:
    before = sys.getswitchinterval()
    if seconds is not None:
        sys.setswitchinterval(seconds)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


class Case:
    """One run of the case: what all contenders share, and the figures of each as they come in."""

    def __init__(self, seconds: float, repeats: int, smoke: bool) -> None:
        self.seconds, self.repeats, self.smoke = seconds, repeats, smoke
        self.rows = np.random.default_rng(7).normal(size=(4096, LAYERS[0])).astype(np.float32)
        self.session = models.session(models.perceptron(LAYERS, passes=PASSES))
        self.primary = engine.load_model(self.score, n_features=LAYERS[0])
        self.fallback = models.linear(LAYERS[0])
        self.capacity_per_s = self._looped_per_s(0.1 if smoke else 0.6)
        with spinning(True):
            self.beside_spinner_per_s = self._looped_per_s(0.2 if smoke else 2.0)
        self.figures: dict[str, list[dict[str, float]]] = {}
        print(
            f"  capacity {self.capacity_per_s:,.0f} rows/s, beside a busy thread "
            f"{self.beside_spinner_per_s:,.0f} rows/s",
            flush=True,
        )

    def score(self, rows: np.ndarray) -> np.ndarray:
        return self.session.run(None, {"x": rows})[0][:, 0]

    def _looped_per_s(self, seconds: float) -> float:
        """The best closed-loop rate over batch sizes and short windows, as in `deadline`."""
        best = 0.0
        for size in [1, 2, 4, 8, ROWS_MAX] * 4:
            rows, done, started = self.rows[:size], 0, time.perf_counter()
            while (elapsed := time.perf_counter() - started) < seconds / 4:
                self.score(rows)
                done += size
            best = max(best, done / elapsed)
        return best

    def contenders(self) -> dict[str, Callable[[], Any]]:
        def with_fallback() -> rivals.TimeoutThenFallback:
            return rivals.TimeoutThenFallback(
                rivals.MicroBatcher(self.score, ROWS_MAX), self.fallback.predict, TIMEOUT_MS
            )

        return {
            "ideal": rivals.Ideal,
            "engine": lambda: Ours(self),
            "asyncio_batcher": lambda: Rival(rivals.MicroBatcher(self.score, ROWS_MAX)),
            "wait_for_fallback": lambda: Rival(with_fallback()),
        }

    def run_phase(self, phase: str, repeat: int) -> None:
        runs: dict[str, tuple[load.Run, int]] = {}
        _, beside, short = PHASES[phase]
        for name, make in self.contenders().items():
            if short and name != "engine":
                continue
            with spinning(beside), switching_after(SHORT_INTERVAL_S if short else None):
                runs[name] = asyncio.run(self._drive(make, phase, 100 * repeat + len(phase)))
        self._keep(phase, runs)

    async def _drive(self, make: Callable[[], Any], phase: str, seed: int) -> tuple[load.Run, int]:
        rate_per_s = PHASES[phase][0] * self.capacity_per_s
        contender, rows, count = make(), self.rows, len(self.rows)

        def submit(index: int, deadline_ns: int) -> Any:
            return contender.submit(rows[index % count], deadline_ns)

        try:
            warmup = load.poisson(0.5 * rate_per_s, 0.1 if self.smoke else 0.3, seed)
            await drive.drive_async(submit, warmup, deadline_ms=DEADLINE_MS, grace_s=0.1)
            schedule = load.poisson(rate_per_s, self.seconds, seed + 1)
            found = await drive.drive_async(submit, schedule, deadline_ms=DEADLINE_MS, grace_s=0.3)
            return found, contender.breaker_openings() if isinstance(contender, Ours) else 0
        finally:
            contender.close()

    def _keep(self, phase: str, runs: dict[str, tuple[load.Run, int]]) -> None:
        spinner = phase == "spinner"
        full_per_s = self.beside_spinner_per_s if spinner else self.capacity_per_s
        for name, (found, openings) in runs.items():
            figures = {f"on_time_{phase}": float(found.on_time.mean())}
            if name != "ideal":
                figures[f"primary_goodput_{phase}"] = found.primary_in_time_per_s / full_per_s
            if name != "ideal" and "ideal" in runs:
                short = float(runs["ideal"][0].on_time.mean()) - figures[f"on_time_{phase}"]
                figures["late_over_ideal_spinner" if spinner else f"short_of_ideal_{phase}"] = short
            if name == "engine":
                figures[f"breaker_opened_{phase}"] = float(openings)
                figures[f"on_time_ready_{phase}"] = float(found.on_time_ready.mean())
            self.figures.setdefault(name, []).append(figures)
            shown = "  ".join(f"{key} {value:.4f}" for key, value in figures.items())
            print(f"  {phase:<9} {name:<18} {shown}", flush=True)

    def result(self) -> dict[str, Any]:
        figures = {name: timing.median_of(runs) for name, runs in self.figures.items()}
        metrics = figures.pop("engine")
        metrics["goodput_vs_short_interval"] = (
            metrics["primary_goodput_2x"] / metrics["primary_goodput_2x_short"]
        )
        metrics |= {
            "capacity_per_s": self.capacity_per_s,
            "beside_spinner_per_s": self.beside_spinner_per_s,
        }
        return {
            "metrics": metrics,
            "rivals": figures,
            "conditions": {
                "arrivals": "Poisson, open loop, latency from the scheduled arrival",
                "event_loop": "asyncio",
                "deadline_ms": DEADLINE_MS,
                "primary": f"a Python callable around a perceptron {LAYERS[0]}-{LAYERS[1]} x {PASSES}-{LAYERS[2]}, "
                "ONNX Runtime, 1 thread",
                "fallback": "native linear",
                "batch_rows_max": ROWS_MAX,
                "rivals": f"batcher: window 1 ms; wait_for: {TIMEOUT_MS:g} ms, then the same fallback",
                "switch_interval_ms": sys.getswitchinterval() * 1e3,
                "phase_s": self.seconds,
                "repeats": self.repeats,
                "spread": {name: timing.spread_of(runs) for name, runs in self.figures.items()},
                "checksum": conditions.checksum(self.score(self.rows[:64])),
            },
        }


class Ours:
    """The engine with the Python primary in its batch lane."""

    def __init__(self, case: Case) -> None:
        self.engine = engine.Engine(
            case.primary,
            fallback=case.fallback,
            default=0.0,
            deadline_ms=DEADLINE_MS,
            batch_rows_max=ROWS_MAX,
            executors=1,
            warmup=case.rows[:64],
        )
        self.engine.wait_ready(10.0)

    def submit(self, row: np.ndarray, deadline_ns: int) -> Any:
        return self.engine.predict_async(row, deadline_ns=deadline_ns)

    def breaker_openings(self) -> int:
        return sum(facts["openings"] for facts in self.engine.stats()["breakers"].values())

    def close(self) -> None:
        self.engine.close()


class Rival:
    """A rival around the same callable."""

    def __init__(self, served: Any) -> None:
        self.served = served

    def submit(self, row: np.ndarray, deadline_ns: int) -> Any:
        return self.served.submit(row)

    def close(self) -> None:
        self.served.close()
