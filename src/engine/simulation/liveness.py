"""Liveness: after a fault, does service return to what it would be without the fault, and how soon?

The control is a second run of the same plan and seed without the faults that end. (Faults without an end act from the
control's start, so that it has learned them.) Arrivals and deadlines are the same, so every difference is an effect of
the fault. From `within_ms` after the last fault's end on, these must equal the control's: the share that the primary
answers in time, over all and for each deadline (no deadline starves); the mean latency; and the depth of the queue.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from engine.errors import ConfigError
from engine.simulation.fault_plan import ends_ms
from engine.simulation.simulate import simulate

BINS = 1_000
RECOVERY_BINS = 10  # bins in a row that make one point of the recovery, against the noise of arrivals
# Tolerances for two runs that differ in nothing that matters: chance, and the memory of a learned quantile.
SHARE_RATIO, SHARE_SLACK = 0.95, 0.02
LATENCY_RATIO, LATENCY_SLACK = 1.15, 0.02  # the slack is a share of the deadline
DEPTH_RATIO, DEPTH_SLACK = 2.0, 64
KEEPS_UP = 0.95  # a primary that answers this share is not overloaded
COUNT_MIN = 300  # requests: a share of fewer is noise


def recovery(plan: Mapping[str, Any], *, within_ms: float) -> dict[str, Any]:
    """Run a plan and its control, and return whether service recovered in time.

    Args:
        plan: arguments of `simulate`, with at least one fault that ends.
        within_ms: milliseconds from the end of the last fault to the recovery.

    Returns:
        A dict. recovered: bool. why: the figure that did not recover, in words, "" if all did. recovery_ms: from the
        end of the last fault until the primary's share reaches the control's, in steps of a thousandth of the run;
        None for never. faults_end_ms. violations_total, first_violation and trace_hash of the run with faults.

    Raises:
        ConfigError: no fault ends, or the last one ends too late to judge the time after it.
    """
    faults = list(plan.get("faults", ()))
    ends = [ends_ms(fault) for fault in faults]
    lasting = [fault | {"from_ms": 0.0} for fault, end in zip(faults, ends, strict=True) if end is None]
    over_ms = max((end for end in ends if end is not None), default=None)
    if over_ms is None:
        raise ConfigError("the plan needs a fault that ends: give one of its faults an until_ms")
    hurt = simulate(**plan)
    bin_ms = max(hurt["duration_s"] * 1e3 / BINS, 1e-3)
    hurt = simulate(**{**plan, "bin_ms": bin_ms})
    control = simulate(**{**plan, "faults": lasting, "bin_ms": bin_ms})
    # Faults change the length of a run (bursts bring requests forward, a jump skips time): compare what both runs have.
    stop_ms = min(_last_full_ms(hurt), _last_full_ms(control))
    start_ms = over_ms + within_ms
    timelines = [_bins(run) for run in (hurt, control)]
    got, due = (_Window(bins[_at(start_ms, bin_ms) : _at(stop_ms, bin_ms)]) for bins in timelines)
    if due.arrived < COUNT_MIN:
        raise ConfigError(
            f"only {due.arrived} requests arrive between {start_ms:g} ms, {within_ms:g} ms after the last fault, and "
            f"{stop_ms:g} ms; at least {COUNT_MIN} are needed: give the plan more requests"
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
    """The requests that arrived in a window of time, over all and by deadline."""

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
    """Return the figure that differs from the control, in words; "" if none does."""
    # An overloaded primary cannot serve every request. Which requests wait, and which go to the fallback, is then the
    # policy's choice and depends on the present queue; only the amount served does not.
    keeps_up = due.all.primary >= KEEPS_UP
    compared = [("", got.all, due.all)]
    compared += [
        (f" of deadline {deadline:g} ms", got.by_deadline[deadline], fate)
        for deadline, fate in sorted(due.by_deadline.items())
        if keeps_up and deadline in got.by_deadline and fate.arrived >= COUNT_MIN
    ]
    for name, mine, its in compared:
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
    """Return the start of the last bin with arrivals. That bin may be cut short."""
    return run["timeline"][-1]["from_ms"] if run["timeline"] else 0.0


def _bins(run: Mapping[str, Any]) -> list[list[dict[str, float]]]:
    """Return the timeline as a list of bins, each a list of one fate for each deadline."""
    deadlines = len(run["by_deadline"])
    fates = run["timeline"]
    return [fates[i : i + deadlines] for i in range(0, len(fates), deadlines)]


def _at(ms: float, bin_ms: float) -> int:
    """Return the first bin that begins at or after an instant."""
    return max(math.ceil(ms / bin_ms), 0)


def _recovery_ms(
    hurt: list[list[dict[str, float]]],
    control: list[list[dict[str, float]]],
    over_ms: float,
    stop_ms: float,
    bin_ms: float,
) -> float | None:
    """Return the time from the faults' end until the primary's share reaches the control's; None for never."""
    first, last = _at(over_ms, bin_ms), _at(stop_ms, bin_ms)
    for at in range(first, last - RECOVERY_BINS + 1):
        got, due = (
            _Fate([fate for bin_ in bins[at : at + RECOVERY_BINS] for fate in bin_])
            for bins in (hurt, control)
        )
        if got.primary >= SHARE_RATIO * due.primary - SHARE_SLACK:
            return at * bin_ms - over_ms
    return None
