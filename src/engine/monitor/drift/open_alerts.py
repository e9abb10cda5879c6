"""Alerts for drift and overspent budgets: one for each change, from its beginning to its end."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from typing import Any

from engine.monitor.alerts import Alert, Alerts
from engine.monitor.drift.budgets import Overspending
from engine.monitor.drift.detector import Episode
from engine.monitor.performance import KIND as PERFORMANCE
from engine.monitor.performance import Worsening, message

# A change that comes back so soon after its end, in windows, is the same one: its alert opens again.
REOPEN_WINDOWS = 20
# Changes of one kind of columns of one feed begin within so many rows of each other; those of columns that move
# together, whose beginning is seen less exactly, within so many windows.
TOGETHER_ROWS = 200
TOGETHER_WINDOWS = 2


class OpenAlerts:
    """The alerts that have not ended, by kind and column. Not thread-safe."""

    def __init__(self, alerts: Alerts, rows_window: int = 1000) -> None:
        """Args:
        alerts: the log that each alert goes to.
        rows_window: rows of a window.
        """
        self._alerts = alerts
        self._rows_window = rows_window
        self._open: dict[tuple[str, str], Alert] = {}
        self._ended: list[Alert] = []
        self._past: dict[tuple[str, str], Alert] = {}
        self._group_of: dict[str, int] = {}

    def relate(self, groups: Iterable[Iterable[str]]) -> None:
        """Take groups of columns that move together."""
        self._group_of = {column: place for place, group in enumerate(groups) for column in group}

    def all(self) -> tuple[Alert, ...]:
        """Return the open alerts, oldest first."""
        return tuple(self._open.values())

    def take_ended(self) -> list[Alert]:
        """Return the alerts that ended since the last call."""
        ended, self._ended = self._ended, []
        return ended

    def restore(self) -> None:
        """Take over the alerts of the log that have not ended."""
        self._open = {(alert.kind, alert.column): alert for alert in self._alerts.all() if alert.lasts}
        drift = [alert for alert in self._alerts.all() if alert.ended_row is not None and alert.column]
        self._past = {(alert.kind, alert.column): alert for alert in drift}

    def keep(self, keys: Collection[tuple[str, str]]) -> None:
        """End the alerts of other kinds and columns, which nothing watches any more."""
        for key in [key for key in self._open if key not in keys]:
            self._end(key, self._open[key].detected_row or 0)

    def drift(self, kind: str, severity: str, episode: Episode) -> list[Alert]:
        """Return the alert of an episode that began. For an episode that ended, end its alert and return nothing."""
        if episode.ended_row is not None:
            self._end((kind, episode.column), episode.ended_row)
            return []
        key = kind, episode.column
        before = self._past.pop(key, None)
        ended = None if before is None else before.ended_row
        soon = REOPEN_WINDOWS * self._rows_window
        if before is not None and ended is not None and episode.started_row - ended <= soon:
            before.ended_row = before.ended_at = None
            before.reopened += 1
            self._open[key] = before
            return []
        alert = self._begin(key, drift_message(kind, episode), severity, episode, episode.evidence)
        first = self._cause_of(alert)
        if first is not None:
            alert.incident = first.incident
        return [alert]

    def _cause_of(self, alert: Alert) -> Alert | None:
        """Return the first open alert of the same cause: the same problem or a related column, begun together."""
        group = self._group_of.get(alert.column)
        for other in self._open.values():
            if other is alert or other.kind != alert.kind or None in (other.started_row, alert.started_row):
                continue
            apart = abs((other.started_row or 0) - (alert.started_row or 0))
            problem = alert.evidence.get("problem", "drift")
            same = problem != "drift" and problem == other.evidence.get("problem") and apart <= TOGETHER_ROWS
            related = group is not None and group == self._group_of.get(other.column)
            if same or (related and apart <= TOGETHER_WINDOWS * self._rows_window):
                return other
        return None

    def budget(self, spent: Overspending) -> list[Alert]:
        """Return the alert of an overspending that began. For one that ended, end its alert and return nothing."""
        if spent.ended_row is not None:
            self._end((spent.kind, ""), spent.ended_row)
            return []
        name = spent.kind.replace("_", " ")
        message = (
            f"{name} is {spent.share:.2%} of the last answers, budget {spent.budget:.2%}; "
            f"since about answer {spent.started_row:,}, certain at answer {spent.detected_row:,}"
        )
        severity = "warning" if spent.kind == "fallback_share" else "critical"
        evidence = {"share": spent.share, "budget": spent.budget}
        return [self._begin((spent.kind, ""), message, severity, spent, evidence)]

    def performance(self, found: Worsening) -> list[Alert]:
        """Return the alert of a worsening that began. For one that ended, end its alert and return nothing."""
        if found.ended_row is not None:
            self._end((PERFORMANCE, ""), found.ended_row)
            return []
        return [self._begin((PERFORMANCE, ""), message(found), "critical", found, found.evidence)]

    def _begin(
        self,
        key: tuple[str, str],
        message: str,
        severity: str,
        span: Episode | Overspending | Worsening,
        evidence: dict[str, Any],
    ) -> Alert:
        alert = self._alerts.add(
            message,
            severity,
            kind=key[0],
            column=key[1],
            started_row=span.started_row,
            detected_row=span.detected_row,
            evidence=evidence,
        )
        self._open[key] = alert
        return alert

    def _end(self, key: tuple[str, str], row: int) -> None:
        alert = self._open.pop(key, None)
        if alert is not None:
            alert.ended_row, alert.ended_at = row, time.time()
            self._past[key] = alert
            self._ended.append(alert)


def drift_message(kind: str, episode: Episode) -> str:
    """Return an episode in words: the column, the tests, figures before and after, the rows."""
    evidence = episode.evidence
    tests = ", ".join(evidence["seen_by"])
    problem = evidence.get("problem", "drift")
    what = "is no longer as in the reference" if problem == "drift" else f"has a problem: {problem}"
    parts = [f"{kind.replace('_', ' ')}: {episode.column} {what} ({tests})"]
    if evidence["mean"] is not None and evidence["mean_reference"] is not None and not evidence["codes"]:
        parts.append(
            f"mean {evidence['mean']:.4g}, was {evidence['mean_reference']:.4g}; "
            f"std {evidence['std']:.4g}, was {evidence['std_reference']:.4g}"
        )
    if "with" in evidence:
        parts.append(
            f"correlation with {', '.join(evidence['with'])} {evidence['correlation']:.2f}, was "
            f"{evidence['correlation_reference']:.2f}"
        )
    if evidence["missing_share"] or evidence["missing_share_reference"]:
        parts.append(
            f"missing {evidence['missing_share']:.2%}, was {evidence['missing_share_reference']:.2%}"
        )
    if evidence["unseen_share"]:
        parts.append(
            f"{'new categories' if evidence['codes'] else 'infinite'} {evidence['unseen_share']:.2%}"
        )
    parts.append(f"since about row {episode.started_row:,}, certain at row {episode.detected_row:,}")
    return "; ".join(parts)
