"""The demo's output: a table as it runs, report.json, and a plot of latencies and answering sources."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from engine.demo.phases import DEADLINE_MS, Phase
from engine.demo.training import Served
from engine.loadgen import load

HEAD = (
    f"{'primary':<8}{'load':<15}{'offered/s':>10}{'in time':>9}{'primary':>9}{'fallback':>9}{'default':>9}"
    f"{'p50 us':>8}{'p99':>8}{'p99.9':>8}{'AUC':>7}{'goodput':>9}{'lag p99':>9}"
)
AGAIN = "run the demo again with nothing else on these cores"  # after a void run
COLOURS = {"primary": "#2b6cb0", "fallback": "#dd8f2d", "default": "#8a8f98", "unanswered": "#c0392b"}


def line(phase: Phase) -> str:
    """Return one phase as a line of the table: its figures, or why it is void."""
    figures = phase.figures
    head = f"{phase.lane:<8}{phase.name:<15}"
    if "void" in figures:
        return f"{head}void: {figures['void']}; {AGAIN}"
    shares = "".join(f"{figures['sources'][source]:>9.2%}" for source in ("primary", "fallback", "default"))
    times = "".join(f"{figures[f'latency_us_p{percent}']:>8.0f}" for percent in ("50", "99", "99.9"))
    return (
        f"{head}{figures['offered_per_s']:>10,.0f}{figures['on_time']:>9.2%}{shares}{times}"
        f"{figures['auc']:>7.3f}{figures['primary_goodput']:>9.2f}{figures['lag_us_p99']:>9.0f}"
    )


def reasons(phase: Phase) -> str:
    """Return the reasons for answers that were not the primary's, as one line; "" if there were none."""
    found = phase.figures.get("reasons", {})
    shown = [f"{name} {share:.2%}" for name, share in found.items() if name != "ok"]
    if phase.lane == "inline" and "stalled" in phase.name:
        shown.append(
            "an inline model runs on its caller's own thread, where nothing can interrupt it: the requests behind its "
            "first two stalls were late, until the engine took the batch lane"
        )
    return f"{'':<8}why: {', '.join(shown)}" if shown else ""


def save(
    folder: Path, served: Served, capacities: dict[str, float], phases: list[Phase], made: dict[str, Any]
) -> None:
    """Write report.json and report.svg into `folder`."""
    report = {
        "deadline_ms": DEADLINE_MS,
        "base_rate": served.base_rate,
        "checks": served.checks,
        "capacity_per_s": capacities,
        "phases": [{"lane": phase.lane, "load": phase.name, **_finite(phase.figures)} for phase in phases],
        **made,
    }
    (folder / "report.json").write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    _plot(folder / "report.svg", phases)


def _finite(figures: dict[str, Any]) -> dict[str, Any]:
    """Return figures for JSON, which has no infinity: a percentile that falls on an unanswered request is null."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in figures.items()
    }


def _plot(path: Path, phases: list[Phase]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [phase for phase in phases if "void" not in phase.figures]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(13, 4.5), layout="constrained")
    _plot_latencies(left, shown)
    _plot_sources(right, shown)
    figure.savefig(path)
    pyplot.close(figure)


def _plot_latencies(axes: Any, phases: list[Phase]) -> None:
    for phase in phases:
        latency = np.sort(phase.run.latency_us) / 1e3
        later = 1 - np.arange(len(latency)) / len(latency)
        # A thousand points draw the curve; the last hundred, the tail, are all kept.
        chosen = np.unique(np.r_[np.linspace(0, len(latency) - 1, 1000).astype(int), -100:0] % len(latency))
        style = "-" if phase.lane == "inline" else "--"
        axes.loglog(latency[chosen], later[chosen], style, label=f"{phase.lane}, {phase.name}")
    axes.axvline(DEADLINE_MS, color="black", linewidth=1)
    axes.annotate("deadline", (DEADLINE_MS, 1), rotation=90, va="top", ha="right", fontsize=8)
    axes.set(xlabel="latency from scheduled arrival, ms", ylabel="share of requests later than that")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)


def _plot_sources(axes: Any, phases: list[Phase]) -> None:
    labels = [f"{phase.lane}, {phase.name}" for phase in phases]
    start = np.zeros(len(phases))
    for code, source in enumerate(load.SOURCES):
        shares = np.array(
            [float(((phase.run.source == code) & phase.run.on_time).mean()) for phase in phases]
        )
        if shares.any():
            axes.barh(labels, shares, left=start, color=COLOURS[source], label=f"{source}, in time")
        start += shares
    if (start < 1).any():
        axes.barh(labels, 1 - start, left=start, color=COLOURS["unanswered"], label="late")
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="share of requests, by who answered")
    axes.legend(fontsize=8, loc="lower left")
