"""`engine bench` and `engine inspect`: every format against the library that wrote it, and its description."""

import json
import pickle

import numpy as np
import pytest

from engine import cli
from engine.errors import InputError, UnsupportedModelError
from engine.loadgen.bench import bench

ROWS = np.random.default_rng(1).normal(size=(300, 4)).astype(np.float32)
Y = ROWS[:, 0] * ROWS[:, 1] > 0
QUICK = {"batches": (1, 7), "seconds": 0.1, "rate_per_s": 200.0, "deadline_ms": 1000.0, "batch_s": 0.01}


def lightgbm_file(path):
    lgb = pytest.importorskip("lightgbm")
    lgb.train({"verbose": -1, "objective": "binary"}, lgb.Dataset(ROWS, Y * 1.0), 5).save_model(path)


def xgboost_file(path):
    xgb = pytest.importorskip("xgboost")
    suffixed = path.with_suffix(".ubj")
    xgb.train({"objective": "binary:logistic"}, xgb.DMatrix(ROWS, Y), 5).save_model(suffixed)
    suffixed.rename(path)


def catboost_file(path):
    catboost = pytest.importorskip("catboost")
    made = catboost.CatBoostClassifier(iterations=5, depth=3, verbose=0, allow_writing_files=False)
    made.fit(ROWS, Y).save_model(str(path), format="json")


def treelite_file(path):
    treelite = pytest.importorskip("treelite")
    lightgbm_file(path)
    treelite.frontend.load_lightgbm_model(path).serialize(path)


def skops_file(path):
    sio = pytest.importorskip("skops.io")
    from sklearn.linear_model import LogisticRegression

    sio.dump(LogisticRegression().fit(ROWS, Y), path)


def onnx_file(path):
    pytest.importorskip("onnxruntime")
    skl2onnx = pytest.importorskip("skl2onnx")
    from sklearn.linear_model import LogisticRegression

    made = skl2onnx.to_onnx(LogisticRegression().fit(ROWS, Y), ROWS[:1], options={"zipmap": False})
    path.write_bytes(made.SerializeToString())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("write", "rival"),
    [
        (lightgbm_file, "lightgbm predict"),
        (xgboost_file, "xgboost inplace_predict"),
        (catboost_file, "catboost predict"),
        (treelite_file, "treelite gtil"),
        (skops_file, "sklearn predict_proba"),
        (onnx_file, "onnxruntime session.run"),
    ],
)
def test_a_model_meets_the_library_that_trained_it(tmp_path, write, rival):
    write(tmp_path / "model")
    found = bench(tmp_path / "model", rows=ROWS, **QUICK)
    assert found.rival == rival
    assert found.us_row.keys() == found.rival_us_row.keys() == {1, 7}
    assert found.largest_difference < 1e-6
    assert found.load["arrivals"] > 0
    assert rival in str(found)
    assert "200 a second, due within 1000 ms" in str(found)


def test_rows_and_trust_are_checked(tmp_path):
    lightgbm_file(tmp_path / "model")
    with pytest.raises(InputError, match=r"expected rows of shape \[n, 4\], got \[300, 3\]"):
        bench(tmp_path / "model", rows=ROWS[:, :3], **QUICK)
    from sklearn.linear_model import LinearRegression

    (tmp_path / "pickled").write_bytes(pickle.dumps(LinearRegression().fit(ROWS, Y)))
    with pytest.raises(UnsupportedModelError, match="trust=True"):
        bench(tmp_path / "pickled", **QUICK)
    assert bench(tmp_path / "pickled", trust=True, **QUICK).largest_difference < 1e-6


def test_the_command_line(tmp_path, capsys):
    lightgbm_file(tmp_path / "model")
    assert cli.main(["inspect", str(tmp_path / "model")]) == 0
    printed = capsys.readouterr().out
    assert "lightgbm" in printed
    assert "us for one row" in printed
    np.save(tmp_path / "rows.npy", ROWS)
    options = [
        "--rows",
        tmp_path / "rows.npy",
        "--seconds",
        "0.1",
        "--rate",
        "100",
        "--json",
        tmp_path / "out",
    ]
    assert cli.main(["bench", str(tmp_path / "model"), *map(str, options)]) == 0
    assert "lightgbm predict" in capsys.readouterr().out
    written = json.loads((tmp_path / "out").read_text())
    assert set(written["us_row"]) == {"1", "4", "16", "64", "256", "1024"}
    assert cli.main(["inspect", str(tmp_path / "nowhere")]) == 1
    assert "nowhere" in capsys.readouterr().err
    assert cli.main(["bench", str(tmp_path / "model"), "--rows", str(tmp_path / "model")]) == 1
    assert "expected a .npy file" in capsys.readouterr().err
