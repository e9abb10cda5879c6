"""EmbeddedModel: text to answer in one deadline, by the model of whichever space came in time."""

import asyncio
import threading

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

import engine
from engine.cache import EmbeddedModel, EmbeddingCache, Encoder
from engine.errors import ConfigError

FAR_MS = 60_000.0
LATE = ("timeout", "late", "released", "stalled")


def linear(weights):
    """A native model: the sum of its features times these weights."""
    fitted = LinearRegression(fit_intercept=False)
    rows = np.eye(len(weights))
    return engine.load_model(fitted.fit(rows, np.array(weights, float)))


@pytest.fixture
def gate():
    gate = threading.Event()
    gate.set()
    yield gate
    gate.set()


@pytest.fixture
def cache(gate):
    def encode(texts):
        if "hello" in texts:
            gate.wait(60.0)
        return np.array([[len(text), 1.0] for text in texts])

    def spare(texts):
        return np.array([[1.0, 2.0, len(text)] for text in texts])

    with EmbeddingCache(
        Encoder(encode, dimensions=2), 1 << 20, fallback=Encoder(spare, dimensions=3), deadline_ms=FAR_MS
    ) as made:
        assert made.wait_ready(60.0)
        yield made


def test_the_model_of_the_encoders_space_answers(cache):
    model = EmbeddedModel(cache, linear([10.0, 1.0]), linear([0.0, 0.0, 1.0]), version="7")
    answer = model.predict("hello")
    assert isinstance(answer, engine.Answer)
    assert (round(answer.value, 6), answer.source, answer.reason, answer.version) == (
        51.0,
        "primary",
        "ok",
        "7",
    )
    assert answer.on_time
    assert answer.on_time_ready
    assert answer.latency_us > 0.0


def test_the_model_of_the_fallbacks_space_answers_when_it_is_late(cache, gate):
    model = EmbeddedModel(cache, linear([10.0, 1.0]), linear([0.0, 0.0, 1.0]))
    gate.clear()
    answer = model.predict("hello", deadline_ms=50.0)
    assert (round(answer.value, 6), answer.source) == (5.0, "fallback")
    assert answer.reason in LATE


def test_without_a_model_of_the_fallbacks_space_the_default_answers(cache, gate):
    gate.clear()
    answer = EmbeddedModel(cache, linear([10.0, 1.0]), default=0.25).predict("hello", deadline_ms=50.0)
    assert (answer.value, answer.source) == (0.25, "default")
    assert answer.reason in LATE


def test_all_verbs_answer(cache):
    model = EmbeddedModel(cache, linear([10.0, 1.0]))

    async def main():
        return [await model.predict_async("hello"), *(await model.predict_many_async(["a", "bb"]))]

    assert [round(each.value, 6) for each in asyncio.run(main())] == [51.0, 11.0, 21.0]
    many = model.predict_many(["a", "bb"])
    assert [round(each.value, 6) for each in many] == [11.0, 21.0]
    assert len({each.id for each in many}) == 2
    assert model.predict_many([]) == []


def test_several_outputs_are_an_array(cache):
    fitted = LinearRegression(fit_intercept=False).fit(np.eye(2), np.array([[1.0, 0.0], [0.0, 2.0]]))
    answer = EmbeddedModel(cache, engine.load_model(fitted)).predict("abc")
    assert np.round(answer.value, 6).tolist() == [3.0, 2.0]


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        (([1.0, 2.0, 3.0],), "head: expected a model of 2 features"),
        (([1.0, 2.0], [1.0, 2.0]), "fallback_head: expected a model of 3 features"),
    ],
)
def test_a_head_of_another_width_is_refused(cache, heads, message):
    with pytest.raises(ConfigError, match=message):
        EmbeddedModel(cache, *map(linear, heads))


def test_heads_are_native_and_fit_the_cache(cache):
    slow = engine.load_model(lambda rows: rows.sum(axis=1), n_features=2)
    with pytest.raises(ConfigError, match="head: expected a native model"):
        EmbeddedModel(cache, slow)
    with pytest.raises(ConfigError, match="default must be a number or numbers"):
        EmbeddedModel(cache, linear([1.0, 2.0]), default=lambda: 1.0)
    with EmbeddingCache(Encoder(lambda texts: np.ones((len(texts), 2))), 1 << 20) as bare:
        with pytest.raises(ConfigError, match="the cache has no fallback"):
            EmbeddedModel(bare, linear([1.0, 2.0]), linear([1.0, 2.0]))
