"""Liveness: once a fault is over, is service what it would have been without it, and how soon?

Judged against a second run of the same plan and seed without the faults that end (those that go on for good are there
from its start, already learned): the same arrivals with the same deadlines, so what differs is what the fault left
behind. From `within_ms` after the last fault's end on, the share that the primary answers in time, over all and for
each deadline (nobody starves), the mean latency and the depth of the queue must be the control's again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from engine.errors import ConfigError
from engine.simulation.fault_plan import ends_ms
from engine.simulation.simulate import simulate

BINS = 1_000
RECOVERY_BINS = 10  # as many in a row, against the noise of arrivals, make one point of the recovery
# What two runs may differ by that differ in nothing that matters: chance, and what a learned quantile remembers.
SHARE_RATIO, SHARE_SLACK = 0.95, 0.02
LATENCY_RATIO, LATENCY_SLACK = 1.15, 0.02  # the slack a share of the deadline
DEPTH_RATIO, DEPTH_SLACK = 2.0, 64
KEEPS_UP = 0.95  # a primary that answers this share is not overloaded
# Below this many requests a share says nothing.
COUNT_MIN = 300


def recovery(plan: Mapping[str, Any], *, within_ms: float) -> dict[str, Any]:
    """Runs a plan (arguments of `simulate`) and its control, and says whether service came back within_ms after.

    Returns a dict: recovered (bool); why (what had not come back, "" when all had); recovery_ms, from the end of the
    last fault until the primary's share stays at the control's, in steps of a thousandth of the run, or None;
    faults_end_ms; violations_total and first_violation of the run under faults, trace_hash.

    Raises ConfigError when the plan has no fault that ends, or ends too late to judge what comes after.
    """
    faults = list(plan.get("faults", ()))
    ends = [ends_ms(fault) for fault in faults]
    lasting = [fault | {"from_ms": 0.0} for fault, end in zip(faults, ends, strict=True) if end is None]
    over_ms = max((end for end in ends if end is not None), default=None)
    if over_ms is None:
        raise ConfigError("liveness needs a fault that ends: give one of the plan's faults an until_ms")
    hurt = simulate(**plan)
    bin_ms = max(hurt["duration_s"] * 1e3 / BINS, 1e-3)
    hurt = simulate(**{**plan, "bin_ms": bin_ms})
    control = simulate(**{**plan, "faults": lasting, "bin_ms": bin_ms})
    # Faults change how long the run lasts (bursts bring requests forward, a jump skips time), so only what both have.
    stop_ms = min(_last_full_ms(hurt), _last_full_ms(control))
    start_ms = over_ms + within_ms
    timelines = [_bins(run) for run in (hurt, control)]
    got, due = (_Window(bins[_at(start_ms, bin_ms) : _at(stop_ms, bin_ms)]) for bins in timelines)
    if due.arrived < COUNT_MIN:
        raise ConfigError(
            f"{due.arrived} requests arrive between {start_ms:g} ms, {within_ms:g} ms after the last fault, and "
            f"{stop_ms:g} ms; expected at least {COUNT_MIN}: give the plan more requests"
        )
    why = _difference(got, due, plan.get("queue_rows_max", 4096))
    return {
        "recovered": not why,
        "why": why,
        "recovery_ms": _recovery_ms(timelines[0], timelines[1], over_ms, stop_ms, bin_ms),
        "faults_end_ms": over_ms,
        "violations_total": hurt["violations_total"],
        "first_violation": hurt["first_violation"],
        "trace_hash": hurt["trace_hash"],
    }


class _Window:
    """What arrived from one instant to another, over all and by deadline."""

    def __init__(self, bins: list[list[dict[str, float]]]) -> None:
        fates = [fate for bin_ in bins for fate in bin_]
        self.by_deadline = {
            deadline: _Fate([fate for fate in fates if fate["deadline_ms"] == deadline])
            for deadline in {fate["deadline_ms"] for fate in fates}
        }
        self.all = _Fate(fates)
        self.arrived = self.all.arrived


class _Fate:
    def __init__(self, bins: list[dict[str, float]]) -> None:
        self.arrived = sum(bin_["arrived"] for bin_ in bins)
        answered = [bin_["arrived"] - bin_["cancelled"] for bin_ in bins]
        total = max(sum(answered), 1)
        self.primary = sum(bin_["primary_in_time"] for bin_ in bins) / total
        self.in_time = sum(bin_["in_time"] for bin_ in bins) / total
        self.latency_us = sum(b["latency_us_mean"] * n for b, n in zip(bins, answered, strict=True)) / total
        self.deadline_us = (
            sum(b["deadline_ms"] * 1e3 * n for b, n in zip(bins, answered, strict=True)) / total
        )
        self.depth = max((bin_["queue_depth_max"] for bin_ in bins), default=0)


def _difference(got: _Window, due: _Window, queue_rows_max: int) -> str:
    """What has not come back, in words; empty where all has."""
    # Where the primary cannot serve all, who waits how long, and who is left to the fallback, is the policy's choice
    # and depends on what happens to stand in the queue; how much is served does not.
    keeps_up = due.all.primary >= KEEPS_UP
    whose = [("", got.all, due.all)]
    whose += [
        (f" of deadline {deadline:g} ms", got.by_deadline[deadline], fate)
        for deadline, fate in sorted(due.by_deadline.items())
        if keeps_up and deadline in got.by_deadline and fate.arrived >= COUNT_MIN
    ]
    for name, mine, its in whose:
        if mine.primary < SHARE_RATIO * its.primary - SHARE_SLACK:
            return f"primary's share{name} {mine.primary:.3f}, without the faults {its.primary:.3f}"
        if mine.in_time < its.in_time - SHARE_SLACK / 10:
            return f"share in time{name} {mine.in_time:.4f}, without the faults {its.in_time:.4f}"
        if keeps_up and mine.latency_us > LATENCY_RATIO * its.latency_us + LATENCY_SLACK * its.deadline_us:
            return f"mean latency{name} {mine.latency_us:.0f} us, without the faults {its.latency_us:.0f} us"
    if keeps_up and got.all.depth > min(DEPTH_RATIO * due.all.depth + DEPTH_SLACK, queue_rows_max):
        return f"queue depth {got.all.depth:g}, without the faults {due.all.depth:g}"
    return ""


def _last_full_ms(run: Mapping[str, Any]) -> float:
    """The beginning of the last bin with arrivals, which may be cut short."""
    return run["timeline"][-1]["from_ms"] if run["timeline"] else 0.0


def _bins(run: Mapping[str, Any]) -> list[list[dict[str, float]]]:
    """The timeline as a list of bins, each a list of one fate a deadline."""
    deadlines = len(run["by_deadline"])
    fates = run["timeline"]
    return [fates[i : i + deadlines] for i in range(0, len(fates), deadlines)]


def _at(ms: float, bin_ms: float) -> int:
    """The first bin that begins at or after an instant."""
    return max(math.ceil(ms / bin_ms), 0)


def _recovery_ms(
    hurt: list[list[dict[str, float]]],
    control: list[list[dict[str, float]]],
    over_ms: float,
    stop_ms: float,
    bin_ms: float,
) -> float | None:
    """From the faults' end to where the primary's share is the control's again; None for never."""
    first, last = _at(over_ms, bin_ms), _at(stop_ms, bin_ms)
    for at in range(first, last - RECOVERY_BINS + 1):
        got, due = (
            _Fate([fate for bin_ in bins[at : at + RECOVERY_BINS] for fate in bin_])
            for bins in (hurt, control)
        )
        if got.primary >= SHARE_RATIO * due.primary - SHARE_SLACK:
            return at * bin_ms - over_ms
    return None
