"""A child process reads first: its death is an error here, and this process goes on."""

import os
import pickle
import time

import numpy as np
import pytest

from engine.errors import ModelFormatError, UnsupportedModelError
from engine.model import load_model, probe

pytestmark = pytest.mark.slow  # each starts an interpreter


class Calls:
    """Call a function on unpickling."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def test_what_ends_the_child_is_an_error_here(tmp_path):
    path = tmp_path / "model"
    path.write_bytes(pickle.dumps(Calls(os.abort)))
    with pytest.raises(
        ModelFormatError, match="model: reading it ended the process that tried: signal SIGABRT"
    ):
        load_model(path, trust=True)
    path.write_bytes(pickle.dumps(Calls(os._exit, 3)))
    with pytest.raises(ModelFormatError, match="exit status 3"):
        load_model(path, trust=True)


def test_time_and_memory_are_limited(tmp_path):
    path = tmp_path / "model"
    path.write_bytes(pickle.dumps(Calls(time.sleep, 600)))
    with pytest.raises(ModelFormatError, match="over 8 s"):
        probe(path, trust=True, seconds=4)
    path.write_bytes(pickle.dumps(Calls(bytearray, 64 << 30)))
    with pytest.raises(ModelFormatError, match="cannot be read: MemoryError"):
        probe(path, trust=True)


def test_a_damaged_scikit_learn_tree_does_not_end_this_process(tmp_path):
    ensemble = pytest.importorskip("sklearn.ensemble")
    rows = np.random.default_rng(0).normal(size=(80, 3))
    content = pickle.dumps(ensemble.RandomForestRegressor(3, random_state=0).fit(rows, rows[:, 0]))
    rng = np.random.default_rng(4)
    path = tmp_path / "model"
    for _ in range(2):
        damaged = bytearray(content)
        for at in rng.integers(len(content) // 4, len(content), 6):
            damaged[at] ^= 1 << rng.integers(8)
        path.write_bytes(bytes(damaged))
        try:
            load_model(path, trust=True)
        except (ModelFormatError, UnsupportedModelError):
            continue


def test_a_sound_file_passes_and_a_refused_one_says_why(tmp_path):
    lgb = pytest.importorskip("lightgbm")
    rows = np.random.default_rng(0).normal(size=(200, 3))
    path = tmp_path / "model"
    lgb.train({"verbose": -1}, lgb.Dataset(rows, rows[:, 0]), 3).save_model(path)
    probe(path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ModelFormatError) as here:
        load_model(path)
    with pytest.raises(ModelFormatError) as there:
        probe(path)
    assert str(there.value) == str(here.value)
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UnsupportedModelError, match="trust=True"):
        probe(path)
