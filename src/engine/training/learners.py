"""What learns: LightGBM and XGBoost in steps that resume to the same bits, and anything else in one step.

A boosting library's own state (random generators, sums of scores) does not survive its process, so a run that only
saved models now and then would end in other trees than one that was never stopped. Here every step is a function of
the rows, the settings and the *bytes* of the step before: also a run that is never interrupted goes through its
checkpoints, and random choices are seeded anew in each step. So the step's length is part of the settings.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from engine._common.arguments import whole
from engine._common.optional import need
from engine.errors import ConfigError, EngineError, TrainingError
from engine.registry import artifacts
from engine.training.signals import Stop


@dataclass(slots=True, eq=False)
class Rows:
    """What is learned from. `prepared` keeps a library's own form of it from step to step.

    Attributes:
        rows: float32 [n, n_features]; labels: float64 [n]; names: of the columns.
    """

    rows: npt.NDArray[np.float32]
    labels: npt.NDArray[np.float64]
    names: tuple[str, ...]
    prepared: Any = None


class Learner(Protocol):
    """Turns rows into a model's bytes, step by step. Of one's own: any object with these."""

    @property
    def steps(self) -> int:
        """How many steps there are; at least one."""

    def settings(self) -> dict[str, Any]:
        """Everything that decides the model besides the rows, as plain JSON: versions of libraries too."""

    def step(self, data: Rows, index: int, so_far: bytes | None, stop: Stop) -> bytes:
        """The model after step `index` (from 0), given the bytes of the step before, None at first.

        Must depend on nothing else. Calls `stop` at least every second, which raises where the run is to end.
        """


def guessed_objective(labels: npt.NDArray[np.float64]) -> str:
    """ "binary" where every label is 0 or 1, else "regression"."""
    return "binary" if np.isin(labels, (0.0, 1.0)).all() else "regression"


class _Boosting:
    """What the boosting libraries share: rounds, cut into steps, and how they are written down."""

    name: str
    packages: tuple[str, ...]  # distributions that bring the library

    def __init__(self, rounds: int = 200, rounds_per_step: int = 50, **parameters: Any) -> None:
        for name, value in (("rounds", rounds), ("rounds_per_step", rounds_per_step)):
            whole(name, value, 1, 1 << 31, error=ConfigError)
        self.rounds, self.rounds_per_step, self.parameters = rounds, rounds_per_step, parameters

    @property
    def steps(self) -> int:
        return -(-self.rounds // self.rounds_per_step)

    def settings(self) -> dict[str, Any]:
        return {
            "learner": self.name,
            "library": _version(*self.packages),
            "rounds": self.rounds,
            "rounds_per_step": self.rounds_per_step,
            "parameters": self.parameters,
        }

    def _rounds_of(self, step: int) -> int:
        return min(self.rounds_per_step, self.rounds - step * self.rounds_per_step)


class LightGBM(_Boosting):
    """Gradient boosting by LightGBM.

    Args:
        rounds: trees (times the classes, of several).
        rounds_per_step: trees between checkpoints; another number gives another model where rows or columns are
            sampled.
        **parameters: LightGBM's own. objective: "binary" or "regression" by the labels unless given. One thread unless
            `num_threads` says more: its threads wait for one another by spinning, which on a busy machine costs more
            than it brings.
    """

    name, packages = "lightgbm", ("lightgbm",)

    def step(self, data: Rows, index: int, so_far: bytes | None, stop: Stop) -> bytes:
        lightgbm = need("lightgbm", "training", "training")
        given = {
            "learning_rate": 0.05,
            "num_leaves": 31,
            "num_threads": 1,
            "verbosity": -1,
            "deterministic": True,
            "force_row_wise": True,
            "objective": guessed_objective(data.labels),
            **self.parameters,
        }
        given["seed"] = int(given.get("seed", 13)) + index
        if data.prepared is None:
            # Kept with its rows: the scores to go on from are the model's own answers to them.
            data.prepared = lightgbm.Dataset(
                data.rows, data.labels, feature_name=_plain(data.names), free_raw_data=False
            )
        try:
            booster = lightgbm.train(
                given,
                data.prepared,
                self._rounds_of(index),
                init_model=lightgbm.Booster(model_str=so_far.decode()) if so_far else None,
                callbacks=[lambda environment: stop()],
            )
        except lightgbm.basic.LightGBMError as error:
            raise TrainingError(f"lightgbm: {error}") from None
        return str(booster.model_to_string()).encode()


class XGBoost(_Boosting):
    """Gradient boosting by XGBoost. Arguments as `LightGBM`; objective: "binary:logistic" or "reg:squarederror"."""

    name, packages = "xgboost", ("xgboost", "xgboost-cpu")

    def step(self, data: Rows, index: int, so_far: bytes | None, stop: Stop) -> bytes:
        xgboost = need("xgboost", "training", "training")
        binary = guessed_objective(data.labels) == "binary"
        given = {
            "eta": 0.1,
            "tree_method": "hist",
            "nthread": 1,
            "objective": "binary:logistic" if binary else "reg:squarederror",
            **self.parameters,
        }
        given["seed"] = int(given.get("seed", 13)) + index
        if data.prepared is None:
            data.prepared = xgboost.DMatrix(data.rows, data.labels)
        before = None
        if so_far:
            before = xgboost.Booster({"nthread": given["nthread"]})
            before.load_model(bytearray(so_far))
        rounds = self._rounds_of(index)
        try:
            booster = xgboost.train(
                given, data.prepared, rounds, xgb_model=before, callbacks=[_stops(xgboost, stop)]
            )
        except xgboost.core.XGBoostError as error:
            raise TrainingError(f"xgboost: {error}") from None
        return bytes(booster.save_raw("ubj"))


class Fitted:
    """One step: a scikit-learn estimator, or any function (rows, labels) -> fitted model.

    It resumes from nothing: a run that is killed in the middle fits again, to the same bits where the fit is
    reproducible (say `random_state=`).

    Args:
        fit: a scikit-learn estimator, which is cloned and fitted, or a function of float32 [n, n_features] and float64
            [n] that returns a fitted lightgbm, xgboost, catboost or sklearn model, or the path of a model file.
        trust: store models whose reading runs code; the registry must be opened with the same.
    """

    steps = 1

    def __init__(self, fit: Any, *, trust: bool = False) -> None:
        if not callable(fit) and not hasattr(fit, "fit"):
            raise ConfigError(
                f"expected a scikit-learn estimator or a function of rows and labels, got {type(fit).__name__}"
            )
        self.fit, self.trust = fit, trust

    def settings(self) -> dict[str, Any]:
        if hasattr(self.fit, "get_params"):
            parameters = {key: repr(value) for key, value in sorted(self.fit.get_params().items())}
            described: dict[str, Any] = {"estimator": type(self.fit).__qualname__, "parameters": parameters}
        else:
            code = getattr(self.fit, "__code__", None)
            described = {
                "function": getattr(self.fit, "__qualname__", type(self.fit).__qualname__),
                # By the code alone: what it closes over is the caller's to name, in `lineage`.
                "code": hashlib.sha256(code.co_code + repr(code.co_names).encode()).hexdigest()
                if code
                else None,
            }
        return {"learner": "fitted", "library": _version("scikit-learn"), **described}

    def step(self, data: Rows, index: int, so_far: bytes | None, stop: Stop) -> bytes:
        stop()
        try:
            if hasattr(self.fit, "fit"):
                from sklearn.base import clone

                labels = (
                    data.labels.astype(int) if guessed_objective(data.labels) == "binary" else data.labels
                )
                fitted = clone(self.fit).fit(data.rows, labels)
            else:
                fitted = self.fit(data.rows, data.labels)
        except EngineError:
            raise
        except Exception as error:  # whatever somebody else's fit raises
            raise TrainingError(f"the learner failed: {type(error).__name__}: {error}") from error
        stop()
        return artifacts.to_bytes("primary", fitted, trust=self.trust)[0]


def learner_of(given: Any) -> Learner:
    """A learner from "lightgbm", "xgboost", an estimator, a function, or a learner. Raises ConfigError."""
    if isinstance(given, str):
        named: dict[str, Callable[[], Learner]] = {"lightgbm": LightGBM, "xgboost": XGBoost}
        if given not in named:
            raise ConfigError(f"learner must be one of {', '.join(named)}, or an object, got {given!r}")
        return named[given]()
    if hasattr(given, "step") and hasattr(given, "settings") and hasattr(given, "steps"):
        return given
    return Fitted(given)


def _stops(xgboost: Any, stop: Stop) -> Any:
    class Stops(xgboost.callback.TrainingCallback):  # type: ignore[misc]
        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
            stop()
            return False

    return Stops()


def _plain(names: tuple[str, ...]) -> list[str] | str:
    """Feature names for LightGBM, which refuses some signs; then it numbers them itself."""
    fine = all(name.isascii() and name.replace("_", "a").isalnum() for name in names)
    return list(names) if fine and len(set(names)) == len(names) else "auto"


def _version(*names: str) -> str | None:
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None
