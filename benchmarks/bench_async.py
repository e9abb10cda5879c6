"""The way back into an event loop: round trips of `await predict_async` at 1, 64 and 512 in flight.

Every request crosses to the batch lane's executor and back; the model is a native linear one that costs next to
nothing, so what is measured is the hand-over and the completion. Each of the requests in flight is a coroutine that
awaits its answer and asks again; `per_s_in_bursts_of_512` is one coroutine that asks 512 times, awaits them all, and
begins again. Rates are counted without a clock in the loop. The standard event loop gives the headline; uvloop stands
beside it. The rival makes the same hand-over with a queue to a thread and one `call_soon_threadsafe` per future on the
way back; it reads no row and makes no answer. No deadline is at stake here and arrivals are closed-loop; `deadline`
measures those.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import uvloop

import engine
from benchmarks import conditions, models, timing

FEATURES = 30
IN_FLIGHT = (1, 64, 512)
LOOPS = {"": asyncio.run, "uvloop_": uvloop.run}

Ask = Callable[[], Awaitable[Any]]


def run(smoke: bool) -> dict[str, Any]:
    calls, repeats = (1_024, 1) if smoke else (60_000, 5)
    linear = models.linear(FEATURES)
    row = np.random.default_rng(6).normal(size=FEATURES).astype(np.float32)
    ours: list[dict[str, float]] = []
    theirs: list[dict[str, float]] = []
    answers: list[float] = []
    for _ in range(repeats):
        figures: dict[str, float] = {}
        rival: dict[str, float] = {}
        for prefix, run_loop in LOOPS.items():
            figures |= run_loop(_measure_engine(linear, row, calls, prefix, answers))
            rival |= run_loop(_measure_rival(calls, prefix))
        ours.append(figures)
        theirs.append(rival)
    metrics, rival_metrics = timing.median_of(ours), timing.median_of(theirs)
    metrics["vs_call_soon_threadsafe"] = rival_metrics["round_trip_us_p50"] / metrics["round_trip_us_p50"]
    metrics["vs_call_soon_threadsafe_at_512"] = metrics["per_s_at_512"] / rival_metrics["per_s_at_512"]
    return {
        "metrics": metrics,
        "rivals": {"call_soon_threadsafe": rival_metrics},
        "conditions": {
            "arrivals": "closed loop",
            "in_flight": list(IN_FLIGHT),
            "threads": "one event loop, one executor",
            "calls": calls,
            "repeats": repeats,
            "spread": {"engine": timing.spread_of(ours), "call_soon_threadsafe": timing.spread_of(theirs)},
            "checksum": conditions.checksum(np.array(answers)),
        },
    }


async def _measure_engine(
    linear: Any, row: np.ndarray, calls: int, prefix: str, answers: list[float]
) -> dict[str, float]:
    with engine.Engine(linear, default=0.0, lane="batch", batch_rows_max=512, deadline_ms=1_000) as served:
        answers.append((await served.predict_async(row)).value)
        return await _at_each_depth(lambda: served.predict_async(row), calls, prefix)


async def _measure_rival(calls: int, prefix: str) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    waiting: queue.SimpleQueue[asyncio.Future[float] | None] = queue.SimpleQueue()

    def work() -> None:
        while (future := waiting.get()) is not None:
            loop.call_soon_threadsafe(future.set_result, 0.0)

    def ask() -> asyncio.Future[float]:
        future = loop.create_future()
        waiting.put(future)
        return future

    thread = threading.Thread(target=work)
    thread.start()
    try:
        return await _at_each_depth(ask, calls, prefix)
    finally:
        waiting.put(None)
        thread.join()


async def _at_each_depth(ask: Ask, calls: int, prefix: str) -> dict[str, float]:
    figures = {}
    for depth in IN_FLIGHT:
        each = max(calls // depth, 4)
        with timing.no_collections():
            taken_us = await _round_trips(ask, each, depth)
            per_s = await _sustained(ask, each, depth)
        suffix = "" if depth == 1 else f"_at_{depth}"
        latencies = timing.percentiles(taken_us, f"round_trip{suffix}_us")
        figures |= {f"{prefix}{key}": value for key, value in latencies.items()}
        figures[f"{prefix}per_s_at_{depth}"] = per_s
    with timing.no_collections():
        figures[f"{prefix}per_s_in_bursts_of_512"] = await _bursts(ask, max(calls // 512, 4), 512)
    return figures


async def _round_trips(ask: Ask, each: int, depth: int) -> np.ndarray:
    """Microseconds of each round trip, with `depth` coroutines asking `each` times in turn."""
    clock = time.perf_counter_ns
    taken: list[int] = []

    async def caller() -> None:
        for _ in range(each):
            before = clock()
            await ask()
            taken.append(clock() - before)

    await asyncio.gather(*(caller() for _ in range(depth)))
    return np.array(taken) * 1e-3


async def _sustained(ask: Ask, each: int, depth: int) -> float:
    """Answers a second with `depth` coroutines asking in turn; no clock is read between them."""

    async def caller() -> None:
        for _ in range(each):
            await ask()

    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(depth)))
    return each * depth / (time.perf_counter() - started)


async def _bursts(ask: Ask, bursts: int, size: int) -> float:
    """Answers a second where one coroutine asks `size` times, awaits them all, and begins again."""
    started = time.perf_counter()
    for _ in range(bursts):
        for future in [ask() for _ in range(size)]:
            await future
    return bursts * size / (time.perf_counter() - started)
