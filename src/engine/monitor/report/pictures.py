"""The pictures of a report, as SVG of our own: shapes that stretch with the page, beside text that does not.

Colours come from the classes of page.css, so a picture follows the light or dark wish of its reader. Shapes are drawn
in a box of 1000 x 100 and stretched; their labels are HTML, which keeps its size on a phone.
"""

from __future__ import annotations

import html
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine._common.vocabulary import SOURCES
from engine.monitor.drift.column import Column
from engine.monitor.report.status import figure, percent

FloatArray = npt.NDArray[np.float64]

# Bars of a column of numbers, and categories that are named.
BARS = 40
NAMED_MAX = 8
# Parts of the reference and of the current rows that a picture shows on both ends; the rest is in its end bars.
TAIL_REFERENCE, TAIL_NOW = 0.002, 0.005
ROW_HEIGHT = 20
WIDTH, HEIGHT = 1000.0, 100.0
# Reasons that have a colour of their own in the picture over time; further ones are one.
REASONS_SHOWN = 5


def column_picture(column: Column, counts: FloatArray, figures: Mapping[str, Any]) -> str:
    """Return the HTML of a column's reference and current rows over each other.

    Categories and few distinct numbers are bars by name; other numbers are bars of equal width.

    Args:
        column: of the reference.
        counts: float64 [n_bins], current rows in each bin.
        figures: of `DriftDetector.state`: the shares of missing and new values.
    """
    reference = np.asarray(column.counts, dtype=np.float64)
    name = column.name
    missing, before = figures.get("missing_share") or 0.0, column.missing / max(column.rows, 1)
    if column.bins.discrete:
        made = _categories(name, *_named(column, reference, counts, figures))
    elif not len(column.bins.cuts):
        made = "<p class=none>The reference has no value of this column.</p>"
    elif (values := _distinct(column)) is not None:
        labels = [figure(value) for value in values]
        made = _categories(name, labels, *_by_value(values, column, reference, counts))
    else:
        made = _bars(name, column, reference, counts)
    if missing or before:
        made += f"<p class=missing>{_pair(before, missing, 'missing')}</p>"
    return made


def _shares(counts: FloatArray) -> FloatArray:
    return counts / max(float(counts.sum()), 1.0)


def _pair(before: float, now: float, what: str) -> str:
    """Return two bars over each other, and their shares in words."""
    svg = _svg(
        f"{what}: {percent(before)} in the reference, {percent(now)} now",
        _rect(0, 0, WIDTH * before, 100, "ref") + _rect(0, 30, WIDTH * now, 40, "now"),
    )
    return f"<span class=name>{what}</span>{svg}<span class=share>{percent(before)} → <b>{percent(now)}</b></span>"


def _named(
    column: Column, reference: FloatArray, counts: FloatArray, figures: Mapping[str, Any]
) -> tuple[list[str], FloatArray, FloatArray]:
    """Return the names of categories and their shares in the reference and now; the last ones together."""
    names = column.bin_names()
    unseen = figures.get("unseen_share") or 0.0
    before, now = _shares(reference), _shares(counts) * (1.0 - unseen)
    if len(names) > NAMED_MAX:
        kept = np.sort(np.argsort(-np.maximum(before, now), kind="stable")[: NAMED_MAX - 1])
        rest = np.setdiff1d(np.arange(len(names)), kept)
        names = [*(names[place] for place in kept), f"{len(rest)} others"]
        before, now = (np.append(part[kept], part[rest].sum()) for part in (before, now))
    if unseen:
        names, before, now = [*names, "new ones"], np.append(before, 0.0), np.append(now, unseen)
    return names, before, now


def _distinct(column: Column) -> FloatArray | None:
    """Return the values of a column of few distinct numbers; None where its bins hold ranges.

    A bin ends at the last value it holds. Only where it holds no other does the mean of these ends equal the mean of
    the column.
    """
    cuts = column.bins.cuts.astype(np.float64)
    used = np.flatnonzero(column.counts)
    if not len(used) or used[-1] >= len(cuts) or not math.isfinite(column.mean):
        return None
    mean = float((column.counts[used] * cuts[used]).sum() / column.counts.sum())
    return cuts[used] if abs(mean - column.mean) <= 1e-6 * (column.std + abs(column.mean)) else None


def _by_value(
    values: FloatArray, column: Column, reference: FloatArray, counts: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return the shares of the values in the reference and now; values between and beyond go to the nearest one."""
    cuts = column.bins.cuts.astype(np.float64)
    ends = np.append(cuts, cuts[-1])
    nearest = np.abs(ends[:, None] - values[None, :]).argmin(axis=1)
    before, now = np.zeros(len(values)), np.zeros(len(values))
    np.add.at(before, nearest, _shares(reference))
    np.add.at(now, nearest, _shares(counts))
    return before, now


def _categories(name: str, names: Sequence[str], before: FloatArray, now: FloatArray) -> str:
    """Return a row a category: its name, a bar of the reference with one of now in it, and both shares."""
    if len(names) > NAMED_MAX + 1:
        return _many(name, names, before, now)
    top = max(float(before.max(initial=0.0)), float(now.max(initial=0.0)), 1e-9)
    shapes = "".join(
        _rect(0, place * 100 + 8, WIDTH * was / top, 84, "ref")
        + _rect(0, place * 100 + 32, WIDTH * here / top, 36, "now")
        for place, (was, here) in enumerate(zip(before, now, strict=True))
    )
    said = ", ".join(
        f"{label} {percent(was)} then {percent(here)}"
        for label, was, here in zip(names, before, now, strict=True)
    )
    labels = "".join(f"<li>{html.escape(label)}</li>" for label in names)
    shares = "".join(
        f"<li>{percent(was)} → <b>{percent(here)}</b></li>" for was, here in zip(before, now, strict=True)
    )
    svg = _svg(f"{name}: {said}", shapes, len(names) * 100.0, len(names) * ROW_HEIGHT)
    return f"<div class=cats><ul>{labels}</ul>{svg}<ul class=num>{shares}</ul></div>"


def _many(name: str, names: Sequence[str], before: FloatArray, now: FloatArray) -> str:
    """Return upright bars of more distinct numbers than can be named, with the first and the last below."""
    ends = f"<p class=ends><span>{html.escape(names[0])}</span><span>{html.escape(names[-1])}</span></p>"
    return (
        _upright(f"{name}: {len(names)} values from {names[0]} to {names[-1]}", before, now, gap=0.25) + ends
    )


def _bars(name: str, column: Column, reference: FloatArray, counts: FloatArray) -> str:
    """Return bars of equal width over the range of both, with the range below."""
    edges = _edges(column)
    low, high = _range(edges, reference, counts)
    inner = np.linspace(low, high, BARS + 1)
    cuts = np.concatenate([[-np.inf], inner[1:-1], [np.inf]])
    before, now = (np.diff(_cumulated(edges, part, cuts)) for part in (reference, counts))
    ends = f"<p class=ends><span>{figure(low)}</span><span>{figure(high)}</span></p>"
    label = f"{name}: shares of the values from {figure(low)} to {figure(high)}"
    if not counts.sum():
        ends += "<p class=none>No value now.</p>"
    return _upright(label, before, now) + ends


def _edges(column: Column) -> FloatArray:
    """Return the edges of the bins, float64 [n_bins + 1]; the first and the last bin get a width."""
    cuts = column.bins.cuts.astype(np.float64)
    step = max(column.std if math.isfinite(column.std) else 0.0, abs(cuts[-1]) * 1e-6, 1e-9)
    return np.concatenate([[cuts[0] - step], cuts, [cuts[-1] + step]])


def _range(edges: FloatArray, reference: FloatArray, counts: FloatArray) -> tuple[float, float]:
    """Return the range that holds both but their utmost tails."""
    lows, highs = [], []
    for part, tail in ((reference, TAIL_REFERENCE), (counts, TAIL_NOW)):
        if part.sum():
            cumulated = np.cumsum(_shares(part))
            lows.append(edges[np.searchsorted(cumulated, tail, side="right")])
            highs.append(edges[np.searchsorted(cumulated, 1.0 - tail, side="left") + 1])
    low, high = float(min(lows, default=0.0)), float(max(highs, default=1.0))
    # The number just below 0 is an edge too.
    low, high = (0.0 if abs(end) < 1e-9 * (high - low) else end for end in (low, high))
    return (low, high) if high - low > 1e-12 * max(abs(low), abs(high)) else (low - 0.5, high + 0.5)


def _cumulated(edges: FloatArray, counts: FloatArray, at: FloatArray) -> FloatArray:
    """Return the share of rows at or below each place, as if rows lay evenly within their bin."""
    return np.interp(at, edges, np.concatenate([[0.0], np.cumsum(_shares(counts))]))


def _upright(label: str, before: FloatArray, now: FloatArray, gap: float = 0.0) -> str:
    top = max(float(before.max(initial=0.0)), float(now.max(initial=0.0)), 1e-9) * 1.04
    step = WIDTH / len(before)
    shapes = "".join(
        _rect(
            place * step + step * gap / 2,
            HEIGHT * (1 - share / top),
            step * (1 - gap),
            HEIGHT * share / top,
            "ref",
        )
        for place, share in enumerate(before)
        if share
    )
    heights = [HEIGHT * (1 - share / top) for share in now]
    if gap:
        line = " ".join(
            f"M{_n(place * step + step * gap / 2)} {_n(y)}h{_n(step * (1 - gap))}"
            for place, y in enumerate(heights)
        )
    else:
        line = f"M0 {_n(HEIGHT)}" + "".join(
            f"V{_n(y)}H{_n((place + 1) * step)}" for place, y in enumerate(heights)
        ) + f"V{_n(HEIGHT)}"  # fmt: skip
    if not now.sum():
        line = ""
    shapes += f'<path class=nowline d="{line}"/>'
    return f"<div class=hist>{_svg(label, shapes)}</div>"


# Over time.


def over_time(slices: Sequence[Sequence[float]], marks: Sequence[tuple[float, str]]) -> str:
    """Return the answers a second by source, with marks at swaps.

    Args:
        slices: as in `Tallies`.
        marks: (seconds since the epoch, class of page.css): "swap" or "alarm".
    """
    table = np.array(slices, dtype=np.float64)
    starts, ends = _spans(table)
    rates = table[:, 2:5] / np.maximum(ends - starts, 1e-3)[:, None]
    label = "Answers a second over time by source: " + ", ".join(
        f"{source} {int(table[:, 2 + place].sum()):,}" for place, source in enumerate(SOURCES)
    )
    late = table[:, 5] / np.maximum(ends - starts, 1e-3)
    return _stacked(starts, ends, rates, SOURCES, label, marks, late=late, top_label=_rate)


def reasons_over_time(
    slices: Sequence[Sequence[float]],
    reasons: Sequence[Mapping[str, int]],
    marks: Sequence[tuple[float, str]],
) -> tuple[str, list[str]]:
    """Return the shares of answers that were not "ok", by reason over time, and the reasons shown."""
    table = np.array(slices, dtype=np.float64)
    starts, ends = _spans(table)
    total = np.maximum(table[:, 2:5].sum(axis=1), 1.0)
    sums: dict[str, int] = {}
    for part in reasons:
        for reason, count in part.items():
            if reason != "ok":
                sums[reason] = sums.get(reason, 0) + count
    names = sorted(sums, key=lambda reason: -sums[reason])
    if not names:
        return "", []
    shown = names if len(names) <= REASONS_SHOWN else [*names[: REASONS_SHOWN - 1], "others"]
    shares = np.zeros((len(table), len(shown)))
    for place, part in enumerate(reasons[: len(table)]):
        for reason, count in part.items():
            if reason != "ok":
                at = shown.index(reason) if reason in shown[: REASONS_SHOWN - 1] or reason in shown else -1
                shares[place, at] += count / total[place]
    label = "Share of answers not from the primary as planned, by reason: " + ", ".join(
        f"{name} {sums[name]:,}" for name in names
    )
    classes = [f"r{place}" for place in range(len(shown))]
    return _stacked(starts, ends, shares, classes, label, marks, top_label=percent), shown


def _spans(table: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the beginning and end of each slice; a slice lasts until the next begins."""
    starts = table[:, 0]
    ends = np.append(table[1:, 0], max(table[-1, 1], table[-1, 0] + 1e-3))
    return starts, np.maximum(ends, starts)


def _stacked(
    starts: FloatArray,
    ends: FloatArray,
    values: FloatArray,
    classes: Sequence[str],
    label: str,
    marks: Iterable[tuple[float, str]],
    *,
    top_label: Any,
    late: FloatArray | None = None,
) -> str:
    first, last = float(starts[0]), float(ends[-1])
    scale = WIDTH / max(last - first, 1e-6)
    left, right = (starts - first) * scale, (ends - first) * scale
    sums = np.concatenate([np.zeros((len(values), 1)), np.cumsum(values, axis=1)], axis=1)
    top = max(float(sums[:, -1].max()), 1e-9)
    shapes = []
    for place, name in enumerate(classes):
        if values[:, place].any():
            low, high = (HEIGHT * (1 - sums[:, place + k] / top) for k in (0, 1))
            shapes.append(f'<path class="s {name}" d="{_band(left, right, low, high)}"/>')
    if late is not None and late.any():
        y = HEIGHT * (1 - late / top)
        line = "M" + "L".join(
            f"{_n(a)} {_n(h)}L{_n(b)} {_n(h)}" for a, b, h in zip(left, right, y, strict=True)
        )
        shapes.append(f'<path class="late" d="{line}"/>')
    for at, kind in marks:
        if first <= at <= last:
            x = _n((at - first) * scale)
            shapes.append(f'<path class="{kind}" d="M{x} 0V{_n(HEIGHT)}"/>')
    ticks = "".join(
        f'<span style="left:{100 * (at - first) / max(last - first, 1e-6):.2f}%">{text}</span>'
        for at, text in time_ticks(first, last)
    )
    return (
        f"<div class=time><span class=top>{top_label(top)}</span>{_svg(label, ''.join(shapes))}"
        f"<p class=ticks aria-hidden=true>{ticks}</p></div>"
    )


def _band(left: FloatArray, right: FloatArray, low: FloatArray, high: FloatArray) -> str:
    """Return the path of an area between two lines with steps."""
    there = "".join(f"L{_n(a)} {_n(h)}H{_n(b)}" for a, b, h in zip(left, right, high, strict=True))
    back = "".join(
        f"L{_n(b)} {_n(h)}H{_n(a)}" for a, b, h in zip(left[::-1], right[::-1], low[::-1], strict=True)
    )
    return f"M{_n(left[0])} {_n(low[0])}{there}{back}Z"


def time_ticks(first: float, last: float) -> list[tuple[float, str]]:
    """Return at most five instants between two, seconds since the epoch, with their names in UTC."""
    length = max(last - first, 1e-6)
    steps = (
        1,
        2,
        5,
        10,
        15,
        30,
        60,
        120,
        300,
        600,
        900,
        1800,
        3600,
        7200,
        10800,
        21600,
        43200,
        86400,
        172800,
        604800,
    )
    step = next((step for step in steps if length / step <= 4.5), 2592000)
    form = "%H:%M:%S" if step < 60 else "%H:%M" if step < 86400 and length < 2 * 86400 else "%b %d"
    begin = math.ceil(first / step)
    # A name at the very end would not fit.
    found = [at for k in range(6) if (at := (begin + k) * step) <= last - 0.04 * length and at >= first]
    return [(float(at), time.strftime(form, time.gmtime(at))) for at in found[:5]]


def versions_band(slices: Sequence[Sequence[float]], taken_over: Sequence[tuple[float, str]]) -> str:
    """Return a band of the versions that answered, each as long as it did, with its name."""
    table = np.array(slices, dtype=np.float64)
    starts, ends = _spans(table)
    first, last = float(starts[0]), float(ends[-1])
    until = [*(at for at, _ in taken_over[1:]), last]
    shortest = 0.004 * (last - first)
    parts = "".join(
        f'<li class="v{place % 2}" style="flex:{max(end - at, shortest):.4f} 1 0" '
        f'title="{html.escape(name)} from {clock(at)}">{html.escape(name)}</li>'
        for place, ((at, name), end) in enumerate(zip(taken_over, until, strict=True))
    )
    return f'<ol class=versions aria-label="Versions over time">{parts}</ol>'


def clock(at: float) -> str:
    """Return a time of day in UTC."""
    return time.strftime("%H:%M:%S UTC", time.gmtime(at))


def _rate(value: float) -> str:
    return f"{value:,.0f} a second" if value >= 10 else f"{value:.2g} a second"


def deadline_picture(shares: Sequence[int]) -> str:
    """Return the answers by latency as a part of their deadline; `shares` in bins of 0.05, the last with all above."""
    counts = np.array(shares, dtype=np.float64)
    used = np.flatnonzero(counts)
    # At least up to one and a half deadlines, so that the line of the deadline has a place.
    shown = max(30, int(used[-1]) + 1 if len(used) else 0)
    counts = counts[:shown]
    # A logarithm of base 10 and one more row below, because one late answer in a million must be seen.
    heights = np.where(counts > 0, np.log10(np.maximum(counts, 1.0)) + 0.6, 0.0)
    top = max(float(heights.max()), 1.0) * 1.05
    step = WIDTH / shown
    bars = "".join(
        _rect(
            place * step + 1,
            HEIGHT * (1 - height / top),
            step - 2,
            HEIGHT * height / top,
            "late" if place >= 20 else "now",
        )
        for place, height in enumerate(heights)
        if height
    )
    line = f'<path class=limit d="M{_n(20 * step)} 0V{_n(HEIGHT)}"/>'
    late = counts[20:].sum()
    label = f"{int(counts.sum() - late):,} answers within their deadline, {int(late):,} after it"
    at = 100 * 20 / shown
    ticks = "".join(
        f'<span style="left:{place * at:.2f}%">{text}</span>'
        for place, text in ((0, "0"), (0.5, "½"), (1, "deadline"))
    )
    most = f"{int(counts.max()):,} answers (logarithmic)"
    return (
        f"<div class=time><span class=top>{most}</span>{_svg(label, bars + line)}"
        f"<p class=ticks aria-hidden=true>{ticks}</p></div>"
    )


# SVG.


def _svg(label: str, shapes: str, height: float = HEIGHT, pixels: int | None = None) -> str:
    """Return a picture that stretches to the width of its place."""
    style = f' style="height:{pixels}px"' if pixels else ""
    return (
        f'<svg viewBox="0 0 {_n(WIDTH)} {_n(height)}" preserveAspectRatio=none role=img '
        f'aria-label="{html.escape(label)}"{style}>{shapes}</svg>'
    )


def _rect(x: float, y: float, width: float, height: float, name: str) -> str:
    return f'<rect class={name} x="{_n(x)}" y="{_n(y)}" width="{_n(max(width, 0.0))}" height="{_n(height)}"/>'


def _n(value: float) -> str:
    """Return a coordinate in few characters."""
    return f"{value:.1f}".rstrip("0").rstrip(".")
