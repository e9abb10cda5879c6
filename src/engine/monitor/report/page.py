"""One HTML page of everything a monitor knows, pictures inside, that can be mailed, kept and opened anywhere."""

from __future__ import annotations

import html
import io
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from engine._common import durable
from engine._common.optional import need
from engine.monitor.report.pictures import draw_column, draw_deadline, draw_sources
from engine.monitor.report.summary import Facts, summary

COLUMNS_SHOWN_MAX = 60
STYLE = """
body{font:14px/1.45 system-ui,sans-serif;max-width:1080px;margin:24px auto;padding:0 16px;color:#1d2733}
h1{font-size:22px}h2{font-size:17px;margin-top:28px;border-bottom:1px solid #dde3ea;padding-bottom:4px}
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:4px 8px;border-bottom:1px solid #edf0f4;
vertical-align:top}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
.critical{color:#b42318;font-weight:600}.warning{color:#b25e09;font-weight:600}.quiet{color:#66727f}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(320px,1fr));gap:8px}
figure{margin:0}figcaption{font-size:13px}svg{max-width:100%;height:auto}
"""


class Contents(NamedTuple):
    """The contents of a page, copied from the monitor, because drawing takes seconds and must not hold the lock.

    Attributes:
        summary: dict, of `summary`.
        columns: (title, severity, histograms) of each side; histograms as in `Distribution.histograms`.
    """

    summary: dict[str, Any]
    columns: list[tuple[str, str, list[tuple[Any, Any, dict[str, Any]]]]]


def collect(facts: Facts) -> Contents:
    """Return the contents of a page. Call it under the monitor's lock. Raises MissingDependencyError."""
    need("matplotlib", "report", "monitor")
    sides = (("Outputs", facts.outputs), ("Inputs", facts.inputs))
    return Contents(summary(facts), [(title, side.severity, side.histograms()) for title, side in sides])


def write(contents: Contents, path: Path) -> Path:
    """Write the page, whole or not at all, and return its path. Raises OSError."""
    durable.write(path, "".join(_parts(contents)).encode(), sync=False)
    return path


def _parts(contents: Contents) -> Iterable[str]:
    made = contents.summary
    now = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    yield f"<!doctype html><html lang=en><meta charset=utf-8><title>Model monitor</title><style>{STYLE}</style>"
    yield f"<h1>Model monitor</h1><p class=quiet>{now} UTC · {made['answers']:,} answers · {made['rows']:,} rows tested"
    yield f" against {made['reference_rows'] or 0:,} · {made['dropped']:,} not counted</p>"
    yield "<h2>Alerts</h2>" + _alerts(made)
    if made["sources"]["slices"]:
        yield "<h2>Who answered, over time</h2>" + _picture(draw_sources, made["sources"]["slices"])
        yield _versions(made)
    if made["latency_us"]:
        yield "<h2>Latency</h2>" + _latency(made)
        if sum(made["deadline_share"]):
            yield _picture(draw_deadline, made["deadline_share"])
    if made["outcomes"]["groups"]:
        yield "<h2>Outcomes</h2>" + _outcomes(made)
    if made["shadows"]:
        yield "<h2>Shadows against the live answers</h2>" + _table(made["shadows"])
    if made["counters"]:
        rows = [
            {"counter": name, "version": version, "value": value}
            for name, counter in made["counters"].items()
            for version, value in counter["values"].items()
        ]
        yield "<h2>Counters</h2>" + _table(rows)
    for title, severity, histograms in contents.columns:
        columns = sorted(histograms, key=lambda entry: not entry[2]["drifted"])
        if columns:
            yield f"<h2>{title}: the reference and the last window</h2><div class=grid>"
            for column, counts, figures in columns[:COLUMNS_SHOWN_MAX]:
                caption = html.escape(column.name)
                if figures["drifted"]:
                    caption = f"<span class={severity}>{caption}: changed</span>"
                yield f"<figure>{_picture(draw_column, column, counts)}<figcaption>{caption}</figcaption></figure>"
            yield "</div>"
            if len(columns) > COLUMNS_SHOWN_MAX:
                yield f"<p class=quiet>{len(columns) - COLUMNS_SHOWN_MAX} more are in to_json().</p>"


def _alerts(made: dict[str, Any]) -> str:
    if not made["alerts"]:
        return "<p>None.</p>"
    rows = []
    for alert in reversed(made["alerts"]):
        detected, ended = (
            time.strftime("%m-%d %H:%M:%S", time.gmtime(at)) if at else ""
            for at in (alert["detected_at"], alert["ended_at"])
        )
        state = "lasts" if alert["lasts"] else ended
        rows.append(
            f"<tr><td class={alert['severity']}>{alert['severity']}</td><td>{html.escape(alert['message'])}</td>"
            f"<td class=n>{_number(alert['started_row'])}</td><td class=n>{detected}</td><td class=n>{state}</td></tr>"
        )
    head = "<tr><th>severity<th>message<th class=n>began at row<th class=n>seen (UTC)<th class=n>ended</tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _versions(made: dict[str, Any]) -> str:
    rows = [
        {"version": version or "(none)", "source": source, "reason": reason, "answers": count}
        for version, found in made["sources"]["versions"].items()
        for source, reasons in found["answers"].items()
        for reason, count in reasons.items()
    ]
    return _table(rows)


def _latency(made: dict[str, Any]) -> str:
    return _table([{"source": source, **figures} for source, figures in made["latency_us"].items()], " us")


def _outcomes(made: dict[str, Any]) -> str:
    outcomes = made["outcomes"]
    cost = outcomes["fallback_cost"]
    labels = ", ".join(f"{count:,} {status}" for status, count in outcomes["counts"].items())
    text = f"<p>Labels: {labels}.</p>" + _table(outcomes["groups"])
    if cost:
        text += (
            f"<p>An answer of the fallback or default was worth {cost['per_answer']:.4g} less than one of the primary: "
            f"{cost['total']:.4g} over {cost['answers']:,} answers.</p>"
        )
    return text


def _table(rows: Sequence[dict[str, Any]], _unit: str = "") -> str:
    keys = list(dict.fromkeys(key for row in rows for key in row))
    head = "".join(
        f"<th>{html.escape(key.replace('_', ' '))}{_unit if key.startswith('p') and _unit else ''}"
        for key in keys
    )
    body = "".join(
        "<tr>" + "".join(f"<td class=n>{_number(row.get(key))}" if not isinstance(row.get(key), str)
                         else f"<td>{html.escape(row[key])}" for key in keys) + "</tr>"
        for row in rows
    )  # fmt: skip
    return f"<table><tr>{head}</tr>{body}</table>"


def _number(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(map(_number, value))
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:.4g}"


def _picture(draw: Callable[..., Any], *arguments: Any) -> str:
    """Return a drawing as inline SVG, whose text stays text."""
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none", "font.size": 8, "svg.hashsalt": "engine"}):
        figure = draw(*arguments)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None})
    picture = stream.getvalue()
    return picture[picture.index("<svg") :]
