"""Alerts for drift and overspent budgets: one for each change, from its beginning to its end."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

from engine.monitor.alerts import Alert, Alerts
from engine.monitor.drift.budgets import Overspending
from engine.monitor.drift.detector import Episode


class OpenAlerts:
    """The alerts that have not ended, by kind and column. Not thread-safe."""

    def __init__(self, alerts: Alerts) -> None:
        """`alerts`: the log that each alert goes to."""
        self._alerts = alerts
        self._open: dict[tuple[str, str], Alert] = {}
        self._ended: list[Alert] = []

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

    def keep(self, keys: Collection[tuple[str, str]]) -> None:
        """End the alerts of other kinds and columns, which nothing watches any more."""
        for key in [key for key in self._open if key not in keys]:
            self._end(key, self._open[key].detected_row or 0)

    def drift(self, kind: str, severity: str, episode: Episode) -> list[Alert]:
        """Return the alert of an episode that began. For an episode that ended, end its alert and return nothing."""
        if episode.ended_row is not None:
            self._end((kind, episode.column), episode.ended_row)
            return []
        message = drift_message(kind, episode)
        return [self._begin((kind, episode.column), message, severity, episode, episode.evidence)]

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

    def _begin(
        self,
        key: tuple[str, str],
        message: str,
        severity: str,
        span: Episode | Overspending,
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
            self._ended.append(alert)


def drift_message(kind: str, episode: Episode) -> str:
    """Return an episode in words: the column, the tests, figures before and after, the rows."""
    evidence = episode.evidence
    tests = ", ".join(evidence["seen_by"])
    parts = [f"{kind.replace('_', ' ')}: {episode.column} is no longer as in the reference ({tests})"]
    if evidence["mean"] is not None and evidence["mean_reference"] is not None and not evidence["codes"]:
        parts.append(
            f"mean {evidence['mean']:.4g}, was {evidence['mean_reference']:.4g}; "
            f"std {evidence['std']:.4g}, was {evidence['std_reference']:.4g}"
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
