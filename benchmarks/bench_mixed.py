"""Deadlines of 2, 10 and 100 ms mixed, with bursts, in simulation: answers by the primary against the most possible.

`goodput_vs_oracle` is the smallest ratio over the loads and executors below: requests that the primary answers by their
deadline, over an upper bound for every scheduler, even one that knows each arrival beforehand, needs no safety margin
and may interrupt batches at will (engine.simulation.oracle.most_at_most). Time is virtual, so the figures are exact for
their seed. They measure the quality of decisions, and not a machine's speed. `vs_exact` is the same against the true
optimum, on many cases small enough to find it. There is no rival, because the bound holds for every rival.
"""

from __future__ import annotations

from typing import Any

from engine.simulation.oracle import goodput_vs_oracle
from engine.simulation.random_plans import EXACT

SEED = 1
DEADLINES_MS = {2.0: 1.0, 10.0: 1.0, 100.0: 1.0}
LOADS = (0.5, 0.8, 1.0, 1.2, 2.0)
CAPACITY_PER_S = 64e6 / (50.0 + 64 * 120.0)  # of one executor, full batches


def run(smoke: bool) -> dict[str, Any]:
    seconds, small = (0.5, 5) if smoke else (10.0, 400)
    metrics: dict[str, float] = {}
    got = most = late = violations = 0.0
    for executors in (1, 4):
        for load in LOADS:
            result = goodput_vs_oracle(
                load=load,
                executors=executors,
                requests=int(load * executors * CAPACITY_PER_S * seconds),
                deadline_ms=DEADLINES_MS,
                faults=[{"fault": "bursting", "requests": 100 * executors, "every_ms": 100.0}],
                seed=SEED,
            )
            metrics[f"goodput_vs_oracle_{load:g}x_{executors}"] = result["ratio"]
            got, most = got + result["in_time"], most + result["oracle"]
            late = max(late, 1.0 - result["on_time"])
            violations += result["violations_total"]
    exactly = [_small(seed, load) for seed in range(small) for load in (0.5, 1.0, 2.0)]
    return {
        "metrics": {
            "goodput_vs_oracle": min(metrics.values()),
            "goodput_vs_oracle_all": got / most,
            "vs_exact": sum(r["in_time"] for r in exactly) / sum(r["oracle"] for r in exactly),
            "late_share_max": late,
            "violations": violations + sum(r["violations_total"] for r in exactly),
            **metrics,
        },
        "rivals": {},
        "conditions": {
            "virtual_seconds": seconds,
            "small_cases": len(exactly),
            "seed": SEED,
            "arrivals": "Poisson and bursts of 100 an executor every 100 ms, virtual time",
            "deadlines_ms": "2, 10 and 100, a third each",
            "batch_cost_us": "50 + 120 a row, log-normal factor of sigma 0.05",
            "executors": "1 and 4",
        },
    }


def _small(seed: int, load: float) -> dict[str, Any]:
    return goodput_vs_oracle(
        exactly=True,
        seed=seed,
        load=load,
        requests=9,
        deadline_ms=DEADLINES_MS,
        batch_rows_max=4,
        **EXACT,
    )
