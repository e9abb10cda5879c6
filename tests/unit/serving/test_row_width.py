"""Each version reads rows of its own width: doubles where its primary or its fallback compares in double."""

import asyncio
import warnings

import numpy as np
import pandas as pd
import pytest

import engine
from engine.model import dense

FAR_MS = 60_000.0
# 1 + 2^-40 is 1 in float32: only a double row gives 1.0 here.
ROW = [1.0 + 2.0**-40]


def double() -> engine.Model:
    return dense([np.array([[2.0**40]])], [np.array([-(2.0**40)])])


def single(answer: float = 5.0) -> engine.Model:
    def model(rows):
        assert rows.dtype == np.float32
        return np.full(len(rows), answer)

    return engine.load_model(model, n_features=1)


def failing() -> engine.Model:
    def model(rows):
        raise ValueError("down")

    return engine.load_model(model, n_features=1)


def test_the_fallback_of_a_float32_primary():
    with engine.Engine(failing(), fallback=double(), deadline_ms=FAR_MS, breaker=False) as eng:
        assert eng.predict(ROW).value == 1.0
        assert eng.predict_many([ROW, ROW]).values.tolist() == [1.0, 1.0]


def test_a_float32_primary_beside_such_a_fallback_still_gets_float32():
    with engine.Engine(single(), fallback=double(), deadline_ms=FAR_MS) as eng:
        assert (eng.predict(ROW).value, eng.predict(ROW).source) == (5.0, "primary")


@pytest.mark.parametrize("lane", ["batch", "auto"])
def test_a_canary_and_a_swapped_version(lane):
    with engine.Engine(single(), deadline_ms=FAR_MS, lane=lane) as eng:
        assert eng.predict(ROW).value == 5.0
        eng.canary(double(), share=1.0)
        assert eng.predict(ROW).value == 1.0
        assert eng.predict_many(np.array([ROW, ROW])).values.tolist() == [1.0, 1.0]
        eng.canary()
        assert eng.predict(ROW).value == 5.0
        eng.swap(double(), golden=(np.array([ROW]), [1.0]))
        assert eng.predict(ROW).value == 1.0
        eng.rollback()
        assert eng.predict(ROW).value == 5.0


def test_a_shadow_beside_a_live_version_of_the_other_width():
    with engine.Engine(double(), deadline_ms=FAR_MS) as eng:
        eng.shadow(dense([np.array([[3.0]])], [np.array([0.0])]))
        until = 2_000
        while eng.stats()["shadow"]["compared"] == 0 and until:
            eng.predict([2.0])
            until -= 1
        assert eng.stats()["shadow"]["failed"] == 0


def test_rows_of_both_widths_in_flight_at_once():
    with engine.Engine(single(), deadline_ms=FAR_MS, batch_rows_max=64) as eng:
        eng.canary(double(), share=0.5)
        seen = {eng.predict(ROW, key=str(i)).value for i in range(200)}
        assert seen == {5.0, 1.0}


def compared(eng, ask, rows=50):
    """The shadow's statistics after it was offered so many more rows."""
    for _ in range(rows):
        ask()
    while (facts := eng.stats()["shadow"])["rows"] + facts["dropped"] < rows:
        pass
    return facts


def ones() -> engine.Model:
    """A native model that computes in float32."""
    return dense([np.array([[0.0]], np.float32)], [np.array([1.0], np.float32)])


@pytest.mark.parametrize("make", [ones, lambda: single(1.0)])
@pytest.mark.parametrize("lane", ["inline", "batch"])
def test_a_float64_shadow_of_a_float32_version_sees_unrounded_rows(make, lane):
    """The live versions answer 1. The shadow does for the row itself, and answers 0 for the row in float32."""
    if lane == "inline" and not make().native:
        pytest.skip("a Python callable is not served inline")

    async def asked(eng):
        await eng.predict_async(ROW)
        await eng.predict_many_async([ROW])

    with engine.Engine(make(), deadline_ms=FAR_MS, lane=lane, version="1") as eng:
        assert eng.predict(ROW).value == 1.0
        eng.swap(make(), version="2")
        eng.canary(make(), share=0.0, version="3")
        eng.shadow(double(), version="dark")
        for _ in range(50):
            eng.predict(ROW)
        asyncio.run(asked(eng))
        eng.predict_many([ROW, ROW])
        eng.rollback()
        assert eng.predict(ROW).version == "1"
        eng.swap(make(), version="4")
        eng.predict(ROW)
        eng.canary(make(), share=1.0, version="5")
        assert eng.predict(ROW).version == "5"
        while (facts := eng.stats()["shadow"])["rows"] + facts["dropped"] < 57:
            pass
        assert facts["rows"] > 0
        assert (facts["failed"], facts["difference_max"]) == (0, 0.0)
        eng.canary()
        eng.shadow()
        assert eng.predict(ROW).version == "4"
        assert (eng.rollback(), eng.predict(ROW).value) == ("1", 1.0)


def lossy(names=None):
    return engine.load_model(lambda rows: rows[:, 1], n_features=2, feature_names=names)


@pytest.mark.parametrize(
    "ask",
    [
        lambda eng: eng.predict([1.0, 16777217]),
        lambda eng: eng.predict((1, 16777217.0)),
        lambda eng: eng.predict(np.array([1.0, 16777217.0])),
        lambda eng: eng.predict(np.array([1, 16777217])),
        lambda eng: eng.predict({"id": 16777217, "x": 1}),
        lambda eng: eng.predict(pd.Series({"id": 16777217, "x": 1})),
        lambda eng: eng.predict_many([[1.0, 16777217]]),
        lambda eng: eng.predict_many(np.array([[1, 16777217]])),
        lambda eng: eng.predict_many(pd.DataFrame({"id": [16777217], "x": [1]})),
        lambda eng: eng.predict_many([{"id": 16777217, "x": 1}]),
        lambda eng: asyncio.run(eng.predict_async([1.0, 16777217])),
        lambda eng: asyncio.run(eng.predict_many_async([[1.0, 16777217]])),
    ],
)
def test_an_engine_says_once_that_it_rounds_a_whole_number(ask):
    with engine.Engine(lossy(["x", "id"]), default=0.0, deadline_ms=FAR_MS) as eng:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            eng.predict([1.5, 16777216.0])
            assert caught == []
            for _ in range(3):
                ask(eng)
        assert len(caught) == 1
        assert "rounds column 'id': 16777217 (row 0) becomes 16777216" in str(caught[0].message)


def test_the_warning_points_at_the_caller():
    with engine.Engine(lossy(), default=0.0, deadline_ms=FAR_MS) as eng:
        with pytest.warns(UserWarning, match="rounds column 1") as caught:
            eng.predict([1.0, 16777217])
        assert caught[0].filename == __file__


def test_no_warning_where_nothing_is_lost():
    wide = engine.load_model(lambda rows: rows[:, 1], n_features=2, dtype="float64")
    for model in (wide, lossy()):
        with engine.Engine(model, default=0.0, deadline_ms=FAR_MS) as eng, warnings.catch_warnings():
            warnings.simplefilter("error")
            id = 16777217 if model is wide else 16777218
            for row in ([1.5, id], np.array([1.5, id]), np.array([1.5, 16777217], np.float32), [0.1, 1e300]):
                eng.predict(row)
                eng.predict_many([row])
                eng.predict_many(np.array([row]))
            assert eng.predict([0.0, id]).value == id


def test_later_rows_are_sampled():
    with (
        engine.Engine(lossy(), default=0.0, deadline_ms=FAR_MS) as eng,
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        for _ in range(1000):
            eng.predict([1.0, 2.0])
        for _ in range(1001):
            eng.predict([1.0, 16777217])
        assert len(caught) == 1


def test_a_float32_fallback_and_a_swapped_version_count_too():
    with engine.Engine(double(), deadline_ms=FAR_MS) as eng:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            eng.predict([16777217])
    with engine.Engine(double(), deadline_ms=FAR_MS, lane="batch") as eng:
        eng.swap(single(), version="2")
        with pytest.warns(UserWarning, match="rounds column 0"):
            eng.predict([16777217])
