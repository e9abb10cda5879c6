"""Metrics and spans for OpenTelemetry, for services that export that way. Needs the extra `otel`.

Names, units and attributes follow OpenTelemetry's semantic conventions: dots between words, UCUM units ("s", "1",
"{answer}"), monotonic counters without "total", `error.type` on failures.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from engine._common.optional import need
from engine.errors import MonitorError
from engine.monitor.metrics import apart

if TYPE_CHECKING:
    from engine.monitor.monitor import ModelMonitor

SCOPE = "engine.monitor"
# Reasons of answers whose primary failed; other answers are no errors.
ERRORS = ("primary_error", "primary_bad_shape", "primary_not_finite", "fallback_error", "default_error")

Values = Iterable[tuple[float, dict[str, Any]]]


def export_metrics(*monitors: ModelMonitor, provider: Any = None) -> None:
    """Observe monitors whenever a reader of OpenTelemetry collects; nothing else runs.

    Instruments: engine.monitor.answers, .late, .dropped and .alerts (counters), .alert.lasts, .latency (quantiles in
    seconds), .column.evidence, .column.missing, .outcome.auc and .outcome.value (gauges).

    Args:
        monitors: one or more.
        provider: a MeterProvider; None for the global one.

    Raises:
        MonitorError: no monitor.
        MissingDependencyError: opentelemetry-api is not installed.
    """
    if not monitors:
        raise MonitorError("export_metrics needs at least one monitor, got none")
    metrics = need("opentelemetry.metrics", "export_metrics", "otel")
    meter = (provider or metrics.get_meter_provider()).get_meter(SCOPE)

    def observed(values: Callable[[dict[str, Any]], Values]) -> Callable[[Any], Iterator[Any]]:
        def observe(options: Any) -> Iterator[Any]:
            for name, monitor in zip(apart([m.name for m in monitors]), monitors, strict=True):
                model = {"engine.model": name} if name else {}
                for value, attributes in values(monitor.to_json()):
                    yield metrics.Observation(value, {**model, **attributes})

        return observe

    counters: dict[str, tuple[str, str, Callable[[dict[str, Any]], Values]]] = {
        "answers": ("{answer}", "Answers seen", _answers),
        "late": ("{answer}", "Answers after their deadline", _late),
        "dropped": ("{answer}", "Answers that were not counted", lambda made: [(made["dropped"], {})]),
        "alerts": ("{alert}", "Alerts begun", _alerts),
    }
    gauges: dict[str, tuple[str, str, Callable[[dict[str, Any]], Values]]] = {
        "alert.lasts": ("1", "1 while the alert lasts", _lasting),
        "latency": ("s", "Quantiles of the time from a request to its answer", _latency),
        "column.evidence": ("1", "Nearest test as a share of its threshold", _column("nearest_alarm")),
        "column.missing": ("1", "Share of missing values", _column("missing_share")),
        "outcome.auc": ("1", "AUC of recent outcomes", _outcome("auc")),
        "outcome.value": ("1", "Mean value of answers", _outcome("value_mean")),
    }
    for name, (unit, text, values) in counters.items():
        meter.create_observable_counter(f"{SCOPE}.{name}", [observed(values)], unit, text)
    for name, (unit, text, values) in gauges.items():
        meter.create_observable_gauge(f"{SCOPE}.{name}", [observed(values)], unit, text)


def _answers(made: dict[str, Any]) -> Values:
    for version, found in made["sources"]["versions"].items():
        for source, reasons in found["answers"].items():
            for reason, count in reasons.items():
                yield count, {"engine.version": version, "engine.source": source, "engine.reason": reason}


def _late(made: dict[str, Any]) -> Values:
    return [(count, {"engine.source": source}) for source, count in made["sources"]["late"].items()]


def _alerts(made: dict[str, Any]) -> Values:
    return [
        (found["count"], {"engine.alert.kind": found["kind"], "engine.alert.severity": found["severity"]})
        for found in made["alert_counts"]
    ]


def _lasting(made: dict[str, Any]) -> Values:
    return [(1, {"engine.alert.kind": kind, "engine.column": column}) for kind, column in made["lasting"]]


def _latency(made: dict[str, Any]) -> Values:
    for source, found in made["latency_us"].items():
        for key, value in found.items():
            if key != "count":
                yield value / 1e6, {"engine.source": source, "quantile": float(key[1:]) / 100}


def _column(key: str) -> Callable[[dict[str, Any]], Values]:
    def values(made: dict[str, Any]) -> Values:
        for side in ("inputs", "outputs"):
            for column, figures in made[side].items():
                if figures.get(key) is not None:
                    yield figures[key], {"engine.side": side, "engine.column": column}

    return values


def _outcome(key: str) -> Callable[[dict[str, Any]], Values]:
    def values(made: dict[str, Any]) -> Values:
        for group in made["outcomes"]["groups"]:
            if group.get(key) is not None:
                yield group[key], {"engine.version": group["version"], "engine.source": group["source"]}

    return values


@contextlib.contextmanager
def prediction_span(
    model: str = "", *, provider: Any = None, **attributes: Any
) -> Iterator[Callable[[Any], Any]]:
    """Make a span around one prediction: `with prediction_span("fraud") as told: told(engine.predict(row))`.

    The span's name is "predict MODEL". Calling what is yielded with the Answer gives the span its attributes, returns
    the Answer, and sets the span's status to error with `error.type` where the model failed. An exception is recorded.

    Args:
        model: name of the model.
        provider: a TracerProvider; None for the global one.
        attributes: further ones; "_" in a name stands for ".".

    Raises:
        MissingDependencyError: opentelemetry-api is not installed.
    """
    trace = need("opentelemetry.trace", "prediction_span", "otel")
    tracer = (provider or trace.get_tracer_provider()).get_tracer(SCOPE)
    given = {name.replace("_", "."): value for name, value in attributes.items()}
    if model:
        given["engine.model"] = model
    with tracer.start_as_current_span(f"predict {model}".strip(), attributes=given) as span:

        def told(answer: Any) -> Any:
            span.set_attributes(
                {
                    "engine.version": str(answer.version),
                    "engine.source": str(answer.source),
                    "engine.reason": str(answer.reason),
                    "engine.on_time": bool(answer.on_time),
                    # A signed number: ids are 64 bits without a sign, which an attribute cannot hold.
                    "engine.answer.id": str(answer.id),
                }
            )
            if answer.reason in ERRORS:
                span.set_attribute("error.type", str(answer.reason))
                span.set_status(trace.Status(trace.StatusCode.ERROR))
            return answer

        try:
            yield told
        except Exception as error:
            span.set_attribute("error.type", type(error).__qualname__)
            raise
