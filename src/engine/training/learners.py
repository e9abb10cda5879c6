"""Learners: LightGBM and XGBoost in steps that resume to the same bits, and any other fit in one step.

A boosting library's own state (random generators, sums of scores) does not survive its process. A run that only saved
its model now and then would resume to other trees than an uninterrupted run. Here every step is a function of the
rows, the settings and the *bytes* of the step before: an uninterrupted run goes through its checkpoints too, and each
step seeds its random choices anew. So the length of a step is part of the settings.
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
    """Rows to learn from.

    Attributes:
        rows: float32 [n, n_features].
        labels: float64 [n].
        names: of the columns.
        prepared: the library's own form of the rows, kept from step to step.
    """

    rows: npt.NDArray[np.float32]
    labels: npt.NDArray[np.float64]
    names: tuple[str, ...]
    prepared: Any = None


class Learner(Protocol):
    """Turns rows into a model's bytes, step by step. Any object with these members is a learner."""

    @property
    def steps(self) -> int:
        """Number of steps; at least one."""

    def settings(self) -> dict[str, Any]:
        """Return everything that decides the model besides the rows, as plain JSON; library versions too."""

    def step(self, data: Rows, index: int, so_far: bytes | None, stop: Stop) -> bytes:
        """Return the model's bytes after step `index` (from 0).

        The result must depend on the arguments and the settings alone.

        Args:
            so_far: the bytes of the step before; None for the first.
            stop: call it at least every second. It raises if the run must end.
        """


def guessed_objective(labels: npt.NDArray[np.float64]) -> str:
    """Return "binary" if every label is 0 or 1, else "regression"."""
    return "binary" if np.isin(labels, (0.0, 1.0)).all() else "regression"


class _Boosting:
    """Boosting rounds cut into steps, and their settings."""

    name: str
    packages: tuple[str, ...]  # distributions that bring the library

    def __init__(self, rounds: int = 200, rounds_per_step: int = 50, **parameters: Any) -> None:
        for name, value in (("rounds", rounds), ("rounds_per_step", rounds_per_step)):
            whole(name, value, 1, 1 << 31, error=ConfigError)
        self.rounds, self.rounds_per_step, self.parameters = rounds, rounds_per_step, parameters

    @property
    def steps(self) -> int:
        """Number of steps: rounds over rounds_per_step, rounded up."""
        return -(-self.rounds // self.rounds_per_step)

    def settings(self) -> dict[str, Any]:
        """Return the library and its version, the rounds and the parameters, as plain JSON."""
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
        rounds: trees, for each class where there are several.
        rounds_per_step: trees between checkpoints. Another number gives another model if rows or columns are sampled.
        **parameters: LightGBM's own. `objective` is "binary" or "regression" by the labels unless given. `num_threads`
            is 1 unless given, because LightGBM's threads wait for each other by spinning, which costs more than it
            gains on a busy machine.

    Raises:
        ConfigError: rounds or rounds_per_step is no int of at least 1.
    """

    name, packages = "lightgbm", ("lightgbm",)

    def step(self, data: Rows, index: int, so_far: bytes | None, stop: Stop) -> bytes:
        """Return the model text after step `index`; arguments as in `Learner.step`.

        Raises:
            TrainingError: LightGBM refused the parameters or the rows.
            MissingDependencyError: lightgbm is not installed.
        """
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
            # The raw rows stay, because the next step starts from the model's own answers to them.
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
    """Gradient boosting by XGBoost.

    Args:
        rounds, rounds_per_step: as `LightGBM`.
        **parameters: XGBoost's own. `objective` is "binary:logistic" or "reg:squarederror" by the labels unless given,
            and `nthread` is 1.

    Raises:
        ConfigError: rounds or rounds_per_step is no int of at least 1.
    """

    name, packages = "xgboost", ("xgboost", "xgboost-cpu")

    def step(self, data: Rows, index: int, so_far: bytes | None, stop: Stop) -> bytes:
        """Return the model as UBJSON after step `index`; arguments as in `Learner.step`.

        Raises:
            TrainingError: XGBoost refused the parameters or the rows.
            MissingDependencyError: xgboost is not installed.
        """
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
    """A learner of one step: a scikit-learn estimator, or any function (rows, labels) -> fitted model.

    A run killed during the step fits again, to the same bits if the fit is reproducible (with `random_state=` set, for
    example).

    Args:
        fit: a scikit-learn estimator, which is cloned and fitted; or a function of float32 [n, n_features] and float64
            [n] that returns a fitted lightgbm, xgboost, catboost or sklearn model, or the path of a model file.
        trust: store models whose reading runs code. The registry must be opened with `trust` too.

    Raises:
        ConfigError: `fit` is neither.
    """

    steps = 1

    def __init__(self, fit: Any, *, trust: bool = False) -> None:
        if not callable(fit) and not hasattr(fit, "fit"):
            raise ConfigError(
                f"a learner must be a scikit-learn estimator or a function of rows and labels, got {type(fit).__name__}"
            )
        self.fit, self.trust = fit, trust

    def settings(self) -> dict[str, Any]:
        """Return the estimator and its parameters, or the function's name and code digest, as plain JSON."""
        if hasattr(self.fit, "get_params"):
            parameters = {key: repr(value) for key, value in sorted(self.fit.get_params().items())}
            described: dict[str, Any] = {"estimator": type(self.fit).__qualname__, "parameters": parameters}
        else:
            code = getattr(self.fit, "__code__", None)
            described = {
                "function": getattr(self.fit, "__qualname__", type(self.fit).__qualname__),
                # The code alone: values that the function closes over are not in the digest.
                "code": hashlib.sha256(code.co_code + repr(code.co_names).encode()).hexdigest()
                if code
                else None,
            }
        return {"learner": "fitted", "library": _version("scikit-learn"), **described}

    def step(self, data: Rows, index: int, so_far: bytes | None, stop: Stop) -> bytes:
        """Fit, and return the model's bytes in its library's own format.

        Raises:
            TrainingError: the fit raised.
            RegistryError: the fitted model cannot be stored.
        """
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
        except Exception as error:  # a foreign fit may raise anything
            raise TrainingError(f"the learner failed: {type(error).__name__}: {error}") from error
        stop()
        return artifacts.to_bytes("primary", fitted, trust=self.trust)[0]


def learner_of(given: Any) -> Learner:
    """Return a learner for "lightgbm", "xgboost", an estimator, a function, or a learner. Raises ConfigError."""
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
    """Return feature names for LightGBM, or "auto" where it would refuse a sign in them: then it numbers them."""
    fine = all(name.isascii() and name.replace("_", "a").isalnum() for name in names)
    return list(names) if fine and len(set(names)) == len(names) else "auto"


def _version(*names: str) -> str | None:
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None
