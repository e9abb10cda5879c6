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
A_MOVED = np.array([2.0, 0.0, 0.0])


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


def shifted_stream():
    rng = np.random.default_rng(8)
    rows = rng.normal(size=(6010, 3)).astype(np.float32)
    rows[3000:, 1] += 1.0
    outputs = rng.random(6010)
    outputs[4000:] *= 0.5
    return rows, outputs


def alerts_of(monitor):
    monitor.close()
    found = [
        (alert.kind, alert.column, alert.message, alert.evidence, alert.ended_row) for alert in monitor.alerts
    ]
    return sorted(found, key=lambda alert: alert[:2])


def fed(reference, feed, **options):
    monitor = ModelMonitor(reference, handlers=[], **({"background": False} | options))
    feed(monitor, *shifted_stream())
    return alerts_of(monitor)


def one_by_one(monitor, rows, outputs):
    for row, output in zip(rows, outputs, strict=True):
        monitor.input_distribution.update(row)
        monitor.output_distribution.update(output)


def in_parts(monitor, rows, outputs):
    for start in range(0, len(rows), 77):
        monitor.input_distribution.update(rows[start : start + 77])
        monitor.output_distribution.update(outputs[start : start + 77])
        monitor.check()


def at_once(monitor, rows, outputs):
    monitor.input_distribution.update(rows)
    monitor.output_distribution.update(outputs)


def as_a_table(monitor, rows, outputs):
    monitor.input_distribution.update(dict(zip(NAMES, rows.T, strict=True)))
    monitor.output_distribution.update(outputs[:, None])


def logged(monitor, rows, outputs):
    for row, output in zip(rows, outputs, strict=True):
        monitor.log_prediction(row, output, 1.0)


def logged_and_looked_at(monitor, rows, outputs):
    for i, (row, output) in enumerate(zip(rows, outputs, strict=True)):
        monitor.log_prediction(dict(zip(NAMES, row, strict=True)), output, 1.0)
        if i % 13 == 0:
            monitor.input_distribution.drift_detected()


def pushed(monitor, rows, outputs):
    monitor._sketch.push_rows(rows, outputs)


def logged_and_fallen_back(monitor, rows, outputs):
    for i, (row, output) in enumerate(zip(rows, outputs, strict=True)):
        monitor.log_prediction(row, output, 1.0)
        if i % 7 == 0:
            # Answers without a row of the primary's put the three counts out of step.
            monitor._sketch.push(i, values=np.array([0.9]), source=1)


WAYS = (one_by_one, in_parts, as_a_table, logged, logged_and_looked_at, pushed)


@pytest.mark.parametrize("feed", WAYS)
def test_the_same_rows_give_the_same_alerts_however_they_come(reference, feed):
    expected = fed(reference, at_once)
    assert [alert[:2] for alert in expected] == [("input_drift", "b"), ("output_drift", "prediction")]
    assert fed(reference, feed) == expected


def test_a_background_thread_changes_no_alert(reference):
    assert fed(reference, logged, background=True) == fed(reference, at_once)


def test_answers_of_the_fallback_between_them_change_no_drift_alert(reference):
    found = fed(reference, logged_and_fallen_back)
    assert [alert for alert in found if alert[0].endswith("drift")] == fed(reference, at_once)


@pytest.mark.parametrize("feed", [one_by_one, in_parts])
def test_without_a_reference_the_same_rows_give_the_same_alerts_too(feed):
    expected = fed(None, logged, learn_rows=2000)
    assert [alert[:2] for alert in expected] == [("input_drift", "f1"), ("output_drift", "prediction")]
    assert fed(None, feed, learn_rows=2000) == expected


def test_without_a_reference_a_table_at_once_is_learned_and_tested():
    rows, _ = shifted_stream()
    found = []
    for table in (rows, dict(zip(("f0", "f1", "f2"), rows.T, strict=True)), list(rows)):
        monitor = ModelMonitor(handlers=[], learn_rows=2000, background=False)
        monitor.input_distribution.update(table)
        found.append(alerts_of(monitor))
    assert [alert[:2] for alert in found[0]] == [("input_drift", "f1")]
    assert found == [found[0]] * 3


@pytest.mark.parametrize(("overspent", "checks"), [(0, 1), (7, 1), (50, 1), (1, 13)])
def test_budgets_do_not_depend_on_when_somebody_looks(reference, overspent, checks):
    with ModelMonitor(reference, handlers=[], background=False) as monitor:
        for i in range(1000):
            monitor.log_prediction([0, 0, 0], 0.5, 1.0, source="fallback" if i >= 500 else "primary")
            if overspent and i % overspent == 0:
                monitor.check()
        monitor.check()
        (alert,) = [alert for alert in monitor.alerts if alert.kind == "fallback_share"]
        assert (alert.started_row, alert.detected_row) == (500, 550)


def test_rows_that_wait_for_their_block_are_counted_and_close_tests_them(reference, seen):
    monitor = ModelMonitor(reference, handlers=[seen.append], background=False)
    monitor.input_distribution.update(np.full((49, 3), 9.0))
    assert monitor.check() == ()
    assert monitor.input_distribution.rows == 49
    assert monitor.input_distribution.columns()["a"]["mean"] == 9.0
    monitor.close()
    found = {(alert.column, alert.detected_row) for alert in monitor.alerts}
    assert found == {("a", 49), ("b", 49), ("c", 49)}


def test_a_value_may_come_after_the_label_or_before_it(monitor):
    first, second, third = (monitor.log_prediction([0, 0, 0], 0.5, 1.0) for _ in range(3))
    assert [monitor.outcome(first, 1), monitor.outcome(first, 1, value=20.0)] == ["joined", "joined"]
    assert [monitor.outcome(second, value=4.0), monitor.outcome(second, 0)] == ["joined", "joined"]
    assert [monitor.outcome(first, value=9.0), monitor.outcome(second, 1, 9.0)] == ["repeated", "repeated"]
    assert monitor.outcome(third, 1, value=6.0) == "joined"
    (group,) = monitor.to_json()["outcomes"]["groups"]
    assert (group["labels"], group["value"], group["value_mean"]) == (3, 30.0, 10.0)
    with pytest.raises(MonitorError, match="outcome needs a label, a value or both"):
        monitor.outcome(third)


def test_a_class_without_a_share_is_not_taken_for_another_class():
    reference = Reference.fit(
        np.random.default_rng(0).normal(size=(200, 1)), outputs=np.full((200, 3), 1 / 3)
    )
    with ModelMonitor(reference, handlers=[], background=False) as monitor:
        broken = monitor.log_prediction([0.0], [np.nan, 0.3, 0.7], 1.0)
        whole = monitor.log_prediction([0.0], [0.1, 0.2, 0.7], 1.0)
        fallback = monitor.log_prediction([0.0], 0.5, 1.0, source="fallback")
        for answer in (broken, whole, fallback):
            assert monitor.outcome(answer, 1) == "joined"
        primary, other = monitor.to_json()["outcomes"]["groups"]
    assert (primary["labels"], primary["not_finite"], primary["rows"]) == (2, 1, 1)
    assert primary["error_mean"] == pytest.approx(0.8)
    assert (other["prediction_mean"], other["not_finite"]) == (0.5, 0)


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


def test_any_width_becomes_the_reference_without_one():
    rows = np.random.default_rng(0).normal(size=(210, 300))
    with ModelMonitor(handlers=[], learn_rows=200, background=False) as monitor:
        ids = [monitor.log_prediction(row, [0.25, 0.75], 1.0) for row in rows]
        assert (len(monitor.reference.features), len(monitor.reference.outputs)) == (300, 2)
        assert monitor.to_json()["rows"] == 10
        assert [monitor.outcome(ids[0], 1), monitor.outcome(ids[-1], 1)] == ["joined", "joined"]
        assert monitor.to_json()["wrong_width"] == 0
    with ModelMonitor(handlers=[], learn_rows=200, background=False) as monitor:
        monitor.input_distribution.update(rows)
        monitor.check()
        assert (len(monitor.reference.features), monitor.input_distribution.rows) == (300, 10)


def test_with_a_width_that_was_given_a_wider_row_is_named_at_once():
    with ModelMonitor(n_features=4, learn_rows=100, background=False) as monitor:
        with pytest.raises(MonitorError, match="expected a row of 4 features, got 5"):
            monitor.log_prediction(np.zeros(5), 0.5, 1.0)
    with ModelMonitor(n_outputs=1, learn_rows=100, background=False) as monitor:
        with pytest.raises(MonitorError, match=r"expected at most 1 outputs, got shape \[2\]"):
            monitor.log_prediction(np.zeros(5), [0.5, 0.5], 1.0)


def test_a_row_unlike_the_first_one_is_named_and_not_learned():
    with ModelMonitor(learn_rows=100, background=False) as monitor:
        monitor.log_prediction([1.0, None], 0.5, 1.0)
        for row, message in (
            ([1.0], r"expected a row of 2 features, as the first one, got shape \[1\]"),
            ({"a": 1.0}, "expected a row of 2 numbers, as the first one, got a mapping"),
            (["red", 1.0], "must be a mapping by name"),
        ):
            with pytest.raises(MonitorError, match=message):
                monitor.log_prediction(row, 0.5, 1.0)
        for i in range(99):
            monitor.log_prediction([i, 2.0], 0.5, 1.0)
        assert monitor.reference.rows == 100


def test_rows_of_an_engine_that_are_too_wide_to_learn_are_told_once(caplog):
    with ModelMonitor(learn_rows=100, background=False) as monitor:
        rows = np.zeros((150, 300), dtype=np.float32)
        assert monitor.observer is not None
        monitor._sketch.push_rows(rows, np.zeros(150))
        monitor.check()
        monitor.check()
        assert caplog.text.count("150 rows have more than 256 features; give ModelMonitor n_features=") == 1
        assert monitor.reference is None


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


def test_a_new_reference_that_has_the_change_ends_its_alert_by_the_tests_and_rows_count_on(monitor, seen):
    rng = np.random.default_rng(6)
    shifted = rng.normal(size=(5020, 3)) + A_MOVED
    monitor.input_distribution.update(shifted)
    assert monitor.input_distribution.drifted == ("a",)
    monitor.set_reference(Reference.fit(shifted, NAMES, outputs=rng.random(5020)).to_json())
    assert monitor.input_distribution.rows == 5020
    assert [alert.lasts for alert in seen] == [True]
    for _ in range(8):
        monitor.input_distribution.update(rng.normal(size=(1000, 3)) + A_MOVED)
    assert not monitor.input_distribution.drift_detected()
    assert monitor.input_distribution.rows == 13_020
    assert [(alert.lasts, alert.ended_row) for alert in seen] == [(False, 5020)]


def test_a_change_that_the_new_reference_does_not_have_either_is_still_the_same_alert(monitor, seen):
    rng = np.random.default_rng(6)
    monitor.input_distribution.update(rng.normal(size=(1000, 3)) + A_MOVED)
    monitor.set_reference(Reference.fit(rng.normal(size=(3000, 3)), NAMES, outputs=rng.random(3000)))
    for _ in range(20):
        monitor.input_distribution.update(rng.normal(size=(1000, 3)) + A_MOVED)
    assert monitor.input_distribution.drift_detected()
    assert [(alert.column, alert.lasts) for alert in monitor.alerts] == [("a", True)]
    assert len(seen) == 1


def test_an_alert_ends_where_the_new_reference_has_no_such_column(monitor, seen):
    rng = np.random.default_rng(6)
    monitor.input_distribution.update(rng.normal(size=(1000, 3)) + A_MOVED)
    monitor.set_reference(Reference.fit(rng.normal(size=(3000, 3)), ("x", "b", "c")))
    assert [(alert.column, alert.ended_row) for alert in seen] == [("a", 1000)]


def test_the_same_reference_again_changes_nothing(monitor, reference):
    rows = np.random.default_rng(6).normal(size=(80, 3)) + 0.5
    monitor.input_distribution.update(rows)
    before = monitor.to_json()["inputs"]
    monitor.set_reference(reference.to_json())
    assert monitor.to_json()["inputs"] == before


def test_a_version_s_reference_does_not_replace_the_user_s(reference):
    other = Reference.fit(np.random.default_rng(1).normal(size=(500, 3)), NAMES)
    third = Reference.fit(np.random.default_rng(2).normal(size=(500, 3)), NAMES)
    with ModelMonitor(reference, background=False) as monitor:
        assert monitor.set_version_reference(other) is False
        assert monitor.reference is reference
    with ModelMonitor(background=False) as monitor:
        assert monitor.set_version_reference(other.to_json()) is True
        assert monitor.set_version_reference(third) is True
        assert monitor.reference is third
        monitor.set_reference(reference)
        assert monitor.set_version_reference(other) is False
        assert monitor.reference is reference


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
    assert {alert.column for alert in monitor.alerts if alert.kind == "input_drift"} == set(NAMES)
    assert monitor.to_json()["answers"] == 200


def test_a_handler_may_close_or_ask_the_monitor(reference):
    reports = []

    def handler(alert):
        reports.append(monitor.to_json()["rows"])
        monitor.close()

    monitor = ModelMonitor(reference, handlers=[handler], background=False)
    monitor.input_distribution.update(np.full((500, 3), 8.0))
    assert reports[:1] == [500]
