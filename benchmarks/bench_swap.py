"""A thousand hot swaps under load: none may fail a request, mix two versions in an answer, or be felt by a caller.

Version v answers v (its fallback v + 0.5), so every answer can be held against the version that it names. Poisson
arrivals on an event loop meet the batch lane in windows of a second, in turn with a thread that swaps in a new primary
and fallback fifty times a second, and without. Each swap warms the new primary up and checks it on golden rows before
it takes traffic; making the model objects is not measured, since that is loading.

`failed` counts requests that raised, got no answer or only the default; `mixed` those whose value is not that of their
version; `p99_rise_ms` is the p99 of latency with swaps less that without, from the scheduled arrival, the median over
pairs of neighbouring windows. The engine keeps at most the version served and the one before; `versions_held` is what
it holds when the last answer is out. The full size takes under a minute. It says nothing of what loading a large model
on the same cores costs.
"""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
from collections import Counter
from typing import Any

import numpy as np

import engine
from benchmarks import conditions
from engine.loadgen import drive, load
from engine.model import dense

FEATURES = 8
RATE_PER_S = 2_000.0
DEADLINE_MS = 10.0
SWAPS_PER_WINDOW = 50


def run(smoke: bool) -> dict[str, Any]:
    seconds, swaps = (0.1, 10) if smoke else (1.0, 1_000)
    per_window = min(SWAPS_PER_WINDOW, swaps // 2)
    case = Case(seconds, per_window)
    try:
        for pair in range(swaps // per_window):
            # Which of the two comes first alternates, so that a machine that drifts favours neither.
            for swapping in (True, False) if pair % 2 else (False, True):
                asyncio.run(case.window(swapping, seed=pair))
        return case.result()
    finally:
        case.engine.close()


def version_model(number: float) -> engine.Model:
    """A native model that answers `number` whatever it is asked."""
    return dense([np.zeros((FEATURES, 1))], [np.array([number])])


class Case:
    def __init__(self, seconds: float, swaps_per_window: int) -> None:
        self.seconds, self.swaps_per_window = seconds, swaps_per_window
        self.rows = np.random.default_rng(4).normal(size=(512, FEATURES)).astype(np.float32)
        self.engine = engine.Engine(
            version_model(0),
            fallback=version_model(0.5),
            deadline_ms=DEADLINE_MS,
            lane="batch",
            version="0",
        )
        self.version = 0
        self.swap_ms: list[float] = []
        self.p99_ms: dict[bool, list[float]] = {True: [], False: []}
        self.figures = dict.fromkeys(("failed", "mixed", "fallbacks", "late", "requests"), 0)
        self.defaults: Counter[str] = Counter()  # why only the default came, and in which windows
        self.versions_seen: set[str] = set()

    async def window(self, swapping: bool, seed: int) -> None:
        futures: list[Any] = []

        def submit(index: int, deadline_ns: int) -> Any:
            future = self.engine.predict_async(self.rows[index % len(self.rows)], deadline_ns=deadline_ns)
            futures.append(future)
            return future

        schedule = load.poisson(RATE_PER_S, self.seconds, seed + 1_000 * swapping)
        models = [
            (version_model(number), version_model(number + 0.5))
            for number in range(self.version + 1, self.version + 1 + self.swaps_per_window)
        ]
        swapper = threading.Thread(target=self._swap, args=(models,))
        if swapping:
            swapper.start()
        run = await drive.drive_async(submit, schedule, deadline_ms=DEADLINE_MS)
        if swapping:
            swapper.join()
        self._judge(futures, run, swapping)
        self.p99_ms[swapping].append(load.percentile(run.latency_us, 99) * 1e-3)

    def _swap(self, models: list[tuple[engine.Model, engine.Model]]) -> None:
        pause_s = self.seconds / len(models)
        golden_rows = self.rows[:4]
        begun = time.monotonic()
        for turn, (primary, fallback) in enumerate(models):
            time.sleep(max(0.0, begun + turn * pause_s - time.monotonic()))
            number = self.version + 1
            before = time.monotonic()
            self.engine.swap(
                primary,
                fallback=fallback,
                version=str(number),
                golden=(golden_rows, np.full(len(golden_rows), float(number))),
            )
            self.swap_ms.append((time.monotonic() - before) * 1e3)
            self.version = number

    def _judge(self, futures: list[Any], run: load.Run, swapping: bool) -> None:
        figures = self.figures
        figures["requests"] += len(run.schedule)
        figures["failed"] += len(run.schedule) - len(futures)
        figures["late"] += int((~run.on_time).sum())
        for future in futures:
            if not future.done() or future.cancelled() or future.exception() is not None:
                figures["failed"] += 1
                continue
            answer = future.result()
            if answer.source == "default":
                figures["failed"] += 1
                self.defaults[f"{answer.reason}, {'with' if swapping else 'without'} swaps"] += 1
                continue
            self.versions_seen.add(answer.version)
            fallback = answer.source == "fallback"
            figures["fallbacks"] += fallback
            figures["mixed"] += answer.value != int(answer.version) + 0.5 * fallback

    def result(self) -> dict[str, Any]:
        rises = [
            with_swaps - without
            for with_swaps, without in zip(self.p99_ms[True], self.p99_ms[False], strict=True)
        ]
        return {
            "metrics": {
                "failed": self.figures["failed"],
                "mixed": self.figures["mixed"],
                "p99_rise_ms": statistics.median(rises),
                "p99_ms_with_swaps": statistics.median(self.p99_ms[True]),
                "p99_ms_without": statistics.median(self.p99_ms[False]),
                "swaps": len(self.swap_ms),
                "swap_ms_p50": statistics.median(self.swap_ms),
                "swap_ms_max": max(self.swap_ms),
                "requests": self.figures["requests"],
                "fallback_share": self.figures["fallbacks"] / self.figures["requests"],
                "late_share": self.figures["late"] / self.figures["requests"],
                "versions_held": len(self.engine._versions()),
            },
            "rivals": {},
            "conditions": {
                "arrivals": f"Poisson, {RATE_PER_S:g}/s, open loop, latency from the scheduled arrival",
                "deadline_ms": DEADLINE_MS,
                "window_s": self.seconds,
                "windows": len(rises) * 2,
                "swaps_per_window": self.swaps_per_window,
                "versions_that_answered": len(self.versions_seen),
                "p99_rise_ms_spread": [min(rises), max(rises)],
                "defaults": dict(self.defaults),
                "checksum": conditions.checksum(np.array([float(self.version)])),
            },
        }
