"""What type checkers infer of the public face. Checked by mypy in `make lint`; never run."""

from collections.abc import Awaitable
from typing import Any, assert_type

import numpy as np
import numpy.typing as npt

import engine


def models() -> engine.Model:
    model = engine.load_model("model.txt")
    assert_type(model, engine.Model)
    assert_type(model.n_features, int)
    assert_type(model.predict([[0.5, 1.0]]), npt.NDArray[np.float64])
    return engine.load_model(lambda rows: rows.sum(axis=1), n_features=3)


def answers(model: engine.Model, program: engine.FeatureProgram) -> None:
    with engine.Engine(primary=model, fallback=model, default=0.2, features=program, deadline_ms=5) as served:
        assert_type(served, engine.Engine)
        answer = served.predict({"distance": 1400.0}, deadline_ms=2.5)
        assert_type(answer, engine.Answer)
        assert_type(answer.value, float)
        assert_type(answer.source, str)
        assert_type(answer.on_time, bool)
        many = served.predict_many([[0.5, 1.0]], deadline_ns=1)
        assert_type(many, engine.Answers)
        assert_type(many.values, npt.NDArray[np.float64])
        assert_type(served.stats(), dict[str, Any])
        served.swap(primary=model, version="7")


async def awaited(served: engine.Engine) -> None:
    assert_type(served.predict_async([1.0]), Awaitable[engine.Answer])
    assert_type(await served.predict_async([1.0]), engine.Answer)
    assert_type(await served.predict_many_async([[1.0]]), engine.Answers)


def refused(served: engine.Engine) -> None:
    served.predict([1.0], deadline_ms="5")  # type: ignore[arg-type]
    engine.Engine(lambda rows: rows, lane="fast")  # type: ignore[arg-type]
