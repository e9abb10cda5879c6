"""The libraries that train models, each with its own predict on one thread, to be timed beside ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.model import Model

Rows = npt.NDArray[np.floating[Any]]
Predict = Callable[[Rows], Any]


def rival_of(path: Path, model: Model, *, trust: bool) -> tuple[str, Predict | None]:
    """Return the library that trained a model: its name, and its predict as its users call it with one thread.

    Where the format has no such library, or it is not installed, the name says so and the function is None.
    """
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
