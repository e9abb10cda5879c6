"""Answers as values: JSON, pickles, FastAPI, iteration."""

import json
import math
import pickle

import numpy as np
import pytest

import engine
from engine.model import dense


@pytest.fixture
def eng():
    with engine.Engine(
        dense([np.ones((2, 1))], [np.zeros(1)]), deadline_ms=1000, lane="batch", version="1"
    ) as opened:
        yield opened


@pytest.fixture
def wide():
    with engine.Engine(
        dense([np.ones((2, 2))], [np.zeros(2)]), deadline_ms=1000, lane="batch", version="1"
    ) as opened:
        yield opened


def strict(value):
    return json.loads(json.dumps(value, allow_nan=False))


def test_an_answer_as_a_dict_is_strict_json(eng, wide):
    answer = eng.predict([1.0, 2.0])
    assert strict(answer.as_dict()) == {
        "value": 3.0,
        "source": "primary",
        "reason": "ok",
        "version": "1",
        "latency_us": answer.latency_us,
        "on_time": True,
        "on_time_ready": True,
        "id": str(answer.id) if answer.id > 2**53 else answer.id,
        "missing_features": [],
    }
    assert strict(eng.predict([1.0, 2.0], deadline_ms=0).as_dict())["value"] is None
    assert strict(wide.predict([1.0, 2.0]).as_dict())["value"] == [3.0, 3.0]
    assert strict(wide.predict([1.0, 2.0], deadline_ms=0).as_dict())["value"] == [None, None]


def test_a_value_that_is_no_number_is_a_float_in_all_but_fastapi(eng):
    value = eng.predict([1.0, 2.0], deadline_ms=0).value
    assert isinstance(value, float)
    assert math.isnan(value)
    assert value != value
    assert (repr(value), str(value), f"{value:.2f}", value.value) == ("nan", "nan", "nan", None)
    assert math.isnan(value + 1.0)
    assert type(pickle.loads(pickle.dumps(value))) is float
    with engine.Engine(
        engine.load_model(lambda rows: rows[:, 0], n_features=1),
        default=0.0,
        deadline_ms=1000,
        allow_nonfinite=True,
    ) as infinite:
        above, below = (infinite.predict([sign * math.inf]).value for sign in (1, -1))
    assert (above, below, above.value) == (math.inf, -math.inf, None)


def test_answers_survive_pickling(eng, wide):
    for answer in (eng.predict([1.0, 2.0]), eng.predict([1.0, 2.0], deadline_ms=0), wide.predict([1.0, 2.0])):
        assert repr(pickle.loads(pickle.dumps(answer))) == repr(answer)
        assert pickle.loads(pickle.dumps(answer)).as_dict() == answer.as_dict()
    many = wide.predict_many([[1.0, 2.0], [3.0, 4.0]])
    assert pickle.loads(pickle.dumps(many)).as_dict() == many.as_dict()


def test_answers_iterate_and_index(eng, wide):
    many = eng.predict_many([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], deadline_ms=[1000.0, 1000.0, 0.0])
    assert [answer.source for answer in many] == ["primary", "primary", "default"]
    assert [type(answer) for answer in many] == [engine.Answer] * 3
    assert (many[0].value, many[1].value, many[-2].value) == (3.0, 7.0, 7.0)
    assert math.isnan(many[2].value)
    assert (many[2].reason, many[2].on_time) == ("expired", False)
    assert many[1].id == int(many.ids[1])
    assert [answer.value for answer in many[:2]] == [3.0, 7.0]
    assert type(many[1:]) is engine.Answers
    with pytest.raises(IndexError):
        many[3]
    assert wide.predict_many([[1.0, 2.0]])[0].value.tolist() == [3.0, 3.0]
    assert strict(many.as_dict())["values"] == [3.0, 7.0, None]
    assert set(many.as_dict()) == {
        "values",
        "sources",
        "reasons",
        "version",
        "latency_us",
        "on_time",
        "on_time_ready",
        "ids",
        "missing_features",
    }


def test_handlers_of_fastapi_may_return_answers(eng):
    fastapi = pytest.importorskip("fastapi")
    testclient = pytest.importorskip("fastapi.testclient", exc_type=ImportError)
    app = fastapi.FastAPI()

    @app.get("/value")
    async def value(deadline_ms: float):
        return {"score": (await eng.predict_async([1.0, 2.0], deadline_ms=deadline_ms)).value}

    @app.get("/answer")
    async def answer(deadline_ms: float):
        return await eng.predict_async([1.0, 2.0], deadline_ms=deadline_ms)

    @app.get("/declared")
    async def declared(deadline_ms: float) -> engine.Answer:
        return await eng.predict_async([1.0, 2.0], deadline_ms=deadline_ms)

    @app.get("/answers")
    async def answers(deadline_ms: float):
        return await eng.predict_many_async([[1.0, 2.0]], deadline_ms=deadline_ms)

    client = testclient.TestClient(app)
    assert client.get("/value?deadline_ms=1000").json() == {"score": 3.0}
    assert client.get("/value?deadline_ms=0").json() == {"score": None}
    for path in ("/answer", "/declared"):
        assert client.get(f"{path}?deadline_ms=1000").json()["value"] == 3.0
        assert client.get(f"{path}?deadline_ms=0").json()["value"] is None
        assert client.get(f"{path}?deadline_ms=0").json()["reason"] == "expired"
    assert client.get("/answers?deadline_ms=1000").json()["values"] == [3.0]
    assert "Answer" in json.dumps(client.get("/openapi.json").json())
