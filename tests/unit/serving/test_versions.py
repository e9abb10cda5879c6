"""Changing what an engine serves: golden rows, rollback, canaries and shadows."""

import asyncio
import gc
import threading
import time
import weakref

import numpy as np
import pytest
from tests.observers import Recorder

import engine
from engine import transform as t
from engine.errors import ClosedError, ConfigError, ModelError
from engine.model import dense
from engine.testing import faults

ROWS = np.array([[1.0, 2.0], [0.5, -1.0], [3.0, 0.25]])


def linear(bias: float = 0.0, *weights: float) -> engine.Model:
    return dense([np.array(weights or (1.0, 10.0)).reshape(-1, 1)], [np.array([bias])])


def golden(bias: float) -> tuple[np.ndarray, np.ndarray]:
    return ROWS, ROWS @ [1.0, 10.0] + bias


@pytest.fixture(params=["inline", "batch"])
def eng(request):
    with engine.Engine(linear(), default=-1.0, deadline_ms=60_000, lane=request.param, version="1") as made:
        yield made


def test_golden_rows_open_the_door(eng):
    eng.swap(linear(5.0), version="2", golden=golden(5.0))
    assert (eng.predict([1.0, 2.0]).value, eng.version) == (26.0, "2")


@pytest.mark.parametrize(
    ("model", "values", "error", "text"),
    [
        (
            linear(5.0),
            golden(4.0)[1],
            ModelError,
            r"golden row 0: expected 25, got 26 \(3 of 3 rows differ\)",
        ),
        (
            linear(5.0),
            golden(5.0)[1] * (1 + 1e-5),
            ModelError,
            "the primary does not answer as expected: golden row 0",
        ),
        (faults.corrupting(linear(5.0), 1.0), golden(5.0)[1], ModelError, "got nan"),
        (linear(5.0), [1.0], ConfigError, r"golden must be .* got shapes \[3, 2\] and \[1\]"),
        (
            linear(5.0),
            [[1.0, 2.0]] * 3,
            ConfigError,
            r"golden values must have shape \[3\] for 3 rows, got \[3, 2\]",
        ),
        (linear(5.0), [float("inf")] * 3, ConfigError, "golden row 0: expected a finite value, got inf"),
        (linear(5.0, 1, 2, 3), golden(5.0)[1], ConfigError, "takes 3 features"),
    ],
)
def test_what_fails_its_golden_rows_never_takes_traffic(eng, model, values, error, text):
    with pytest.raises(error, match=text):
        eng.swap(model, version="2", golden=(ROWS, values))
    answer = eng.predict([1.0, 2.0])
    assert (answer.value, answer.version, eng.version) == (21.0, "1", "1")
    assert list(eng._versions().values()) == ["1"]


def test_a_model_that_raises_on_its_warm_up_rows_is_refused():
    def fussy(rows):
        if rows.min() < 0:
            raise ValueError("negative")
        return rows[:, 0]

    with engine.Engine(linear(), default=-1.0, lane="batch", deadline_ms=60_000) as eng:
        with pytest.raises(ModelError, match="warm-up"):
            eng.swap(engine.load_model(fussy, n_features=2), version="2")
        eng.swap(engine.load_model(fussy, n_features=2), version="2", warmup=np.ones((1, 2)))
        assert eng.predict([7.0, 1.0]).value == 7.0


def test_rollback_goes_back_and_forth(eng):
    with pytest.raises(ConfigError, match="no version before '1'"):
        eng.rollback()
    eng.swap(linear(5.0), version="2")
    assert eng.rollback() == "1"
    assert (eng.predict([1.0, 2.0]).value, eng.primary.predict(ROWS)[0]) == (21.0, 21.0)
    assert eng.rollback() == "2"
    assert eng.predict([1.0, 2.0]).value == 26.0


def test_rollback_of_a_closed_engine():
    eng = engine.Engine(linear())
    eng.close()
    for change in (eng.rollback, eng.canary, eng.shadow, lambda: eng.swap(linear())):
        with pytest.raises(ClosedError):
            change()


class Constant:
    def __init__(self, value):
        self.value = value

    def __call__(self, rows):
        return np.full(len(rows), self.value)


def test_only_the_version_before_stays_at_hand():
    with engine.Engine(linear(), default=-1.0, deadline_ms=60_000, lane="batch", version="1") as eng:
        gone = []
        for number in range(5):
            fn = Constant(float(number))
            gone.append(weakref.ref(fn))
            eng.swap(engine.load_model(fn, n_features=2), version=str(number + 2))
            assert eng.predict([1.0, 2.0]).value == number
        del fn
        gc.collect()
        assert [ref() is None for ref in gone] == [True, True, True, False, False]
        assert sorted(eng._versions().values()) == ["5", "6"]


def test_features_change_with_the_model():
    def program(*names):
        return t.FeatureProgram.fit([t.number(name) for name in names], {name: [0.0] for name in names})

    first, second = program("a", "b"), program("b", "a")
    with engine.Engine(linear(), features=first, deadline_ms=60_000, version="1") as eng:
        x = {"a": 1.0, "b": 2.0}
        assert eng.predict(x).value == 21.0
        eng.swap(linear(5.0), features=second, version="2", golden=([x], [17.0]))
        assert eng.predict(x).value == 17.0
        eng.rollback()
        assert eng.predict(x).value == 21.0
        with pytest.raises(ConfigError, match="3 columns"):
            eng.swap(features=program("a", "b", "c"))


def test_a_canary_answers_its_share_by_key(eng):
    eng.canary(linear(5.0), share=0.3, version="2")
    keys = [f"user-{i}" for i in range(2000)]
    first = {key: eng.predict([1.0, 2.0], key=key).version for key in keys}
    assert {key: eng.predict([1.0, 2.0], key=key).version for key in keys} == first
    chosen = {key for key, version in first.items() if version == "2"}
    assert 0.25 < len(chosen) / len(keys) < 0.35
    eng.canary(linear(5.0), share=0.6, version="2")
    grown = {key for key in keys if eng.predict([1.0, 2.0], key=key).version == "2"}
    assert chosen < grown
    eng.canary()
    assert {eng.predict([1.0, 2.0], key=key).version for key in keys} == {"1"}


def test_a_canary_without_keys_is_drawn(eng):
    eng.canary(linear(5.0), share=0.5, version="2")
    answers = [eng.predict([1.0, 2.0]) for _ in range(400)]
    assert 120 < sum(answer.version == "2" for answer in answers) < 280
    assert all(answer.value == (26.0 if answer.version == "2" else 21.0) for answer in answers)
    many = eng.predict_many(ROWS, key="someone")
    assert len(set(many.versions)) == 1


def test_a_canary_that_fails_goes_to_rest_and_the_primary_takes_its_share(eng):
    eng.canary(faults.corrupting(linear(5.0), 1.0), share=1.0, version="2", warmup=ROWS)
    versions = [eng.predict([1.0, 2.0]).version for _ in range(50)]
    assert versions[0] == "2"
    assert versions[-1] == "1"
    assert eng.stats()["breakers"]["2"] == {"open": True, "openings": 1}


@pytest.mark.parametrize("share", [-0.1, 1.1, "half", True, float("nan")])
def test_a_share_is_from_0_to_1(eng, share):
    with pytest.raises(ConfigError, match="share"):
        eng.canary(linear(), share=share)


def until(condition, seconds: float = 30.0) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.005)


def test_a_shadow_is_compared_and_answers_nobody(eng):
    eng.shadow(linear(0.5), version="dark")
    answers = [eng.predict([float(i), 1.0]) for i in range(20)]
    many = eng.predict_many(ROWS)
    assert {answer.version for answer in answers} | set(many.versions) == {"1"}
    until(lambda: (lambda s: s["rows"] + s["dropped"])(eng.stats()["shadow"]) == 23)
    facts = eng.stats()["shadow"]
    assert (facts["version"], facts["failed"]) == ("dark", 0)
    assert facts["compared"] == facts["rows"]
    assert facts["difference_mean"] == facts["difference_max"] == 0.5
    eng.shadow()
    assert eng.stats()["shadow"] is None


def test_a_python_shadow_is_refused(eng):
    with pytest.raises(ConfigError, match="GIL"):
        eng.shadow(engine.load_model(lambda rows: rows[:, 0], n_features=2))


@pytest.mark.parametrize("lane", ["inline", "batch"])
def test_a_monitor_is_shown_every_answer(lane):
    recorder = Recorder(2)
    with engine.Engine(
        linear(),
        fallback=linear(1000.0),
        default=-1.0,
        deadline_ms=60_000,
        lane=lane,
        version="1",
        monitor=recorder,
    ) as eng:
        ids = [eng.predict([1.0, 2.0]).id, eng.predict([1.0, 2.0], deadline_ms=0).id]
        many = eng.predict_many(ROWS, deadline_ms=[60_000, 0, 60_000])

        async def asked():
            return [
                await eng.predict_async([4.0, 2.0]),
                await eng.predict_async([4.0, 2.0], deadline_ms=0),
            ], await eng.predict_many_async(ROWS)

        singles, more = asyncio.run(asked())
        eng.canary(linear(5.0), share=1.0, version="2")
        ids += [*many.ids.tolist(), *(answer.id for answer in singles), *more.ids.tolist()]
        ids.append(eng.predict([1.0, 2.0]).id)
    shown = recorder.answers
    assert [answer["id"] for answer in shown] == ids
    assert [answer["values"][0] for answer in shown] == [21, -1, 21, -1, 5.5, 24, -1, 21, -9.5, 5.5, 26]
    assert [shown[i]["row"] for i in (2, 3, 4)] == [[1.0, 2.0], [], [3.0, 0.25]]  # an expired row is not read
    assert [answer["canary"] for answer in shown] == [False] * 10 + [True]
    assert shown[-1]["version"] == "2"
    assert [engine.Answers.SOURCES[shown[i]["source"]] for i in (0, 1)] == ["primary", "default"]
    assert engine.Answers.REASONS[shown[1]["reason"]] == "expired"


def test_a_monitor_is_shown_the_shadow_too():
    recorder = Recorder()
    with engine.Engine(linear(), deadline_ms=60_000, version="1", monitor=recorder) as eng:
        eng.shadow(linear(0.5), version="dark")
        live = eng.predict([1.0, 2.0])
        until(lambda: sum(eng.stats()["shadow"][key] for key in ("rows", "dropped")) == 1)
        if eng.stats()["shadow"]["rows"]:
            until(lambda: len(recorder.answers) == 2)
            dark = next(answer for answer in recorder.answers if answer["shadow"])
            assert (dark["id"], dark["version"], dark["values"]) == (live.id, "dark", [21.5])


def test_monitors_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="rows of 3 features"):
        engine.Engine(linear(), monitor=Recorder(3))
    with pytest.raises(ConfigError, match="ABI 9"):
        engine.Engine(linear(), monitor=Recorder(abi=9))
    with pytest.raises(ConfigError, match="ModelMonitor"):
        engine.Engine(linear(), monitor=object())


def test_swaps_and_rollbacks_under_load_mix_nothing():
    with engine.Engine(linear(), default=-1.0, deadline_ms=60_000, lane="batch", version="0") as eng:
        stop, wrong = threading.Event(), []

        def ask():
            while not stop.is_set():
                answer = eng.predict([1.0, 2.0])
                if answer.source != "primary" or answer.value != 21.0 + float(answer.version):
                    wrong.append(answer)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for number in range(1, 60):
            eng.swap(linear(float(number)), version=str(number))
            if number % 3 == 0:
                eng.rollback()
        stop.set()
        for thread in threads:
            thread.join()
        assert wrong == []
