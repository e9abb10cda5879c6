"""Everything a monitor knows as plain values: what the metrics and the report show."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from engine._common.vocabulary import SOURCES
from engine.monitor._sketch import LATENCY_UPPER_NS

if TYPE_CHECKING:
    from engine.monitor.monitor import ModelMonitor

QUANTILES = (0.5, 0.9, 0.99, 0.999)


def summary(monitor: ModelMonitor) -> dict[str, Any]:
    """JSON-able: no NaN and no infinity. Call it under the monitor's lock."""
    totals = monitor._sketch.totals()
    names = monitor._sketch.versions()
    made = {
        "reference_rows": monitor.reference.rows if monitor.reference else None,
        "rows": monitor.input_distribution.rows,
        "dropped": totals["dropped"],
        "wrong_width": totals["wrong_width"],
        "answers": totals["folded"],
        "handler_errors": monitor._alerts.handler_errors,
        "alerts": [alert.to_json() for alert in monitor._alerts.all()],
        "alert_counts": [
            {"kind": kind, "severity": severity, "count": count}
            for (kind, severity), count in sorted(monitor._alerts.counts().items())
        ],
        "lasting": [[alert.kind, alert.column] for alert in monitor._lasting.alerts()],
        "inputs": monitor.input_distribution.columns(),
        "outputs": monitor.output_distribution.columns(),
        "sources": monitor._tallies.to_json(),
        "latency_us": latency(totals["latency"]),
        "deadline_share": totals["share"].tolist(),
        "budgets": dict(monitor._budgets.budgets),
        "outcomes": monitor._outcomes.to_json(),
        "shadows": [shadow(found, names) for found in totals["shadows"]],
        "unpaired_shadows": totals["unpaired_shadows"],
        "counters": {
            counter.name: {"description": counter.description, "values": counter.values}
            for counter in monitor._counters.values()
        },
    }
    return plain(made)


def latency(counts: npt.NDArray[np.uint64]) -> dict[str, dict[str, float]]:
    """Per source that answered: count and quantiles in microseconds, at most 6.25 % too high."""
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


def shadow(found: dict[str, Any], names: dict[int, str]) -> dict[str, Any]:
    """One shadow version against the live answers of the same ids."""
    count = found["count"]
    mean = found["sum"] / count
    cumulated = np.cumsum(found["histogram"])
    # Bin i ends at 2^(i - 24): the quantile is an upper bound.
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
    """JSON knows no NaN and no infinity: they become None."""
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    return value
