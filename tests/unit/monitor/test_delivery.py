import threading
import time

import numpy as np
import pytest

from engine.monitor import ModelMonitor, Reference
from engine.monitor._delivery import Delivery
from engine.monitor.alerts import Alerts


@pytest.fixture(scope="module")
def reference():
    rng = np.random.default_rng(0)
    return Reference.fit(rng.normal(size=(3000, 1)), ("a",), outputs=rng.random(3000))


def test_with_a_background_thread_no_call_waits_long_for_a_handler(reference, monkeypatch):
    monkeypatch.setattr(Delivery, "WAIT_S", 0.05)
    release, seen = threading.Event(), []

    def slow(alert):
        assert release.wait(20)
        seen.append((alert.message, threading.current_thread().name))

    monitor = ModelMonitor(reference, handlers=[slow])
    before = time.monotonic()
    monitor.alert("first")
    monitor.input_distribution.update(np.full((500, 1), 9.0))
    assert [alert.column for alert in monitor.check()] == ["a"]
    assert 'engine_monitor_alert_lasts{column="a",kind="input_drift"} 1.0' in monitor.metrics_text()
    monitor.alert("last")
    assert time.monotonic() - before < 10
    assert seen == []
    release.set()
    monitor.close()
    assert [message.split(":")[0] for message, _ in seen] == ["first", "input drift", "last"]
    assert {thread for _, thread in seen} == {"engine-monitor-alerts"}


def test_quick_handlers_have_run_when_a_call_returns(reference):
    seen = []
    with ModelMonitor(reference, handlers=[seen.append]) as monitor:
        alert = monitor.alert("first")
        assert seen == [alert]
        monitor.input_distribution.update(np.full((500, 1), 9.0))
        assert monitor.input_distribution.drift_detected()
        assert [found.kind for found in seen] == ["message", "input_drift"]


def test_closing_does_not_wait_for_ever_for_a_handler_that_hangs(reference):
    release = threading.Event()
    monitor = ModelMonitor(reference, handlers=[lambda alert: release.wait(60)])
    monitor.alert("hangs")
    before = time.monotonic()
    monitor.close()
    assert time.monotonic() - before < 20
    release.set()


def test_without_a_background_thread_a_scrape_calls_no_handler(reference):
    seen = []
    with ModelMonitor(reference, handlers=[seen.append], background=False) as monitor:
        for _ in range(500):
            monitor.log_prediction([9.0], 0.5, 1.0)
        assert monitor.to_json()["lasting"][0] == ["input_drift", "a"]
        monitor.metrics_text()
        assert seen == []
        monitor.check()
        assert "a" in [alert.column for alert in seen]


def test_a_handler_for_ends_is_called_again_when_the_alert_has_ended(reference):
    begins, both = [], []
    with ModelMonitor(reference, handlers=[begins.append], background=False) as monitor:
        monitor.on_alert(lambda alert: both.append((alert.column, alert.lasts)), ends=True)
        monitor.input_distribution.update(np.full((500, 1), 9.0))
        assert both == [("a", True)]
        monitor.input_distribution.update(np.random.default_rng(1).normal(size=(8000, 1)))
        assert both == [("a", True), ("a", False)]
        monitor.alert("a message has no end")
    assert [alert.column for alert in begins] == ["a", ""]
    assert both == [("a", True), ("a", False), ("", False)]


def test_alerts_that_wait_are_bounded_and_the_thread_ends():
    alerts, seen = Alerts([]), []
    release = threading.Event()
    alerts.add_handler(lambda alert: (release.wait(20), seen.append(alert.message)))
    delivery = Delivery(alerts, apart=True)
    delivery.add([alerts.add("held", "info")])
    delivery.bring()
    thread = delivery._thread
    for _ in range(200):
        if not delivery._waiting:
            break
        time.sleep(0.05)
    delivery.add([alerts.add(str(i), "info") for i in range(1500)])
    delivery.bring()
    release.set()
    delivery.wait(20)
    assert not thread.is_alive()
    assert (len(seen), seen[0], seen[1], seen[-1]) == (1001, "held", "500", "1499")


def test_where_no_thread_can_be_started_handlers_run_at_once(monkeypatch):
    seen = []
    alerts = Alerts([seen.append])

    def fail(thread):
        raise RuntimeError("can't start new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", fail)
    delivery = Delivery(alerts, apart=True)
    delivery.add([alerts.add("last words", "info")])
    delivery.bring()
    assert [alert.message for alert in seen] == ["last words"]
