"""An engine over a model on a GPU: batches in flight, a kernel that hangs, a device that is lost."""

import logging
import threading
import time

import numpy as np
import pytest

import engine
from engine.model import _scorer, dense
from engine.model.gpu import place

ROW = [0.5, 1.0, -2.0]
PATIENCE_S = 20  # ample on any machine; no test takes it where all is well
STICKY = 700  # an illegal address, which CUDA does not get over


def net(output=1.0):
    """Answers 2 * relu(x0 + x1 / 2 + 0.5) + output: 3 + output for ROW."""
    weights = [np.array([[1], [0.5], [0]], np.float32), np.array([[2]], np.float32)]
    return dense(weights, [np.array([0.5], np.float32), np.array([output], np.float32)])


def opened(deadline_ms, lanes=2, **options):
    placed = place(net(), "gpu:0", rows_max=1, lanes=lanes)
    eng = engine.Engine(placed, net(1001.0), -1.0, deadline_ms=deadline_ms, executors=1, **options)
    assert eng.wait_ready(PATIENCE_S)
    return eng


def until(condition):
    end = time.monotonic() + PATIENCE_S
    while not condition() and time.monotonic() < end:
        time.sleep(0.001)
    return condition()


def ask(eng, n, answers):
    callers = [threading.Thread(target=lambda: answers.append(eng.predict(ROW))) for _ in range(n)]
    for caller in callers:
        caller.start()
    return callers


def recovers(eng):
    return until(lambda: eng.predict(ROW, deadline_ms=5_000).source == "primary")


def test_the_scorer_hands_out_the_lanes(fake):
    facts = _scorer.describe(place(net(), "gpu:0", rows_max=4, lanes=3).scorer)
    assert (facts["in_flight_max"], facts["rows_max"]) == (3, 4)
    with pytest.raises(engine.errors.ConfigError, match="lanes: expected 1 to 64 batches in flight, got 65"):
        place(net(), "gpu:0", lanes=65)


def test_one_executor_keeps_every_lane_busy(fake):
    with opened(600_000.0) as eng:
        assert eng.stats()["executors"]["seats"] == 2
        launched, answers = fake.get("graph_launches"), []
        fake.set("hang", 1)
        callers = ask(eng, 2, answers)
        assert until(lambda: fake.get("graph_launches") == launched + 2)
        fake.set("hang", 0)
        for caller in callers:
            caller.join(PATIENCE_S)
        assert [(answer.value, answer.source) for answer in answers] == [(4.0, "primary")] * 2
        assert eng.stats()["executors"]["replaced"] == eng.stats()["executors"]["abandoned"] == 0


def test_answers_are_right_from_many_threads(fake):
    with opened(60_000.0, lanes=3) as eng:
        answers = []
        callers = [caller for _ in range(8) for caller in ask(eng, 5, answers)]
        for caller in callers:
            caller.join(PATIENCE_S)
        assert len(answers) == 40
        assert {(answer.value, answer.source) for answer in answers} == {(4.0, "primary")}


def test_a_hung_kernel_becomes_a_fallback_and_the_lane_comes_back(fake):
    with opened(100.0, breaker={"rest_ms": 5, "rest_ms_max": 20}) as eng:
        fake.set("hang", 1)
        answer = eng.predict(ROW)
        assert (answer.source, answer.reason) in [("fallback", "timeout"), ("default", "timeout")]
        assert until(lambda: eng.predict(ROW) is not None and eng.stats()["executors"]["abandoned"] > 0)
        assert {reason for counts in eng.stats()["reasons"].values() for reason in counts} <= {
            *("ok", "timeout", "stalled", "breaker_open", "late", "no_time", "released")
        }
        fake.set("hang", 0)
        assert recovers(eng)
        assert until(lambda: not eng.stats()["breakers"][eng.version]["open"] or recovers(eng))
        assert eng.stats()["executors"]["replaced"] == 0
        assert eng.stats()["device_lost"] is False


def test_a_lost_device_is_told_once_and_the_cpu_answers(fake, caplog):
    with caplog.at_level(logging.ERROR, "engine.gpu"), opened(60_000.0) as eng:
        assert eng.predict(ROW).value == 4.0
        fake.set("sticky_code", STICKY)
        fake.set("sticky_after", 1)
        answers = [eng.predict(ROW) for _ in range(20)]
        assert {(answer.value, answer.source) for answer in answers} == {(4.0, "primary")}
        assert eng.stats()["device_lost"] is True
        assert eng.primary.describe()["device_rescued"] > 0
        assert until(lambda: any("is lost" in record.getMessage() for record in caplog.records))
        eng.predict(ROW)
        said = [record.getMessage() for record in caplog.records if "is lost" in record.getMessage()]
        assert len(said) == 1
        assert said[0].startswith("GPU 0 (fake) is lost to this process: CUDA_ERROR_ILLEGAL_ADDRESS")


def test_close_returns_while_a_kernel_hangs(fake):
    eng = opened(3_600_000.0)
    launched, answers = fake.get("graph_launches"), []
    fake.set("hang", 1)
    callers = ask(eng, 3, answers)
    assert until(lambda: fake.get("graph_launches") == launched + 2)
    eng.close(timeout_s=0.05)
    for caller in callers:
        caller.join(PATIENCE_S)
    assert [answer.source for answer in answers] == ["fallback"] * 3
    assert {answer.reason for answer in answers} <= {"closing", "stalled"}
    fake.set("hang", 0)


def test_a_primary_on_the_cpu_has_no_device():
    with engine.Engine(net(), default=0.0, deadline_ms=1_000.0) as eng:
        assert eng.stats()["device_lost"] is None
        assert eng.stats()["executors"]["seats"] == 0
