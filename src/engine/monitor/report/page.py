"""One HTML page of everything that monitors know: it needs no other file and no network, and can be mailed and kept."""

from __future__ import annotations

import html
import time
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from engine._common import durable
from engine.monitor.report.pictures import (
    column_picture,
    deadline_picture,
    over_time,
    reasons_over_time,
    versions_band,
)
from engine.monitor.report.status import (
    WORDS,
    RowClock,
    figure,
    how_bad_of,
    percent,
    span,
    status,
    swaps,
    title_of,
)
from engine.monitor.report.summary import Facts, summary
from engine.monitor.report.tables import (
    counters_table,
    duration,
    estimate_row,
    latency_table,
    outcomes_table,
    table,
    versions_table,
)

COLUMNS_SHOWN_MAX = 400
# How often a page that is served asks for itself again.
LIVE_S = 10
ICONS = {
    "critical": "M5 0h6l5 5v6l-5 5H5l-5-5V5zM7 3v6h2V3zm0 8v2h2v-2z",
    "warning": "M8 0l8 15H0zM7 5v5h2V5zm0 6v2h2v-2z",
    "ok": "M8 0a8 8 0 100 16A8 8 0 008 0zm4.6 5.4l-5.6 6.2-3.3-3.2 1.3-1.4 2 1.9 4.200-4.800z",
}
ESTIMATE = (
    "An estimate from the outputs alone, for answers whose labels have not come. It does not see that the same inputs "
    "bring other labels."
)
DOT = "M8 2a6 6 0 100 12A6 6 0 008 2z"


class Contents(NamedTuple):
    """The contents of one model's page, copied from its monitor, because drawing must not hold the lock.

    Attributes:
        name: of the model; may be empty.
        summary: dict, of `summary`.
        columns: (side, severity, histograms) of each side; histograms as in `Distribution.histograms`.
    """

    name: str
    summary: dict[str, Any]
    columns: list[tuple[str, str, list[tuple[Any, Any, dict[str, Any]]]]]


def collect(facts: Facts, name: str = "") -> Contents:
    """Return the contents of a page. Call it under the monitor's lock."""
    sides = (("outputs", facts.outputs), ("inputs", facts.inputs))
    return Contents(
        name, summary(facts), [(title, side.severity, side.histograms()) for title, side in sides]
    )


def write(models: Sequence[Contents], path: Path) -> Path:
    """Write the page, whole or not at all, and return its path. Raises OSError."""
    durable.write(path, document(models).encode(), sync=False)
    return path


def document(models: Sequence[Contents], *, live_s: int = 0) -> str:
    """Return the page as HTML.

    Args:
        models: one or more; each has a status of its own.
        live_s: how often the page asks its server for itself again; 0 for never.
    """
    return "".join(_parts(models, live_s))


def frame(models: Sequence[Contents]) -> str:
    """Return the page in a frame, for a notebook: its style and the notebook's stay apart."""
    page = html.escape(document(models))
    return (
        f'<iframe title="{html.escape(_title(models))}" srcdoc="{page}" '
        f'style="width:100%;height:720px;border:0" loading=lazy></iframe>'
    )


@cache
def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")


def model_name(contents: Contents) -> str:
    """Return the name of the model: as given, or that of its versions ("fraud" of "fraud@7")."""
    versions = list(contents.summary["sources"]["versions"])
    return (
        contents.name
        or next((name.split("@")[0] for name in reversed(versions) if "@" in name), "")
        or "Model"
    )


def _title(models: Sequence[Contents]) -> str:
    states = [(status(contents.summary).level, model_name(contents)) for contents in models]
    worst = min(states, key=lambda state: list(WORDS).index(state[0]))
    more = f" and {len(models) - 1} more" if len(models) > 1 else ""
    return f"{WORDS[worst[0]]}: {worst[1]}{more}"


def _parts(models: Sequence[Contents], live_s: int) -> Iterable[str]:
    now = time.time()
    live = f" data-live={live_s}" if live_s else ""
    connect = "connect-src 'self';" if live_s else ""
    yield (
        "<!doctype html>"
        f"<html lang=en{live}><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width,initial-scale=1">'
        f"<meta http-equiv=Content-Security-Policy content=\"default-src 'none';{connect}style-src 'unsafe-inline';"
        "script-src 'unsafe-inline';img-src data:\">"
        f"<title>{html.escape(_title(models))}</title><link rel=icon href=data:,>"
        f"<style>{_file('page.css')}</style></head><body>"
        f"<a class=skip href=#now>To what is wrong now</a><header><span id=written>Written {_when(now)} UTC</span>"
    )
    if live_s:
        yield "<span id=live role=status>live</span>"
    yield "</header><main id=now tabindex=-1>"
    order = sorted(range(len(models)), key=lambda k: list(WORDS).index(status(models[k].summary).level))
    if len(models) > 1:
        yield f"<h1 class=many>{len(models)} models</h1><nav aria-label=Models class=models>"
        for place in order:
            level, name = status(models[place].summary).level, html.escape(model_name(models[place]))
            yield f'<a href="#m{place}">{_badge(level, small=True)}{name}</a>'
        yield "</nav>"
    for place in order:
        yield from _Model(models[place], f"m{place}", 1 if len(models) == 1 else 2, now).parts()
    yield "</main><footer>All times are UTC. Press / to find a column. The same figures are in "
    yield "monitor.to_json().</footer>"
    yield f"<script>{_file('page.js')}</script></body></html>"


class _Model:
    """The part of a page about one model. `key` begins its ids; `level` is that of its first heading."""

    def __init__(self, contents: Contents, key: str, level: int, now: float) -> None:
        self._contents = contents
        self._made = contents.summary
        self._key = key
        self._level = level
        self._now = now
        self._status = status(contents.summary)
        self._clock = RowClock(contents.summary)
        self._names = {
            (side, column.name): f"{key}-{side}-{place}"
            for side, _, histograms in contents.columns
            for place, (column, _, _) in enumerate(histograms)
        }

    def parts(self) -> Iterable[str]:
        yield f"<article class=model id={self._key}>"
        yield self._now_card()
        yield self._facts()
        yield from self._over_time()
        yield from self._latency()
        yield from self._columns()
        yield from self._alerts()
        yield from self._outcomes()
        if self._made["shadows"]:
            yield self._section("Shadows against the live answers") + _card(table(self._made["shadows"]))
            yield "</section>"
        if self._made["counters"]:
            yield self._section("Counters") + _card(table(counters_table(self._made["counters"])))
            yield "</section>"
        yield "</article>"

    def _section(self, title: str, text: str = "") -> str:
        h = f"h{self._level + 1}"
        return f"<section><{h}>{title}</{h}>" + (f"<p>{text}</p>" if text else "")

    def _anchor(self, kind: str, column: str) -> str:
        """Return the id of the picture of an alert's column; empty where it has none."""
        sides = ("outputs", "inputs") if kind.startswith("output") else ("inputs", "outputs")
        return next((self._names[side, column] for side in sides if (side, column) in self._names), "")

    # The first screen.

    def _now_card(self) -> str:
        found = self._status
        h = f"h{self._level}"
        since = found.since_s
        text = ""
        if since is not None and not self._made["answers"]:
            text = f"<span class=since>in {self._made['rows']:,} rows, without a time</span>"
        elif since is not None:
            text = f"<span class=since>for {span(max(self._now - since, 0.0))}, since {_when(since, self._now)}</span>"
        elif found.level == "ok":
            text = f"<span class=since>{self._quiet_since()}</span>"
        body = "".join(map(self._trouble, found.troubles))
        inner = f"h{self._level + 1}"
        more = ""
        if found.changes:
            more += f"<div><{inner}>What changed</{inner}><ul>{_items(found.changes)}</ul></div>"
        if found.advice:
            more += f"<div class=do><{inner}>What to do</{inner}><ul>{_items(found.advice)}</ul></div>"
        return (
            f"<div class='card now {_class(found.level)}'><div class=headline>"
            f"<{h}>{html.escape(model_name(self._contents))}</{h}>{_badge(found.level)}{text}</div>"
            + (f"<ul class=troubles>{body}</ul>" if body else "")
            + (f"<div class=then>{more}</div>" if more else "")
            + "</div>"
        )

    def _quiet_since(self) -> str:
        ended = [alert["ended_at"] for alert in self._made["alerts"] if alert["ended_at"]]
        if not ended:
            return "no alert so far"
        last = max(ended)
        return (
            f"for {span(max(self._now - last, 0.0))}, since the last alert ended at {_when(last, self._now)}"
        )

    def _trouble(self, trouble: Any) -> str:
        links = [
            f'<a href="#{anchor}">{html.escape(name)}</a>'
            for kind, name in trouble.columns
            if (anchor := self._anchor(kind, name))
        ]
        title = html.escape(trouble.title)
        if len(links) == 1:
            title = f"{html.escape(trouble.title.rsplit(': ', 1)[0])}: {links[0]}"
        elif links:
            title = f"{html.escape(trouble.title.rsplit(': ', 1)[0])}: {', '.join(links[:12])}"
            title += f" and {len(links) - 12} more" if len(links) > 12 else ""
        when = _when(trouble.since_s, self._now)
        if not trouble.estimated:
            rows = not self._made["answers"] and trouble.row is not None
            when = f"since row {trouble.row:,}" if rows else f"seen {when}"
        return (
            f"<li class={trouble.severity}>{_badge(trouble.severity, small=True)}<strong>{title}</strong>"
            f"<span class=when>{when}</span>"
            f"<span class=bad>{html.escape(trouble.how_bad)}</span></li>"
        )

    def _facts(self) -> str:
        made = self._made
        shares, answers = made["sources"]["shares"], made["answers"]
        facts = [("Answers", f"{answers:,}", "")] if answers or not made["rows"] else []
        facts.append(("Rows tested", f"{made['rows']:,}", ""))
        if shares:
            facts.append(("From the primary", percent(shares["primary"]), ""))
            late = sum(made["sources"]["late"].values()) / max(answers, 1)
            facts.append(("After the deadline", percent(late), f" of {percent(made['budgets']['late_share'])}")
                         if "late_share" in made["budgets"] else ("After the deadline", percent(late), ""))  # fmt: skip
        slowest = max((found["p99"] for found in made["latency_us"].values()), default=None)
        if slowest is not None:
            facts.append(("Slowest source, p99", duration(slowest), ""))
        changed = sum(figures["drifted"] for side in ("inputs", "outputs") for figures in made[side].values())
        if made["inputs"] or made["outputs"]:
            facts.append(
                ("Columns changed", f"{changed}", f" of {len(made['inputs']) + len(made['outputs'])}")
            )
        if made["dropped"]:
            facts.append(("Not counted", f"{made['dropped']:,}", ""))
        body = "".join(
            f"<div><dt>{name}</dt><dd>{value}<small>{unit}</small></dd></div>" for name, value, unit in facts
        )
        return f"<dl class=facts>{body}</dl>"

    # Over time.

    def _over_time(self) -> Iterable[str]:
        sources = self._made["sources"]
        slices = sources["slices"]
        if not slices:
            return
        taken_over = swaps(sources)
        marks = [(at, "swap") for at, _ in taken_over[1:]]
        began = [at for trouble in self._status.troubles for at in [trouble.since_s]]
        marks += [(at, "alarm") for at in began]
        yield self._section(
            "Answers over time",
            f"From {_when(slices[0][0])} to {_when(slices[-1][1])}, by the source that answered.",
        )
        keys = [("primary", "--now", ""), ("fallback", "--fallback", ""), ("default", "--default", "")]
        if any(part[5] for part in slices):
            keys.append(("late", "--late", "dash"))
        if len(taken_over) > 1:
            keys.append(("another version", "--ink", "updash"))
        if began:
            keys.append(("trouble began", "--critical", "up"))
        first = f"{_key(keys)}{over_time(slices, marks)}"
        if taken_over:
            first += versions_band(slices, taken_over)
        yield _card(first)
        drawn, reasons = reasons_over_time(slices, sources.get("slice_reasons", []), marks)
        if drawn:
            colours = ("--fallback", "--r1", "--r2", "--r3", "--r4")
            named = [(reason, colour, "") for reason, colour in zip(reasons, colours, strict=False)]
            what = "<p class=quiet>Why not the primary as planned: share of all answers</p>"
            yield f"<div class=gap></div>{_card(what + _key(named) + drawn)}"
        yield f"<div class=gap></div>{_card(table(versions_table(sources)))}</section>"

    def _latency(self) -> Iterable[str]:
        made = self._made
        if not made["latency_us"]:
            return
        yield self._section("Latency against the deadline")
        yield "<div class=two>" if sum(made["deadline_share"]) else "<div>"
        if sum(made["deadline_share"]):
            keys = [("in time", "--now", ""), ("after the deadline", "--late", "")]
            yield _card(_key(keys) + deadline_picture(made["deadline_share"]))
        yield _card(table(latency_table(made["latency_us"]))) + "</div></section>"

    # Columns.

    def _columns(self) -> Iterable[str]:
        rows = [
            (side, severity, column, counts, figures)
            for side, severity, histograms in self._contents.columns
            for column, counts, figures in histograms
        ]
        if not rows:
            return
        rows.sort(key=lambda row: (not row[4]["drifted"], -row[4]["nearest_alarm"]))
        yield self._section(
            "Columns", "The reference and the latest rows laid over each other, the strongest evidence first."
        )
        key = f"{self._key}-columns"
        yield (
            f"<div class=tools data-of={key} hidden><label>Find <input type=search id={key}-find "
            f'placeholder="name of a column" autocomplete=off></label>'
            f"<label>Sort by <select id={key}-sort><option value=evidence>evidence<option value=name>name"
            f"<option value=missing>missing values<option value=psi>PSI</select></label>"
            f"<label><input type=checkbox id={key}-changed> only changed</label>"
            f"<output class=quiet>{min(len(rows), COLUMNS_SHOWN_MAX)} of {len(rows)} shown</output></div>"
        )
        yield _key([("reference", "--ref", ""), ("now", "--now", "line")])
        yield f"<table class=columns id={key} role=table aria-label=Columns><thead role=rowgroup><tr role=row>"
        yield "".join(
            f"<th scope=col role=columnheader>{name}</th>"
            for name in ("Column", "Evidence", "Picture", "Figures")
        )
        yield "</tr></thead><tbody role=rowgroup>"
        for row in rows[:COLUMNS_SHOWN_MAX]:
            yield self._column(*row)
        yield "</tbody></table>"
        if len(rows) > COLUMNS_SHOWN_MAX:
            yield f"<p class=quiet>{len(rows) - COLUMNS_SHOWN_MAX:,} more are in to_json().</p>"
        yield "</section>"

    def _column(self, side: str, severity: str, column: Any, counts: Any, figures: dict[str, Any]) -> str:
        changed = figures["drifted"]
        near = figures["nearest_alarm"]
        name = html.escape(column.name)
        mark = _badge(severity, small=True, word="changed") if changed else ""
        kind = (
            "<span class='quiet' style='font-weight:400;font-size:13px'>output</span>"
            if side == "outputs"
            else ""
        )
        strength = "alert" if near >= 1.0 else percent(near)
        row_class = f' class="changed {severity}"' if changed else ""
        tip = "Evidence of the nearest test, as a share of what raises an alert"
        return (
            f"<tr role=row id={self._names[side, column.name]} tabindex=-1"
            f'{row_class} data-name="{name}" data-evidence={10.0 * changed + near:.4f}'
            f" data-missing={figures.get('missing_share') or 0.0:.4f} data-psi={figures.get('psi') or 0.0:.4f}>"
            f"<th scope=row role=rowheader>{name} {kind}{mark}</th>"
            f"<td role=cell><div class=evidence title='{tip}'><span>evidence</span>"
            f"<i style='--w:{100 * min(near, 1.0):.0f}%'></i><span class=num>{strength}</span></div></td>"
            f"<td role=cell class=pic>{column_picture(column, counts, figures)}</td>"
            f"<td role=cell><div class=figures>{_figures(figures)}</div></td></tr>"
        )

    # Alerts and outcomes.

    def _alerts(self) -> Iterable[str]:
        alerts = self._made["alerts"]
        yield self._section("Alerts", "" if alerts else "None.")
        if alerts:
            yield "<div class='card'><table class=stack><thead><tr><th scope=col>Alert<th scope=col>How bad"
            yield "<th scope=col class=n>Began<th scope=col class=n>Ended</tr></thead><tbody>"
            for alert in reversed(alerts):
                yield self._alert(alert)
            yield "</tbody></table></div>"
        if self._made["handler_errors"]:
            yield f"<p class=quiet>{self._made['handler_errors']:,} calls of handlers failed; the log has them.</p>"
        yield "</section>"

    def _alert(self, alert: dict[str, Any]) -> str:
        title = html.escape(title_of(alert["kind"]))
        anchor = self._anchor(alert["kind"], alert["column"]) if alert["column"] else ""
        if anchor:
            title += f': <a href="#{anchor}">{html.escape(alert["column"])}</a>'
        elif alert["column"]:
            title += f": {html.escape(alert['column'])}"
        labels = alert["kind"] == "performance_drift"
        began = None if labels else self._clock.at(alert["started_row"])
        ended = (
            "lasts" if alert["lasts"] else _when(alert["ended_at"], self._now) if alert["ended_at"] else ""
        )
        bad = how_bad_of(alert)
        more = alert["message"] if alert["message"] != bad else ""
        row = (
            ""
            if alert["started_row"] is None
            else f" ({'label' if labels else 'row'} {alert['started_row']:,})"
        )
        return (
            f"<tr><th scope=row>{_badge(alert['severity'], small=True)} {title}</th>"
            f'<td class=message title="{html.escape(more)}">{html.escape(bad)}</td>'
            f"<td class=n data-k=Began><span>{_when(began or alert['detected_at'], self._now)}{row}</span></td>"
            f"<td class=n data-k=Ended>{ended}</td></tr>"
        )

    def _outcomes(self) -> Iterable[str]:
        outcomes, estimate = self._made["outcomes"], self._made["performance"]["estimated"]
        if outcomes["groups"]:
            yield from self._joined(outcomes)
        if estimate:
            yield self._section("Performance, estimated before labels come", ESTIMATE)
            yield _card(table([estimate_row(estimate)])) + "</section>"

    def _joined(self, outcomes: dict[str, Any]) -> Iterable[str]:
        labels = ", ".join(f"{count:,} {state}" for state, count in outcomes["counts"].items())
        yield self._section("Outcomes by version and source", f"Labels: {labels}.")
        cost = outcomes["fallback_cost"]
        if cost:
            lost = cost["total"] >= 0
            yield (
                f"<dl class=facts style='margin:0 0 12px'><div><dt>Falling back {'cost' if lost else 'gained'}</dt>"
                f"<dd>{figure(abs(cost['total']))}<small> over {cost['answers']:,} answers</small></dd></div>"
                f"<div><dt>An answer not of the primary</dt><dd>{figure(abs(cost['per_answer']))}"
                f"<small> worth {'less' if lost else 'more'}</small></dd></div></dl>"
            )
        body = table(outcomes_table(outcomes["groups"]))
        yield (
            _card(f"<div class=scroll role=group aria-label=Outcomes tabindex=0>{body}</div>") + "</section>"
        )


def _figures(figures: dict[str, Any]) -> str:
    """Return the figures of a column, now and in the reference."""
    parts = []
    if not figures.get("codes"):
        for name, key in (("mean", "mean"), ("std", "std")):
            now, before = figures.get(key), figures.get(f"{key}_reference")
            if now is not None and before is not None:
                parts.append(f"<span>{name} {figure(before)} → <b>{figure(now)}</b></span>")
    if figures.get("psi") is not None:
        parts.append(f"<span>PSI {figures['psi']:.3f}</span>")
    if (figures.get("rows_dependent") or 1.0) >= 2.0:
        parts.append(f"<span>{figures['rows_dependent']:,.0f} rows tell as much as one</span>")
    return "".join(parts) or "<span>no rows yet</span>"


def _class(level: str) -> str:
    return "quiet-level" if level == "quiet" else level


def _badge(level: str, *, small: bool = False, word: str = "") -> str:
    """Return a level by shape, word and colour, because not everybody sees the colour."""
    size = " small" if small else ""
    return (
        f"<span class='badge{size} {_class(level)}'><svg viewBox='0 0 16 16' aria-hidden=true>"
        f"<path fill-rule=evenodd d='{ICONS.get(level, DOT)}'/></svg><span>{word or WORDS[level]}</span></span>"
    )


def _card(body: str) -> str:
    return f"<div class='card'>{body}</div>"


def _items(texts: Iterable[str]) -> str:
    return "".join(f"<li>{html.escape(text)}</li>" for text in texts)


def _key(entries: Iterable[tuple[str, str, str]]) -> str:
    """Return the key of a picture: (name, colour, class of the mark)."""
    body = "".join(
        f"<li><i class='{mark}' style='--c:var({colour})'></i>{html.escape(name)}</li>"
        for name, colour, mark in entries
    )
    return f"<ul class=key>{body}</ul>"


def _when(at: float, now: float | None = None) -> str:
    """Return a time in UTC; with `now`, without the date where it is today's."""
    moment = time.gmtime(at)
    short = now is not None and time.strftime("%F", moment) == time.strftime("%F", time.gmtime(now))
    text = time.strftime("%H:%M" if short else "%Y-%m-%d %H:%M", moment)
    return f"<time datetime={time.strftime('%Y-%m-%dT%H:%M:%SZ', moment)}>{text}</time>"
