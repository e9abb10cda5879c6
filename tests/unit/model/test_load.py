"""load_model and every kind of source."""

import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
from tests.unit.model.handmade_models import lightgbm_text, stump, xgboost_json, xgboost_tree

from engine.errors import ConfigError, InputError, ModelFormatError, UnsupportedModelError
from engine.model import load_model


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"", ModelFormatError, "empty"),
        (b"hello", ModelFormatError, "none of them"),
        (pickle.dumps({"a": 1}), UnsupportedModelError, "pickle"),
        (b"PK\x03\x04rest", UnsupportedModelError, "zip"),
        (b"CBM1rest", ModelFormatError, "model.bin"),
        (b"binf rest", UnsupportedModelError, "old binary"),
        (b'{"name": "tree", "tree_info": []}', UnsupportedModelError, "LightGBM JSON dump"),
        (b'{"oblivious_trees": []}', ModelFormatError, "features_info"),
        (b'{"a": 1}', ModelFormatError, "learner"),
        (b'{"a": ', ModelFormatError, "truncated"),
        (b'{"learner": 3}', ModelFormatError, "learner"),
    ],
)
def test_foreign_files(load, content, error, message):
    with pytest.raises(error, match=message):
        load(content)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_model(tmp_path / "none.txt")


def test_a_directory(tmp_path):
    with pytest.raises(ModelFormatError, match="directory"):
        load_model(tmp_path)


def test_an_object_of_no_known_library():
    with pytest.raises(UnsupportedModelError, match=r"builtins\.int"):
        load_model(3)


def test_a_callable_needs_its_width():
    with pytest.raises(ConfigError, match="n_features"):
        load_model(lambda rows: rows[:, 0])


def test_a_model_is_returned_as_it_is(load):
    model = load(lightgbm_text([stump("1", 0)]))
    assert load_model(model) is model


def test_the_width_is_checked(load):
    model = load(lightgbm_text([stump("1", 0)]))
    with pytest.raises(ConfigError, match="expected a model with 3 features, got 2"):
        load_model(model, n_features=3)
    with pytest.raises(InputError, match=r"\[n, 2\]"):
        model.predict([[1.0, 2.0, 3.0]])


@pytest.mark.parametrize("content", [lightgbm_text([stump("1", 0)]), xgboost_json([xgboost_tree()])])
def test_no_training_library_is_imported_for_a_file(tmp_path, content):
    path = tmp_path / "model"
    path.write_bytes(content)
    code = (
        "import sys\nfrom engine.model import load_model\n"
        f"load_model({str(path)!r}).predict([[1.0, 2.0]])\n"
        "heavy = {'lightgbm', 'xgboost', 'sklearn', 'scipy', 'onnxruntime', 'pandas'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_rows_that_are_not_contiguous(load):
    model = load(lightgbm_text([stump("1", 0)]))
    wide = np.array([[0.0, 5.0, 0.0, 5.0], [2.0, 5.0, 2.0, 5.0]])
    assert model.predict(wide[:, ::2]).tolist() == [10, 20]
    assert model.predict(wide[::-1, :2]).tolist() == [20, 10]
    assert model.predict(np.asfortranarray(wide[:, :2])).tolist() == [10, 20]
    assert model.predict(np.empty((0, 2))).tolist() == []


def test_rows_inside_records_are_copied_where_they_lie_askew(load):
    model = load(lightgbm_text([stump("1", 0)]))
    records = np.zeros(2, np.dtype([("tag", "u1"), ("row", "f4", 2)]))  # nine bytes a record
    records["row"][1] = [2.0, 0.0]
    assert model.predict(records["row"]).tolist() == [10, 20]
    assert model.predict(records["row"].astype(">f4")).tolist() == [10, 20]


def test_rounding_to_float32_is_silent_and_becomes_infinity():
    """The model computes in float32: 1e300 rounds to infinity and 1e-300 to 0, without a warning."""
    from engine.model import dense

    pick = dense([np.ones((1, 1), np.float32)], [np.zeros(1, np.float32)])
    with warnings.catch_warnings(), np.errstate(all="warn"):
        warnings.simplefilter("error")
        assert pick.predict([[1e300], [-1e300], [1e-300], [2.5]]).tolist() == [np.inf, -np.inf, 0.0, 2.5]
        assert pick.predict(np.array([[1e300]])[:, ::-1]).tolist() == [np.inf]


def test_threads_give_the_same_bits_and_at_least_one_is_needed(load):
    model = load(lightgbm_text([stump("1", 0)]))
    rows = np.random.default_rng(3).normal(size=(3001, 2))
    expected = model.predict(rows).tobytes()
    for threads in (2, 3, 100):
        assert model.predict(rows, threads=threads).tobytes() == expected
    with pytest.raises(InputError, match="at least one thread, got 0"):
        model.predict(rows, threads=0)


def test_a_callable_keeps_to_the_calling_thread_and_its_error_is_told():
    import threading

    seen = set()

    def note(rows):
        seen.add(threading.get_ident())
        return rows[:, 0]

    assert load_model(note, n_features=1).predict(np.zeros((2000, 1)), threads=4).shape == (2000,)
    assert seen == {threading.get_ident()}


def test_an_engine_rounds_as_silently():
    from engine import Engine
    from engine.model import dense

    pick = dense([np.ones((1, 1), np.float32)], [np.zeros(1, np.float32)], output="logistic")
    with warnings.catch_warnings(), np.errstate(all="warn"):
        warnings.simplefilter("error")
        with Engine(pick, deadline_ms=60_000) as engine:
            assert engine.predict(np.array([1e300])).value == 1
            answers = engine.predict_many(np.array([[-1e300], [0.0]]))
            assert np.ravel(answers.values).tolist() == [0, 0.5]
