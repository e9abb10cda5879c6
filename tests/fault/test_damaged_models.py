"""Damaged model files of every format that is read natively: a named error or a sound model, and the process lives on.

The child that reads them may take 4 GB of address space: a file of kilobytes must not make a reader take more.
"""

import os
import random
import subprocess
import sys

import numpy as np
import pytest

SEED = int(os.environ.get("ENGINE_FUZZ_SEED", "20260401"))
VARIANTS = int(os.environ.get("ENGINE_FUZZ_VARIANTS", "250"))
EXTREMES = [b"-1", b"0", b"2147483647", b"4294967296", b"9223372036854775808", b"1e999", b"nan", b"-inf"]
EXTREMES += [b"[]", b'"', b"{", b"null", b"true", b"0.5", b"\xff", b"\x00" * 8, b"\x7f" * 8]

READER = """
import os, pathlib, resource, sys
import numpy as np
from engine.errors import EngineError
from engine.model import load_model
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
outcomes = {"read": 0, "refused": 0}
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    print(path.name, file=sys.stderr, flush=True)  # the last name printed ended the process
    try:
        model = load_model(path)
    except EngineError:
        outcomes["refused"] += 1
        continue
    outcomes["read"] += 1
    if model.n_features <= 10_000:
        with np.errstate(all="ignore"):
            model.predict(np.array([np.resize([0.3, -1.0, np.nan, 5.0, 1e9], model.n_features)] * 70))
print(outcomes["read"], outcomes["refused"])
"""


def lightgbm_file(path, table, y):
    lgb = pytest.importorskip("lightgbm")
    parameters = {
        "objective": "binary",
        "verbose": -1,
        "num_leaves": 7,
        "num_threads": 1,
        "min_data_per_group": 2,
    }
    data = lgb.Dataset(table, (y > 0) * 1.0, categorical_feature=[2])
    lgb.train(parameters, data, 4).save_model(path)


def xgboost_file(form, multi):
    def write(path, table, y):
        xgb = pytest.importorskip("xgboost")
        parameters = {"max_depth": 3, "nthread": 1, "tree_method": "hist"}
        parameters |= {"multi_strategy": "multi_output_tree"} if multi else {}
        kinds = ["q", "q", "q" if multi else "c", "q"]
        data = xgb.DMatrix(table, np.c_[y, -y] if multi else y, feature_types=kinds, enable_categorical=True)
        suffixed = path.with_suffix(f".{form}")
        xgb.train(parameters, data, 3).save_model(suffixed)
        suffixed.rename(path)

    return write


def catboost_file(policy):
    def write(path, table, y):
        catboost = pytest.importorskip("catboost")
        options = {
            "iterations": 3,
            "depth": 3,
            "grow_policy": policy,
            "allow_writing_files": False,
            "verbose": 0,
        }
        catboost.CatBoost({**options, "thread_count": 1}).fit(table, y).save_model(str(path), format="json")

    return write


def treelite_file(path, table, y):
    treelite = pytest.importorskip("treelite")
    lightgbm_file(path, table, y)
    treelite.frontend.load_lightgbm_model(path).serialize(path)


FORMATS = {
    "treelite": treelite_file,
    "lightgbm": lightgbm_file,
    "xgboost-json": xgboost_file("json", multi=False),
    "xgboost-ubj": xgboost_file("ubj", multi=False),
    "xgboost-multi": xgboost_file("ubj", multi=True),
    "catboost-symmetric": catboost_file("SymmetricTree"),
    "catboost-lossguide": catboost_file("Lossguide"),
}


def damage(rng, content):
    """One to four changes: bits, cuts, pieces left out, doubled or swapped, numbers made extreme."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data))
        length = rng.choice([1, 2, 8, 64, 500])
        kind = rng.randrange(7)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[at : at + length]
        elif kind == 2:
            data[at:at] = data[at : at + length]
        elif kind == 3:
            other = rng.randrange(len(data))
            data[at : at + length] = data[other : other + length]
        elif kind == 4:
            del data[max(at, 20) :]
        elif kind == 5:
            data[at : at + rng.choice([0, 1, 4])] = rng.choice(EXTREMES)
        else:  # a whole number in the text, if there is one
            end = start = at
            while start > 0 and data[start - 1 : start].isdigit():
                start -= 1
            while end < len(data) and data[end : end + 1].isdigit():
                end += 1
            data[start:end] = rng.choice(EXTREMES)
        if not data:
            data = bytearray(content[:1])
    return bytes(data)


@pytest.mark.parametrize("form", FORMATS)
def test_no_damage_ends_the_process(tmp_path, form):
    print("seed", SEED)
    numbers = np.random.default_rng(3)
    table = numbers.normal(size=(200, 4))
    table[:, 2] = numbers.integers(0, 9, 200)
    sound = tmp_path / "sound"
    FORMATS[form](sound, table, table[:, 0] + table[:, 1] * table[:, 2])
    folder = tmp_path / "damaged"
    folder.mkdir()
    rng = random.Random(f"{SEED} {form}")
    content = sound.read_bytes()
    (folder / "sound").write_bytes(content)
    for number in range(VARIANTS):
        (folder / f"{number:05}").write_bytes(damage(rng, content))
    done = subprocess.run(
        [sys.executable, "-c", READER, folder], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"seed {SEED}: {done.stderr[-2000:]}"
    read, refused = map(int, done.stdout.split())
    assert read >= 1
    assert read + refused == VARIANTS + 1
    assert refused > VARIANTS // 10
