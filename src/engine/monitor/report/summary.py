"""Everything a monitor knows as plain values: the contents of the metrics and the report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from engine._common.vocabulary import SOURCES
from engine.monitor._sketch import LATENCY_UPPER_NS, Sketch
from engine.monitor._tallies import Tallies
from engine.monitor.alerts import Alerts
from engine.monitor.counters import BusinessCounter
from engine.monitor.drift.budgets import Budgets
from engine.monitor.drift.distribution import Distribution
from engine.monitor.drift.open_alerts import OpenAlerts
from engine.monitor.outcomes import Outcomes
from engine.monitor.performance import Performance, estimated

HISTOGRAM_POWERS = range(10, 35)
QUANTILES = (0.5, 0.9, 0.99, 0.999)
# The latest answers whose performance is estimated.
ESTIMATED_ROWS = 4000


@dataclass(frozen=True, slots=True)
class Facts:
    """The parts of a monitor that a summary and a report read. They are read under the monitor's lock."""

    reference_rows: int | None
    sketch: Sketch
    alerts: Alerts
    open_alerts: OpenAlerts
    inputs: Distribution
    outputs: Distribution
    tallies: Tallies
    budgets: Budgets
    outcomes: Outcomes
    performance: Performance
    decision_threshold: float
    counters: Mapping[str, BusinessCounter]
    merged: Mapping[str, Any] = field(default_factory=dict)


def summary(facts: Facts) -> dict[str, Any]:
    """Return everything as values that JSON has: no NaN and no infinity. Call it under the monitor's lock."""
    totals = {**facts.sketch.totals(), **facts.merged}
    names = facts.sketch.versions()
    return plain(
        {
            "reference_rows": facts.reference_rows,
            "rows": facts.inputs.rows,
            "dropped": totals["dropped"],
            "wrong_width": totals["wrong_width"],
            "answers": totals["folded"],
            "handler_errors": facts.alerts.handler_errors,
            "alerts": [alert.to_json() for alert in facts.alerts.all()],
            "alert_counts": [
                {"kind": kind, "severity": severity, "count": count}
                for (kind, severity), count in sorted(facts.alerts.counts().items())
            ],
            "lasting": [[alert.kind, alert.column] for alert in facts.open_alerts.all()],
            "inputs": facts.inputs.columns(),
            "outputs": facts.outputs.columns(),
            "sources": facts.tallies.to_json(),
            "latency_us": latency(totals["latency"]),
            "latency_seconds": latency_histogram(totals["latency"]),
            "deadline_share": totals["share"].tolist(),
            "budgets": dict(facts.budgets.budgets),
            "outcomes": facts.outcomes.to_json(),
            "performance": {**facts.performance.figures(), "estimated": _estimated(facts)},
            "shadows": [shadow(found, names) for found in totals["shadows"]],
            "unpaired_shadows": totals["unpaired_shadows"],
            "counters": {
                counter.name: {"description": counter.description, "values": counter.values}
                for counter in facts.counters.values()
            },
        }
    )


def _estimated(facts: Facts) -> dict[str, Any] | None:
    """Return the performance to expect of the primary's latest answers; None where it cannot be told."""
    answers, outputs = facts.sketch.answers(ESTIMATED_ROWS)
    width = int(answers["n_outputs"][-1]) if len(answers) else 0
    taken = (answers["source"] == 0) & (answers["canary"] == 0) & (answers["n_outputs"] == width)
    if not width or not taken.any():
        return None
    return estimated(outputs[taken, :width], facts.performance.baseline, facts.decision_threshold)


def latency(counts: npt.NDArray[np.uint64]) -> dict[str, dict[str, float]]:
    """Return the count and the quantiles of each source that answered, in microseconds, at most 6.25 % too high."""
    found = {}
    for source, row in zip(SOURCES, counts, strict=True):
        total = int(row.sum())
        if total:
            places = np.searchsorted(np.cumsum(row), [math.ceil(q * total) for q in QUANTILES])
            quantiles = LATENCY_UPPER_NS[places] / 1e3
            found[source] = {
                "count": total,
                **{f"p{100 * q:g}": float(value) for q, value in zip(QUANTILES, quantiles, strict=True)},
            }
    return found


def latency_histogram(counts: npt.NDArray[np.uint64]) -> dict[str, dict[str, Any]]:
    """Return the histogram of each source that answered, in seconds: buckets, count and sum.

    buckets: [upper bound, answers below it], cumulated, at powers of two from 1 µs to 17 s, which are ends of the
    native buckets too. The sum takes each answer in the middle of its native bucket, so it is at most 3.2 % wrong.
    """
    lower = np.concatenate([[0], LATENCY_UPPER_NS[:-1] + 1])
    middle = (lower + LATENCY_UPPER_NS) / 2.0
    found = {}
    for source, row in zip(SOURCES, counts, strict=True):
        if row.any():
            cumulated = np.cumsum(row)
            ends = [1 << power for power in HISTOGRAM_POWERS]
            below = cumulated[np.searchsorted(LATENCY_UPPER_NS, np.array(ends) - 1)]
            found[source] = {
                "buckets": [[end / 1e9, int(count)] for end, count in zip(ends, below, strict=True)],
                "count": int(cumulated[-1]),
                "sum": float((row * middle).sum() / 1e9),
            }
    return found


def shadow(found: dict[str, Any], names: dict[int, str]) -> dict[str, Any]:
    """Return how one shadow version compares with the live answers of the same ids."""
    count = found["count"]
    mean = found["sum"] / count
    cumulated = np.cumsum(found["histogram"])
    # Bin i ends at 2^(i - 24), so the quantile is an upper bound.
    p50, p99 = (2.0 ** (int(np.searchsorted(cumulated, q * count)) - 24) for q in (0.5, 0.99))
    return {
        "version": names.get(found["deployment"], str(found["deployment"])),
        "pairs": count,
        "agreement": found["within"] / count,
        "same_decision": found["same_decision"] / count,
        "difference_mean": mean,
        "difference_std": max(found["sum_squares"] / count - mean * mean, 0.0) ** 0.5,
        "difference_p50": p50,
        "difference_p99": p99,
        "difference_max": found["largest"],
    }


def plain(value: Any) -> Any:
    """Return a value without NaN and infinity, which JSON does not have: they become None."""
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    return value
