"""Python callables as models: their rows, their answers, their failures."""

import functools
import gc
import threading
import weakref

import numpy as np
import pytest

from engine.errors import ConfigError, InputError, InputTypeError, ModelError
from engine.model import _scorer
from engine.model.python import from_callable

ROWS = np.array([[1, 2], [3, 4], [5, 6]], dtype=np.float32)


def total(rows):
    return rows.sum(axis=1)


def test_scores_what_the_function_answers():
    model = from_callable(total, 2)
    assert model.predict(ROWS).tolist() == [3.0, 7.0, 11.0]
    assert (model.format, model.n_features, model.n_outputs, model.native) == ("python", 2, 1, False)
    assert _scorer.describe(model.scorer)["takes_gil"]


@pytest.mark.parametrize(
    "answer",
    [
        lambda rows: rows.sum(axis=1),
        lambda rows: rows.sum(axis=1, keepdims=True),
        lambda rows: rows.sum(axis=1).astype(np.float64),
        lambda rows: rows.sum(axis=1).astype(np.float16),
        lambda rows: rows.sum(axis=1).astype(np.int8),
        lambda rows: [float(row.sum()) for row in rows],
        lambda rows: np.repeat(rows.sum(axis=1), 2)[::2],
    ],
    ids=["float32", "column", "float64", "float16", "int8", "list", "strided"],
)
def test_takes_any_array_like_of_real_numbers(answer):
    assert from_callable(answer, 2).predict(ROWS).tolist() == [3.0, 7.0, 11.0]


def test_several_outputs_keep_their_order():
    model = from_callable(lambda rows: rows[:, ::-1] * 10.0, 2, n_outputs=2)
    assert model.predict(ROWS).tolist() == [[20, 10], [40, 30], [60, 50]]


def test_nan_and_infinity_pass_through():
    answer = from_callable(lambda rows: [float("nan"), float("inf"), -0.0], 2).predict(ROWS)
    assert np.isnan(answer[0])
    assert answer[1] == np.inf
    assert np.signbit(answer[2])


def test_the_rows_are_a_fresh_writable_copy():
    kept = []

    def keep(rows):
        assert (rows.dtype, rows.shape, rows.flags.c_contiguous, rows.flags.writeable) == (
            np.float32,
            (3, 2),
            True,
            True,
        )
        rows *= -1
        kept.append(rows)
        return rows[:, 0]

    given = np.array([[1, 2, 9], [3, 4, 9], [5, 6, 9]], dtype=np.float32)[
        :, :2
    ]  # rows with a gap between them
    model = from_callable(keep, 2)
    assert model.predict(given).tolist() == [-1, -3, -5]
    assert model.predict(given).tolist() == [-1, -3, -5]
    assert given.tolist() == ROWS.tolist()
    assert kept[0] is not kept[1]


def test_a_function_that_raises_is_the_cause_and_stays_readable():
    def broken(rows):
        raise LookupError("no such table")

    model = from_callable(broken, 2)
    assert model.describe()["last_error"] is None
    with pytest.raises(ModelError, match="LookupError: no such table") as failure:
        model.predict(ROWS)
    assert isinstance(failure.value.__cause__, LookupError)
    assert "in broken" in model.last_error()
    assert model.describe()["last_error"] == "LookupError: no such table"


@pytest.mark.parametrize(
    ("answer", "n_outputs", "text"),
    [
        (lambda rows: rows[:2, 0], 1, r"shape \[2\] for 3 rows, expected \[3\] or \[3, 1\]"),
        (lambda rows: 1.0, 1, r"shape \[\] for 3 rows"),
        (lambda rows: rows, 1, r"shape \[3, 2\] for 3 rows"),
        (lambda rows: rows.ravel(), 2, r"shape \[6\] for 3 rows, expected \[3, 2\]"),
        (lambda rows: [], 1, r"shape \[0\] for 3 rows"),
    ],
)
def test_a_wrong_shape_is_named(answer, n_outputs, text):
    with pytest.raises(ModelError, match=r"status 2\).*" + text):
        from_callable(answer, 2, n_outputs).predict(ROWS)


@pytest.mark.parametrize("answer", [["a", "b", "c"], [None, None, None], [1j, 2j, 3j], [[1], [2, 3], [4]]])
def test_what_is_no_real_number_fails(answer):
    with pytest.raises(ModelError, match=r"status 1\)"):
        from_callable(lambda rows: answer, 2).predict(ROWS)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_the_function_fails_the_score_and_reaches_a_direct_caller(error):
    def interrupted(rows):
        raise error("stop")

    model = from_callable(interrupted, 2)
    with pytest.raises(ModelError, match="status 1"):
        _scorer.score(model.scorer, ROWS)  # as the engine calls it
    with pytest.raises(error, match="stop"):
        model.predict(ROWS)


def test_an_exception_that_cannot_be_printed_is_still_a_failure():
    class Unprintable(Exception):
        def __str__(self):
            raise RuntimeError

    def broken(rows):
        raise Unprintable

    model = from_callable(broken, 2)
    with pytest.raises(ModelError, match="status 1"):
        _scorer.score(model.scorer, ROWS)
    assert "Unprintable" in model.last_error()


def test_a_kept_error_keeps_no_frame_and_so_not_the_model():
    class Marker:
        pass

    def use():
        marker = Marker()
        model = from_callable(lambda rows: 1 / 0, 2)
        with pytest.raises(ModelError):
            model.predict(ROWS)
        return weakref.ref(marker), model

    marker, model = use()
    gc.collect()
    assert marker() is None
    assert "ZeroDivisionError" in model.last_error()


def test_the_function_is_let_go_with_the_last_reference():
    class Model:
        def __call__(self, rows):
            return rows[:, 0]

    fn = Model()
    alive = weakref.ref(fn)
    model = from_callable(fn, 2)
    capsule = model.scorer
    del fn, model
    gc.collect()
    assert alive() is not None
    del capsule
    gc.collect()
    assert alive() is None


def test_calls_from_many_threads_each_get_their_own_answer():
    model = from_callable(total, 2)
    answers = {}

    def work(number):
        rows = np.full((5, 2), number, dtype=np.float32)
        answers[number] = [model.predict(rows).tolist() for _ in range(50)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(answers[number] == [[2.0 * number] * 5] * 50 for number in range(6))


def test_the_digest_follows_code_and_defaults_and_says_what_it_covers():
    def make(body):
        scope = {"__name__": "somewhere"}
        exec(body, scope)
        return from_callable(scope["f"], 2)

    one = make("def f(rows, k=1): return rows[:, 0] * k in {3, 4}")
    same = make("def f(rows, k=1): return rows[:, 0] * k in {3, 4}")
    assert one.digest == same.digest
    assert one.describe()["digest_covers"] == "name, code, constants and defaults"
    assert one.digest != make("def f(rows, k=2): return rows[:, 0] * k in {3, 4}").digest
    assert one.digest != make("def f(rows, k=1): return rows[:, 1] * k in {3, 4}").digest
    partial = from_callable(functools.partial(total), 2)
    assert partial.describe()["digest_covers"] == "name and identity in this process"
    assert len(partial.digest) == 64


def test_wrong_arguments_are_refused():
    with pytest.raises(InputTypeError, match="expected a callable, got int"):
        from_callable(3, 2)
    with pytest.raises(ConfigError, match="n_features must be an int from 1 to 4,294,967,295, got 0"):
        from_callable(total, 0)
    with pytest.raises(ConfigError, match="n_outputs must be an int from 1 to 4,294,967,295, got -1"):
        from_callable(total, 2, -1)
    with pytest.raises(InputError, match=r"\[n, 2\], got \[3, 5\]"):
        from_callable(total, 2).predict(np.zeros((3, 5)))
