"""The Engine's face: lanes, values, deadlines and the errors of callers. Expectations are worked out by hand."""

import asyncio
import math
import time

import numpy as np
import pytest

import engine
from engine import transform as t
from engine.errors import ClosedError, ConfigError, InputError, InputTypeError
from engine.model import dense

FAR_MS = 60_000.0


def linear(*weights: float, bias: float = 0.0) -> engine.Model:
    return dense([np.array(weights, dtype=float).reshape(-1, 1)], [np.array([bias])])


@pytest.fixture(params=["inline", "batch"])
def eng(request):
    """x0 + 10 x1, with a fallback that gives 1000 more and a default of -1."""
    with engine.Engine(
        linear(1, 10), fallback=linear(1, 10, bias=1000), default=-1.0, deadline_ms=FAR_MS, lane=request.param
    ) as made:
        yield made


def test_predict_gives_one_labelled_answer(eng):
    answer = eng.predict([1.0, 2.0])
    assert (answer.value, answer.source, answer.reason) == (21.0, "primary", "ok")
    assert answer.version == eng.primary.digest[:12]
    assert answer.on_time
    assert answer.on_time_ready
    assert answer.latency_us > 0
    assert "source='primary'" in repr(answer)


@pytest.mark.parametrize(
    "row",
    [
        [1, 2],
        (1.0, 2.0),
        np.array([1.0, 2.0]),
        np.array([1, 2], dtype=np.int32),
        np.array([1.0, 2.0], dtype=np.float32),
        np.array([[1.0, 9.0], [2.0, 9.0]])[:, 0],
        [np.float32(1), np.int64(2)],
        [True, 2],
    ],
    ids=["ints", "tuple", "float64", "int32", "float32", "strided", "numpy scalars", "bool"],
)
def test_rows_of_every_numeric_form(eng, row):
    assert eng.predict(row).value == 21.0


def test_missing_values_reach_the_model_and_nan_answers_fall_back(eng):
    answer = eng.predict([None, 2.0])
    assert (answer.source, answer.reason) == ("default", "fallback_error")  # both give NaN for a NaN row
    assert answer.value == -1.0


@pytest.mark.parametrize(
    ("row", "error", "text"),
    [
        ([1.0], InputError, "expected a row of 2 features, got 1"),
        ([1.0, 2.0, 3.0], InputError, "expected a row of 2 features, got 3"),
        (np.zeros(3), InputError, r"expected a row of 2 features \(1-D\), got shape \[3\]"),
        (np.zeros((1, 2)), InputError, "for several rows call predict_many"),
        (5.0, InputError, "got float 5.0"),
        (["a", 2.0], InputTypeError, "feature 0: expected a number, got str 'a'"),
        ([1.0, object()], InputTypeError, "feature 1: expected a number, got object"),
        ([1.0, 10**400], InputError, "feature 1: 1000.* is too large for a float64"),
        (np.array(["a", "b"]), InputTypeError, "got dtype <U1"),
        ({"a": 1.0, "b": 2.0}, InputTypeError, "pass Engine\\(features=program\\)"),
    ],
    ids=[
        "short",
        "long",
        "wide array",
        "matrix",
        "scalar",
        "text",
        "object",
        "huge int",
        "text array",
        "mapping",
    ],
)
def test_wrong_rows_raise_with_what_was_expected(eng, row, error, text):
    with pytest.raises(error, match=text):
        eng.predict(row)
    assert eng.predict([1.0, 2.0]).value == 21.0


def test_deadline_of_zero_answers_at_once_with_the_default(eng):
    for answer in (eng.predict([1.0, 2.0], 0), eng.predict([1.0, 2.0], deadline_ns=time.monotonic_ns() - 1)):
        assert (answer.value, answer.source, answer.reason) == (-1.0, "default", "expired")
        assert not answer.on_time


@pytest.mark.parametrize("deadline", [1e6, 1e300, math.inf, 10**30])
def test_huge_deadlines_mean_no_hurry(eng, deadline):
    assert eng.predict([1.0, 2.0], deadline).source == "primary"


@pytest.mark.parametrize(
    ("keywords", "error", "text"),
    [
        ({"deadline_ms": -1}, InputError, "zero or more milliseconds from the call, got -1.0"),
        ({"deadline_ms": math.nan}, InputError, "got nan"),
        ({"deadline_ms": "soon"}, InputTypeError, "must be a number of milliseconds, got str 'soon'"),
        ({"deadline_ns": -5}, InputError, "must be a point on time.monotonic_ns\\(\\), got -5"),
        ({"deadline_ns": 1.5}, InputTypeError, "must be an integer"),
        ({"deadline_ms": 1, "deadline_ns": 1}, InputError, "not both"),
    ],
)
def test_wrong_deadlines_raise(eng, keywords, error, text):
    with pytest.raises(error, match=text):
        eng.predict([1.0, 2.0], **keywords)
    with pytest.raises(error, match=text):
        eng.predict_many([[1.0, 2.0]], **keywords)


def test_predict_many_answers_in_the_order_of_the_rows(eng):
    rows = np.arange(2000.0).reshape(1000, 2)
    many = eng.predict_many(rows)
    assert len(many) == 1000
    np.testing.assert_array_equal(many.values, rows[:, 0] + 10 * rows[:, 1])
    assert set(many.sources) == {"primary"}
    assert set(many.reasons) == {"ok"}
    assert many.on_time.all()
    assert (many.latency_us > 0).all()
    assert len(set(many.ids.tolist())) == 1000
    assert set(many.versions) == {eng.version}


def test_predict_many_with_a_deadline_a_row(eng):
    many = eng.predict_many(np.ones((4, 2)), deadline_ms=[FAR_MS, 0, FAR_MS, 0])
    assert many.sources.tolist() == ["primary", "default", "primary", "default"]
    assert many.values.tolist() == [11.0, -1.0, 11.0, -1.0]
    assert many.reasons.tolist() == ["ok", "expired", "ok", "expired"]


def test_predict_many_of_no_rows(eng):
    assert len(eng.predict_many(np.empty((0, 2)))) == 0


@pytest.mark.parametrize(
    "rows", [np.asfortranarray(np.ones((6, 2))), np.ones((12, 2))[::2], np.ones((6, 4))[:, ::2]]
)
def test_predict_many_of_rows_that_are_not_contiguous(eng, rows):
    assert eng.predict_many(rows).values.tolist() == [11.0] * 6


@pytest.mark.parametrize(
    ("rows", "error", "text"),
    [
        (np.ones((3, 3)), InputError, r"expected rows of shape \[rows, 2\], got \[3, 3\]"),
        (np.ones(2), InputError, r"got \[2\]"),
        (np.array([["a", "b"]]), InputTypeError, "dtype <U1"),
    ],
)
def test_wrong_matrices_raise(eng, rows, error, text):
    with pytest.raises(error, match=text):
        eng.predict_many(rows)


def test_wrong_deadlines_per_row_name_the_row(eng):
    with pytest.raises(InputError, match=r"got -2\.0 for row 1"):
        eng.predict_many(np.ones((3, 2)), deadline_ms=[1.0, -2.0, 3.0])
    with pytest.raises(InputError, match="one for each of 3 rows"):
        eng.predict_many(np.ones((3, 2)), deadline_ms=[1.0, 2.0])


def test_async_answers(eng):
    async def main():
        first = await eng.predict_async([1.0, 2.0])
        rest = await asyncio.gather(*(eng.predict_async([float(i), 0.0]) for i in range(300)))
        many = await eng.predict_many_async(np.ones((50, 2)))
        return first, rest, many

    first, rest, many = asyncio.run(main())
    assert (first.value, first.source) == (21.0, "primary")
    assert [answer.value for answer in rest] == [float(i) for i in range(300)]
    assert many.values.tolist() == [11.0] * 50
    # A second loop, after the first is gone, is served as well.
    assert asyncio.run(main())[0].value == 21.0


def test_async_on_uvloop(eng):
    uvloop = pytest.importorskip("uvloop")

    async def main():
        return await asyncio.gather(*(eng.predict_async([float(i), 0.0]) for i in range(100)))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert [answer.value for answer in runner.run(main())] == [float(i) for i in range(100)]


def test_async_caller_mistakes_raise(eng):
    async def main():
        with pytest.raises(InputError, match="2 features"):
            await eng.predict_async([1.0])
        with pytest.raises(InputError, match="got nan"):
            await eng.predict_async([1.0, 2.0], math.nan)

    asyncio.run(main())


def test_closed_engines_say_so(eng):
    eng.close()
    eng.close()
    assert eng.closed
    with pytest.raises(ClosedError, match="closed"):
        eng.predict([1.0, 2.0])
    with pytest.raises(ClosedError, match="closed"):
        eng.predict_many(np.ones((1, 2)))
    with pytest.raises(ClosedError, match="closed"):
        eng.swap(linear(1, 1))


def test_stats_count_every_answer_once(eng):
    for _ in range(5):
        eng.predict([1.0, 2.0])
    eng.predict([1.0, 2.0], 0)
    eng.predict_many(np.ones((7, 2)))
    while eng.stats()["in_flight"]:  # an executor may be about to let go of its reference
        time.sleep(0.001)
    stats = eng.stats()
    assert stats["answers"] == {"primary": 12, "fallback": 0, "default": 1}
    assert stats["reasons"] == {"primary": {"ok": 12}, "fallback": {}, "default": {"expired": 1}}
    assert stats["on_time_ready"] == stats["on_time_returned"] == 12
    assert stats["latency_us"]["primary"]["count"] == 12
    assert stats["cost"]["row_us"] > 0


def test_swap_serves_the_new_version_and_keeps_what_is_not_given(eng):
    eng.swap(primary=linear(2, 0), version="7")
    answer = eng.predict([3.0, 5.0])
    assert (answer.value, answer.version) == (6.0, "7")
    assert eng.version == "7"
    assert eng.predict([1.0, 2.0], 0).value == -1.0
    eng.swap(default=-2.0, version="8")
    assert eng.predict([3.0, 5.0]).value == 6.0
    assert eng.predict([1.0, 2.0], 0).value == -2.0
    assert eng.predict_many(np.ones((2, 2))).versions == ["8", "8"]


def test_swap_refuses_other_shapes_and_serves_on(eng):
    with pytest.raises(ConfigError, match="n_features"):
        eng.swap(primary=linear(1, 2, 3))
    with pytest.raises(ConfigError, match="3 features"):
        eng.swap(primary=linear(1, 2, 3), fallback=linear(1, 2, 3))
    assert eng.predict([1.0, 2.0]).value == 21.0


def test_ids_are_unique_between_engines():
    with engine.Engine(linear(1)) as one, engine.Engine(linear(1)) as two:
        ids = [source.predict([0.0]).id for source in (one, two) for _ in range(100)]
    assert len(set(ids)) == 200


def test_several_outputs_come_as_an_array():
    model = dense([np.eye(3)], [np.zeros(3)])
    for lane in ("inline", "batch"):
        with engine.Engine(model, default=[7, 8, 9], lane=lane, deadline_ms=FAR_MS) as eng:
            assert eng.predict([1.0, 2.0, 3.0]).value.tolist() == [1.0, 2.0, 3.0]
            assert eng.predict([1.0, 2.0, 3.0], 0).value.tolist() == [7.0, 8.0, 9.0]
            assert eng.predict_many(np.ones((4, 3))).values.shape == (4, 3)
            assert eng.predict_many(np.ones((1, 3)), 0).values.tolist() == [[7.0, 8.0, 9.0]]


def test_a_default_function_is_asked_each_time_and_may_fail():
    given = iter([1.5, 2.5])
    with engine.Engine(linear(1), default=lambda: next(given)) as eng:
        assert eng.predict([0.0], 0).value == 1.5
        assert eng.predict([0.0], 0).value == 2.5
        answer = eng.predict([0.0], 0)  # StopIteration inside
        assert math.isnan(answer.value)
        assert (answer.source, answer.reason) == ("default", "default_error")
        many = eng.predict_many([[0.0]], 0)
        assert many.reasons.tolist() == ["default_error"]
        assert eng.stats()["default_errors"] == 2


def test_without_a_default_the_value_is_nan():
    with engine.Engine(linear(1)) as eng:
        assert math.isnan(eng.predict([0.0], 0).value)


def test_auto_takes_the_inline_lane_for_a_cheap_native_model_and_the_batch_lane_for_python():
    with engine.Engine(linear(1)) as eng:
        assert eng.lane == "inline"
    with engine.Engine(engine.load_model(lambda rows: rows[:, 0], n_features=1), deadline_ms=FAR_MS) as eng:
        assert eng.lane == "batch"
        assert eng.predict([4.0]).value == 4.0


def test_float64_rows_reach_a_model_that_compares_in_double():
    # 1 + 2^-40 is 1 in float32: only a double row lands right of the weight's rounding.
    with engine.Engine(linear(2.0**40, bias=-(2.0**40)), lane="inline") as eng:
        assert eng.predict([1.0 + 2.0**-40]).value == 1.0


PROGRAM_SPEC = [t.number("size").impute("mean"), t.category("colour").ordinal()]
PROGRAM_TABLE = {"size": [1.0, 3.0], "colour": ["blue", "red"]}


@pytest.fixture(params=["inline", "batch"])
def with_features(request):
    program = engine.FeatureProgram.fit(PROGRAM_SPEC, PROGRAM_TABLE)
    with engine.Engine(linear(1, 10), features=program, lane=request.param, deadline_ms=FAR_MS) as eng:
        yield eng


def test_mappings_become_rows_through_the_feature_program(with_features):
    codes = {
        name: with_features.predict({"size": 0.0, "colour": name}).value / 10 for name in ("blue", "red")
    }
    assert sorted(codes.values()) == [0.0, 1.0]
    assert with_features.predict({"size": None, "colour": "blue"}).value == 2.0 + 10 * codes["blue"]
    assert with_features.predict({"colour": "blue", "extra": 1}).value == 2.0 + 10 * codes["blue"]
    many = with_features.predict_many([{"size": 1.0, "colour": "red"}, {"size": 4.0, "colour": "blue"}])
    assert many.values.tolist() == [1.0 + 10 * codes["red"], 4.0 + 10 * codes["blue"]]


def test_wrong_values_in_a_mapping_name_the_key(with_features):
    with pytest.raises(InputTypeError, match="size"):
        with_features.predict({"size": "wide", "colour": "red"})
    with pytest.raises(InputTypeError, match="size") as raised:
        with_features.predict_many([{"size": 1.0, "colour": "red"}, {"size": "wide", "colour": "red"}])
    assert raised.value.__notes__ == ["in row 1 of 2"]


@pytest.mark.parametrize(
    ("keywords", "text"),
    [
        ({"lane": "fast"}, "lane must be one of auto, inline, batch, got 'fast'"),
        ({"batch_rows_max": 0}, "batch_rows_max must be an int from 1 to 1,048,576, got 0"),
        ({"executors": 65}, "executors must be an int from 1 to 64, got 65"),
        ({"executors": 1.5}, "executors must be an int, got float 1.5"),
        ({"deadline_ms": 0}, "deadline_ms must be a number above 0"),
        ({"deadline_ms": math.nan}, "deadline_ms must be a number above 0"),
        ({"miss_rate": 0.9}, "miss_rate must be a number above 0 and at most 0.5"),
        ({"default": "none"}, "the default must be a number or a function"),
        ({"default": [1.0, 2.0]}, r"one number or 1 of them, got shape \[2\]"),
        ({"fallback": linear(1, 2, 3)}, "primary and fallback must agree in n_features, got 2 and 3"),
        ({"features": object()}, "features must be a FeatureProgram, got object"),
        ({"warmup": np.ones((2, 3))}, "warmup must be at least one row of 2 features"),
    ],
)
def test_parts_that_do_not_fit_are_refused(keywords, text):
    with pytest.raises(ConfigError, match=text):
        engine.Engine(linear(1, 2), **keywords)


def test_without_spinning_the_batch_lane_answers_as_well():
    with engine.Engine(linear(1), lane="batch", spin=False, deadline_ms=FAR_MS) as eng:
        assert [eng.predict([float(i)]).value for i in range(50)] == [float(i) for i in range(50)]


def test_a_python_fallback_is_refused_with_the_reason():
    with pytest.raises(ConfigError, match="the fallback must be native"):
        engine.Engine(linear(1), fallback=engine.load_model(lambda rows: rows[:, 0], n_features=1))
    with pytest.raises(ConfigError, match="cannot be served inline"):
        engine.Engine(engine.load_model(lambda rows: rows[:, 0], n_features=1), lane="inline")
    with pytest.raises(ConfigError, match="whose width is not known"):
        engine.Engine(lambda rows: rows[:, 0])


def test_a_feature_program_of_another_width_is_refused():
    program = engine.FeatureProgram.fit(PROGRAM_SPEC, PROGRAM_TABLE)
    with pytest.raises(ConfigError, match="makes 2 columns and the primary takes 3"):
        engine.Engine(linear(1, 2, 3), features=program)
