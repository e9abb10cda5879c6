"""Readiness, and parts that a swap takes away."""

import asyncio
import math
import pickle
import threading
import time

import numpy as np
import pytest

import engine
from engine.errors import ConfigError
from engine.model import dense


def test_a_slow_primary_is_waited_for():
    go = threading.Event()
    model = engine.load_model(lambda rows: (go.wait(60), rows[:, 0])[1], n_features=2)
    with engine.Engine(model, default=0.0, deadline_ms=60_000) as eng:
        assert eng.ready is False
        started = time.monotonic()
        assert eng.wait_ready(0.01) is False
        assert asyncio.run(eng.wait_ready_async(timeout_s=0.01)) is False
        assert time.monotonic() - started < 5
        go.set()
        assert eng.wait_ready(timeout_s=30) is True
        assert asyncio.run(eng.wait_ready_async()) is True
        assert eng.ready is True
        assert eng.predict([1.0, 2.0]).source == "primary"
        for bad in (-1.0, math.nan):
            with pytest.raises(ConfigError, match="timeout_s"):
                eng.wait_ready(bad)
    assert eng.ready is False
    assert eng.wait_ready(10) is False


def test_an_inline_engine_is_ready_at_once():
    with engine.Engine(dense([np.ones((2, 1))], [np.zeros(1)]), lane="inline") as eng:
        assert eng.ready is True
        assert eng.wait_ready(0.0) is True


def test_nothing_takes_a_part_away():
    primary, spare = (dense([np.full((2, 1), by)], [np.zeros(1)]) for by in (1.0, 2.0))
    with engine.Engine(primary, fallback=spare, default=5.0, deadline_ms=1000) as eng:
        eng.swap(primary, version="2")
        assert eng.fallback is spare
        assert eng.predict([1.0, 2.0], deadline_ms=0).value == 5.0
        eng.swap(primary, fallback=engine.NOTHING, version="3")
        assert eng.fallback is None
        assert eng.predict([1.0, 2.0], deadline_ms=0).value == 5.0
        eng.swap(default=engine.NOTHING, version="4")
        assert math.isnan(eng.predict([1.0, 2.0], deadline_ms=0).value)
        assert eng.rollback() == "3"
        assert eng.predict([1.0, 2.0], deadline_ms=0).value == 5.0
    assert repr(engine.NOTHING) == "engine.NOTHING"
    assert pickle.loads(pickle.dumps(engine.NOTHING)) is engine.NOTHING
