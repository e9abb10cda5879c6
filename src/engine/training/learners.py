"""Learners: LightGBM and XGBoost in steps that resume to the same bits, and any other fit in one step.

A boosting library's own state (random generators, sums of scores) does not survive its process. A run that only saved
its model now and then would resume to other trees than an uninterrupted run. Here every step is a function of the
rows, the settings and the *bytes* of the step before: an uninterrupted run goes through its checkpoints too, and each
step seeds its random choices anew. So the length of a step is part of the settings.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from engine._common.arguments import whole
from engine._common.optional import need
from engine.errors import ConfigError, EngineError, RegistryError, TrainingError
from engine.registry import artifacts
from engine.training.labels import CLASSIFICATION, REGRESSION
from engine.training.signals import Stop

STOPPING = ("early_stopping_rounds", "early_stopping_round", "early_stopping", "n_iter_no_change")
VALIDATION = 0.2
# LightGBM's and XGBoost's objectives for soft labels between 0 and 1, which may be classes 0 and 1 too.
_EITHER = ("cross_entropy", "xentropy", "cross_entropy_lambda", "xentlambda", "reg:logistic")
_XGBOOST_OBJECTIVES = {
    "binary": "binary:logistic",
    "multiclass": "multi:softprob",
    "regression": "reg:squarederror",
}
_TRIAL_ROWS = 48  # enough for a fit, and for three rows of 16 classes


@dataclass(slots=True, eq=False)
class Rows:
    """Rows to learn from.

    Attributes:
        rows: float32 [n, n_features].
        labels: float64 [n]; codes from 0 where the labels are classes.
        names: of the columns.
        classes: the labels in the order of their codes; None where they are numbers, or not known to be classes.
        weights: float64 [n]; None for equal ones.
        task: "regression" where the caller says so; None otherwise.
        valid: rows to stop early by, for a learner with a `validation` share above 0; None for other learners.
        prepared: the library's own form of the rows, kept from step to step.
    """

    rows: npt.NDArray[np.float32]
    labels: npt.NDArray[np.float64]
    names: tuple[str, ...]
    classes: tuple[Any, ...] | None = None
    weights: npt.NDArray[np.float64] | None = None
    task: str | None = None
    valid: Rows | None = None
    prepared: Any = None

    @property
    def objective(self) -> str:
        """ "binary", "multiclass" or "regression", by the classes, or without them by the labels."""
        if self.task == REGRESSION:
            return "regression"
        if self.classes is None:
            return guessed_objective(self.labels)
        return "binary" if len(self.classes) == 2 else "multiclass"


class Learner(Protocol):
    """Turns rows into a model's bytes, step by step. Any object with these members is a learner.

    It may have two more: `task`, "classification" or "regression" where it can do only one of them, and `validation`,
    the share of the rows before the split that it wants as `Rows.valid`, to stop early by.
    """

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
        stopping = [parameters[key] for key in STOPPING if parameters.get(key)]
        self.patience = whole(STOPPING[0], stopping[0], 1, 1 << 31, error=ConfigError) if stopping else None

    @property
    def steps(self) -> int:
        """Number of steps: rounds over rounds_per_step, rounded up; 1 where training may stop early."""
        return 1 if self.patience else -(-self.rounds // self.rounds_per_step)

    @property
    def validation(self) -> float:
        """Share of the rows to learn from that is kept to stop early by: VALIDATION, or 0 without early stopping."""
        return VALIDATION if self.patience else 0.0

    @property
    def task(self) -> str | None:
        """The task of the objective: "classification", "regression", or None for either."""
        objective = self.parameters.get("objective", self.parameters.get("application"))
        if not isinstance(objective, str):
            return None
        if objective.split(":")[0] in (
            "binary",
            "multi",
            "multiclass",
            "softmax",
            "multiclassova",
            "ova",
            "ovr",
        ):
            return CLASSIFICATION
        return None if objective in _EITHER else REGRESSION

    @property
    def n_classes(self) -> int | None:
        """The number of classes in the parameters; None if it is not given."""
        found = self.parameters.get("num_class", self.parameters.get("num_classes"))
        return int(found) if found and int(found) > 1 else None

    def _given(self, defaults: dict[str, Any], data: Rows, index: int) -> dict[str, Any]:
        """Return the library's parameters for a step: the defaults, the user's, the classes and the step's seed."""
        mine = {key: value for key, value in self.parameters.items() if key not in STOPPING}
        given = {**defaults, **mine}
        if data.classes is not None and len(data.classes) > 2 and self.n_classes is None:
            given["num_class"] = len(data.classes)
        given["seed"] = int(given.get("seed", 13)) + index
        return given

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
        return (
            self.rounds
            if self.patience
            else min(self.rounds_per_step, self.rounds - step * self.rounds_per_step)
        )


class LightGBM(_Boosting):
    """Gradient boosting by LightGBM.

    Args:
        rounds: trees, for each class where there are several.
        rounds_per_step: trees between checkpoints. Another number gives another model if rows or columns are sampled.
        **parameters: LightGBM's own. `objective` is "binary", "multiclass" or "regression" by the labels unless given;
            `num_class` is the number of classes. `num_threads` is 1 unless given, because LightGBM's threads wait for
            each other by spinning, which costs more than it gains on a busy machine. With `early_stopping_rounds` the
            last fifth of the rows before the split is kept to stop by, the run has one step, and the model keeps its
            best iteration.

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
        defaults = {
            "learning_rate": 0.05,
            "num_leaves": 31,
            "num_threads": 1,
            "verbosity": -1,
            "deterministic": True,
            "force_row_wise": True,
            "objective": data.objective,
        }
        given = self._given(defaults, data, index)
        if data.prepared is None:
            # The raw rows stay, because the next step starts from the model's own answers to them.
            data.prepared = lightgbm.Dataset(
                data.rows,
                data.labels,
                weight=data.weights,
                feature_name=_plain(data.names),
                free_raw_data=False,
            )
        calls: list[Any] = [lambda environment: stop()]
        valid = None
        if self.patience and data.valid is not None:
            valid = [
                lightgbm.Dataset(
                    data.valid.rows, data.valid.labels, weight=data.valid.weights, reference=data.prepared
                )
            ]
            calls.append(lightgbm.early_stopping(self.patience, verbose=False))
        try:
            booster = lightgbm.train(
                given,
                data.prepared,
                self._rounds_of(index),
                valid_sets=valid,
                init_model=lightgbm.Booster(model_str=so_far.decode()) if so_far else None,
                callbacks=calls,
            )
        except lightgbm.basic.LightGBMError as error:
            raise TrainingError(f"lightgbm: {error}") from None
        # Without a number of iterations this keeps the best one where training stopped early.
        return str(booster.model_to_string()).encode()


class XGBoost(_Boosting):
    """Gradient boosting by XGBoost.

    Args:
        rounds, rounds_per_step: as `LightGBM`.
        **parameters: XGBoost's own. `objective` is "binary:logistic", "multi:softprob" or "reg:squarederror" by the
            labels unless given, and `nthread` is 1. `early_stopping_rounds` as `LightGBM`.

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
        defaults = {
            "eta": 0.1,
            "tree_method": "hist",
            "nthread": 1,
            "objective": _XGBOOST_OBJECTIVES[data.objective],
        }
        given = self._given(defaults, data, index)
        if data.prepared is None:
            data.prepared = xgboost.DMatrix(data.rows, data.labels, weight=data.weights)
        stopped: dict[str, Any] = {}
        if self.patience and data.valid is not None:
            valid = xgboost.DMatrix(data.valid.rows, data.valid.labels, weight=data.valid.weights)
            stopped = {
                "evals": [(valid, "valid")],
                "early_stopping_rounds": self.patience,
                "verbose_eval": False,
            }
        before = None
        if so_far:
            before = xgboost.Booster({"nthread": given["nthread"]})
            before.load_model(bytearray(so_far))
        rounds = self._rounds_of(index)
        try:
            booster = xgboost.train(
                given, data.prepared, rounds, xgb_model=before, callbacks=[_stops(xgboost, stop)], **stopped
            )
        except xgboost.core.XGBoostError as error:
            raise TrainingError(f"xgboost: {error}") from None
        if stopped:
            booster = booster[: int(booster.best_iteration) + 1]
        return bytes(booster.save_raw("ubj"))


class Fitted:
    """A learner of one step: a scikit-learn estimator, or any function (rows, labels) -> fitted model.

    A run killed during the step fits again, to the same bits if the fit is reproducible (with `random_state=` set, for
    example).

    Args:
        fit: a scikit-learn estimator, which is cloned and fitted; or a function of float32 [n, n_features] and float64
            [n] that returns a fitted lightgbm, xgboost, catboost or sklearn model, or the path of a model file. Where
            the labels are classes it gets their codes. A function with a third parameter `weights` gets the rows'
            weights, float64 [n] or None.
        trust: store models whose reading runs code. By default as the registry says; the registry must be opened with
            `trust=True` too, because it stores and reads them.

    Raises:
        ConfigError: `fit` is neither.
    """

    steps = 1

    def __init__(self, fit: Any, *, trust: bool | None = None) -> None:
        if not callable(fit) and not hasattr(fit, "fit"):
            raise ConfigError(
                f"a learner must be a scikit-learn estimator or a function of rows and labels, got {type(fit).__name__}"
            )
        self.fit, self.trust = fit, trust
        self.registry_trusts = False

    def trusting(self, trust: bool) -> Fitted:
        """Return this learner for a registry that was opened with or without `trust`.

        Raises:
            ConfigError: `trust=True` was said here, and the registry does not trust.
        """
        if self.trust and not trust:
            raise ConfigError(
                "Fitted(…, trust=True) makes models that this registry would refuse: open it with "
                "ModelRegistry(…, trust=True) too"
            )
        found = Fitted(self.fit, trust=trust if self.trust is None else self.trust)
        found.registry_trusts = trust
        return found

    @property
    def task(self) -> str | None:
        """ "classification" or "regression" for an estimator of that kind; None for a function."""
        if not hasattr(self.fit, "fit"):
            return None
        from sklearn.base import is_classifier, is_regressor

        return CLASSIFICATION if is_classifier(self.fit) else REGRESSION if is_regressor(self.fit) else None

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

    def check(self, data: Rows) -> None:
        """Raise if the fitted model could not be stored and read back, before the fit that takes long.

        An estimator is stored as it is. Then it is fitted to a few rows, stored and read back, because some kinds
        become unsafe to read by being fitted. A function is not tried.

        Raises:
            RegistryError: the registry would refuse the model, or no reader knows it. The message says what helps.
            TrainingError: the learner takes no weights where there are some.
        """
        if not hasattr(self.fit, "fit"):
            return
        weights = self._weights(data)
        try:
            self._stored(_cloned(self.fit))
            some = _a_few(data)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                few = {key: value[some] for key, value in weights.items()}
                fitted = _cloned(self.fit).fit(data.rows[some], self._labels(data)[some], **few)
            artifacts.from_bytes("the trained model", self._stored(fitted), trust=bool(self.trust))
        except RegistryError:
            raise
        except Exception:  # a few rows may be too few: the real fit and the registry tell
            return

    def step(self, data: Rows, index: int, so_far: bytes | None, stop: Stop) -> bytes:
        """Fit, and return the model's bytes in its library's own format.

        Raises:
            TrainingError: the fit raised, or takes no weights where there are some.
            RegistryError: the fitted model cannot be stored.
        """
        stop()
        try:
            if hasattr(self.fit, "fit"):
                fitted = _cloned(self.fit).fit(data.rows, self._labels(data), **self._weights(data))
            elif "weights" in _parameters(self.fit):
                fitted = self.fit(data.rows, data.labels, weights=data.weights)
            elif data.weights is not None:
                raise TrainingError(
                    "the learner takes no weights: give its function a third parameter, weights"
                )
            else:
                fitted = self.fit(data.rows, data.labels)
        except EngineError:
            raise
        except Exception as error:  # a foreign fit may raise anything
            raise TrainingError(f"the learner failed: {type(error).__name__}: {error}") from error
        stop()
        return self._stored(fitted)

    def _stored(self, fitted: Any) -> bytes:
        try:
            return artifacts.to_bytes("primary", fitted, trust=bool(self.trust))[0]
        except RegistryError as error:
            if self.trust is False and self.registry_trusts:
                raise RegistryError(f"{error}; and leave out Fitted(…, trust=False)") from error
            raise

    def _labels(self, data: Rows) -> npt.NDArray[Any]:
        return data.labels.astype(int) if data.objective != "regression" else data.labels

    def _weights(self, data: Rows) -> dict[str, Any]:
        if data.weights is None:
            return {}
        last = self.fit
        prefix = ""
        while getattr(last, "steps", None):  # a Pipeline hands weights to its last step by name
            name, last = last.steps[-1]
            prefix += f"{name}__"
        if "sample_weight" not in _parameters(last.fit):
            raise TrainingError(
                f"the learner takes no weights: {type(last).__name__}.fit has no sample_weight; train without "
                f"weight= and class_weights="
            )
        return {f"{prefix}sample_weight": data.weights}


def _cloned(estimator: Any) -> Any:
    from sklearn.base import clone

    return clone(estimator)


def _parameters(function: Any) -> frozenset[str]:
    try:
        return frozenset(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return frozenset()


def _a_few(data: Rows) -> npt.NDArray[np.int64]:
    """Return positions of a few rows with several labels among them."""
    order = np.argsort(data.labels, kind="stable")
    return order[np.unique(np.linspace(0, len(order) - 1, min(_TRIAL_ROWS, len(order))).astype(np.int64))]


def learner_of(given: Any, *, trust: bool = False) -> Learner:
    """Return a learner for "lightgbm", "xgboost", an estimator, a function, or a learner. Raises ConfigError.

    Args:
        trust: whether the registry stores models whose reading runs code.
    """
    if isinstance(given, str):
        named: dict[str, Callable[[], Learner]] = {"lightgbm": LightGBM, "xgboost": XGBoost}
        if given not in named:
            raise ConfigError(f"learner must be one of {', '.join(named)}, or an object, got {given!r}")
        return named[given]()
    if isinstance(given, Fitted):
        return given.trusting(trust)
    if hasattr(given, "step") and hasattr(given, "settings") and hasattr(given, "steps"):
        return given
    return Fitted(given).trusting(trust)


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
