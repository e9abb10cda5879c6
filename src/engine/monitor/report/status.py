"""The status of a model in words, for a reader who was woken up: the troubles, their causes, and advice.

Everything here reads the plain values of `summary`, so that a page, a message and a test see the same.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# Changes that began within this many rows of each other are one trouble.
TOGETHER_ROWS = 1000
# A swap this long before an alert's beginning may be its cause.
CAUSE_S = 1800.0
SLACK_S = 60.0
NAMELESS = "(none)"
LEVELS = ("critical", "warning", "info", "ok", "learning", "quiet")
WORDS = {
    "critical": "Critical",
    "warning": "Warning",
    "info": "Notice",
    "ok": "All well",
    "learning": "Learning",
    "quiet": "No answers yet",
}
NAMES = {
    "input_drift": "Input changed",
    "output_drift": "Output changed",
    "fallback_share": "Too many fallbacks",
    "late_share": "Too many late answers",
    "error_share": "The model fails",
    "performance_drift": "Predictions got worse",
    "message": "Message",
}
# Advice for each kind of alert. BECAUSE has better advice for budgets, by the most frequent reason.
ADVICE = {
    "input_drift": "Ask the owner of the feed that fills {columns}: was a source, unit or join changed? If the change "
    "is real and lasts, fit a new reference and train again.",
    "output_drift": "Compare the inputs with the reference: if none changed, the model did.",
    "performance_drift": "Compare the inputs with the reference: if none changed, the same inputs bring other labels "
    "now, and the model must be trained again. Roll back if a new version brings it.",
    "error_share": "Read the last error in Engine.stats()['last_error'], and roll back if a new version brings it.",
    "late_share": "Look for a stall of the machine or a fallback that is too slow: answers come after their deadline.",
    "fallback_share": "The primary gives way more often than allowed: see the reasons over time.",
}
BECAUSE = {
    "late": "The primary's results come too late: give it more time, a smaller batch, or more executors.",
    "timeout": "The primary's results come too late: give it more time, a smaller batch, or more executors.",
    "no_time": "Requests come with too little time left for the primary: look at the callers before this one.",
    "stalled": "A call of the primary hangs: look for a lock or a remote call inside the model.",
    "full": "More requests come than the primary can serve: add executors or shed load before the engine.",
    "shed": "More requests come than the primary can serve: add executors or shed load before the engine.",
    "expired": "Requests arrive with their deadline already over: look at the callers before this one.",
    "primary_error": "The primary raises: read Engine.stats()['last_error']; roll back if a new version brings it.",
    "primary_bad_shape": "The primary returns another shape than it should: roll back the version.",
    "primary_not_finite": "The primary returns NaN or infinity: look for missing or absurd inputs, or roll back.",
    "breaker_open": "The primary failed often and rests: read Engine.stats()['last_error'], or roll back.",
}  # fmt: skip
ERRORS = ("primary_error", "primary_bad_shape", "primary_not_finite", "breaker_open")


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that is wrong now.

    Attributes:
        severity: "critical", "warning" or "info".
        title: in a few words.
        how_bad: in figures; may be empty.
        since_s: when it began, seconds since the epoch.
        estimated: whether `since_s` is the estimated beginning; otherwise the alert was raised then.
        columns: (kind, name) of the columns that it is about.
        row: the row at which it began, estimated; None where the alert is about no rows.
    """

    severity: str
    title: str
    how_bad: str
    since_s: float
    estimated: bool
    columns: tuple[tuple[str, str], ...] = ()
    row: int | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """One status of one model.

    Attributes:
        level: one of LEVELS.
        troubles: the worst first.
        changes: what else happened when they began, as sentences.
        advice: what to do, as sentences.
    """

    level: str
    troubles: tuple[Trouble, ...] = ()
    changes: tuple[str, ...] = ()
    advice: tuple[str, ...] = field(default=())

    @property
    def since_s(self) -> float | None:
        """When the oldest trouble of the level began; None where nothing is wrong."""
        return min((found.since_s for found in self.troubles if found.severity == self.level), default=None)


def status(made: Mapping[str, Any]) -> Status:
    """Return the status of a model from its `summary`."""
    alerts = [alert for alert in made["alerts"] if alert["lasts"]]
    if not alerts:
        if not made["answers"] and not made["rows"]:
            return Status("quiet", advice=("Nothing was answered yet.",))
        if made["reference_rows"] is None:
            return Status(
                "learning", advice=("The first rows become the reference; drift is watched after them.",)
            )
        return Status("ok")
    clock = RowClock(made)
    found = [_trouble(group, clock) for group in _together(alerts)]
    found.sort(key=lambda trouble: (LEVELS.index(trouble.severity), trouble.since_s))
    swap = next((swap for trouble in found if (swap := _causing(made, trouble))), None)
    changes = tuple(_changes(made, found, swap))
    return Status(found[0].severity, tuple(found), changes, tuple(_advice(made, alerts, swap)))


class RowClock:
    """Tells when a row came, from the history of answers."""

    def __init__(self, made: Mapping[str, Any]) -> None:
        self._slices = made["sources"]["slices"]
        answers = sum(sum(part[2:5]) for part in self._slices)
        # Rows that became the reference were answered too, before row 0.
        self._before = answers - made["rows"]

    def at(self, row: int | None) -> float | None:
        """Return when a row came, seconds since the epoch; None where rows came without answers."""
        if row is None or self._before < 0:
            return None
        left = float(row + self._before)
        for first, last, *counts in self._slices:
            here = sum(counts[:3])
            if left <= here:
                return float(first + (last - first) * left / max(here, 1.0))
            left -= here
        return None


def _together(alerts: Iterable[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Return alerts in groups: those of columns of one kind whose changes began at about the same row are one."""
    groups: list[list[Mapping[str, Any]]] = []
    for alert in sorted(alerts, key=lambda alert: (alert["kind"], alert["started_row"] or 0)):
        if groups and _belongs(alert, groups[-1][-1]):
            groups[-1].append(alert)
        else:
            groups.append([alert])
    return groups


def _belongs(alert: Mapping[str, Any], last: Mapping[str, Any]) -> bool:
    near = (alert["started_row"] or 0) - (last["started_row"] or 0) <= TOGETHER_ROWS
    return bool(alert["column"]) and last["kind"] == alert["kind"] and near


def _trouble(group: Sequence[Mapping[str, Any]], clock: RowClock) -> Trouble:
    first = group[0]
    severity = min((alert["severity"] for alert in group), key=LEVELS.index)
    name = title_of(first["kind"])
    columns = [alert["column"] for alert in group]
    if len(group) > 1:
        inputs = "outputs" if first["kind"].startswith("output") else "inputs"
        title = f"{len(group)} {inputs} changed together: {_listed(columns)}"
        worst = max(group, key=lambda alert: _size(alert["evidence"]))
        how_bad = f"{worst['column']}: {how_bad_of(worst)}"
    else:
        title = f"{name}: {columns[0]}" if columns[0] else name
        how_bad = how_bad_of(first)
    # Labels come later than their rows.
    rows = [alert["started_row"] for alert in group if alert["kind"] != "performance_drift"]
    known = [at for row in rows if (at := clock.at(row)) is not None]
    since = min(known) if known else min(alert["detected_at"] for alert in group)
    about = tuple((alert["kind"], alert["column"]) for alert in group if alert["column"])
    row = min((alert["started_row"] for alert in group if alert["started_row"] is not None), default=None)
    return Trouble(severity, title, how_bad, since, bool(known), about, row)


def title_of(kind: str) -> str:
    """Return the kind of an alert in words."""
    return NAMES.get(kind, kind.replace("_", " ").capitalize())


def _listed(names: Sequence[str], most: int = 4) -> str:
    """Return some names, and how many there are besides."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def _size(evidence: Mapping[str, Any]) -> float:
    """Return how large a change is, in standard deviations or as a share."""
    shift = _shift(evidence)
    missing = (evidence.get("missing_share") or 0.0) - (evidence.get("missing_share_reference") or 0.0)
    return max(abs(shift or 0.0), 10.0 * abs(missing), 10.0 * (evidence.get("unseen_share") or 0.0))


def _shift(evidence: Mapping[str, Any]) -> float | None:
    keys = ("mean", "mean_reference", "std_reference")
    now, before, spread = (evidence.get(key) for key in keys)
    if evidence.get("codes") or now is None or before is None or not spread:
        return None
    return float((now - before) / spread)


def how_bad_of(alert: Mapping[str, Any]) -> str:
    """Return the size of an alert's change in words and figures; the message where it has no figures."""
    evidence = alert["evidence"]
    parts = []
    if "budget" in evidence and "share" in evidence:
        return f"{percent(evidence['share'])} of the answers, budget {percent(evidence['budget'])}"
    if "figures" in evidence:
        before = evidence["figures_reference"]
        return "; ".join(
            f"{name} {value:.3g}, was {before[name]:.3g}"
            for name, value in evidence["figures"].items()
            if name in before
        )
    if "with" in evidence:
        return (
            f"correlation with {_listed(evidence['with'])} {evidence['correlation']:.2f}, was "
            f"{evidence['correlation_reference']:.2f}"
        )
    missing, before = evidence.get("missing_share"), evidence.get("missing_share_reference") or 0.0
    if missing is not None and abs(missing - before) >= 0.01:
        parts.append(f"missing {percent(missing)}, was {percent(before)}")
    if evidence.get("unseen_share"):
        what = "new categories" if evidence.get("codes") else "infinite values"
        parts.append(f"{what} {percent(evidence['unseen_share'])}")
    shift = _shift(evidence)
    if shift is not None:
        now, was = figure(evidence["mean"]), figure(evidence["mean_reference"])
        if abs(shift) >= 0.1:
            spreads = f"{abs(shift):,.0f}" if abs(shift) >= 10 else f"{abs(shift):.1f}"
            parts.append(f"mean {now}, was {was} ({spreads} sd {'up' if shift > 0 else 'down'})")
        elif evidence.get("std") is not None:
            parts.append(
                f"standard deviation {figure(evidence['std'])}, was {figure(evidence['std_reference'])}"
            )
    if not parts and evidence.get("psi") is not None:
        parts.append(f"the mix of values moved, PSI {evidence['psi']:.2f}")
    return "; ".join(parts) or str(alert["message"])


def percent(share: float) -> str:
    """Return a share in per cent, with as many digits as it takes to tell small ones apart."""
    digits = 4 if 0.99 < share < 1.0 else 3
    return f"{float(f'{100.0 * share:.{digits}g}'):g}%"


def figure(value: float) -> str:
    """Return a number in four digits, with thousands set apart."""
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"


def swaps(sources: Mapping[str, Any]) -> list[tuple[float, str]]:
    """Return (seconds since the epoch, version) of each version that took over most answers, and of the first."""
    found: list[tuple[float, str]] = []
    for part, versions in zip(sources["slices"], sources.get("slice_versions", ()), strict=False):
        if not versions:
            continue
        live = max(versions, key=versions.__getitem__) or NAMELESS
        if not found or found[-1][1] != live:
            found.append((part[0], live))
    return found


@dataclass(frozen=True, slots=True)
class Swap:
    """A swap that may have caused a trouble: when, the version before, the new one, and the trouble."""

    at_s: float
    before: str
    name: str
    trouble: Trouble


def _causing(made: Mapping[str, Any], trouble: Trouble) -> Swap | None:
    """Return the last swap shortly before a trouble began; None without one."""
    taken_over = swaps(made["sources"])
    # A swap is known as exactly as the history's slices are long.
    near = [
        Swap(at, before, name, trouble)
        for (_, before), (at, name) in itertools.pairwise(taken_over)
        if -SLACK_S <= trouble.since_s - at <= CAUSE_S
    ]
    return near[-1] if near else None


def _changes(made: Mapping[str, Any], troubles: Sequence[Trouble], swap: Swap | None) -> Iterable[str]:
    if swap is not None:
        passed = swap.trouble.since_s - swap.at_s
        order = "before" if passed >= 0 else "after"
        how_long = f"{span(abs(passed))} {order}"
        yield f"Version {swap.name} took over from {swap.before}, {how_long} “{swap.trouble.title}” began."
    elif live := swaps(made["sources"]):
        yield f"No version was swapped near the beginning: {live[-1][1]} answered before and after."
    columns = sum(len(trouble.columns) for trouble in troubles)
    n_columns = len(made["inputs"])
    if 1 < columns < n_columns:
        yield f"{columns} of {n_columns + len(made['outputs'])} columns changed; the others are as in the reference."
    gone = [
        name
        for name, figures in made["inputs"].items()
        if figures.get("missing_share") == 1.0 and figures.get("missing_share_reference") != 1.0
    ]
    if gone:
        yield f"No value comes any more in {_listed(gone)}: the feed is dead or its names changed."


def _advice(made: Mapping[str, Any], alerts: Sequence[Mapping[str, Any]], swap: Swap | None) -> list[str]:
    kinds = dict.fromkeys(alert["kind"] for alert in alerts)
    found = []
    if swap is not None:
        found.append(
            f"Roll back from {swap.name} to {swap.before} if nothing else explains it: it came just before."
        )
    for kind in kinds:
        reason, count = _reason(made, ERRORS if kind == "error_share" else BECAUSE)
        if kind in ("fallback_share", "late_share", "error_share") and reason:
            found.append(f"{BECAUSE[reason]} (reason “{reason}”, {count:,} answers lately)")
        elif kind in ADVICE:
            columns = [alert["column"] for alert in alerts if alert["kind"] == kind and alert["column"]]
            found.append(ADVICE[kind].format(columns=_listed(columns)))
    return list(dict.fromkeys(found)) or ["Read the messages under Alerts."]


def _reason(made: Mapping[str, Any], among: Container[str]) -> tuple[str, int]:
    """Return the most frequent of some reasons in the latest quarter of the history, and its answers; "" for none."""
    found: Counter[str] = Counter()
    history = made["sources"].get("slice_reasons", [])
    for part in history[-max(len(history) // 4, 1) :]:
        found.update({reason: count for reason, count in part.items() if reason in among})
    return found.most_common(1)[0] if found else ("", 0)


def span(seconds: float) -> str:
    """Return how long something takes, in the largest unit that tells it well."""
    for unit, size in (("day", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            count = f"{seconds / size:.0f}"
            return f"{count} {unit}s" if unit == "day" else f"{count} {unit}"
    return f"{seconds:.0f} s"
