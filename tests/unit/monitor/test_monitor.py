import gc
import json
import threading
import weakref

import numpy as np
import pytest

from engine._common.vocabulary import REASONS
from engine.errors import MonitorError
from engine.monitor import ModelMonitor, Reference

NAMES = ("a", "b", "c")


@pytest.fixture(scope="module")
def reference():
    rng = np.random.default_rng(0)
    return Reference.fit(rng.normal(size=(3000, 3)), NAMES, outputs=rng.random(3000))


@pytest.fixture
def seen():
    return []


@pytest.fixture
def monitor(reference, seen):
    with ModelMonitor(reference, handlers=[seen.append], background=False) as made:
        yield made


def test_every_reason_that_an_answer_can_have_is_counted_under_its_name(monitor):
    for reason in REASONS:
        monitor.log_prediction([0.1, 0.2, 0.3], 0.2, 1.0, source="default", reason=reason)
    counted = monitor.to_json()["sources"]["versions"][""]["answers"]
    assert counted == {"default": dict.fromkeys(REASONS, 1)}


def test_a_logged_prediction_is_counted_and_can_be_labelled(monitor):
    first = monitor.log_prediction({"a": 0.1, "b": None, "c": 0.2}, 0.7, 2.5, version="7", deadline_ms=10)
    second = monitor.log_prediction(
        [0.1, 0.2, 0.3], 0.2, 20, source="fallback", reason="timeout", deadline_ms=10
    )
    assert monitor.outcome(first, 1, value=3.0) == "joined"
    assert monitor.outcome(second, 0) == "joined"
    made = monitor.to_json()
    assert made["rows"] == 2
    assert made["inputs"]["b"]["missing_share"] == 0.5
    assert made["sources"]["versions"]["7"]["answers"] == {"primary": {"ok": 1}}
    assert made["sources"]["versions"][""]["answers"] == {"fallback": {"timeout": 1}}
    assert made["sources"]["late"] == {"primary": 0.0, "fallback": 1.0, "default": 0.0}
    assert made["latency_us"]["primary"]["p50"] == pytest.approx(2500, rel=0.07)
    assert made["outcomes"]["counts"] == {"joined": 2, "unknown": 0, "repeated": 0}
    json.dumps(made, allow_nan=False)


def test_input_drift_warns_and_output_drift_is_critical_once_each(monitor, seen):
    rng = np.random.default_rng(3)
    assert not monitor.input_distribution.drift_detected()
    for _ in range(4):
        rows = rng.normal(size=(500, 3))
        rows[:, 1] += 1.0
        monitor.input_distribution.update(rows)
        monitor.output_distribution.update(rng.random(500) * 0.3)
    assert monitor.input_distribution.drift_detected()
    assert monitor.input_distribution.drifted == ("b",)
    assert monitor.output_distribution.drift_detected()
    found = {(alert.kind, alert.column): alert for alert in seen}
    assert set(found) == {("input_drift", "b"), ("output_drift", "prediction")}
    assert len(seen) == 2
    assert found["input_drift", "b"].severity == "warning"
    assert found["output_drift", "prediction"].severity == "critical"
    assert found["input_drift", "b"].lasts
    assert "b is no longer as in the reference (mean up" in found["input_drift", "b"].message
    for _ in range(20):
        monitor.input_distribution.update(rng.normal(size=(500, 3)))
    assert not monitor.input_distribution.drift_detected()
    assert not found["input_drift", "b"].lasts
    assert 2000 <= found["input_drift", "b"].ended_row < 3500
    assert len(seen) == 2


def test_one_row_at_a_time_may_be_a_mapping_or_a_sequence(monitor):
    monitor.input_distribution.update({"a": 1.0, "b": 2.0, "c": 3.0})
    monitor.input_distribution.update([1.0, 2.0, 3.0])
    monitor.output_distribution.update(0.5)
    monitor.check()
    assert monitor.input_distribution.rows == 2
    assert monitor.output_distribution.rows == 1


def test_budgets_alert(monitor, seen):
    for _ in range(300):
        monitor.log_prediction(
            [0, 0.1, 0.2], 0.5, 1.0, source="fallback", reason="primary_error", deadline_ms=5
        )
        monitor.check()
    kinds = {alert.kind: alert for alert in seen if alert.kind.endswith("share")}
    assert set(kinds) == {"fallback_share", "error_share"}
    assert "fallback share is 100.00% of the last answers, budget 5.00%" in kinds["fallback_share"].message


def test_a_message_of_the_user_s_own_is_an_alert(monitor, seen):
    alert = monitor.alert("refund rate doubled", severity="critical")
    assert seen == [alert]
    assert monitor.alerts == [alert]
    assert not alert.lasts
    with pytest.raises(MonitorError, match="severity must be one of"):
        monitor.alert("x", severity="fatal")
    more = []
    monitor.on_alert(more.append)
    monitor.alert("again")
    assert [found.message for found in more] == ["again"]


def test_labels_of_unknown_ids_and_second_labels_are_counted_and_named(monitor):
    known = monitor.log_prediction([0, 0, 0], 0.5, 1.0)
    assert [monitor.outcome(known, 1), monitor.outcome(known, 0)] == ["joined", "repeated"]
    assert [monitor.outcome(known ^ 1, 1), monitor.outcome(-5, 1), monitor.outcome(1 << 70, 1)] == [
        "unknown"
    ] * 3
    assert monitor.to_json()["outcomes"]["counts"] == {"joined": 1, "unknown": 3, "repeated": 1}
    with pytest.raises(
        MonitorError, match=f"outcome of answer {known}: repeated: its label was given before"
    ):
        monitor.outcome(known, 1, strict=True)
    with pytest.raises(MonitorError, match="unknown: it was never seen here"):
        monitor.outcome(12345, 1, strict=True)
    with pytest.raises(MonitorError, match="label must be finite"):
        monitor.outcome(known, float("nan"))
    with pytest.raises(MonitorError, match="answer_id must be an int"):
        monitor.outcome("7", 1)


def test_everything_is_tested_at_once_however_long_nobody_looked(reference):
    rows = np.random.default_rng(7).normal(size=(5000, 3)).astype(np.float32)
    with ModelMonitor(reference, background=False) as monitor:
        # More than the 64 blocks of 50 rows that wait to be tested.
        assert monitor._sketch.push_rows(rows, np.full(5000, 0.5)) == 5000
        made = monitor.to_json()
        assert (made["answers"], made["rows"]) == (5000, 5000)
        assert monitor._sketch.push_rows(rows, np.full(5000, 0.5)) == 5000
    assert monitor.input_distribution.rows == 10_000


def test_answers_that_are_too_old_are_forgotten(reference):
    with ModelMonitor(reference, answers_max=10, background=False) as monitor:
        ids = [monitor.log_prediction([0, 0, 0], 0.5, 1.0) for _ in range(20)]
        monitor.check()
        assert monitor.outcome(ids[0], 1) == "unknown"
        assert monitor.outcome(ids[-1], 1) == "joined"


def test_without_a_reference_the_first_rows_become_it(seen):
    rng = np.random.default_rng(4)
    with ModelMonitor(handlers=[seen.append], learn_rows=300, background=False) as monitor:
        with pytest.raises(MonitorError, match="no reference to compare with"):
            monitor.input_distribution.drift_detected()
        for _ in range(299):
            monitor.log_prediction({"x": rng.normal(), "kind": "red"}, rng.random(), 1.0)
        assert monitor.reference is None
        monitor.log_prediction({"x": rng.normal(), "kind": "red"}, rng.random(), 1.0)
        assert monitor.reference.names == ("x", "kind")
        assert [column.name for column in monitor.reference.outputs] == ["prediction"]
        assert not monitor.input_distribution.drift_detected()
        for _ in range(100):
            monitor.log_prediction({"x": 6 + rng.normal(), "kind": "blue"}, rng.random(), 1.0)
        assert monitor.input_distribution.drift_detected()
        assert set(monitor.input_distribution.drifted) == {"x", "kind"}


def test_a_row_of_a_rejected_call_is_not_learned():
    with ModelMonitor(learn_rows=100, background=False) as monitor:
        for wrong in ({"source": "oracle"}, {"reason": "mood"}, {"deadline_ms": "soon"}):
            with pytest.raises(MonitorError, match=next(iter(wrong))):
                monitor.log_prediction([9.0], 0.5, 1.0, **wrong)
        for i in range(100):
            monitor.log_prediction([i / 100], 0.5, 1.0)
        assert (monitor.reference.rows, monitor.reference.features[0].high) == (100, pytest.approx(0.99))


def test_an_engine_s_first_rows_become_the_reference_too():
    rng = np.random.default_rng(5)
    with ModelMonitor(learn_rows=200, background=False) as monitor:
        monitor._sketch.push_rows(rng.normal(size=(250, 4)).astype(np.float32), rng.random(250))
        monitor.check()
        assert (len(monitor.reference.features), monitor.reference.rows) == (4, 200)


def test_a_reference_of_another_width_names_both(monitor, reference):
    wide = Reference.fit(np.random.default_rng(0).normal(size=(200, 5)))
    with pytest.raises(
        MonitorError, match="the reference has 5 features, expected 3 as the rows of this monitor"
    ):
        monitor.set_reference(wide)
    assert monitor.reference is reference
    with ModelMonitor(n_features=4, background=False) as other:
        with pytest.raises(MonitorError, match="the reference has 5 features, expected at most 4"):
            other.set_reference(wide)


def test_a_new_reference_ends_what_lasted_against_the_old_one(monitor, seen):
    rng = np.random.default_rng(6)
    shifted = rng.normal(size=(1000, 3)) + 2.0
    monitor.input_distribution.update(shifted)
    assert monitor.input_distribution.drift_detected()
    monitor.set_reference(Reference.fit(shifted, NAMES, outputs=rng.random(1000)).to_json())
    assert monitor.input_distribution.drifted == ()
    assert not any(alert.lasts for alert in seen)
    monitor.input_distribution.update(rng.normal(size=(1000, 3)) + 2.0)
    assert not monitor.input_distribution.drift_detected()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.log_prediction([1, 2], 0.5, 1.0), "expected a row of 3 features"),
        (lambda m: m.log_prediction([1, 2, 3], [0.5, 0.5], 1.0), "expected at most 1 outputs"),
        (lambda m: m.log_prediction([1, 2, 3], "high", 1.0), "expected outputs as numbers"),
        (lambda m: m.log_prediction([1, 2, 3], 0.5, -1.0), "latency_ms must be at least 0"),
        (
            lambda m: m.log_prediction([1, 2, 3], 0.5, 1.0, source="oracle"),
            "source must be one of primary, fallback",
        ),
        (lambda m: m.log_prediction([1, 2, 3], 0.5, 1.0, reason="mood"), "reason must be one of ok"),
        (
            lambda m: m.log_prediction({"a": "tall"}, 0.5, 1.0),
            "feature 'a': expected a number or None, got 'tall'",
        ),
        (lambda m: m.input_distribution.update(np.zeros((2, 7))), "expected rows of 3 features"),
        (lambda m: m.output_distribution.update(np.zeros((2, 7))), "expected 1 outputs a row, got 7"),
        (lambda m: m.counter("Bookings!"), "a counter's name must be a letter"),
        (lambda m: m.counter("bookings").inc(-1), "counter 'bookings' only grows"),
        (lambda m: m.on_alert(5), "an alert handler must be callable"),
    ],
)
def test_an_unusable_argument_is_named_and_counts_nothing(monitor, call, message):
    with pytest.raises(MonitorError, match=message):
        call(monitor)
    assert monitor.to_json()["answers"] == 0


@pytest.mark.parametrize(
    "options",
    [
        {"window_rows": 0},
        {"learn_rows": 1.5},
        {"false_alarms_per_100k": 0},
        {"late_share_max": 2},
        {"ring_rows": True},
        {"n_features": -1},
        {"n_outputs": 1.0},
    ],
)
def test_options_out_of_range_are_named(options):
    with pytest.raises(MonitorError, match=next(iter(options))):
        ModelMonitor(**options)


def test_shadows_and_canaries_are_compared(monitor):
    from engine.monitor._sketch import CANARY, SHADOW

    sketch = monitor._sketch
    sketch.deployed(1, "7")
    sketch.deployed(2, "8")
    rows = np.random.default_rng(1).normal(size=(100, 3)).astype(np.float32)
    for i, row in enumerate(rows):
        sketch.push(i, deployment=1, row=row, values=np.array([0.6]), ready_ns=1000)
        sketch.push(i, deployment=2, row=row, values=np.array([0.6 if i % 4 else 0.1]), flags=SHADOW)
    sketch.push(500, deployment=2, row=rows[0], values=np.array([0.3]), ready_ns=1000, flags=CANARY)
    made = monitor.to_json()
    (shadow,) = made["shadows"]
    assert (shadow["version"], shadow["pairs"], shadow["agreement"], shadow["same_decision"]) == (
        "8",
        100,
        0.75,
        0.75,
    )
    assert shadow["difference_mean"] == pytest.approx(-0.125)
    assert made["sources"]["versions"]["7"]["answers"] == {"primary": {"ok": 100}}
    assert made["sources"]["versions"]["8"]["answers"] == {"primary": {"ok": 1}}
    assert made["sources"]["versions"]["8"]["output_mean"] == pytest.approx(0.3)
    # A shadow's rows count once, and the canary's output does not count among the live version's.
    assert made["rows"] == 101
    assert monitor.output_distribution.rows == 100


def test_the_background_thread_finds_drift_by_itself(reference):
    found = threading.Event()
    with ModelMonitor(reference, handlers=[lambda alert: found.set()]) as monitor:
        rows = np.random.default_rng(2).normal(size=(2000, 3)).astype(np.float32) + 2
        monitor._sketch.push_rows(rows, np.random.default_rng(3).random(2000))
        assert found.wait(20)


def test_an_abandoned_monitor_is_collected_and_its_threads_end(reference):
    monitor = ModelMonitor(reference)
    thread, gone = monitor._thread, weakref.ref(monitor)
    del monitor
    # The thread may hold it for the length of one check.
    for _ in range(100):
        gc.collect()
        thread.join(0.1)
        if not thread.is_alive():
            break
    assert gone() is None
    assert not thread.is_alive()


def test_closing_tests_what_was_still_on_its_way_and_may_be_repeated(reference, seen):
    monitor = ModelMonitor(reference, handlers=[seen.append], background=False)
    for _ in range(200):
        monitor.log_prediction([9.0, 9.0, 9.0], 0.5, 1.0)
    monitor.close()
    monitor.close()
    assert {alert.column for alert in seen if alert.kind == "input_drift"} == set(NAMES)
    assert monitor.to_json()["answers"] == 200


def test_a_handler_may_close_or_ask_the_monitor(reference):
    reports = []

    def handler(alert):
        reports.append(monitor.to_json()["rows"])
        monitor.close()

    monitor = ModelMonitor(reference, handlers=[handler], background=False)
    monitor.input_distribution.update(np.full((500, 3), 8.0))
    assert reports[:1] == [500]
