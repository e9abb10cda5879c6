"""A row on which the primary fails: it is blamed, and its neighbours are answered by the primary."""

import threading
import time

import numpy as np
import pytest

import engine
from engine.model import dense

FAR_MS = 60_000.0


def small() -> engine.Model:
    """Answers 1000 to everything."""
    return dense([np.zeros((2, 1))], [np.array([1000.0])])


def raises(rows):
    if (rows[:, 0] < 0).any():
        raise ValueError("negative amount")
    return rows[:, 0] * 2


def drops(rows):
    """As a model that drops rows it cannot use: the shape is wrong for all."""
    return rows[rows[:, 0] >= 0, 0] * 2


def all_nan(rows):
    """As a model whose normalisation spreads one bad row's NaN over the batch."""
    return rows[:, 0] * 2 if (rows[:, 0] >= 0).all() else np.full(len(rows), np.nan)


@pytest.mark.parametrize(
    ("model", "reason"),
    [(raises, "primary_error"), (drops, "primary_bad_shape"), (all_nan, "primary_not_finite")],
)
def test_only_the_bad_rows_fall_back(model, reason):
    rows = np.ones((40, 2))
    rows[:, 0] = np.arange(40)
    bad = [3, 17, 18, 39]
    rows[bad, 0] = [-1, -2, -3, -4]
    with engine.Engine(engine.load_model(model, n_features=2), fallback=small(), deadline_ms=FAR_MS) as eng:
        for _ in range(3):
            answers = eng.predict_many(rows)
            expected = [reason if i in bad else "ok" for i in range(40)]
            assert list(answers.reasons) == expected
            assert answers.values.tolist() == [1000.0 if i in bad else 2.0 * i for i in range(40)]
        assert [facts["openings"] for facts in eng.stats()["breakers"].values()] == [0]


def test_a_failure_that_was_an_accident_costs_no_row_its_answer():
    failed = threading.Event()
    armed = threading.Event()

    def model(rows):
        if armed.is_set() and not failed.is_set() and len(rows) > 1:
            failed.set()
            raise ConnectionError("once")
        return rows[:, 0]

    with engine.Engine(engine.load_model(model, n_features=2), fallback=small(), deadline_ms=FAR_MS) as eng:
        armed.set()
        while not failed.is_set():
            answers = eng.predict_many(np.ones((32, 2)))
        assert list(answers.reasons) == ["ok"] * 32


def test_a_primary_that_always_fails_is_given_up_after_a_few_calls():
    calls = 0
    broken = threading.Event()

    def model(rows):
        nonlocal calls
        calls += 1
        if broken.is_set():
            raise ValueError("broken")
        return rows[:, 0]

    with engine.Engine(engine.load_model(model, n_features=2), fallback=small(), deadline_ms=FAR_MS) as eng:
        broken.set()
        before = calls
        for _ in range(10):
            answers = eng.predict_many(np.ones((64, 2)))
            assert set(answers.sources) == {"fallback"}
            assert set(answers.reasons) <= {"primary_error", "breaker_open"}
        assert [facts["openings"] for facts in eng.stats()["breakers"].values()] >= [1]
        assert calls - before < 100


def test_no_answer_says_primary_error_after_a_call_that_was_only_slow():
    slow = threading.Event()

    def model(rows):
        if slow.is_set():
            slow.clear()
            time.sleep(0.4)
        return rows[:, 0]

    with engine.Engine(
        engine.load_model(model, n_features=2), fallback=small(), deadline_ms=50, executors=2
    ) as eng:
        slow.set()
        reasons = set()
        until = time.monotonic() + 60
        while "ok" not in reasons or slow.is_set():
            reasons.add(eng.predict([1.0, 2.0]).reason)
            assert time.monotonic() < until
        until = time.monotonic() + 0.6
        while time.monotonic() < until:
            reasons.add(eng.predict([1.0, 2.0]).reason)
        assert not {reason for reason in reasons if reason.startswith("primary_")}


def test_one_call_at_a_time_in_however_many_engines():
    inside = 0
    most = 0
    count = threading.Lock()

    def model(rows):
        nonlocal inside, most
        with count:
            inside += 1
            most = max(most, inside)
        time.sleep(0.001)
        with count:
            inside -= 1
        return rows[:, 0]

    shared = engine.load_model(model, n_features=2)
    engines = [engine.Engine(shared, fallback=small(), deadline_ms=1000) for _ in range(3)]

    def ask(eng):
        for i in range(30):
            assert eng.predict([float(i), 0.0]).value in (float(i), 1000.0)

    threads = [threading.Thread(target=ask, args=(eng,)) for eng in engines]
    for thread in threads:
        thread.start()
    shared.predict(np.ones((4, 2)))
    engines[0].swap(shared, golden=([[5.0, 0.0]], [5.0]))
    for thread in threads:
        thread.join()
    for eng in engines:
        eng.close()
    assert most == 1
