"""Faults around a model: shape, switch, counters. C++ tests cover their timing, on an injected clock."""

import threading
import time

import numpy as np
import pytest

from engine.errors import ConfigError, ModelError
from engine.model import _scorer
from engine.model.python import from_callable
from engine.testing import faults

ROWS = np.array([[1, 2], [3, 4]], dtype=np.float32)


@pytest.fixture
def model():
    return from_callable(lambda rows: rows[:, 0], 2)


MAKERS = {
    "stalling": lambda model, **more: faults.stalling(model, stall_ms=1, every_ms=3.6e6, **more),
    "failing": lambda model, **more: faults.failing(model, 1.0, **more),
    "corrupting": lambda model, **more: faults.corrupting(model, 1.0, **more),
    "slow": lambda model, **more: faults.slow(model, 10, **more),
    "hanging": lambda model, **more: faults.hanging(model, **more),
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_disarmed_fault_is_the_model_itself(model, name):
    faulty = MAKERS[name](model, armed=False)
    assert faulty.predict(ROWS).tolist() == [1, 3]
    assert (faulty.calls, faulty.faults, faulty.armed) == (1, 0, False)
    assert (faulty.format, faulty.digest, faulty.n_features, faulty.n_outputs) == (
        "python",
        model.digest,
        2,
        1,
    )
    assert _scorer.describe(faulty.scorer) == _scorer.describe(model.scorer)
    assert faulty.describe()["faults"][0]["fault"] == name


def test_a_stall_holds_a_call_until_its_window_ends(model):
    faulty = faults.stalling(model, stall_ms=5, every_ms=3.6e6, armed=False)
    start = time.monotonic_ns()
    faulty.arm(start)
    assert faulty.predict(ROWS).tolist() == [1, 3]
    assert time.monotonic_ns() >= start + 5_000_000
    assert faulty.predict(ROWS).tolist() == [1, 3]
    assert (faulty.calls, faulty.faults) == (2, 1)


def test_a_stall_that_starts_later_does_not_hold(model):
    faulty = faults.stalling(model, start_ns=time.monotonic_ns() + 10**12)
    faulty.predict(ROWS)
    assert faulty.faults == 0


def test_failures_repeat_by_seed_and_stop_when_disarmed(model):
    def outcomes(faulty):
        seen = []
        for _ in range(64):
            try:
                seen.append(faulty.predict(ROWS).tolist() == [1, 3])
            except ModelError:
                seen.append(False)
        return seen

    first = faults.failing(model, 0.5, seed=3)
    pattern = outcomes(first)
    assert 10 < sum(pattern) < 54
    assert first.faults == 64 - sum(pattern)
    assert outcomes(faults.failing(model, 0.5, seed=3)) == pattern
    assert outcomes(faults.failing(model, 0.5, seed=4)) != pattern
    first.disarm()
    assert all(outcomes(first))


def test_corrupt_answers_are_nan(model):
    assert np.isnan(faults.corrupting(model, 1.0).predict(ROWS)).all()


def test_a_hung_call_goes_on_after_disarm(model):
    faulty = faults.hanging(model)
    answers = []
    thread = threading.Thread(target=lambda: answers.append(faulty.predict(ROWS).tolist()))
    thread.start()
    while faulty.faults < 1:
        pass
    assert answers == []
    faulty.disarm()
    thread.join()
    assert answers == [[1, 3]]


def test_faults_stack_and_outlive_the_model_they_wrap(model):
    faulty = faults.corrupting(faults.slow(model, 5, extra_us_per_row=1), 1.0)
    del model
    assert [fault["fault"] for fault in faulty.describe()["faults"]] == ["slow", "corrupting"]
    assert np.isnan(faulty.predict(ROWS)).all()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda model: faults.stalling(model, stall_ms=3, every_ms=2), "stall_ms <= every_ms"),
        (lambda model: faults.stalling(model, stall_ms=0, every_ms=0), "every_ms above 0"),
        (lambda model: faults.stalling(model, stall_ms=-1), "stall_ms must be a number from 0 to .*, got -1"),
        (lambda model: faults.slow(model, float("nan")), "extra_us must be a number from 0 to .*, got nan"),
        (lambda model: faults.failing(model, 1.5), "share must be a number from 0 to 1, got 1.5"),
        (lambda model: faults.corrupting(model, float("nan")), "share must be a number from 0 to 1, got nan"),
        (lambda model: faults.failing(model, 0.5, seed=-1), "seed must be an int from 0 to .*, got -1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(model, make, text):
    with pytest.raises(ConfigError, match=text):
        make(model)
