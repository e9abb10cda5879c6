"""The demo's models: a primary, the same primary as ONNX, a small fallback and the base rate, from one fit."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine._common.optional import need
from engine.demo.flights import SPEC, Flights
from engine.demo.size import Size
from engine.model import Model, load_model
from engine.training.evaluate import auc
from engine.transform import FeatureProgram

TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Served:
    """The parts of the two engines, and the results of their checks.

    Attributes:
        program: the feature program, fitted on January to June.
        primary: a LightGBM model, native.
        onnx: the same trees converted to ONNX, on one ONNX Runtime thread.
        fallback: a small LightGBM model, native.
        base_rate: share of late flights in January to June: the default.
        rows: float32 [n, features], the features of the flights to serve.
        checks: AUC of each model on all flights to serve; and for each form of the primary, the number of answers that
            differ from LightGBM's own by more than TOLERANCE.
    """

    program: FeatureProgram
    primary: Model
    onnx: Model
    fallback: Model
    base_rate: float
    rows: npt.NDArray[np.float32]
    checks: dict[str, float]


def train(learn: Flights, serve: Flights, folder: Path, *, size: Size, say: Callable[[str], None]) -> Served:
    """Fit the feature program and the models on `learn`, write their files into `folder`, and check them."""
    program = FeatureProgram.fit(SPEC, learn.table)
    program.save(folder / "features.json")
    rows, unseen = program.batch(learn.table), program.batch(serve.table)
    say(f"{len(program.input_names)} inputs become {len(program.output_names)} features")
    booster = _boost(rows, learn.late, size.trees, size.leaves)
    small = _boost(rows, learn.late, size.fallback_trees, 15)
    say(f"trained the primary, {size.trees} trees of {size.leaves} leaves, and the fallback")
    booster.save_model(folder / "primary.txt")
    small.save_model(folder / "fallback.txt")
    (folder / "primary.onnx").write_bytes(_as_onnx(booster, rows.shape[1]))
    primary, onnx = load_model(folder / "primary.txt"), load_model(folder / "primary.onnx")
    fallback = load_model(folder / "fallback.txt")
    checks = _check(booster, {"primary": primary, "onnx": onnx}, fallback, unseen[:: size.check_every])
    checks |= {
        "auc_primary": auc(serve.late, primary.predict(unseen)),
        "auc_fallback": auc(serve.late, fallback.predict(unseen)),
    }
    return Served(program, primary, onnx, fallback, float(learn.late.mean()), unseen, checks)


def _boost(rows: npt.NDArray[np.float32], late: npt.NDArray[np.bool_], trees: int, leaves: int) -> Any:
    lightgbm = need("lightgbm", "the demo", "demo")
    settings = {
        "objective": "binary",
        "num_leaves": leaves,
        "learning_rate": 0.05,
        # One thread takes twice as long as two on an idle machine. On a busy one, two take up to forty times as long,
        # because OpenMP's threads wait for each other by spinning.
        "num_threads": 1,
        "seed": 13,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }
    return lightgbm.train(settings, lightgbm.Dataset(rows, late), num_boost_round=trees)


def _as_onnx(booster: Any, n_features: int) -> bytes:
    import lightgbm
    import onnxmltools
    from onnxmltools.convert.common.data_types import FloatTensorType

    # LightGBM compares in double and ONNX in float32. The converter rounds a threshold to the nearest float32. Where
    # that is the upper neighbour, a row with exactly this value takes the wrong branch: 25 of 33,334 answers were off,
    # by up to 0.06. Rounding down beforehand keeps every float32 value on its side.
    text = re.sub(r"(?m)^threshold=(.*)$", _rounded_down, booster.model_to_string())
    # The lengths of the trees' texts have changed. Without this line LightGBM finds the trees by their headers.
    text = re.sub(r"(?m)^tree_sizes=.*\n", "", text)
    converted = onnxmltools.convert_lightgbm(
        lightgbm.Booster(model_str=text),
        initial_types=[("x", FloatTensorType([None, n_features]))],
        zipmap=False,
        target_opset=15,
    )
    return bytes(converted.SerializeToString())


def _rounded_down(line: re.Match[str]) -> str:
    exact = np.array(line.group(1).split(), dtype=np.float64)
    nearest = exact.astype(np.float32)
    below = np.where(nearest > exact, np.nextafter(nearest, np.float32(-np.inf)), nearest)
    return "threshold=" + " ".join(repr(float(value)) for value in below)


def _check(
    booster: Any, forms: dict[str, Model], fallback: Model, rows: npt.NDArray[np.float32]
) -> dict[str, float]:
    """Return the distance of each form of the primary from LightGBM itself, over `rows`."""
    expected = booster.predict(rows, num_threads=1)
    found: dict[str, float] = {"rows_checked": len(rows)}
    for name, model in forms.items():
        apart = np.abs(model.predict(rows) - expected)
        found[f"{name}_differ"] = int((apart > TOLERANCE).sum())
        found[f"{name}_apart_max"] = float(apart.max())
    return found
