"""Files that old versions of the libraries wrote, against the answers that those versions gave.

tests/fixtures/make_old_models.py wrote them.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from engine.errors import ModelFormatError, UnsupportedModelError
from engine.model import inspect, load_model

FOLDER = Path(__file__).parents[2] / "fixtures" / "old_models"
OLD_BINARY = ("xgboost-0.90-logistic.model", "xgboost-1.3.3-logistic.model")


def names():
    return sorted(path.name.removesuffix(".answers.json") for path in FOLDER.glob("*.answers.json"))


def test_there_are_files():
    assert len(names()) == 11


@pytest.mark.parametrize("name", [name for name in names() if name not in OLD_BINARY])
def test_answers_are_those_of_the_version_that_wrote_the_file(name):
    known = json.loads((FOLDER / f"{name}.answers.json").read_text())
    rows = np.array(known["rows"], dtype=float)
    # XGBoost adds its trees in float32.
    rtol = 1e-6 if name.startswith("xgboost") else 1e-12
    np.testing.assert_allclose(
        load_model(FOLDER / name).predict(rows), known["answers"], rtol=rtol, atol=1e-7
    )
    assert inspect(FOLDER / name).digest == load_model(FOLDER / name).digest


@pytest.mark.parametrize("name", OLD_BINARY)
def test_xgboosts_old_binary_format_is_named_with_the_way_out(name):
    """XGBoost 3.0.5 converts both to JSON that is read and answers alike."""
    way_out = r"XGBoost up to 3\.0 reads.*Booster\(model_file=path\)\.save_model\('model\.json'\)"
    for read in (load_model, inspect):
        with pytest.raises(UnsupportedModelError, match=way_out):
            read(FOLDER / name)


def test_a_lightgbm_file_of_2_0_that_was_cut_short_is_refused(tmp_path):
    content = (FOLDER / "lightgbm-2.0.12-binary.txt").read_bytes()
    path = tmp_path / "model.txt"
    end = content.index(b"feature importances")
    for cut in (end, end + 5, end + 25, end - 200, len(content) - 3):
        path.write_bytes(content[:cut])
        with pytest.raises(ModelFormatError, match=r"cut short|truncated"):
            load_model(path)
