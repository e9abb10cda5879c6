"""From the arguments of `simulate` to the native simulator's plan: checked, in nanoseconds, all faults in one list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine._common.vocabulary import PRIORITIES
from engine.errors import ConfigError, InputError, InputTypeError
from engine.simulation._checks import MS, NS_MAX, US, deadlines, ns, number, whole
from engine.simulation.fault_plan import BURST_MAX, EXECUTORS_MAX, checked_faults

REQUESTS_MAX = 1_000_000_000
ROWS_MAX = 1 << 20
MODELS_MAX = 10_000


def checked_plan(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the native plan for all arguments of `simulate`. Raises InputTypeError, InputError or ConfigError."""
    load, rate_per_s = given["load"], given["rate_per_s"]
    if load is not None and rate_per_s is not None:
        raise ConfigError(f"give load or rate_per_s, not both (got {load!r} and {rate_per_s!r})")
    mix = deadlines(given["deadline_ms"])
    plan = {
        "seed": whole("seed", given["seed"], 0, (1 << 64) - 1),
        "requests": whole("requests", given["requests"], 0, REQUESTS_MAX),
        "deadlines": mix,
        "budget_ns": _usual_ns(mix),
        "models": _models(given["models"]),
        "priorities": _priorities(given["priorities"]),
        "batch_base_ns": ns("batch_base_us", given["batch_base_us"], US),
        "batch_row_ns": ns("batch_row_us", given["batch_row_us"], US),
        "batch_noise": number("batch_noise", given["batch_noise"], 0.0, 3.0),
        "executors": whole("executors", given["executors"], 1, EXECUTORS_MAX),
        "batch_rows_max": whole("batch_rows_max", given["batch_rows_max"], 1, ROWS_MAX),
        "queue_rows_max": whole("queue_rows_max", given["queue_rows_max"], 1, ROWS_MAX),
        "calibrated": bool(given["calibrated"]),
        "replace_hung": bool(given["replace_hung"]),
        "handoff_ns": ns("handoff_us", given["handoff_us"], US),
        "fallback_ns": ns("fallback_us", given["fallback_us"], US),
        "fallback_noise": number("fallback_noise", given["fallback_noise"], 0.0, 3.0),
        "cores": whole("cores", given["cores"], 1, 1024),
        "miss_rate": number("miss_rate", given["miss_rate"], 1e-6, 0.5),
        "overshoot_ns": ns("overshoot_us", given["overshoot_us"], US),
        "overshoot_tail_share": number("overshoot_tail_share", given["overshoot_tail_share"], 0.0, 1.0),
        "overshoot_tail_ns": ns("overshoot_tail_us", given["overshoot_tail_us"], US),
        "bin_ns": ns("bin_ms", given["bin_ms"], MS),
        "faults": checked_faults(given["faults"]) + _shorthands(given),
    }
    if not 0 < _full_batch_ns(plan) <= NS_MAX:
        raise ConfigError(
            f"a full batch must cost more than 0 and at most {NS_MAX / 1e9:g} s, "
            f"got batch_base_us + batch_row_us * batch_rows_max = {_full_batch_ns(plan) / US:g} us"
        )
    plan["rate_per_s"] = _rate_per_s(plan, load, rate_per_s)
    return plan


def _usual_ns(mix: list[tuple[int, float]]) -> int:
    """Return the engine's own deadline in nanoseconds: the median of the mix."""
    half, below = sum(share for _, share in mix) / 2, 0.0
    for budget_ns, share in sorted(mix):
        below += share
        if below >= half:
            return budget_ns
    return max(mix)[0]


_MODEL_KEYS = {"share", "weight", "cost_factor", "canary", "seats", "serial", "rows_max"}


def _models(models: Any) -> list[tuple[float, float, float, bool, int, bool, int]]:
    if isinstance(models, (str, bytes, Mapping)) or not isinstance(models, Sequence):
        raise InputTypeError(f"models must be a list of dicts, got {type(models).__name__} {models!r}")
    if not 1 <= len(models) <= MODELS_MAX:
        raise InputError(f"models must be 1 to {MODELS_MAX:,} dicts, got {len(models):,}")
    checked = []
    for i, model in enumerate(models):
        if not isinstance(model, Mapping) or set(model) - _MODEL_KEYS:
            raise ConfigError(f"models[{i}] must be a dict with any of {sorted(_MODEL_KEYS)}, got {model!r}")
        canary = bool(model.get("canary", False))
        if canary and i == 0:
            raise ConfigError(
                "models[0] is the live version, which a canary stands beside, and cannot be one"
            )
        share = number(f"models[{i}].share", model.get("share", 1.0), 0.0, 1e9)
        weight, factor = (
            number(f"models[{i}].{name}", model.get(name, 1.0), 1e-6, 1e6)
            for name in ("weight", "cost_factor")
        )
        seats = whole(f"models[{i}].seats", model.get("seats", 0), 0, EXECUTORS_MAX)
        rows_max = whole(f"models[{i}].rows_max", model.get("rows_max", 0), 0, ROWS_MAX)
        if not seats and (rows_max or model.get("serial", False)):
            raise ConfigError(
                f"models[{i}]: serial and rows_max are a device's: give it seats, got {model!r}"
            )
        checked.append((share, weight, factor, canary, seats, bool(model.get("serial", False)), rows_max))
    if not any(share > 0 for share, *_ in checked):
        raise InputError("models needs at least one model with a share above 0")
    return checked


def _priorities(shares: Any) -> list[float]:
    if not isinstance(shares, Mapping) or set(shares) - set(PRIORITIES):
        raise ConfigError(
            f"priorities must be a dict {{class: share}} of {', '.join(PRIORITIES)}, got {shares!r}"
        )
    checked = [number(f"priorities[{name!r}]", shares.get(name, 0.0), 0.0, 1e9) for name in PRIORITIES]
    if not any(checked):
        raise InputError("priorities needs at least one class with a share above 0")
    return checked


def _shorthands(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the faults that have arguments of their own, checked."""
    faults: list[dict[str, Any]] = []
    stall, every = given["stall_ms"], given["stall_every_ms"]
    if ns("stall_ms", stall, MS) | ns("stall_every_ms", every, MS) and stall:
        if every <= stall:
            raise ConfigError(
                f"stall_ms={stall:g} needs a longer stall_every_ms, got {every:g}; "
                f"use hang_from_ms for a primary that never answers"
            )
        faults.append({"fault": "stalling", "stall_ms": stall, "every_ms": every})
    if number("slow_factor", given["slow_factor"], 0.01, 1e6) != 1.0:
        faults.append(
            {"fault": "slow", "factor": given["slow_factor"], "from_ms": given["slow_from_ms"] or 0.0}
        )
    if given["hang_from_ms"] is not None:
        faults.append({"fault": "hanging", "executor": 0, "from_ms": given["hang_from_ms"]})
    for name, kind in (
        ("crash_share", "failing"),
        ("nan_share", "corrupting"),
        ("cancel_share", "cancelling"),
    ):
        if number(name, given[name], 0.0, 1.0):
            faults.append({"fault": kind, "share": given[name]})
    burst, period = given["burst_requests"], given["burst_every_ms"]
    if (whole("burst_requests", burst, 0, BURST_MAX) > 0) != (ns("burst_every_ms", period, MS) > 0):
        raise ConfigError(f"burst_requests and burst_every_ms belong together, got {burst} and {period:g}")
    if burst:
        faults.append({"fault": "bursting", "requests": burst, "every_ms": period, "from_ms": period})
    return checked_faults(faults)


def _full_batch_ns(plan: dict[str, Any]) -> int:
    return plan["batch_base_ns"] + plan["batch_row_ns"] * plan["batch_rows_max"]


def at_once(plan: dict[str, Any]) -> int:
    """Return the full batches that executors and devices work on at the same time."""
    seats = [(count, serial) for *_, count, serial, _ in plan["models"]]
    threads = plan["executors"] if any(count == 0 for count, _ in seats) else 0
    return int(threads + sum(1 if serial else count for count, serial in seats if count))


def _rate_per_s(plan: dict[str, Any], load: float | None, rate_per_s: float | None) -> float:
    if rate_per_s is None:
        capacity_per_s = 1e9 * plan["batch_rows_max"] * at_once(plan) / _full_batch_ns(plan)
        rate = number("load", 1.0 if load is None else load, 1e-9, 1e6) * capacity_per_s
    else:
        rate = number("rate_per_s", rate_per_s, 1e-6, 1e9)
    slowest = rate
    for fault in plan["faults"]:
        if fault["fault"] == "overloading":
            slowest *= min(fault["factor"], 1.0)
    if plan["requests"] / slowest > NS_MAX / 1e9:
        raise ConfigError(
            f"{plan['requests']} requests at {slowest:g} per second take over {NS_MAX / 1e9:g} simulated "
            f"seconds; give a higher rate or fewer requests"
        )
    return rate
