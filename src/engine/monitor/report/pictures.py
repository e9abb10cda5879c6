"""The pictures of a report, as matplotlib figures.

Nothing here uses pyplot, because it would change the figures and the back end of the service around it.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine._common.vocabulary import SOURCES
from engine.monitor.drift.column import Column

COLOURS = {"primary": "#2b6cb0", "fallback": "#dd8f2d", "default": "#8a8f98", "late": "#c0392b"}
REFERENCE = "#9aa5b1"
CURRENT = "#2b6cb0"
CODES_SHOWN_MAX = 20


def draw_column(column: Column, counts: npt.NDArray[np.float64]) -> Any:
    """Return a figure of reference and current rows over each other: bars for codes, densities for numbers.

    `counts`: float64 [n_bins], current rows in each bin.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4, 1.9))
    # Placed by hand, because finding a layout takes longer than drawing, and a page has dozens of these figures.
    axes = figure.add_axes((0.03, 0.22, 0.94, 0.75))
    for values, colour, label in ((column.counts, REFERENCE, "reference"), (counts, CURRENT, "now")):
        shares = np.asarray(values, dtype=np.float64) / max(float(np.sum(values)), 1.0)
        if column.bins.discrete:
            shown = shares[:CODES_SHOWN_MAX]
            offset = -0.2 if label == "reference" else 0.2
            axes.bar(np.arange(len(shown)) + offset, shown, 0.4, color=colour, label=label)
        elif len(column.bins.cuts):
            edges = _edges(column)
            # Bins differ in width, so areas are shares, not heights.
            density = shares / np.maximum(np.diff(edges), 1e-12)
            axes.stairs(density, edges, color=colour, fill=label == "reference", alpha=0.8, label=label)
    if column.bins.discrete:
        _name_codes(axes, column)
    elif len(column.bins.cuts):
        _limit(axes, column, counts)
    axes.set_yticks([])
    axes.legend(frameon=False, fontsize=7)
    return figure


def _edges(column: Column) -> npt.NDArray[np.float64]:
    cuts = column.bins.cuts.astype(np.float64)
    step = max(column.std, abs(cuts[-1]) * 1e-6, 1e-9) if np.isfinite(column.std) else 1.0
    return np.concatenate([[cuts[0] - step], cuts, [cuts[-1] + step]])


def _limit(axes: Any, column: Column, counts: npt.NDArray[np.float64]) -> None:
    """Limit the axis to bins that have rows."""
    edges = _edges(column)
    used = np.flatnonzero(column.counts + counts)
    if len(used):
        low, high = edges[used[0]], edges[used[-1] + 1]
        margin = (high - low) * 0.02 or 1.0
        axes.set_xlim(low - margin, high + margin)


def _name_codes(axes: Any, column: Column) -> None:
    shown = min(column.bins.n_bins, CODES_SHOWN_MAX)
    axes.set_xticks(range(shown), column.bin_names()[:shown], rotation=60, fontsize=6)


def draw_sources(slices: Sequence[Sequence[float]]) -> Any:
    """Return a figure of the shares of the sources, and of late answers, over time; `slices` as in `Tallies`."""
    from matplotlib.figure import Figure

    table = np.array(slices, dtype=np.float64)
    times: Any = [datetime.datetime.fromtimestamp(at, datetime.UTC) for at in table[:, 1]]
    total = np.maximum(table[:, 2:5].sum(axis=1), 1.0)
    figure = Figure(figsize=(10, 2.4), layout="constrained")
    axes = figure.subplots()
    for place, source in enumerate(SOURCES):
        axes.plot(
            times, table[:, 2 + place] / total, color=COLOURS[source], label=source, marker=".", markersize=3
        )
    axes.plot(times, table[:, 5] / total, color=COLOURS["late"], label="late", linestyle=":")
    axes.set_ylim(-0.02, 1.02)
    axes.set_ylabel("share")
    axes.legend(frameon=False, ncols=4)
    return figure


def draw_deadline(shares: Sequence[int]) -> Any:
    """Return a figure of the answers by latency / budget; those right of the line are late.

    `shares`: answers in bins of 0.05; the last bin holds all above.
    """
    from matplotlib.figure import Figure

    counts = np.array(shares, dtype=np.float64)
    edges = np.arange(len(counts) + 1) * 0.05
    figure = Figure(figsize=(10, 2.2), layout="constrained")
    axes = figure.subplots()
    axes.stairs(np.maximum(counts, 0.5), edges, baseline=0.5, fill=True, color=COLOURS["primary"])
    axes.axvline(1.0, color=COLOURS["late"])
    axes.set_yscale("log")
    axes.set_xlabel("latency / budget (last bar: all above)")
    axes.set_ylabel("answers")
    return figure
