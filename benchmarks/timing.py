"""Closed-loop timing of short calls: how long each took, and how many a second.

A clock is read on either side of every call, which adds its own cost (about 40 ns) to each latency; that cost is
reported beside the figures and not subtracted. Throughput is counted without clocks inside the loop.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from engine.loadgen._clock import no_collections


def latencies_us(call: Callable[[], Any], calls: int, warmup: int = 200) -> np.ndarray:
    """float64 [calls]: microseconds each call took, on the calling thread, one after the other."""
    clock = time.perf_counter_ns
    for _ in range(warmup):
        call()
    taken = [0] * calls
    with no_collections():
        for index in range(calls):
            before = clock()
            call()
            taken[index] = clock() - before
    return np.array(taken) * 1e-3


def clock_us() -> float:
    """What reading the clock twice adds to one latency: the median of timing nothing."""
    clock = time.perf_counter_ns
    taken = []
    for _ in range(20_000):
        before = clock()
        taken.append(clock() - before)
    return statistics.median(taken) * 1e-3


def per_s(call: Callable[[], Any], calls: int) -> float:
    """Calls a second from one thread in a loop of its own."""
    with no_collections():
        before = time.perf_counter_ns()
        for _ in range(calls):
            call()
        return calls / (time.perf_counter_ns() - before) * 1e9


def percentiles(samples_us: np.ndarray, prefix: str) -> dict[str, float]:
    """p50, p99 and p99.9 under `prefix`."""
    return {f"{prefix}_p{percent}": float(np.percentile(samples_us, percent)) for percent in (50, 99, 99.9)}


def median_of(runs: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure over repeats of the same measurement; keys that only some repeats have are kept."""
    keys = dict.fromkeys(key for run in runs for key in run)
    return {key: statistics.median(run[key] for run in runs if key in run) for key in keys}


def spread_of(runs: list[dict[str, float]]) -> dict[str, list[float]]:
    """[smallest, largest] of each figure over the repeats."""
    keys = dict.fromkeys(key for run in runs for key in run)
    return {
        key: [min(values), max(values)]
        for key in keys
        if (values := [run[key] for run in runs if key in run])
    }
