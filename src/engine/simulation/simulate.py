"""`simulate`: the compiled scheduling policy on a virtual clock, under seeded load and faults.

What it answers: at this load, with this model's batch cost and these deadlines, what share is answered in
time, by whom, and what happens when the model stalls, slows down, crashes or hangs. It runs the same
Policy, CostModel, Guard and slots that serve real requests, some million requests a second, and the same seed
gives the same run to the bit.

What it leaves out: the GIL, the operating system's scheduler, and the time that Python takes to make a
request.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from engine.errors import ConfigError, InputError, InputTypeError
from engine.simulation import _simulator
from engine.simulation._checks import MS, US
from engine.simulation.fault_plan import parse_fault
from engine.simulation.plan import PRIORITIES, checked_plan


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
    handoff_us: float = 8.5,
    fallback_us: float = 10.0,
    fallback_noise: float = 0.05,
    cores: int = 2,
    miss_rate: float = 0.001,
    calibrated: bool = True,
    replace_hung: bool = True,
    models: Sequence[Mapping[str, float]] = ({},),
    priorities: Mapping[str, float] = {"normal": 1.0},
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
    faults: Sequence[Mapping[str, Any]] = (),
    bin_ms: float = 0.0,
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
        An executor that sleeps looks handoff_us after the submission that wakes it.
        calibrated: whether cost model and guard start from a warm-up or know nothing.
    Limits
        executors (1 to 64), batch_rows_max, queue_rows_max; miss_rate: the share of rescues the guard may
        let come late. replace_hung: whether stuck executors are replaced.
        models: those that share the executors, a list of {"share": of the requests, "weight": of the executors
        while there is not enough for all, "cost_factor": of its batches over batch_base_us + batch_row_us * b},
        each 1 unless given. priorities: shares of critical, normal and sheddable requests.
    Faults
        faults: a list of dicts, `engine.simulation.fault_plan` has the vocabulary: stalls, slow-downs, crashes,
        hangs, NaN, clock jumps, late wake-ups, bursts, overloads, swaps, cancels, each in a window of time.
        For the commonest there are arguments of their own:
        stall_ms, stall_every_ms: the primary makes no progress in the first stall_ms of every stall_every_ms.
        slow_factor: of every batch from slow_from_ms on (from the start when that is None).
        hang_from_ms: the first batch that executor 0 starts from then on never ends.
        crash_share: of batches, all rows of which fail. nan_share: of rows for which the primary answers NaN.

    Returns a dict of plain numbers, the JSON of `python -m engine simulate`:
        requests, by_source (and cancelled), by_reason: counts. Reasons are those of `Answer.reason`.
        on_time: share of all but cancelled requests answered by their deadline, by whatever source.
        primary_goodput: in-time answers of the primary per second over capacity_per_s.
        latency_us_p50, _p99, _p999: virtual, from arrival (within 6.25 %). batches, batch_rows_mean,
        batches_of_one_avoidable (others were queued, and two would have been in time), late_dropped, overdue
        (rescued while running), held, probes, replaced, versions, versions_freed, queue_depth_max,
        recovery_ms (None without stalls: 90 % of the steady rate again, to half a thousandth of the stall
        period).
        by_model, by_priority, by_deadline: per model, class and deadline what arrived and what became of it;
        timeline: the same by instant of arrival, one entry for each bin_ms and deadline (empty unless bin_ms
        is given).
        violations: by invariant how often it was broken; violations_total, which must be 0; first_violation:
        which, when and for whom, or "".
        trace_hash: 64 bits over every event in order. events, events_per_s (of real time; the only figure
        that differs between two runs of one seed).

    Raises InputTypeError, InputError for a value of the wrong type or outside its range, ConfigError for
    values that do not fit together.

    >>> simulate(load=0.5, requests=1000)["violations_total"]
    0
    """
    plan = checked_plan(locals())
    return _shaped(_simulator.run(plan), plan)


def _shaped(raw: dict[str, Any], plan: dict[str, Any]) -> dict[str, Any]:
    answered = raw["requests"] - raw["cancelled"]
    seconds = raw["elapsed_ns"] / 1e9
    primary_per_s = raw["in_time"]["primary"] / seconds if seconds else 0.0
    deadlines_ms = [budget_ns / MS for budget_ns, _ in plan["deadlines"]]
    return {
        "requests": raw["requests"],
        "rate_per_s": plan["rate_per_s"],
        "capacity_per_s": raw["capacity_per_s"],
        "duration_s": seconds,
        "on_time": sum(raw["in_time"].values()) / answered if answered else 1.0,
        "primary_in_time": raw["in_time"]["primary"],
        "primary_goodput": primary_per_s / raw["capacity_per_s"],
        "by_source": raw["by_source"] | {"cancelled": raw["cancelled"]},
        "by_reason": {name: n for name, n in raw["by_reason"].items() if n and name != "ok"},
        "by_deadline": _fates(raw["by_deadline"], deadlines_ms, None),
        "by_model": [_fate(fate) for fate in raw["by_model"]],
        "by_priority": dict(zip(PRIORITIES, map(_fate, raw["by_priority"]), strict=True)),
        "timeline": _fates(raw["timeline"], deadlines_ms, plan["bin_ns"]),
        "latency_us_p50": raw["latency_ns_p50"] / US,
        "latency_us_p99": raw["latency_ns_p99"] / US,
        "latency_us_p999": raw["latency_ns_p999"] / US,
        "batches": raw["batches"],
        "batch_rows_mean": raw["batch_rows"] / raw["batches"] if raw["batches"] else 0.0,
        **{name: raw[name] for name in _COUNTERS},
        "recovery_ms": None if raw["recovery_ns"] is None else raw["recovery_ns"] / MS,
        "learned_us": {
            "prediction_error": raw["prediction_error_ns"] / US,
            "timer": raw["guard_timer_ns"] / US,
            "fallback": raw["guard_fallback_ns"] / US,
        },
        "violations": raw["violations"],
        "violations_total": sum(raw["violations"].values()),
        "first_violation": raw["first_violation"],
        "trace_hash": f"{raw['trace_hash']:016x}",
        "events": raw["events"],
        "events_per_s": raw["events"] / max(raw["wall_ns"], 1) * 1e9,
    }


def native_plan(**arguments: Any) -> dict[str, Any]:
    """The checked plan, in the native simulator's units, that `simulate` runs for these arguments."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(simulate).parameters.items()}
    return checked_plan(defaults | arguments)


_COUNTERS = (
    "batches_of_one_avoidable",
    "late_dropped",
    "overdue",
    "held",
    "probes",
    "replaced",
    "breaker_openings",
    "versions",
    "versions_freed",
    "queue_depth_max",
)


def _fate(fate: dict[str, int]) -> dict[str, float]:
    answered = fate["arrived"] - fate["cancelled"]
    return {
        **{name: fate[name] for name in ("arrived", "cancelled", "primary_in_time", "in_time")},
        "latency_us_mean": fate["latency_ns_sum"] / US / answered if answered else 0.0,
        "latency_us_max": fate["latency_ns_max"] / US,
    }


def _fates(
    fates: list[dict[str, int]], deadlines_ms: list[float], bin_ns: int | None
) -> list[dict[str, float]]:
    """Fates in the order of the plan's deadlines, or of bins and deadlines, each with what it is the fate of."""
    shaped = []
    for i, fate in enumerate(fates):
        bin_, deadline = divmod(i, len(deadlines_ms))
        one: dict[str, float] = {} if bin_ns is None else {"from_ms": bin_ * bin_ns / MS}
        one |= _fate(fate) | {"deadline_ms": deadlines_ms[deadline]}
        if bin_ns is not None:
            one["queue_depth_max"] = fate["queue_depth_max"]
        shaped.append(one)
    return shaped


_HELP = {
    "load": "arrivals as a multiple of the capacity on full batches (default 1)",
    "rate_per_s": "arrivals per second, instead of --load",
    "deadline_ms": "from arrival: one number, or a mix such as 2:1,10:2,100:1 (ms:share)",
    "faults": "NAME:key=value,… or a JSON object, any number of times; engine.simulation.fault_plan has the names",
    "bin_ms": "width of the timeline's bins (default: no timeline)",
    "replace_hung": "leave executors that are stuck in a batch where they are",
    "models": 'those that share the executors: [{"share": 1, "weight": 1, "cost_factor": 1}, …]',
    "priorities": 'shares by class: {"critical": 1, "normal": 1, "sheddable": 1}',
    "uncalibrated": "start with nothing known of costs and wake-ups",
    "json": "write the result to FILE ('-' for standard output) instead of the summary",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds an option for each argument of `simulate` (--batch-base-us for batch_base_us) and --json."""
    for name, parameter in inspect.signature(simulate).parameters.items():
        option = "--" + name.replace("_", "-")
        if name == "calibrated":
            parser.add_argument("--uncalibrated", action="store_true", help=_HELP["uncalibrated"])
        elif name == "replace_hung":
            parser.add_argument("--keep-hung", action="store_true", help=_HELP[name])
        elif name in ("models", "priorities"):
            parser.add_argument(
                option, type=json.loads, default=parameter.default, metavar="JSON", help=_HELP[name]
            )
        elif name == "faults":
            parser.add_argument(
                "--fault", dest="faults", action="append", type=_parse_fault, default=[], help=_HELP[name]
            )
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
        name: getattr(args, name)
        for name in inspect.signature(simulate).parameters
        if name not in ("calibrated", "replace_hung")
    }
    try:
        result = simulate(calibrated=not args.uncalibrated, replace_hung=not args.keep_hung, **values)
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
    verdict = f"BROKEN: {broken}, first {result['first_violation']}" if broken else "all hold"
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
        f"invariants  {verdict}"
    )


def _parse_deadlines(text: str) -> float | dict[float, float]:
    try:
        if ":" not in text:
            return float(text)
        return {float(ms): float(share) for ms, share in (part.split(":") for part in text.split(","))}
    except ValueError:
        expected = "expected milliseconds or a mix such as 2:1,10:2,100:1 (ms:share)"
        raise argparse.ArgumentTypeError(f"{expected}, got {text!r}") from None


def _parse_fault(text: str) -> dict[str, Any]:
    try:
        return parse_fault(text)
    except (ConfigError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None
