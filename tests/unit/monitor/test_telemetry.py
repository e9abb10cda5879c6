from types import SimpleNamespace

import numpy as np
import pytest

from engine.errors import MonitorError
from engine.monitor import ModelMonitor, Reference
from engine.monitor.telemetry import export_metrics, prediction_span

pytest.importorskip("opentelemetry.sdk", reason="opentelemetry-sdk is not installed")
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode


def test_a_reader_sees_what_the_monitor_knows():
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    made = Reference.fit({"a": np.random.default_rng(0).normal(size=500)})
    with ModelMonitor(made, handlers=[], background=False, name="fraud") as monitor:
        export_metrics(monitor, provider=provider)
        for _ in range(300):
            answer = monitor.log_prediction([9.0], 0.5, 2.0, version="7", deadline_ms=1.0)
        monitor.outcome(answer, value=2.5)
        (found,) = reader.get_metrics_data().resource_metrics[0].scope_metrics
    metrics = {metric.name: metric for metric in found.metrics}
    assert found.scope.name == "engine.monitor"
    answers = metrics["engine.monitor.answers"]
    assert (answers.unit, answers.data.is_monotonic) == ("{answer}", True)
    (point,) = answers.data.data_points
    assert point.value == 300
    assert dict(point.attributes) == {
        "engine.model": "fraud", "engine.version": "7", "engine.source": "primary", "engine.reason": "ok",
    }  # fmt: skip
    latency = metrics["engine.monitor.latency"]
    assert latency.unit == "s"
    half = next(point for point in latency.data.data_points if point.attributes["quantile"] == 0.5)
    assert half.value == pytest.approx(0.002, rel=0.07)
    lasting = {
        point.attributes["engine.alert.kind"]
        for point in metrics["engine.monitor.alert.lasts"].data.data_points
    }
    assert lasting == {"input_drift", "late_share"}
    assert metrics["engine.monitor.outcome.value"].data.data_points[0].value == 2.5
    provider.shutdown()


@pytest.fixture
def spans():
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider, exporter


def answer(reason):
    return SimpleNamespace(version="fraud@7", source="primary", reason=reason, on_time=True, id=2**64 - 1)


def test_a_prediction_is_a_span(spans):
    provider, exporter = spans
    with prediction_span("fraud", provider=provider, user_tier="gold") as told:
        given = answer("ok")
        assert told(given) is given
    (span,) = exporter.get_finished_spans()
    assert span.name == "predict fraud"
    assert span.status.status_code is StatusCode.UNSET
    assert dict(span.attributes) == {
        "engine.model": "fraud", "engine.version": "fraud@7", "engine.source": "primary", "engine.reason": "ok",
        "engine.on_time": True, "engine.answer.id": "18446744073709551615", "user.tier": "gold",
    }  # fmt: skip


def test_a_model_that_fails_is_an_error_and_a_late_one_is_not(spans):
    provider, exporter = spans
    for reason in ("primary_error", "timeout"):
        with prediction_span(provider=provider) as told:
            told(answer(reason))
    with pytest.raises(ValueError), prediction_span(provider=provider):
        raise ValueError("row 3")
    failed, late, raised = exporter.get_finished_spans()
    assert (failed.name, failed.status.status_code) == ("predict", StatusCode.ERROR)
    assert failed.attributes["error.type"] == "primary_error"
    assert late.status.status_code is StatusCode.UNSET
    assert raised.attributes["error.type"] == "ValueError"
    assert raised.events[0].name == "exception"


def test_without_a_monitor_there_is_nothing_to_export():
    with pytest.raises(MonitorError, match="at least one monitor"):
        export_metrics()
