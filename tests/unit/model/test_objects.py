"""Fitted objects in files: which are read, which are refused, and that nothing runs without trust."""

import io
import os
import pickle
import zipfile

import numpy as np
import pytest

from engine.errors import ModelFormatError, UnsupportedModelError
from engine.model import inspect, load_model

ROWS = np.random.default_rng(0).normal(size=(60, 3))


@pytest.fixture(scope="module")
def forest():
    ensemble = pytest.importorskip("sklearn.ensemble")
    return ensemble.RandomForestRegressor(3, max_depth=3, random_state=0).fit(ROWS, ROWS[:, 0])


class Touches:
    """Make a file when unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (os.mkdir, (self.path,))


@pytest.mark.parametrize("writer", ["pickle", "joblib"])
def test_a_pickle_is_read_where_it_is_trusted(tmp_path, forest, writer):
    path = tmp_path / "model"
    if writer == "pickle":
        path.write_bytes(pickle.dumps(forest))
    else:
        pytest.importorskip("joblib").dump(forest, path)
    with pytest.raises(UnsupportedModelError, match="trust=True"):
        load_model(path)
    assert load_model(path, trust=True).predict(ROWS).tolist() == load_model(forest).predict(ROWS).tolist()


def test_nothing_runs_without_trust(tmp_path):
    path, mark = tmp_path / "model", tmp_path / "mark"
    path.write_bytes(pickle.dumps(Touches(mark)))
    for reader in (load_model, inspect):
        with pytest.raises(UnsupportedModelError, match="any code"):
            reader(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (pickle.dumps({"a": 1}), UnsupportedModelError, r"got builtins\.dict"),
        (pickle.dumps("/etc/passwd"), UnsupportedModelError, r"got builtins\.str"),
        (pickle.dumps({"a": 1})[:-3], ModelFormatError, "cannot be read"),
    ],
)
def test_trusted_pickles_that_hold_no_model(load, content, error, message, tmp_path):
    path = tmp_path / "model"
    path.write_bytes(content)
    with pytest.raises(error, match=message):
        load_model(path, trust=True)


def test_skops_reads_a_forest_where_it_is_trusted(tmp_path, forest):
    """skops does not count scikit-learn's Tree as safe, because Tree believes the sizes in a file."""
    skops = pytest.importorskip("skops.io")
    path = tmp_path / "model"
    path.write_bytes(skops.dumps(forest))
    with pytest.raises(UnsupportedModelError, match=r"sklearn\.tree\._tree\.Tree"):
        load_model(path)
    assert load_model(path, trust=True).predict(ROWS).tolist() == load_model(forest).predict(ROWS).tolist()


def test_skops_reads_a_linear_model_and_survives_damage(tmp_path):
    skops = pytest.importorskip("skops.io")
    line = (
        pytest.importorskip("sklearn.linear_model").LinearRegression().fit(ROWS, ROWS @ [1.0, 2.0, 3.0] + 4)
    )
    path = tmp_path / "model"
    content = skops.dumps(line)
    path.write_bytes(content)
    assert load_model(path).predict([[1.0, 1.0, 1.0]]) == pytest.approx([10.0])
    with pytest.raises(UnsupportedModelError, match="skops"):
        inspect(path)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(content)
        for at in rng.integers(4, len(content), 3):
            damaged[at] ^= 1 << rng.integers(8)
        path.write_bytes(bytes(damaged[: rng.integers(4, len(content))] if rng.random() < 0.3 else damaged))
        try:
            model = load_model(path)
        except (ModelFormatError, UnsupportedModelError):
            refused += 1
        else:
            model.predict(np.zeros((2, model.n_features)))
    assert refused > 50


def test_skops_files_that_name_other_types_are_refused(tmp_path):
    skops = pytest.importorskip("skops.io")
    path = tmp_path / "model"
    path.write_bytes(skops.dumps(io.BytesIO))
    with pytest.raises(UnsupportedModelError, match=r"io\.BytesIO"):
        load_model(path)


def test_an_archive_that_unpacks_to_gigabytes_is_refused_by_its_directory(tmp_path):
    pytest.importorskip("skops.io")
    path = tmp_path / "model"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("schema.json", b"{}")
    content = bytearray(path.read_bytes())
    directory = content.rindex(b"PK\x01\x02")
    content[directory + 24 : directory + 28] = (0xFFFFFFF0).to_bytes(4, "little")  # the size it unpacks to
    path.write_bytes(bytes(content))
    with pytest.raises(ModelFormatError, match="4,294,967,280 bytes"):
        load_model(path)
