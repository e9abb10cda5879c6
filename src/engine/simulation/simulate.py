"""`simulate`: the compiled scheduling policy on a virtual clock, under seeded load and faults.

It tells the share of requests answered in time by each source, for a load, a batch cost and a mix of deadlines, and the
effect of a model that stalls, slows down, crashes or hangs. It runs the same policy, cost model, safety margin and
slots that serve real requests, some million requests a second. The same seed gives the same run to the bit.

It leaves out the GIL, the operating system's scheduler, and the time that Python takes to make a request.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from engine._common import vocabulary
from engine.simulation import _simulator
from engine.simulation._checks import MS, US
from engine.simulation.plan import checked_plan

vocabulary.require_same("answers' sources", vocabulary.SOURCES, _simulator.SOURCES)
# The last reason is that of a default function that raises: the simulator's default is a value.
vocabulary.require_same("answers' reasons", vocabulary.REASONS, _simulator.REASONS)


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
    """Simulate `requests` requests and return how they fared. Blocks without the GIL; any thread may call it.

    Args:
        load: mean arrival rate as a multiple of the capacity (all executors on full batches); 1.0 unless given.
        rate_per_s: mean arrival rate in requests a second, instead of `load`. Arrivals are Poisson.
        requests: how many arrive.
        deadline_ms: milliseconds from arrival to the deadline: one number, or a mapping {deadline_ms: share}. Shares
            need not add up to 1.
        batch_base_us, batch_row_us: a batch of b rows costs batch_base_us + batch_row_us * b microseconds.
        batch_noise: sigma of a log-normal factor on that cost.
        executors: threads that run batches, 1 to 64.
        batch_rows_max: rows in a batch, at most.
        queue_rows_max: requests in the queue, at most.
        handoff_us: microseconds from a submission to the look of the sleeping executor that it wakes.
        fallback_us, fallback_noise: cost of a fallback, with a log-normal factor as above. It runs on one of `cores`.
        cores: cores that fallbacks run on.
        miss_rate: share of fallbacks that the safety margin may let come late.
        calibrated: whether cost model and safety margin start from a warm-up (True) or know nothing (False).
        replace_hung: whether an executor that is stuck in a batch is replaced.
        models: the models that share the executors: dicts of "share" (of the requests), "weight" (of the executors
            while there is not enough for all) and "cost_factor" (on the cost of its batches), each 1 unless given.
            "canary": True makes a model but the first a canary of the first, with its share of the requests. "seats"
            from 1 gives the model a device that has as many batches in flight, each of "rows_max" rows at most;
            "serial": True is a device that works on one after the other. Executors then begin its batches and see when
            they are done.
        priorities: shares of the classes "critical", "normal" and "sheddable".
        overshoot_us: mean lateness of a timed wait, exponentially distributed.
        overshoot_tail_share, overshoot_tail_us: this share of timed waits wakes this much later still.
        burst_every_ms, burst_requests: this many requests more arrive in one instant every burst_every_ms.
        stall_ms, stall_every_ms: the primary makes no progress in the first stall_ms of every stall_every_ms.
        slow_factor, slow_from_ms: every batch costs slow_factor times as much from slow_from_ms on; from the start
            where that is None.
        hang_from_ms: the first batch that executor 0 starts from then on never ends. None for never.
        crash_share: share of batches whose rows all fail.
        nan_share: share of rows that the primary answers with NaN.
        cancel_share: share of requests whose caller gives up at a uniform instant of its budget.
        faults: a list of dicts in the vocabulary of `engine.simulation.fault_plan`: stalls, slow-downs, crashes,
            hangs, NaN, clock jumps, late wake-ups, bursts, overloads, swaps and cancels, each in a window of time.
        bin_ms: width of a bin of the timeline; 0 for no timeline.
        seed: of all chance, 0 to 2**64 - 1.

    Returns:
        A dict of plain numbers, as `engine simulate --json` prints it.

        requests, by_source, by_reason: counts. by_source counts "cancelled" too; reasons are those of `Answer.reason`.
        rate_per_s, capacity_per_s, duration_s: the arrival rate, the capacity, and the simulated seconds.
        on_time: share of the requests that were not cancelled and were answered by their deadline, by any source.
        primary_in_time: requests that the primary answered in time.
        primary_goodput: the same a second, over capacity_per_s.
        latency_us_p50, latency_us_p99, latency_us_p999: virtual microseconds from arrival, within 6.25 %.
        batches, batch_rows_mean: batches, and their mean size in rows.
        batches_of_one_avoidable: batches of one row where others were queued and two would have been in time.
        late_dropped: results of the primary that came after the fallback's. overdue: fallbacks for rows in a running
            batch. held: waits for a fuller batch. probes: trials of a primary that seems too slow. replaced: executors.
            abandoned: batches on devices that were given up. in_flight_max: batches of one device at once.
            breaker_openings, versions, versions_freed, queue_depth_max: counts.
        recovery_ms: until 90 % of the steady rate is reached again after a stall, to half a thousandth of the stall
            period; None without stalls.
        learned_us: prediction_error, timer and fallback terms at the end, in microseconds.
        by_model, by_priority, by_deadline: for each model, class and deadline: arrived, cancelled, primary_in_time,
            in_time, latency_us_mean and latency_us_max.
        timeline: the same for each bin of bin_ms and deadline, with from_ms and queue_depth_max; empty unless bin_ms.
        violations: by invariant, how often it was broken. violations_total must be 0. first_violation names the
            invariant, the instant and the request, "" where there was none.
        trace_hash: 64 bits over every event in order, 16 hex digits. events: how many. events_per_s: of real time, the
            only figure that differs between two runs of one seed.

    Raises:
        InputTypeError: a value of the wrong type.
        InputError: a value outside its range.
        ConfigError: values that do not fit together.

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
        "by_priority": dict(zip(vocabulary.PRIORITIES, map(_fate, raw["by_priority"]), strict=True)),
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
    """Return the checked plan that `simulate` runs for these arguments, in the native simulator's units."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(simulate).parameters.items()}
    return checked_plan(defaults | arguments)


_COUNTERS = (
    "batches_of_one_avoidable",
    "late_dropped",
    "overdue",
    "held",
    "probes",
    "replaced",
    "abandoned",
    "in_flight_max",
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
    """Return fates in the order of deadlines, or of bins and deadlines, each with its deadline and its bin's start."""
    shaped = []
    for i, fate in enumerate(fates):
        bin_, deadline = divmod(i, len(deadlines_ms))
        one: dict[str, float] = {} if bin_ns is None else {"from_ms": bin_ * bin_ns / MS}
        one |= _fate(fate) | {"deadline_ms": deadlines_ms[deadline]}
        if bin_ns is not None:
            one["queue_depth_max"] = fate["queue_depth_max"]
        shaped.append(one)
    return shaped
