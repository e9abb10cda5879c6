"""Each version reads rows of its own width: doubles where its primary or its fallback compares in double."""

import numpy as np
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
