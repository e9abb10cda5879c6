"""`simulate`: the compiled scheduling policy on a virtual clock, under seeded load and faults.

What it answers: at this load, with this model's batch cost and these deadlines, what share is answered in
time, by whom, and what happens when the model stalls, slows down, crashes or hangs. It runs the same
Policy, CostModel and Guard that serve real requests, some million requests a second, and the same seed
gives the same run to the bit.

What it leaves out: the GIL, the operating system's scheduler, and the time that Python takes to make a
request. A clock that jumps cannot be simulated because it cannot happen: all instants are CLOCK_MONOTONIC.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Mapping
from typing import Any

from engine.core import _simulator
from engine.errors import ConfigError, InputError, InputTypeError
from engine.planning._checks import MS, NS_MAX, US, deadlines, ns, number, whole

REQUESTS_MAX = 1_000_000_000
ROWS_MAX = 1 << 20
EXECUTORS_MAX = 64


def simulate(
    *,
    load: float | None = None,
    rate_per_s: float | None = None,
    requests: int = 100_000,
    deadline_ms: float | Mapping[float, float] = 10.0,
    batch_base_us: float = 50.0,
    batch_row_us: float = 120.0,
    batch_noise: float = 0.05,
    executors: int = 1,
    batch_rows_max: int = 64,
    queue_rows_max: int = 4096,
    fallback_us: float = 10.0,
    fallback_noise: float = 0.05,
    cores: int = 2,
    miss_rate: float = 0.001,
    calibrated: bool = True,
    overshoot_us: float = 4.0,
    overshoot_tail_share: float = 1e-4,
    overshoot_tail_us: float = 1100.0,
    burst_every_ms: float = 0.0,
    burst_requests: int = 0,
    stall_ms: float = 0.0,
    stall_every_ms: float = 0.0,
    slow_factor: float = 1.0,
    slow_from_ms: float | None = None,
    hang_from_ms: float | None = None,
    crash_share: float = 0.0,
    nan_share: float = 0.0,
    cancel_share: float = 0.0,
    seed: int = 1,
) -> dict[str, Any]:
    """Simulates `requests` requests and says how they fared. Blocks, without the GIL; any thread may call it.

    Load
        load: mean arrival rate as a multiple of the capacity (all executors on full batches), or
        rate_per_s: exactly one of the two (1.0 x capacity when neither is given). Arrivals are Poisson.
        burst_requests more arrive in one instant every burst_every_ms.
        deadline_ms: from arrival; one number, or a mapping {deadline_ms: share} with shares that need not
        add up to 1.
        cancel_share: of requests whose caller gives up at a uniform instant of its budget.
    Machine
        A batch of b rows truly costs (batch_base_us + batch_row_us * b) times a log-normal factor of sigma
        batch_noise. A fallback costs fallback_us likewise and runs on one of `cores` cores. Timed waits
        wake overshoot_us late in the mean (exponential), and a share overshoot_tail_share of them
        overshoot_tail_us later.
        calibrated: whether cost model and guard start from a warm-up or know nothing.
    Limits
        executors (1 to 64), batch_rows_max, queue_rows_max; miss_rate: the share of rescues the guard may
        let come late.
    Faults
        stall_ms, stall_every_ms: the primary makes no progress in the first stall_ms of every stall_every_ms.
        slow_factor: of every batch from slow_from_ms on (from the start when that is None).
        hang_from_ms: the first batch that executor 0 starts from then on never ends.
        crash_share: of batches, all rows of which fail. nan_share: of rows for which the primary answers NaN.

    Returns a dict of plain numbers, the JSON of `python -m engine simulate`:
        requests, by_source, by_reason: counts. Reasons: late, stalled, full (refused at the door); released
        (given up while queued); waited, overdue (the rescue came while queued, while running); crashed,
        nan, expired, no_time.
        on_time: share of all but cancelled requests answered by their deadline, by whatever source.
        primary_goodput: in-time answers of the primary per second over capacity_per_s.
        latency_us_p50, _p99, _p999: virtual, from arrival (within 6.25 %). batches, batch_rows_mean,
        late_dropped, held, queue_depth_max, recovery_ms (None without stalls: 90 % of the steady rate
        again, to half a thousandth of the stall period).
        violations: the simulator's own count of broken invariants, and violations_total, which must be 0.
        trace_hash: 64 bits over every event in order. events, events_per_s (of real time; the only figure
        that differs between two runs of one seed).

    Raises InputTypeError, InputError for a value of the wrong type or outside its range, ConfigError for
    values that do not fit together.

    >>> simulate(load=0.5, requests=1000)["violations_total"]
    0
    """
    plan, mix = checked_plan(locals())
    return _shaped(_simulator.run(plan, mix), plan)


def checked_plan(given: Mapping[str, Any]) -> tuple[dict[str, Any], list[tuple[int, float]]]:
    """All arguments of `simulate`, checked: the native plan in nanoseconds and (budget_ns, share) pairs."""
    load, rate_per_s = given["load"], given["rate_per_s"]
    if load is not None and rate_per_s is not None:
        raise ConfigError(f"give load or rate_per_s, not both (got {load!r} and {rate_per_s!r})")
    plan = {
        "seed": whole("seed", given["seed"], 0, (1 << 64) - 1),
        "requests": whole("requests", given["requests"], 0, REQUESTS_MAX),
        "burst_every_ns": ns("burst_every_ms", given["burst_every_ms"], MS),
        "burst_requests": whole("burst_requests", given["burst_requests"], 0, ROWS_MAX),
        "batch_base_ns": ns("batch_base_us", given["batch_base_us"], US),
        "batch_row_ns": ns("batch_row_us", given["batch_row_us"], US),
        "batch_noise": number("batch_noise", given["batch_noise"], 0.0, 3.0),
        "executors": whole("executors", given["executors"], 1, EXECUTORS_MAX),
        "batch_rows_max": whole("batch_rows_max", given["batch_rows_max"], 1, ROWS_MAX),
        "queue_rows_max": whole("queue_rows_max", given["queue_rows_max"], 1, ROWS_MAX),
        "calibrated": bool(given["calibrated"]),
        "fallback_ns": ns("fallback_us", given["fallback_us"], US),
        "fallback_noise": number("fallback_noise", given["fallback_noise"], 0.0, 3.0),
        "cores": whole("cores", given["cores"], 1, 1024),
        "miss_rate": number("miss_rate", given["miss_rate"], 1e-6, 0.5),
        "overshoot_ns": ns("overshoot_us", given["overshoot_us"], US),
        "overshoot_tail_share": number("overshoot_tail_share", given["overshoot_tail_share"], 0.0, 1.0),
        "overshoot_tail_ns": ns("overshoot_tail_us", given["overshoot_tail_us"], US),
        "stall_ns": ns("stall_ms", given["stall_ms"], MS),
        "stall_every_ns": ns("stall_every_ms", given["stall_every_ms"], MS),
        "slow_factor": number("slow_factor", given["slow_factor"], 0.01, 1e6),
        "slow_from_ns": 0 if given["slow_from_ms"] is None else ns("slow_from_ms", given["slow_from_ms"], MS),
        "hang_from_ns": None
        if given["hang_from_ms"] is None
        else ns("hang_from_ms", given["hang_from_ms"], MS),
        "crash_share": number("crash_share", given["crash_share"], 0.0, 1.0),
        "nan_share": number("nan_share", given["nan_share"], 0.0, 1.0),
        "cancel_share": number("cancel_share", given["cancel_share"], 0.0, 1.0),
    }
    mix = deadlines(given["deadline_ms"])
    _check_together(plan)
    plan["rate_per_s"] = _rate_per_s(plan, load, rate_per_s)
    return plan, mix


def _full_batch_ns(plan: dict[str, Any]) -> int:
    return plan["batch_base_ns"] + plan["batch_row_ns"] * plan["batch_rows_max"]


def _rate_per_s(plan: dict[str, Any], load: float | None, rate_per_s: float | None) -> float:
    if rate_per_s is None:
        capacity_per_s = 1e9 * plan["batch_rows_max"] * plan["executors"] / _full_batch_ns(plan)
        rate = number("load", 1.0 if load is None else load, 1e-9, 1e6) * capacity_per_s
    else:
        rate = number("rate_per_s", rate_per_s, 1e-6, 1e9)
    if plan["requests"] / rate > NS_MAX / 1e9:
        raise ConfigError(
            f"{plan['requests']} requests at {rate:g} per second take over {NS_MAX / 1e9:g} simulated "
            f"seconds; give a higher rate or fewer requests"
        )
    return rate


def _check_together(plan: dict[str, Any]) -> None:
    if not 0 < _full_batch_ns(plan) * plan["slow_factor"] <= NS_MAX:
        raise ConfigError(
            f"a full batch has to cost something and less than {NS_MAX / 1e9:g} s, "
            f"got batch_base_us + batch_row_us * batch_rows_max = {_full_batch_ns(plan) / US:g} us "
            f"and slow_factor = {plan['slow_factor']:g}"
        )
    if plan["stall_ns"] and plan["stall_every_ns"] <= plan["stall_ns"]:
        raise ConfigError(
            f"stall_ms={plan['stall_ns'] / MS:g} needs a longer stall_every_ms, "
            f"got {plan['stall_every_ns'] / MS:g}; for a primary that never answers use hang_from_ms"
        )
    if (plan["burst_requests"] > 0) != (plan["burst_every_ns"] > 0):
        raise ConfigError(
            f"burst_requests and burst_every_ms belong together, "
            f"got {plan['burst_requests']} and {plan['burst_every_ns'] / MS:g}"
        )


def _shaped(raw: dict[str, Any], plan: dict[str, Any]) -> dict[str, Any]:
    answered = raw["requests"] - raw["by_source"]["cancelled"]
    seconds = raw["elapsed_ns"] / 1e9
    primary_per_s = raw["on_time"]["primary"] / seconds if seconds else 0.0
    return {
        "requests": raw["requests"],
        "rate_per_s": plan["rate_per_s"],
        "capacity_per_s": raw["capacity_per_s"],
        "duration_s": seconds,
        "on_time": sum(raw["on_time"].values()) / answered if answered else 1.0,
        "primary_goodput": primary_per_s / raw["capacity_per_s"],
        "by_source": raw["by_source"],
        "by_reason": {name: n for name, n in raw["by_reason"].items() if n and name != "none"},
        "latency_us_p50": raw["latency_ns_p50"] / US,
        "latency_us_p99": raw["latency_ns_p99"] / US,
        "latency_us_p999": raw["latency_ns_p999"] / US,
        "batches": raw["batches"],
        "batch_rows_mean": raw["batch_rows"] / raw["batches"] if raw["batches"] else 0.0,
        "late_dropped": raw["late_dropped"],
        "held": raw["held"],
        "queue_depth_max": raw["queue_depth_max"],
        "recovery_ms": None if raw["recovery_ns"] is None else raw["recovery_ns"] / MS,
        "learned_us": {
            "prediction_error": raw["prediction_error_ns"] / US,
            "timer": raw["guard_timer_ns"] / US,
            "fallback": raw["guard_fallback_ns"] / US,
        },
        "violations": raw["violations"],
        "violations_total": sum(raw["violations"].values()),
        "trace_hash": f"{raw['trace_hash']:016x}",
        "events": raw["events"],
        "events_per_s": raw["events"] / max(raw["wall_ns"], 1) * 1e9,
    }


_HELP = {
    "load": "arrivals as a multiple of the capacity on full batches (default 1)",
    "rate_per_s": "arrivals per second, instead of --load",
    "deadline_ms": "from arrival: one number, or a mix such as 2:1,10:2,100:1 (ms:share)",
    "uncalibrated": "start with nothing known of costs and wake-ups",
    "json": "write the result to FILE ('-' for standard output) instead of the summary",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds an option for each argument of `simulate` (--batch-base-us for batch_base_us) and --json."""
    for name, parameter in inspect.signature(simulate).parameters.items():
        option = "--" + name.replace("_", "-")
        if name == "calibrated":
            parser.add_argument("--uncalibrated", action="store_true", help=_HELP["uncalibrated"])
        elif name == "deadline_ms":
            parser.add_argument(option, type=_parse_deadlines, default=parameter.default, help=_HELP[name])
        else:
            kind = int if isinstance(parameter.default, int) else float
            shown = "off" if parameter.default is None else f"{parameter.default:g}"
            parser.add_argument(
                option, type=kind, default=parameter.default, help=_HELP.get(name, f"default {shown}")
            )
    parser.add_argument("--json", metavar="FILE", help=_HELP["json"])


def main(args: argparse.Namespace) -> int:
    """Runs what `add_arguments` parsed. Returns 0, 1 when an invariant broke, 2 for bad arguments."""
    values = {
        name: getattr(args, name) for name in inspect.signature(simulate).parameters if name != "calibrated"
    }
    try:
        result = simulate(calibrated=not args.uncalibrated, **values)
    except (InputError, InputTypeError, ConfigError) as error:
        print(f"simulate: {error}", file=sys.stderr)
        return 2
    if args.json and args.json != "-":
        with open(args.json, "w") as file:
            json.dump(result, file, indent=1)
    else:
        print(json.dumps(result, indent=1) if args.json else summary(result))
    return 1 if result["violations_total"] else 0


def summary(result: Mapping[str, Any]) -> str:
    """A few lines for people: what `main` prints of a result of `simulate`."""
    sources = ", ".join(f"{name} {n:,}" for name, n in result["by_source"].items() if n)
    reasons = ", ".join(f"{name} {n:,}" for name, n in result["by_reason"].items()) or "none"
    recovery = (
        "" if result["recovery_ms"] is None else f"\nrecovery    {result['recovery_ms']:.1f} ms after a stall"
    )
    broken = {name: n for name, n in result["violations"].items() if n}
    return (
        f"requests    {result['requests']:,} in {result['duration_s']:.3f} simulated seconds "
        f"({result['rate_per_s']:,.0f}/s on a capacity of {result['capacity_per_s']:,.0f}/s)\n"
        f"on time     {100 * result['on_time']:.4f} %\n"
        f"answered by {sources}\n"
        f"reasons     {reasons}\n"
        f"primary     {100 * result['primary_goodput']:.2f} % of capacity answered in time, "
        f"{result['batches']:,} batches of {result['batch_rows_mean']:.1f} rows, "
        f"{result['late_dropped']:,} rows too late\n"
        f"latency     p50 {result['latency_us_p50']:,.0f} us, p99 {result['latency_us_p99']:,.0f} us, "
        f"p99.9 {result['latency_us_p999']:,.0f} us{recovery}\n"
        f"trace       {result['trace_hash']}, {result['events']:,} events, "
        f"{result['events_per_s'] / 1e6:.1f} million a second\n"
        f"invariants  {'BROKEN: ' + str(broken) if broken else 'all hold'}"
    )


def _parse_deadlines(text: str) -> float | dict[float, float]:
    try:
        if ":" not in text:
            return float(text)
        return {float(ms): float(share) for ms, share in (part.split(":") for part in text.split(","))}
    except ValueError:
        expected = "expected milliseconds or a mix such as 2:1,10:2,100:1 (ms:share)"
        raise argparse.ArgumentTypeError(f"{expected}, got {text!r}") from None
