"""A primary that asks its own engine, or itself, gets a result at once, and nothing deadlocks."""

import asyncio
import math
import threading

import numpy as np
import pytest

import engine
from engine.errors import ModelError
from engine.model import dense

LINEAR = dense([np.array([[1.0], [10.0]])], [np.zeros(1)])


def within(seconds, work):
    """The result of `work`, on a thread that must end in time."""
    found = []
    thread = threading.Thread(target=lambda: found.append(work()), daemon=True)
    thread.start()
    thread.join(seconds)
    assert found, "it hangs"
    return found[0]


@pytest.mark.parametrize("executors", [1, 3])
@pytest.mark.parametrize("deadline_ms", [60_000.0, math.inf])
@pytest.mark.parametrize("verb", ["predict", "predict_many", "predict_async"])
def test_a_primary_that_asks_its_own_engine(executors, deadline_ms, verb):
    inner = []

    def ask(row):
        if verb == "predict":
            return eng.predict(row, deadline_ms=deadline_ms)
        if verb == "predict_many":
            return eng.predict_many([row], deadline_ms=deadline_ms)[0]

        async def main():
            return await eng.predict_async(row, deadline_ms=deadline_ms)

        return asyncio.run(main())

    def primary(rows):
        if opened.is_set():
            inner.append(ask(rows[0]))
        return rows[:, 0]

    opened = threading.Event()
    model = engine.load_model(primary, n_features=2)
    with engine.Engine(model, fallback=LINEAR, executors=executors, deadline_ms=60_000.0) as eng:
        opened.set()
        answer = within(60, lambda: eng.predict([1.0, 2.0], deadline_ms=deadline_ms))
        opened.clear()
    assert (answer.value, answer.source) == (1.0, "primary")
    assert (inner[0].value, inner[0].source, inner[0].reason) == (21.0, "fallback", "stalled")


def test_a_model_that_calls_itself_is_refused():
    errors = []

    def itself(rows):
        try:
            model.predict(rows)
        except ModelError as error:
            errors.append(str(error))
        return rows[:, 0]

    model = engine.load_model(itself, n_features=2)
    assert within(60, lambda: model.predict(np.ones((1, 2)))).tolist() == [1.0]
    assert "one call at a time" in errors[0]
    assert "from inside itself" in errors[0]


def test_a_primary_may_ask_another_engine():
    with engine.Engine(LINEAR, deadline_ms=60_000.0, lane="batch") as other:
        model = engine.load_model(
            lambda rows: [other.predict(row).value + 1000.0 for row in rows], n_features=2
        )
        with engine.Engine(model, deadline_ms=60_000.0) as eng:
            assert within(60, lambda: eng.predict([1.0, 2.0])).value == 1021.0
