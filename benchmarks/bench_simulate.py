"""The speed of the simulator, and the quality of the policy in it.

`events_per_s`: arrivals, batch ends, fallback timers and fallbacks handled by one thread in a second of real time, at
twice the capacity with a stall of 200 ms every 2 s, every invariant checked at each event; the median of the repeats.
`seeds_1000_s`: seconds for 1,000 random plans of 10,000 requests each, with any faults at once. `recovery_ms_max`:
virtual time from the end of a fault until the primary serves as without it, the longest over random faults. The other
figures are virtual too and exact for their seed: the share answered in time, and the primary's in-time answers over its
capacity. There is no rival: this measures the scheduler's code without threads, and says nothing about the latency of a
real machine.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

from engine.simulation.liveness import recovery
from engine.simulation.random_plans import random_plan, recovering_plan
from engine.simulation.simulate import simulate

SEED = 1
LOADS = (0.5, 1.0, 2.0, 10.0)


def run(smoke: bool) -> dict[str, Any]:
    requests, repeats = (20_000, 1) if smoke else (1_000_000, 5)
    stalls = {"stall_ms": 200.0, "stall_every_ms": 2000.0}
    runs = [simulate(load=2.0, requests=requests, seed=SEED, **stalls) for _ in range(repeats)]
    metrics: dict[str, float] = {
        "events_per_s": statistics.median(result["events_per_s"] for result in runs),
        "violations": float(sum(result["violations_total"] for result in runs)),
    }
    for load in LOADS:
        result = simulate(load=load, requests=requests, seed=SEED)
        metrics[f"on_time_{load:g}x"] = result["on_time"]
        metrics[f"primary_goodput_{load:g}x"] = result["primary_goodput"]
        metrics["violations"] += result["violations_total"]
    seeds, seed_requests, recoveries = (10, 500, 2) if smoke else (1_000, 10_000, 50)
    began = time.perf_counter()
    swept = [simulate(**random_plan(seed, seed_requests)) for seed in range(seeds)]
    # A smoke run is shorter: its time is scaled, and means nothing.
    metrics["seeds_1000_s"] = (time.perf_counter() - began) * (1_000 * 10_000) / (seeds * seed_requests)
    metrics["violations"] += sum(result["violations_total"] for result in swept)
    recovered = [recovery(recovering_plan(seed), within_ms=1_000.0) for seed in range(recoveries)]
    metrics["not_recovered"] = float(sum(not result["recovered"] for result in recovered))
    metrics["recovery_ms_max"] = max(result["recovery_ms"] or 0.0 for result in recovered)
    return {
        "metrics": metrics,
        "rivals": {},
        "conditions": {
            "requests": requests,
            "repeats": repeats,
            "seed": SEED,
            "random_plans": f"{seeds} of {seed_requests} requests",
            "recovering_plans": recoveries,
            "arrivals": "Poisson, virtual time",
            "batch_cost_us": "50 + 120 a row, log-normal factor of sigma 0.05",
            "deadline_ms": 10.0,
            "executors": 1,
            "trace_hash": runs[0]["trace_hash"],
        },
    }
