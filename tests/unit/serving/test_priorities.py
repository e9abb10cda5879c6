"""Classes of requests, hedges, what follows an error, and how long is left."""

import asyncio
import math
import threading

import numpy as np
import pytest

import engine
from engine.errors import ConfigError, InputError
from engine.model import dense
from engine.testing import faults

FAR_MS = 60_000.0


def linear(bias: float = 0.0) -> engine.Model:
    return dense([np.array([[1.0], [10.0]])], [np.array([bias])])


def python(fn) -> engine.Model:
    return engine.load_model(fn, n_features=2)


def test_classes_are_counted():
    with engine.Engine(linear(), deadline_ms=FAR_MS, priority="sheddable") as eng:
        eng.predict([1.0, 2.0])
        eng.predict([1.0, 2.0], priority="critical")
        eng.predict_many(np.ones((3, 2)), priority="normal")
        classes = eng.stats()["classes"]
    assert {name: sum(counts.values()) for name, counts in classes.items()} == {
        "critical": 1,
        "normal": 3,
        "sheddable": 1,
    }


@pytest.mark.parametrize("priority", ["urgent", 1, b"normal"])
def test_unknown_classes_raise(priority):
    with engine.Engine(linear(), deadline_ms=FAR_MS) as eng:
        with pytest.raises(InputError, match="critical, normal, sheddable"):
            eng.predict([1.0, 2.0], priority=priority)
        with pytest.raises(InputError, match="critical, normal, sheddable"):
            eng.predict_many(np.ones((3, 2)), priority=priority)
    with pytest.raises(ConfigError, match="priority"):
        engine.Engine(linear(), priority=priority)


def test_a_hedge_answers_from_what_lies_ready():
    started, go = threading.Event(), threading.Event()

    def slow(rows):
        if rows[0, 0] == 7.0:
            started.set()
            go.wait(30)
        return rows @ [1.0, 10.0]

    with engine.Engine(python(slow), fallback=linear(1000.0), default=-1.0, deadline_ms=FAR_MS) as eng:
        answer = eng.predict([7.0, 2.0], deadline_ms=150, hedge=True)
        assert started.is_set()
        assert (answer.value, answer.source, answer.reason) == (1027.0, "fallback", "timeout")
        go.set()
        assert eng.predict([1.0, 2.0], hedge=True).value == 21.0

        async def hedged():
            return await eng.predict_async([1.0, 2.0], hedge=True)

        assert asyncio.run(hedged()).value == 21.0


@pytest.mark.parametrize(
    ("rule", "value", "source"), [("fallback", 1021.0, "fallback"), ("default", -1.0, "default")]
)
def test_what_follows_an_error(rule, value, source):
    failing = python(lambda rows: 1 / 0)
    with engine.Engine(
        failing, fallback=linear(1000.0), default=-1.0, deadline_ms=FAR_MS, on_error=rule
    ) as eng:
        answer = eng.predict([1.0, 2.0])
        assert (answer.value, answer.source, answer.reason) == (value, source, "primary_error")
        # Being late is not an error: the fallback answers under either rule.
        late = eng.predict([1.0, 2.0], deadline_ms=0.0)
        assert late.reason == "expired"


def test_late_answers_come_from_the_fallback_under_either_rule():
    go = threading.Event()
    waits = python(lambda rows: (go.wait(30), rows[:, 0])[1] if rows[0, 0] == 7.0 else rows[:, 0])
    with engine.Engine(
        waits, fallback=linear(1000.0), default=-1.0, deadline_ms=FAR_MS, on_error="default"
    ) as eng:
        answer = eng.predict([7.0, 2.0], deadline_ms=150)
        go.set()
        assert (answer.value, answer.reason) == (1027.0, "timeout")


def test_nonfinite_answers_may_be_allowed():
    nowhere = faults.corrupting(linear(), 1.0)
    with engine.Engine(nowhere, fallback=linear(), deadline_ms=FAR_MS, allow_nonfinite=True) as eng:
        answer = eng.predict([1.0, 2.0])
        assert math.isnan(answer.value)
        assert answer.source == "primary"
        assert np.isnan(eng.predict_many(np.ones((3, 2))).values).all()


def test_a_python_model_knows_how_long_is_left():
    seen = []

    def model(rows):
        seen.append(engine.remaining_ms())
        return rows[:, 0]

    assert engine.remaining_ms() is None
    with engine.Engine(python(model), default=-1.0, deadline_ms=FAR_MS) as eng:
        eng.predict([1.0, 2.0], deadline_ms=5_000)
        assert 0 < seen[-1] <= 5_000
        eng.predict([1.0, 2.0], deadline_ms=math.inf)
        assert seen[-1] == math.inf
    assert engine.remaining_ms() is None


class Store:
    """Features that are looked up: `b` of each entity, but of those in `missing`."""

    def __init__(self, program, blocking=False):
        self.capsule, self.blocking, self.left = program.capsule, blocking, []

    def fetch(self, request, deadline_ns):
        self.left.append(engine.remaining_ms())
        if request["entity"] == "unknown":
            return dict(request), ("b",)
        return dict(request) | {"b": 2.0}, ()

    def fetch_many(self, requests, deadline_ns):
        return [self.fetch(request, deadline_ns) for request in requests]

    async def fetch_async(self, request, deadline_ns):
        await asyncio.sleep(0)
        return self.fetch(request, deadline_ns)


@pytest.mark.parametrize("lane", ["inline", "batch"])
@pytest.mark.parametrize("blocking", [False, True])
def test_looked_up_features(lane, blocking):
    from engine import transform as t

    program = t.FeatureProgram.fit([t.number("a"), t.number("b").impute(0.5)], {"a": [0.0], "b": [0.0]})
    store = Store(program, blocking)
    known, unknown = {"a": 1.0, "entity": "e"}, {"a": 1.0, "entity": "unknown"}
    with engine.Engine(linear(), features=store, default=-1.0, deadline_ms=FAR_MS, lane=lane) as eng:
        answer = eng.predict(known)
        assert (answer.value, answer.missing_features) == (21.0, ())
        answer = eng.predict(unknown)
        assert (answer.value, answer.missing_features) == (6.0, ("b",))
        assert all(0 < left <= FAR_MS for left in store.left)
        many = eng.predict_many([known, unknown, known])
        assert many.values.tolist() == [21.0, 6.0, 21.0]
        assert many.missing_features == [(), ("b",), ()]

        async def asked():
            one = await eng.predict_async(unknown)
            both = await asyncio.gather(eng.predict_async(known), eng.predict_async(unknown))
            return one, both, await eng.predict_many_async([known, unknown])

        one, both, rows = asyncio.run(asked())
        assert (one.value, one.missing_features) == (6.0, ("b",))
        assert [answer.value for answer in both] == [21.0, 6.0]
        assert rows.missing_features == [(), ("b",)]
        looked_up = len(store.left)
        assert eng.predict(known, deadline_ms=0).reason == "expired"
        assert len(store.left) == looked_up
