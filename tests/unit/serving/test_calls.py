"""Calls that users try first: what they get, and errors that say which row."""

import asyncio
import copy
import pickle
import time

import numpy as np
import pytest

import engine
from engine.errors import InputError, InputTypeError
from engine.model import dense


@pytest.fixture(params=["batch", "inline"])
def eng(request):
    model = dense([np.array([[1.0], [10.0]])], [np.zeros(1)])
    with engine.Engine(model, default=-1.0, deadline_ms=1000, lane=request.param) as opened:
        yield opened


@pytest.fixture
def lenient():
    model = dense([np.array([[1.0], [10.0]])], [np.zeros(1)])
    with engine.Engine(model, default=-1.0, deadline_ms=1000, lane="batch", expired="answer") as opened:
        yield opened


def test_tasks_and_asyncio_run_take_answers(eng):
    async def main():
        one = await asyncio.create_task(eng.predict_async([1.0, 2.0]))
        async with asyncio.TaskGroup() as tasks:
            two = tasks.create_task(eng.predict_async([2.0, 2.0]))
        return one.value, two.result().value

    assert asyncio.run(main()) == (21.0, 22.0)
    assert asyncio.run(eng.predict_async([1.0, 2.0])).value == 21.0
    assert asyncio.run(eng.predict_async([1.0, 2.0], deadline_ms=0)).reason == "expired"
    with pytest.raises(InputError, match="deadline_ms"):
        asyncio.run(eng.predict_async([1.0, 2.0], deadline_ms=-1.0))


def test_no_rows_give_no_answers(eng):
    for rows in ([], (), np.empty((0, 2))):
        answers = eng.predict_many(rows)
        assert (len(answers), answers.values.shape, list(answers)) == (0, (0,), [])
    assert len(asyncio.run(eng.predict_many_async([]))) == 0


def test_a_negative_deadline_raises_unless_the_engine_answers_it(eng, lenient):
    for ask in (lambda ms: eng.predict([1.0, 2.0], ms), lambda ms: eng.predict_many([[1.0, 2.0]], ms)):
        with pytest.raises(InputError, match=r"-0.2.*; Engine\(expired='answer'\)"):
            ask(-0.2)
    answer = lenient.predict([1.0, 2.0], deadline_ms=-0.2)
    assert (answer.reason, answer.value, answer.on_time) == ("expired", -1.0, False)
    many = lenient.predict_many([[1.0, 2.0], [3.0, 4.0]], deadline_ms=[-5.0, 1000.0])
    assert many.reasons.tolist() == ["expired", "ok"]
    assert lenient.predict_many([[1.0, 2.0]], deadline_ms=-5).reasons.tolist() == ["expired"]
    with pytest.raises(InputError, match="nan"):
        lenient.predict([1.0, 2.0], deadline_ms=float("nan"))


def test_a_deadline_of_the_wall_clock_is_refused(eng):
    for ask in (
        lambda: eng.predict([1.0, 2.0], deadline_ns=time.time_ns()),
        lambda: eng.predict_many([[1.0, 2.0]], deadline_ns=time.time_ns() + 10**9),
        lambda: eng.predict_many([[1.0, 2.0]], deadline_ns=[time.time_ns()]),
        lambda: eng.predict_many([[1.0, 2.0]], deadline_ns=np.array([time.time_ns()])),
    ):
        with pytest.raises(InputError, match=r"time\.time_ns\(\): add the time that is left"):
            ask()
    assert eng.predict([1.0, 2.0], deadline_ns=2**63 - 1).reason == "ok"
    assert eng.predict_many([[1.0, 2.0]], deadline_ns=np.array([2**62])).reasons.tolist() == ["ok"]


def test_missing_values_in_rows():
    seen = []
    model = engine.load_model(lambda rows: (seen.append(rows.copy()), rows[:, 0])[1], n_features=2)
    masked = np.ma.array([[1.0, 2.0], [3.0, 4.0]], mask=[[0, 1], [0, 0]])
    with engine.Engine(model, default=-1.0, deadline_ms=5000) as eng:

        def rows_of(ask):
            seen.clear()
            ask()
            return np.concatenate(seen).tolist()  # an executor may begin before all rows are in

        nan = pytest.approx(float("nan"), nan_ok=True)
        assert rows_of(lambda: eng.predict(masked[0])) == [[1.0, nan]]
        assert rows_of(lambda: eng.predict(np.ma.array([1, 2], mask=[0, 1]))) == [[1.0, nan]]
        assert rows_of(lambda: eng.predict_many(masked)) == [[1.0, nan], [3.0, 4.0]]
        assert rows_of(lambda: eng.predict_many(list(masked))) == [[1.0, nan], [3.0, 4.0]]
        assert rows_of(lambda: eng.predict_many([[1.0, None], [True, 2]])) == [[1.0, nan], [1.0, 2.0]]


@pytest.mark.parametrize(
    ("rows", "kind", "message"),
    [
        ([[1.0, 2.0], [1.0]], InputError, "row 1: expected a row of 2 features, got 1"),
        ([[1.0, 2.0], [1.0, 2.0, 3.0]], InputError, "row 1: expected a row of 2 features, got 3"),
        ([[1.0], [1.0]], InputError, "row 0: expected a row of 2 features, got 1"),
        ([{"a": 1.0, "b": 2.0}], InputTypeError, "row 0: a mapping needs"),
        ([[1.0, 2.0], None], InputTypeError, "row 1: expected a row of 2 features, got NoneType"),
        ([[1.0, 2.0], [1.0, "x"]], InputTypeError, "row 1: feature 1: expected a number, got str 'x'"),
        ([[1.0, 2.0], [1.0, {}]], InputTypeError, "row 1: feature 1: expected a number, got dict"),
        ([1.0, 2.0], InputError, r"expected rows of shape \[rows, 2\], got \[2\]"),
    ],
)
def test_errors_say_which_row(eng, rows, kind, message):
    with pytest.raises(kind, match=message):
        eng.predict_many(rows)
    with pytest.raises(kind, match=message):
        asyncio.run(eng.predict_many_async(rows))


def test_a_row_of_none_is_named(eng):
    with pytest.raises(InputTypeError, match="expected a row of 2 features, got NoneType"):
        eng.predict(None)
    with pytest.raises(InputTypeError, match="got str 'abc'"):
        eng.predict("abc")


def test_an_engine_cannot_be_pickled(eng):
    for copied in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(InputTypeError, match="an engine cannot be pickled"):
            copied(eng)
