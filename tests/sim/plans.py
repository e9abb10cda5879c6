"""Random plans for the simulator, and what must hold of every one of them."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import strategies as st

DEADLINES_MS = (0.0, 0.05, 1.0, 2.0, 10.0, 50.0, 100.0, 400.0)


def _fault(choice: Any) -> dict[str, Any]:
    """The faults of a plan; `choice` draws one of the values it is given."""
    faults: dict[str, Any] = {}
    if choice([False, False, True]):
        faults |= {"stall_ms": choice([1.0, 30.0, 200.0]), "stall_every_ms": choice([250.0, 2000.0])}
    if choice([False, False, True]):
        faults |= {"slow_factor": choice([0.2, 3.0, 50.0]), "slow_from_ms": choice([None, 5.0, 100.0])}
    if choice([False, False, False, True]):
        faults |= {"hang_from_ms": choice([0.0, 40.0])}
    if choice([False, False, True]):
        faults |= {"burst_every_ms": choice([3.0, 50.0]), "burst_requests": choice([1, 40, 1000])}
    return faults | {
        "crash_share": choice([0.0, 0.0, 0.05, 1.0]),
        "nan_share": choice([0.0, 0.0, 0.02, 1.0]),
        "cancel_share": choice([0.0, 0.0, 0.1, 1.0]),
    }


def _plan(choice: Any, requests: int, seed: int) -> dict[str, Any]:
    """Arguments of `simulate` that fit together, ordinary ones and absurd ones."""
    return _fault(choice) | {
        "requests": requests,
        "seed": seed,
        "load": choice([0.1, 0.5, 0.9, 1.0, 1.2, 2.0, 5.0, 20.0]),
        "deadline_ms": {choice(DEADLINES_MS): 1.0, choice(DEADLINES_MS): 2.0, choice(DEADLINES_MS): 0.5},
        "batch_base_us": choice([1.0, 50.0, 2000.0, 30_000.0]),
        "batch_row_us": choice([0.0, 5.0, 120.0]),
        "batch_noise": choice([0.0, 0.05, 0.5]),
        "executors": choice([1, 1, 2, 4, 16]),
        "batch_rows_max": choice([1, 3, 64, 1000]),
        "queue_rows_max": choice([1, 10, 4096]),
        "fallback_us": choice([0.0, 1.0, 10.0, 3000.0]),
        "fallback_noise": choice([0.0, 0.3]),
        "cores": choice([1, 2, 8]),
        "calibrated": choice([True, True, False]),
        "overshoot_us": choice([0.0, 4.0, 60.0]),
        "overshoot_tail_share": choice([0.0, 1e-4, 0.05]),
    }


@st.composite
def plans(draw: Any, requests: int) -> dict[str, Any]:
    return _plan(lambda values: draw(st.sampled_from(values)), requests, draw(st.integers(0, 2**32)))


def random_plan(rng: random.Random, requests: int) -> dict[str, Any]:
    return _plan(rng.choice, requests, rng.randrange(2**32))


def check(result: dict[str, Any], plan: dict[str, Any]) -> None:
    """The invariants: by the simulator's books, and by what its counters must add up to."""
    assert result["violations_total"] == 0, (result["violations"], plan)
    assert sum(result["by_source"].values()) == plan["requests"], plan
    not_primary = result["by_source"]["fallback"] + result["by_source"]["default"]
    assert sum(result["by_reason"].values()) == not_primary, plan  # whoever else answers says why
    assert result["queue_depth_max"] <= plan["queue_rows_max"], plan
    assert result["batch_rows_mean"] <= plan["batch_rows_max"], plan
