"""Summaries of monitors as Prometheus text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from engine._common.optional import need


def text(summaries: Sequence[tuple[str, dict[str, Any]]], open_metrics: bool = False) -> str:
    """Return names and `ModelMonitor.to_json()` of monitors in Prometheus' exposition format, or as OpenMetrics.

    Each metric comes once, with the samples of all monitors. They have the label "model", except those of a single
    monitor without a name. Raises MissingDependencyError.
    """
    prometheus = need("prometheus_client", "metrics_text", "monitor")
    registry = prometheus.CollectorRegistry(auto_describe=False)
    registry.register(_Collector(summaries))
    if open_metrics:
        from prometheus_client.openmetrics.exposition import generate_latest

        return str(generate_latest(registry).decode())
    return str(prometheus.generate_latest(registry).decode())


class _Collector:
    def __init__(self, summaries: Sequence[tuple[str, dict[str, Any]]]) -> None:
        self._summaries = summaries

    def collect(self) -> Iterator[Any]:
        core = need("prometheus_client.core", "metrics_text", "monitor")
        families: dict[str, Any] = {}
        names = apart([name for name, _ in self._summaries])
        for name, (_, made) in zip(names, self._summaries, strict=True):
            for family in _families(core, made):
                known = families.setdefault(family.name, family)
                # A list of its own, because the first family is extended by its own samples too.
                samples, family.samples = family.samples, []
                for sample in samples:
                    labels = {"model": name, **sample.labels} if name else sample.labels
                    known.samples.append(sample._replace(labels=labels))
        yield from families.values()


def apart(names: Sequence[str], always: bool = False) -> list[str]:
    """Return names that differ. "-2", "-3", … goes behind a name that comes again; "model" stands for none.

    A single name stays as it is, unless `always`.
    """
    if len(names) < 2 and not always:
        return list(names)
    taken: list[str] = []
    for name in names:
        made, number = name or "model", 1
        while made in taken:
            number += 1
            made = f"{name or 'model'}-{number}"
        taken.append(made)
    return taken


def _families(core: Any, made: dict[str, Any]) -> Iterator[Any]:
    yield from _answers(core, made)
    yield from _columns(core, made)
    yield from _outcomes(core, made)
    for name, counter in made["counters"].items():
        family = core.CounterMetricFamily(
            f"engine_business_{name}", counter["description"], labels=["version"]
        )
        for version, value in counter["values"].items():
            family.add_metric([version], value)
        yield family


def _answers(core: Any, made: dict[str, Any]) -> Iterator[Any]:
    answers = core.CounterMetricFamily(
        "engine_monitor_answers", "Answers seen", labels=["version", "source", "reason"]
    )
    for version, found in made["sources"]["versions"].items():
        for source, reasons in found["answers"].items():
            for reason, count in reasons.items():
                answers.add_metric([version, source, reason], count)
    yield answers
    late = core.CounterMetricFamily("engine_monitor_late", "Answers after their deadline", labels=["source"])
    for source, count in made["sources"]["late"].items():
        late.add_metric([source], count)
    yield late
    for name, what in (
        ("dropped", "Answers that were not counted because the ring was full"),
        ("wrong_width", "Answers whose row or outputs were of another width"),
        ("handler_errors", "Alert handlers that raised"),
        ("unpaired_shadows", "Shadow answers whose live answer did not come in time"),
    ):
        yield core.CounterMetricFamily(f"engine_monitor_{name}", what, value=made[name])
    latency = core.HistogramMetricFamily(
        "engine_monitor_latency_seconds", "Time from a request to its answer", labels=["source"]
    )
    for source, found in made["latency_seconds"].items():
        buckets = [(f"{end:.9g}", count) for end, count in found["buckets"]]
        latency.add_metric([source], [*buckets, ("+Inf", found["count"])], found["sum"])
    yield latency
    yield _deadline(core, made["deadline_share"])
    alerts = core.CounterMetricFamily("engine_monitor_alerts", "Alerts begun", labels=["kind", "severity"])
    for found in made["alert_counts"]:
        alerts.add_metric([found["kind"], found["severity"]], found["count"])
    yield alerts
    lasting = core.GaugeMetricFamily(
        "engine_monitor_alert_lasts", "1 while the alert lasts", labels=["kind", "column"]
    )
    for kind, column in made["lasting"]:
        lasting.add_metric([kind, column], 1)
    yield lasting


def _deadline(core: Any, shares: Sequence[int]) -> Any:
    """Return the histogram of latency as a part of the deadline; `shares` in bins of 0.05, the last with all above."""
    family = core.HistogramMetricFamily(
        "engine_monitor_deadline_used_ratio", "Part of the deadline that the answer took; above 1 it was late"
    )
    below, buckets, total = 0, [], 0.0
    for place, count in enumerate(shares):
        below += count
        total += count * 0.05 * (place + 0.5)
        if (place + 1) % 4 == 0 and place + 1 < len(shares):
            buckets.append((f"{0.05 * (place + 1):g}", below))
    if below:
        family.add_metric([], [*buckets, ("+Inf", below)], total)
    return family


def _columns(core: Any, made: dict[str, Any]) -> Iterator[Any]:
    for name, key, what in (
        ("drifted", "drifted", "1 while a change of the column lasts"),
        ("nearest_alarm", "nearest_alarm", "Nearest sequential test as a share of its threshold"),
        ("psi", "psi", "Population stability index of the last window"),
        ("missing_share", "missing_share", "Share of missing values in recent rows"),
        ("unseen_share", "unseen_share", "Share of new categories or infinite values in recent rows"),
    ):
        family = core.GaugeMetricFamily(f"engine_monitor_column_{name}", what, labels=["side", "column"])
        for side in ("inputs", "outputs"):
            for column, figures in made[side].items():
                if figures.get(key) is not None:
                    family.add_metric([side, column], float(figures[key]))
        yield family


def _outcomes(core: Any, made: dict[str, Any]) -> Iterator[Any]:
    outcomes = made["outcomes"]
    labels = core.CounterMetricFamily("engine_monitor_labels", "Labels given", labels=["status"])
    for status, count in outcomes["counts"].items():
        labels.add_metric([status], count)
    yield labels
    for key in ("auc", "accuracy", "brier", "calibration_error", "coverage", "error_mean", "value_mean"):
        family = core.GaugeMetricFamily(
            f"engine_monitor_outcome_{key}", f"{key} of recent outcomes", labels=["version", "source"]
        )
        for group in outcomes["groups"]:
            if group.get(key) is not None:
                family.add_metric([group["version"], group["source"]], group[key])
        yield family
    estimate = made["performance"]["estimated"] or {}
    for key in ("auc", "accuracy", "brier"):
        family = core.GaugeMetricFamily(
            f"engine_monitor_estimated_{key}", f"{key} of the latest answers, estimated before labels come"
        )
        if estimate.get(key) is not None:
            family.add_metric([], estimate[key])
        yield family
    for key in ("agreement", "same_decision", "difference_mean"):
        family = core.GaugeMetricFamily(
            f"engine_monitor_shadow_{key}", f"Shadow against live: {key}", labels=["version"]
        )
        for shadow in made["shadows"]:
            family.add_metric([shadow["version"]], shadow[key])
        yield family
