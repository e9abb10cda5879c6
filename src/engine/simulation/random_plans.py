"""Random plans: ordinary and absurd settings, with any faults at once. The same seed gives the same plan.

The source of chance is a function `choice(values)`, so that Python's generator or a test's may draw.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

Choice = Callable[[Sequence[Any]], Any]

DEADLINES_MS = (0.0, 0.005, 0.05, 1.0, 2.0, 10.0, 50.0, 100.0, 400.0)
FAULTS_MAX = 5
RECOVERING_MS = 5_000.0  # virtual milliseconds of a plan that is judged by its recovery
_MODELS: list[list[dict[str, float]]] = [
    [{}],
    [{}],
    [{"weight": 4.0}, {"share": 3.0}, {"cost_factor": 20.0, "share": 0.2}],
    [{"share": 0.0}] * 20 + [{"weight": 0.1}, {"weight": 10.0}],
]
# Drawn last: a seed's plan without a device stays as it was.
_DEVICES: list[list[dict[str, float]]] = [
    [{"seats": 1}],
    [{"seats": 2, "serial": True}],
    [{"seats": 4, "rows_max": 16}],
    [{"seats": 3}, {"share": 0.5, "cost_factor": 0.1}],
    [{}, {"seats": 2, "serial": True, "share": 2.0}, {"seats": 8, "rows_max": 2, "share": 0.5}],
    [{"seats": 2}, {"canary": True, "seats": 1, "share": 0.2}],
]
_PRIORITIES = [
    {"normal": 1.0},
    {"normal": 1.0},
    {"critical": 1.0, "normal": 2.0, "sheddable": 3.0},
    {"critical": 20.0, "sheddable": 1.0},
]
EXACT = {
    "batch_noise": 0.0,
    "fallback_noise": 0.0,
    "overshoot_us": 0.0,
    "overshoot_tail_share": 0.0,
    "calibrated": True,
}


def random_plan(seed: int, requests: int) -> dict[str, Any]:
    """Return arguments for `simulate` under which no invariant may break.

    Args:
        seed: of the plan and of the simulation.
        requests: how many arrive.
    """
    return drawn_plan(random.Random(seed).choice, requests, seed)


def drawn_plan(choice: Choice, requests: int, seed: int) -> dict[str, Any]:
    """Return a plan as `random_plan` does, drawn by `choice`; `seed` is the simulation's."""
    plan: dict[str, Any] = {
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
        "handoff_us": choice([0.0, 8.5, 8.5, 500.0]),
        "fallback_us": choice([0.0, 1.0, 10.0, 3000.0]),
        "fallback_noise": choice([0.0, 0.3]),
        "cores": choice([1, 2, 8]),
        "calibrated": choice([True, True, False]),
        "overshoot_us": choice([0.0, 4.0, 60.0]),
        "overshoot_tail_share": choice([0.0, 1e-4, 0.05]),
        "replace_hung": choice([True, True, False]),
        "models": choice(_MODELS),
        "priorities": choice(_PRIORITIES),
    }
    if choice([False, False, True]):
        plan |= EXACT
    lasts_ms = duration_ms(plan)
    plan["faults"] = [drawn_fault(choice, lasts_ms) for _ in range(choice(range(FAULTS_MAX + 1)))]
    if choice([False, False, True]):
        plan["models"] = choice(_DEVICES)
    return plan


def duration_ms(plan: dict[str, Any]) -> float:
    """Return the virtual milliseconds that the requests of a plan take to arrive."""
    rows = plan["batch_rows_max"]
    full_batch_us = plan["batch_base_us"] + plan["batch_row_us"] * rows
    return plan["requests"] * full_batch_us / (1e3 * rows * plan["executors"] * plan["load"])


def drawn_fault(choice: Choice, lasts_ms: float) -> dict[str, Any]:
    """Return one fault, in a window within a run of lasts_ms."""
    start = choice([0.0, 0.1, 0.3, 0.6]) * lasts_ms
    length = choice([0.001, 0.05, 0.3, None])
    fault: dict[str, Any] = {
        "fault": choice([*_DRAWN]),
        "from_ms": start,
        "until_ms": None if length is None else start + length * lasts_ms,
    }
    return fault | _DRAWN[fault["fault"]](choice, lasts_ms)


def _repeated(choice: Choice, name: str, lasts_ms: float) -> dict[str, Any]:
    """Return a length, and a longer period or None."""
    length = choice([1e-4, 1e-3, 0.02]) * lasts_ms
    return {name: length, "every_ms": choice([None, 0.03 * lasts_ms, 0.2 * lasts_ms])}


_DRAWN: dict[str, Callable[[Choice, float], dict[str, Any]]] = {
    "stalling": lambda choice, lasts: _repeated(choice, "stall_ms", lasts) | {"executor": choice([None, 0])},
    "slow": lambda choice, _: {
        "factor": choice([0.2, 3.0, 10.0, 50.0]),
        "extra_us": choice([0.0, 0.0, 500.0]),
        "executor": choice([None, None, 0]),
    },
    "failing": lambda choice, _: {"share": choice([0.02, 0.5, 1.0])},
    "corrupting": lambda choice, _: {"share": choice([0.01, 0.5, 1.0])},
    "poisoning": lambda choice, _: {"share": choice([0.01, 0.3, 1.0])},
    "hanging": lambda choice, _: {"executor": choice([None, 0, 1])},
    "dying": lambda choice, _: {"executor": choice([None, 0, 1])},
    "jumping": lambda choice, lasts: _repeated(choice, "jump_ms", lasts),
    "oversleeping": lambda choice, _: {"late_ms": choice([0.1, 4.0, 50.0]), "share": choice([0.01, 1.0])},
    "bursting": lambda choice, lasts: {
        "requests": choice([1, 40, 1000]),
        "every_ms": choice([None, 0.02 * lasts, 0.2 * lasts]),
    },
    "overloading": lambda choice, _: {"factor": choice([0.2, 3.0, 6.0])},
    "swapping": lambda choice, lasts: {
        "factor": choice([0.5, 1.0, 3.0]),
        "measured": choice([0.7, 1.0, 1.5]),
        "every_ms": choice([None, 0.005 * lasts, 0.1 * lasts]),
    },
    "cancelling": lambda choice, _: {"share": choice([0.05, 0.5, 1.0])},
}


def recovering_plan(seed: int) -> dict[str, Any]:
    """Return arguments for `recovery`: ordinary settings, and faults that end within a third of the run.

    Args:
        seed: of the plan and of the simulation.
    """
    choice = random.Random(seed).choice
    base_us, row_us = choice([(50.0, 120.0), (500.0, 60.0), (2000.0, 20.0)])
    plan: dict[str, Any] = {
        "seed": seed,
        "requests": 0,
        "load": choice([0.3, 0.6, 0.9, 1.5, 3.0]),
        "deadline_ms": choice([10.0, {2.0: 1.0, 10.0: 1.0, 100.0: 1.0}, {20.0: 1.0, 100.0: 1.0}]),
        "executors": choice([1, 1, 2, 4]),
        "batch_base_us": base_us,
        "batch_row_us": row_us,
        "batch_rows_max": choice([16, 64]),
    }
    lasts_ms = RECOVERING_MS
    plan["requests"] = round(lasts_ms / duration_ms(plan | {"requests": 1}))
    plan["faults"] = []
    for _ in range(choice([1, 1, 2, 3])):
        fault = drawn_fault(choice, lasts_ms)
        fault["from_ms"] = choice([0.05, 0.1]) * lasts_ms
        fault["until_ms"] = fault["from_ms"] + choice([0.01, 0.05, 0.1]) * lasts_ms
        for length in ("stall_ms", "jump_ms"):
            if length in fault:
                fault[length] = min(fault[length], 200.0)
        if "late_ms" in fault:
            fault["late_ms"] = min(fault["late_ms"], 50.0)
        if fault["fault"] == "swapping":
            fault["factor"] = 1.0  # a slower version stays slow, so there would be no recovery
        if fault.get("every_ms") is not None:
            fault["every_ms"] = max(fault["every_ms"], 1.0)
        if fault["fault"] == "overloading" and any(f["fault"] == "overloading" for f in plan["faults"]):
            continue  # two overloads would use up the requests before half of the run
        plan["faults"].append(fault)
    return plan
