"""A swap whose model does not come back: Ctrl-C and the time limit leave the version before serving."""

import os
import signal
import threading

import numpy as np
import pytest

import engine
from engine.errors import ConfigError, ModelError, ModelTimeoutError
from engine.model import dense

FAR_MS = 60_000.0


class Stuck:
    """A model that waits on every call until it may go on."""

    def __init__(self):
        self.called, self.go_on = threading.Event(), threading.Event()

    def __call__(self, rows):
        self.called.set()
        self.go_on.wait(60)
        return rows[:, 0] + 1.0


@pytest.fixture
def stuck():
    made = Stuck()
    yield made
    made.go_on.set()


@pytest.fixture
def eng():
    with engine.Engine(
        dense([np.array([[1.0], [10.0]])], [np.zeros(1)]),
        default=-1.0,
        deadline_ms=FAR_MS,
        lane="batch",
        version="1",
    ) as opened:
        yield opened


@pytest.mark.parametrize("golden", [None, (np.ones((1, 2)), [2.0])])
def test_a_time_limit(eng, stuck, golden):
    model = engine.load_model(stuck, n_features=2)
    for change in (eng.swap, lambda *args, **more: eng.canary(*args, share=0.5, **more)):
        with pytest.raises(
            ModelTimeoutError, match=r"'2', was not measured within timeout_s=0.05; .* serves on"
        ) as raised:
            change(model, version="2", timeout_s=0.05, golden=golden)
        assert isinstance(raised.value, ModelError)
        assert isinstance(raised.value, TimeoutError)
        answer = eng.predict([1.0, 2.0])
        assert (answer.value, answer.version) == (21.0, "1")
    stuck.go_on.set()
    eng.swap(model, version="2", timeout_s=60)
    assert eng.predict([1.0, 2.0]).value == 2.0
    for wrong in (-1.0, float("nan"), "soon"):
        with pytest.raises(ConfigError, match="timeout_s"):
            eng.swap(model, timeout_s=wrong)


def test_ctrl_c_ends_a_swap_and_the_version_before_serves_on(eng, stuck):
    def press():
        stuck.called.wait(60)
        os.kill(os.getpid(), signal.SIGINT)

    # A shell's background job ignores the signal, and so would this process.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        presses = threading.Thread(target=press)
        presses.start()
        with pytest.raises(KeyboardInterrupt):
            eng.swap(engine.load_model(stuck, n_features=2), version="2")
        presses.join()
    finally:
        signal.signal(signal.SIGINT, before)
    answer = eng.predict([1.0, 2.0])
    assert (answer.value, answer.version) == (21.0, "1")
    stuck.go_on.set()
    eng.swap(engine.load_model(lambda rows: rows[:, 1], n_features=2), version="3")
    assert eng.predict([1.0, 2.0]).value == 2.0


def test_errors_of_the_golden_rows_come_through(eng):
    with pytest.raises(ModelError, match="does not answer as expected: golden row 0: expected 5, got 1"):
        eng.swap(engine.load_model(lambda rows: rows[:, 0], n_features=2), golden=(np.ones((1, 2)), [5.0]))
    with pytest.raises(ConfigError, match=r"golden rows must be \[n, 2\], got shape \[1, 3\]"):
        eng.swap(engine.load_model(lambda rows: rows[:, 0], n_features=2), golden=(np.ones((1, 3)), [5.0]))
    assert eng.version == "1"
