"""A primary that fails is logged under "engine.serving": its first exception, and what its breaker does."""

import logging
import threading
import time

import numpy as np
import pytest

import engine
from engine.model import dense
from engine.serving import troubles

FAR_MS = 60_000.0


def linear():
    return dense([np.array([[1.0], [10.0]])], [np.zeros(1)])


class Fragile:
    def __init__(self):
        self.broken = False

    def __call__(self, rows):
        if self.broken:
            raise KeyError("no such column")
        return rows[:, 0]


@pytest.fixture
def said():
    """Messages of the logger so far, and the thread that each came on."""
    found = []

    class Handler(logging.Handler):
        def emit(self, record):
            found.append((record.levelname, record.getMessage(), threading.current_thread().name))

    handler = Handler()
    logging.getLogger("engine.serving").addHandler(handler)
    yield found
    logging.getLogger("engine.serving").removeHandler(handler)


def until(condition):
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.005)


def test_the_first_exception_and_each_change_of_the_breaker(said):
    fragile = Fragile()
    with engine.Engine(
        engine.load_model(fragile, n_features=2),
        fallback=linear(),
        deadline_ms=FAR_MS,
        version="7",
        breaker={"calls_in_a_row": 3, "rest_ms": 50.0, "rest_ms_max": 50.0},
    ) as eng:
        assert eng.predict([1.0, 2.0]).source == "primary"
        assert said == []
        fragile.broken = True
        until(lambda: eng.predict([1.0, 2.0]).reason == "breaker_open")
        until(lambda: len(said) >= 2 and eng.predict([1.0, 2.0]))
        fragile.broken = False
        until(lambda: eng.predict([1.0, 2.0]).source == "primary" and len(said) >= 4)
    levels, texts, threads = zip(*said, strict=True)
    assert set(levels) == {"WARNING"}
    assert set(threads) == {"engine-log"}  # never a thread of a request
    first, opened, probing, closed = texts[:4]
    assert first.startswith("the primary of version '7' fails: KeyError: 'no such column'\nTraceback")
    assert "in __call__" in first
    assert opened == "version '7': the breaker opened: the primary rests, and the fallback answers"
    assert probing == "version '7': the breaker is probing: one request goes to the primary"
    assert closed == "version '7': the breaker closed: the primary takes requests again"
    assert "no such column" in eng.stats()["last_error"]


def test_many_rows_and_answers_without_an_exception(said):
    model = engine.load_model(lambda rows: np.full(len(rows), np.nan), n_features=2)
    with engine.Engine(model, default=0.0, deadline_ms=FAR_MS, version="1") as eng:
        assert set(eng.predict_many(np.ones((4, 2))).reasons) == {"primary_not_finite"}
        until(lambda: said)
    assert said[0][1] == "the primary of version '1' fails: it gave no usable answer, and no exception"


class Deployment:
    """A deployment as the log sees one."""

    def __init__(self):
        self.version, self.parts = "1", (linear(),)
        self.state = (0, False, 0, 0)

    def _troubles(self):
        return self.state


@pytest.fixture
def case():
    deployment = Deployment()
    deployment.over = False
    deployment.finished = []
    made = troubles.Case(deployment, lambda: deployment.over, lambda: deployment.finished.append(True))
    return deployment, made


def texts(said):
    return [text.partition(": ")[2] or text for _, text, _ in said]


def test_errors_are_logged_once_a_minute(case, said):
    deployment, made = case
    for at in range(59):
        deployment.state = (at + 1, False, 0, 0)
        assert made.look(float(at))
    assert len(said) == 1
    deployment.state = (100, False, 0, 0)
    assert made.look(61.0)
    assert len(said) == 2
    assert "(99 more answers)" in said[1][1]


def test_a_case_ends_when_all_is_well_again_or_the_engine_is_closed(case, said):
    deployment, made = case
    deployment.state = (1, False, 0, 0)
    assert made.look(0.0)
    assert made.look(0.9)
    assert not made.look(1.1)
    assert deployment.finished == [True]
    deployment.state = (1, True, 1, 0)
    assert made.look(2.0)
    assert made.look(1000.0)  # open: it goes on
    deployment.over = True
    assert not made.look(1000.1)


def test_a_flapping_breaker_does_not_flood_the_log(case, said):
    deployment, made = case
    for i in range(1, 500):
        deployment.state = (0, i % 2 == 1, (i + 1) // 2, i // 2)
        made.look(i * 0.02)
    assert len(said) == troubles.MESSAGES_MAX
    deployment.state = (0, True, 500, 0)
    made.look(70.0)
    assert "messages before this one were left out" in said[-2][1]


def test_a_failing_probe_is_said_once_for_each_opening(case, said):
    deployment, made = case
    for i, state in enumerate([(0, True, 1, 0), (0, True, 1, 1), (0, True, 1, 2), (0, False, 1, 3)]):
        deployment.state = state
        made.look(i * 0.1)
    assert texts(said) == [
        "the breaker opened: the primary rests, and the fallback answers",
        "the breaker is probing: one request goes to the primary",
        "the breaker closed: the primary takes requests again",
    ]


def test_a_handler_that_raises_stops_nothing(monkeypatch, said):
    fragile = Fragile()
    fragile.broken = True

    class Breaks(logging.Handler):
        def emit(self, record):
            raise RuntimeError("of the handler")

    handler = Breaks()
    log = logging.getLogger("engine.serving")
    log.addHandler(handler)
    try:
        with engine.Engine(engine.load_model(fragile, n_features=2), default=0.0, deadline_ms=FAR_MS) as eng:
            assert eng.predict([1.0, 2.0]).source == "default"
            until(lambda: said)
    finally:
        log.removeHandler(handler)
