"""`engine bench PATH`: a model timed against the library that trained it, and under a load with deadlines.

The file is read by our own reader first, so that what that library's parser then sees is known to be sound. Times are
closed-loop and of one thread, the Python call included; the load is open-loop, latency counted from when a request was
due. It runs whatever that library runs, and a pickle only where it is trusted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import InputError
from engine.loadgen import drive, load
from engine.model import Model, load_model
from engine.serving import Engine

BATCHES = (1, 4, 16, 64, 256, 1024)
Rows = npt.NDArray[np.floating[Any]]
Predict = Callable[[Rows], Any]


@dataclass(frozen=True)
class Bench:
    """What was measured.

    Attributes:
        path, format, n_features: the model.
        rows: what it was measured on.
        us_row: median microseconds a row of `Model.predict`, by rows a call.
        rival: the library that trained it, or why it could not be asked.
        rival_us_row: the same of its own predict, one thread; empty where it could not be asked.
        largest_difference: between the two answers to the same rows, relative to the answer where that is above 1.
        load: `Run.summary()` of the load, with its rate and deadline.
    """

    path: str
    format: str
    n_features: int
    rows: str
    us_row: dict[int, float]
    rival: str
    rival_us_row: dict[int, float] = field(default_factory=dict)
    largest_difference: float | None = None
    load: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.format}, {self.n_features} features; rows: {self.rows}"]
        lines.append(f"{'rows a call':>12}{'us a row':>12}{self.rival:>24}{'times':>8}")
        for size, mine in self.us_row.items():
            other = self.rival_us_row.get(size)
            beside = f"{other:>24.3f}{other / mine:>8.1f}" if other is not None else ""
            lines.append(f"{size:>12,}{mine:>12.3f}{beside}")
        if self.largest_difference is not None:
            lines.append(f"largest relative difference of answers: {self.largest_difference:.2g}")
        about = f"{self.load['rate_per_s']:,.0f} a second, due within {self.load['deadline_ms']:g} ms"
        lines.append(f"under {about}:")
        shown = ("void", "on_time", "latency_us_p50", "latency_us_p99", "latency_us_p99.9", "lag_us_p99")
        lines += [f"  {name:<18}{_text(self.load[name])}" for name in shown if name in self.load]
        lines += [f"  from {name:<13}{share:.2%}" for name, share in self.load.get("sources", {}).items()]
        return "\n".join(lines)


def bench(
    path: str | Path,
    *,
    rows: Rows | None = None,
    batches: tuple[int, ...] = BATCHES,
    rate_per_s: float = 1000.0,
    deadline_ms: float = 10.0,
    seconds: float = 5.0,
    seed: int = 0,
    batch_s: float = 0.3,
    trust: bool = False,
) -> Bench:
    """Times a model file.

    Args:
        path: as `load_model` takes it.
        rows: float [n, n_features] to measure on; standard normal values unless given. Which paths rows take through
            a forest decides its time, so that your own rows tell more.
        batches: rows a call.
        rate_per_s, deadline_ms, seconds, seed: of the load: Poisson arrivals, one row each.
        batch_s: seconds spent on each size and library.
        trust: as `load_model`.

    Raises:
        InputError: rows of another width.
        What `load_model` raises.
    """
    path = Path(path)
    model = load_model(path, trust=trust)
    about = "yours" if rows is not None else "standard normal (your own, by --rows, would tell more)"
    if rows is None:
        rows = np.random.default_rng(seed).normal(size=(4096, model.n_features)).astype(np.float32)
    if rows.ndim != 2 or rows.shape[1] != model.n_features or not len(rows):
        raise InputError(f"expected rows of shape [n, {model.n_features}], got {list(rows.shape)}")
    rows = np.ascontiguousarray(np.resize(rows, (max(len(rows), 2 * max(batches)), rows.shape[1])))
    rival, predict = _rival(path, model, trust)
    mine = {size: _us_row(model.predict, rows, size, batch_s) for size in batches}
    theirs = {size: _us_row(predict, rows, size, batch_s) for size in batches} if predict else {}
    return Bench(
        path=str(path),
        format=model.format,
        n_features=model.n_features,
        rows=about,
        us_row=mine,
        rival=rival,
        rival_us_row=theirs,
        largest_difference=_difference(model, predict, rows[:1024]) if predict else None,
        load=_under_load(model, rows, rate_per_s, deadline_ms, seconds, seed),
    )


def _us_row(predict: Predict, rows: Rows, size: int, seconds: float) -> float:
    """Median microseconds a row; each call has other rows."""
    taken: list[int] = []
    at = 0
    predict(rows[:size])
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(taken) < 3:
        block = rows[at : at + size]
        start = time.perf_counter_ns()
        predict(block)
        taken.append(time.perf_counter_ns() - start)
        at = (at + size) % (len(rows) - size + 1)
    return statistics.median(taken) / 1e3 / size


def _difference(model: Model, predict: Predict, rows: Rows) -> float:
    mine = np.ravel(model.predict(rows))
    other = np.ravel(np.asarray(predict(rows), np.float64))
    if mine.shape != other.shape:
        return float("nan")
    return float(np.max(np.abs(mine - other) / np.maximum(1.0, np.abs(other))))


def _under_load(
    model: Model, rows: Rows, rate_per_s: float, deadline_ms: float, seconds: float, seed: int
) -> dict[str, Any]:
    schedule = load.poisson(rate_per_s, seconds, seed)

    async def run() -> load.Run:
        default = 0.0 if model.n_outputs == 1 else [0.0] * model.n_outputs
        with Engine(model, default=default, deadline_ms=deadline_ms, warmup=rows[:64]) as served:

            def submit(index: int, deadline_ns: int) -> Any:
                return served.predict_async(rows[index % len(rows)], deadline_ns=deadline_ns)

            return await drive.drive_async(submit, schedule, deadline_ms=deadline_ms)

    return {"rate_per_s": rate_per_s, "deadline_ms": deadline_ms, **asyncio.run(run()).summary()}


def _rival(path: Path, model: Model, trust: bool) -> tuple[str, Predict | None]:
    """The library that trained the model, as its users call it with one thread."""
    make = _RIVALS.get(model.format)
    if make is None:
        return f"(no rival for {model.format})", None
    try:
        return make(path, model, trust)
    except ImportError as missing:
        return f"({missing.name or model.format} is not installed)", None


def _lightgbm(path: Path, model: Model, trust: bool) -> tuple[str, Predict]:
    import lightgbm

    booster = lightgbm.Booster(model_file=path)
    return "lightgbm predict", lambda rows: booster.predict(rows, num_threads=1)


def _xgboost(path: Path, model: Model, trust: bool) -> tuple[str, Predict]:
    import xgboost

    booster = xgboost.Booster({"nthread": 1})
    booster.load_model(bytearray(path.read_bytes()))
    booster.set_param({"nthread": 1})
    if model.describe().get("booster") == "gblinear":
        return "xgboost predict", lambda rows: booster.predict(xgboost.DMatrix(rows))
    return "xgboost inplace_predict", lambda rows: booster.inplace_predict(rows)


def _catboost(path: Path, model: Model, trust: bool) -> tuple[str, Predict]:
    import catboost

    loaded = catboost.CatBoost().load_model(str(path), format="json")
    kinds = {"sigmoid": "Probability", "softmax": "Probability", "exponential": "Exponent"}
    kind = kinds.get(model.describe().get("link", ""), "RawFormulaVal")

    def predict(rows: Rows) -> Any:
        answer = loaded.predict(rows, prediction_type=kind, thread_count=1)
        two = np.ndim(answer) == 2 and answer.shape[1] == 2 and model.n_outputs == 1
        return answer[:, 1] if two else answer

    return "catboost predict", predict


def _treelite(path: Path, model: Model, trust: bool) -> tuple[str, Predict]:
    import treelite

    loaded = treelite.Model.deserialize(path)
    return "treelite gtil", lambda rows: treelite.gtil.predict(loaded, rows, nthread=1)


def _onnx(path: Path, model: Model, trust: bool) -> tuple[str, Predict]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    facts = model.describe()
    dtype = np.float64 if "double" in session.get_inputs()[0].type else np.float32

    def predict(rows: Rows) -> Any:
        answer = session.run([facts["output"]], {facts["input"]: rows.astype(dtype, copy=False)})[0]
        return answer[:, 1] if answer.ndim == 2 and answer.shape[1] > model.n_outputs == 1 else answer

    return "onnxruntime session.run", predict


def _sklearn(path: Path, model: Model, trust: bool) -> tuple[str, Predict]:
    from engine.model import objects

    estimator = objects.read_object(path.read_bytes(), path.name, trust=trust)
    name = next(
        verb for verb in ("predict_proba", "decision_function", "predict") if hasattr(estimator, verb)
    )
    answer = getattr(estimator, name)

    def predict(rows: Rows) -> Any:
        found = answer(rows)
        return found[:, 1] if np.ndim(found) == 2 and found.shape[1] > model.n_outputs == 1 else found

    return f"sklearn {name}", predict


_RIVALS: dict[str, Callable[[Path, Model, bool], tuple[str, Predict]]] = {
    "lightgbm": _lightgbm,
    "xgboost": _xgboost,
    "catboost": _catboost,
    "treelite": _treelite,
    "onnx": _onnx,
    "sklearn": _sklearn,
}


def _text(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `engine bench`."""
    parser.add_argument("path", type=Path, metavar="PATH", help="a model file, of any format that is read")
    parser.add_argument(
        "--rows", type=Path, metavar="FILE.npy", help="rows to measure on, float [n, n_features]"
    )
    parser.add_argument(
        "--rate", type=float, default=1000.0, metavar="PER_S", help="arrivals a second, default 1000"
    )
    parser.add_argument("--deadline-ms", type=float, default=10.0, help="of each arrival, default 10")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long the load lasts, default 5")
    parser.add_argument("--seed", type=int, default=0, help="of the arrivals and of rows that are drawn")
    parser.add_argument("--trust", action="store_true", help="read pickles, which run code")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")


def main(chosen: argparse.Namespace) -> int:
    """`engine bench`: prints a table and returns 0."""
    rows = None
    if chosen.rows is not None:
        try:
            rows = np.load(chosen.rows, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise InputError(f"--rows {chosen.rows}: expected a .npy file of numbers: {error}") from None
    found = bench(
        chosen.path,
        rows=rows,
        rate_per_s=chosen.rate,
        deadline_ms=chosen.deadline_ms,
        seconds=chosen.seconds,
        seed=chosen.seed,
        trust=chosen.trust,
    )
    print(found)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(asdict(found), indent=1) + "\n")
    return 0
