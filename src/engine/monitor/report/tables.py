"""The tables of a page: rows of plain values, as HTML that becomes a list on a phone."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from engine._common.vocabulary import SOURCES
from engine.monitor.report.status import figure, percent

# Keys of figures whose names say too little.
TITLES = {
    "auc": "AUC",
    "brier": "Brier score",
    "value_mean": "mean value",
    "prediction_mean": "mean prediction",
    "label_mean": "mean label",
    "error_mean": "mean error",
    "rows": "rolling rows",
    "below": "at or below",
}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows with a column for each key that has a value; the first key names the row."""
    keys = [key for key in dict.fromkeys(key for row in rows for key in row)
            if any(row.get(key) not in (None, "") for row in rows)]  # fmt: skip
    if not keys:
        return ""
    numbers = {key for key in keys if any(isinstance(row.get(key), (int, float, list)) for row in rows)}
    numbers |= {key for key in keys if all(str(row.get(key, ""))[:1].isdigit() for row in rows)} - {keys[0]}
    head = "".join(f"<th scope=col{_n(key in numbers)}>{_title(key)}</th>" for key in keys)
    body = "".join(
        "<tr>" + "".join(
            f"<th scope=row>{_cell(row.get(key))}</th>" if place == 0
            else f'<td{_n(key in numbers)} data-k="{_title(key)}">{_cell(row.get(key))}</td>'
            for place, key in enumerate(keys)
        ) + "</tr>"
        for row in rows
    )  # fmt: skip
    return f"<table class=stack><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def versions_table(sources: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row a version: its answers, the share of each source, and the reasons that were not "ok"."""
    rows = []
    for version, found in sources["versions"].items():
        answers = {source: sum(reasons.values()) for source, reasons in found["answers"].items()}
        total = max(sum(answers.values()), 1)
        reasons: dict[str, int] = {}
        for by_reason in found["answers"].values():
            for reason, count in by_reason.items():
                if reason != "ok":
                    reasons[reason] = reasons.get(reason, 0) + count
        worst = sorted(reasons.items(), key=lambda entry: -entry[1])[:3]
        rows.append(
            {
                "version": version or "(none)",
                "answers": sum(answers.values()),
                **{source: percent(answers.get(source, 0) / total) for source in SOURCES},
                "reasons": ", ".join(f"{reason} {percent(count / total)}" for reason, count in worst),
                "mean output": found["output_mean"],
            }
        )
    return rows[::-1]


def latency_table(found: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """Return a row a source: answers and quantiles of their latency."""
    return [
        {
            "source": source,
            "answers": int(figures["count"]),
            **{key: duration(value) for key, value in figures.items() if key != "count"},
        }
        for source, figures in found.items()
    ]


def outcomes_table(groups: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the figures of each version and source, without sums and without counts that are 0."""
    left_out = {"value"} | {key for key in ("not_finite",) if not any(group[key] for group in groups)}
    if all(group["rows"] == group["labels"] for group in groups):
        left_out.add("rows")
    return [{key: value for key, value in group.items() if key not in left_out} for group in groups]


def estimate_row(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return an estimate of the performance as a row that says so."""
    shown = {key: found[key] for key in ("auc", "accuracy", "brier", "label_mean") if key in found}
    believed = "as earlier labels showed" if found["calibrated"] else "as the model says"
    return {"figures": "estimated", "shares taken": believed, "answers": found["rows"], **shown}


def counters_table(found: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each counter and version."""
    return [
        {"counter": name, "version": version, "total": value}
        for name, counter in found.items()
        for version, value in counter["values"].items()
    ]


def duration(microseconds: float) -> str:
    """Return a time in the unit that tells it in few digits."""
    for unit, size in (("s", 1e6), ("ms", 1e3)):
        if microseconds >= size:
            return f"{microseconds / size:.3g} {unit}"
    return f"{microseconds:.3g} µs"


def _title(key: str) -> str:
    return html.escape(TITLES.get(key, key.replace("_", " ")))


def _n(number: bool) -> str:
    return " class=n" if number else ""


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "–"
    if isinstance(value, str):
        return html.escape(value)
    if isinstance(value, Iterable):
        return ", ".join(map(_cell, value))
    return f"{int(value):,}" if float(value).is_integer() and abs(value) < 1e15 else _short(value)


def _short(value: float) -> str:
    return figure(value) if abs(value) >= 1.0 else f"{value:.3g}"
