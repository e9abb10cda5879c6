"""Turns fitted objects into models. Fitting an object has imported its library already."""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine._common import optional
from engine.errors import ConfigError, EngineError, ModelFormatError, UnsupportedModelError
from engine.model import _scorer
from engine.model.iterations import Range
from engine.model.model import Model

NO_ROUNDS = (
    "iteration_range= and num_trees= choose rounds of LightGBM, XGBoost and CatBoost models, got one of {}"
)
# Their threshold changes labels alone: their probabilities are those of the estimator inside.
_THRESHOLDS = ("FixedThresholdClassifier", "TunedThresholdClassifierCV")
LIBRARIES = ("lightgbm", "xgboost", "sklearn", "catboost", "treelite")


def library_of(fitted: Any) -> str | None:
    """Return the one of LIBRARIES that the object's class, or the nearest class above it, comes from; or None."""
    if isinstance(fitted, type):
        return None
    for kind in type(fitted).__mro__:
        library = kind.__module__.partition(".")[0]
        if library in LIBRARIES:
            return library
    return None


def read_fitted(fitted: Any, library: str, rounds: Range = None) -> Model:
    """Read a fitted object of `library`, one of LIBRARIES.

    Args:
        fitted: the object.
        library: where its class comes from.
        rounds: the rounds in use of a boosted model, (first, end), as `iterations.asked` gives them; those that the
            library's own `predict` uses by default.

    Raises:
        UnsupportedModelError: the object is not fitted, of another class, or cannot be represented exactly.
    """
    try:
        return _read(fitted, library, rounds)
    except EngineError:
        raise
    except (
        Exception
    ) as error:  # an object of a version that its library does not know any more, or half of one
        raise UnsupportedModelError(
            f"{library} {type(fitted).__name__}: it cannot be read as the installed {library} knows it: "
            f"{type(error).__name__}: {error}; fit it with that version, or load and save it "
            f"with the version that made it"
        ) from error


def _read(fitted: Any, library: str, rounds: Range) -> Model:
    if library in ("lightgbm", "xgboost", "catboost"):
        _require_own_predict(fitted, library)
    if library == "lightgbm":
        return _read_lightgbm(fitted, rounds)
    if library == "xgboost":
        return _read_xgboost(fitted, rounds)
    if library == "catboost":
        return _read_catboost(fitted, rounds)
    if library == "sklearn":
        return _read_sklearn(fitted, rounds)
    if rounds is not None:
        raise ConfigError(NO_ROUNDS.format(library))
    return _read_treelite(fitted)


def _read_sklearn(fitted: Any, rounds: Range) -> Model:
    """Natively where a reader takes the class, or one above it whose answers it keeps; else through scikit-learn.

    `rounds` are for the boosted model at the end of a pipeline, or inside a search.
    """
    from engine.model.readers import sklearn_library, sklearn_linear, sklearn_trees

    kind = type(fitted).__name__
    if any(cls.__name__ == "BaseSearchCV" for cls in type(fitted).__mro__):
        found = getattr(fitted, "best_estimator_", None)
        library = library_of(found)
        if found is None or library is None:
            raise UnsupportedModelError(f"{kind} has no best_estimator_ to load: fit it with refit=True")
        return read_fitted(found, library, rounds)
    if hasattr(fitted, "steps") and hasattr(fitted, "named_steps"):
        from engine.model.readers.sklearn_pipeline import read_pipeline

        return read_pipeline(
            fitted,
            kind,
            lambda estimator: _read_last_step(estimator, rounds),
            lambda reason: _by_library(fitted, kind, reason, rounds),
            whole=rounds is None,
        )
    if hasattr(fitted, "estimator_") and kind in _THRESHOLDS:
        return _read_last_step(fitted.estimator_, rounds)
    native = next((cls for cls in type(fitted).__mro__ if _is_native(cls)), None)
    if native is None:
        return _by_library(fitted, kind, f"no native reader for {kind}", rounds)
    if rounds is not None:
        raise ConfigError(NO_ROUNDS.format("sklearn"))
    if overridden := _overridden(fitted, native, sklearn_library.METHODS):
        return _by_library(fitted, kind, f"{kind} has a {overridden} of its own", rounds)
    name = native.__name__
    if not hasattr(fitted, "n_features_in_") and not hasattr(fitted, "coef_"):
        raise UnsupportedModelError(f"scikit-learn {kind} is not fitted")
    try:
        if name in sklearn_trees.ESTIMATORS:
            return sklearn_trees.read_trees(fitted, name)
        return sklearn_linear.read_linear(fitted, name)
    except UnsupportedModelError as error:
        return _by_library(fitted, kind, str(error), rounds)


def _by_library(fitted: Any, kind: str, reason: str, rounds: Range) -> Model:
    from engine.model.readers.sklearn_library import read_by_library

    if rounds is not None:
        raise ConfigError(f"{NO_ROUNDS.format('sklearn')} that scikit-learn itself answers: {reason}")
    return read_by_library(fitted, kind, reason)


def _read_last_step(estimator: Any, rounds: Range) -> Model:
    library = library_of(estimator)
    if library is None:
        raise UnsupportedModelError(f"no native reader for {type(estimator).__name__}")
    return read_fitted(estimator, library, rounds)


def _is_native(kind: type) -> bool:
    from engine.model.readers import sklearn_linear, sklearn_trees

    return kind.__module__.partition(".")[0] == "sklearn" and (
        kind.__name__ in sklearn_trees.ESTIMATORS or kind.__name__ in sklearn_linear.NATIVE
    )


def _overridden(fitted: Any, known: type, methods: Sequence[str]) -> str | None:
    """The first of `methods` that a class below `known` defines, or the object itself; None where none does."""
    below = type(fitted).__mro__[: type(fitted).__mro__.index(known)]
    return next(
        (
            method
            for method in methods
            if method in getattr(fitted, "__dict__", ()) or any(method in vars(cls) for cls in below)
        ),
        None,
    )


def _require_own_predict(fitted: Any, library: str) -> None:
    """Refuse an object of a user's class that answers in its own way."""
    known = next(cls for cls in type(fitted).__mro__ if cls.__module__.partition(".")[0] == library)
    if method := _overridden(fitted, known, ("predict", "predict_proba")):
        raise UnsupportedModelError(
            f"{type(fitted).__name__} has a {method} of its own, which its trees do not tell; serve that: "
            f"load_model(model.{method}, n_features=…, n_outputs=…, dtype='float64')"
        )


def _read_lightgbm(fitted: Any, rounds: Range) -> Model:
    from engine.model.readers.lightgbm import read_lightgbm

    kind = type(fitted).__name__
    booster = fitted if hasattr(fitted, "model_to_string") else getattr(fitted, "booster_", None)
    if booster is None:
        raise UnsupportedModelError(
            f"expected a lightgbm Booster or a fitted LGBM model, got lightgbm {kind}"
        )
    if booster is not fitted and fitted.get_params().get("pred_early_stop"):
        raise UnsupportedModelError(
            f"lightgbm {kind} with pred_early_stop stops within a row's trees, so its answers are approximate; "
            f"switch it off: set_params(pred_early_stop=False)"
        )
    # As predict does: rounds after the best one of early stopping are left out. The digest is that of the file.
    best = booster.best_iteration - 1 if booster.best_iteration > 0 else None
    content = booster.model_to_string(num_iteration=-1).encode()
    model = read_lightgbm(content, f"lightgbm {kind}", rounds, best=best)
    if best is not None and rounds is None:
        model.digest = hashlib.sha256(booster.model_to_string().encode()).hexdigest()
    return model


def read_catboost_binary(content: bytes, name: str, rounds: Range = None) -> Model:
    """Read CatBoost's cbm through the catboost package. A child process should have read the file before.

    Raises:
        MissingDependencyError: catboost is not installed.
        ModelFormatError: catboost cannot read the file.
        UnsupportedModelError: as `read_fitted`.
    """
    catboost = optional.need("catboost", f"{name}, CatBoost's binary format,")
    fitted = catboost.CatBoost()
    try:
        fitted.load_model(blob=content)
    except Exception as error:  # CatBoostError, and others from its bindings
        raise ModelFormatError(f"{name}: catboost cannot read the file: {error}") from error
    model = _read_catboost(fitted, rounds)
    model.digest = hashlib.sha256(content).hexdigest()
    return model


def _read_catboost(fitted: Any, rounds: Range) -> Model:
    from engine.model.readers import catboost as reader
    from engine.model.readers import catboost_library

    kind = type(fitted).__name__
    if not hasattr(fitted, "save_model") or not fitted.is_fitted():
        raise UnsupportedModelError(f"expected a fitted CatBoost model, got catboost {kind}")
    with tempfile.TemporaryDirectory() as folder:  # CatBoost writes its JSON to files alone
        path = Path(folder, "model.json")
        try:
            fitted.save_model(str(path), format="json")
            return reader.read_catboost(path.read_bytes(), f"catboost {kind}", rounds)
        except ConfigError:
            raise
        except Exception as error:  # what our reader refuses, and what CatBoost cannot write as JSON
            return catboost_library.read_by_library(fitted, f"catboost {kind}", str(error), rounds)


def _read_treelite(fitted: Any) -> Model:
    from engine.model.readers.treelite import read_treelite

    if not hasattr(fitted, "serialize_bytes"):
        raise UnsupportedModelError(f"expected a treelite Model, got treelite {type(fitted).__name__}")
    return read_treelite(fitted.serialize_bytes(), "treelite Model")


def _read_xgboost(fitted: Any, rounds: Range) -> Model:
    """A Booster is read as its file is, and so as the wrappers predict: up to the best round of early stopping."""
    from engine.model.readers.xgboost import read_xgboost_ubjson

    kind = type(fitted).__name__
    if hasattr(fitted, "save_raw"):
        return read_xgboost_ubjson(bytes(fitted.save_raw("ubj")), f"xgboost {kind}", rounds)
    if not hasattr(fitted, "get_booster"):
        raise UnsupportedModelError(f"expected an xgboost Booster or a fitted XGB model, got xgboost {kind}")
    try:
        booster = fitted.get_booster()
    except Exception as error:  # xgboost raises scikit-learn's NotFittedError
        raise UnsupportedModelError(f"xgboost {kind} is not fitted: {error}") from None
    content = bytes(booster.save_raw("ubj"))
    model = read_xgboost_ubjson(
        content, f"xgboost {kind}", rounds, classifier=hasattr(fitted, "predict_proba")
    )
    missing = fitted.missing if fitted.missing is not None else math.nan
    return model if math.isnan(missing) else _with_missing(model, float(missing))


def _with_missing(model: Model, missing: float) -> Model:
    """The model with `missing` as one more missing value, beside NaN."""
    model.scorer = _scorer.with_missing(model.scorer, missing)
    model.digest = hashlib.sha256(f"{model.digest} missing={missing!r}".encode()).hexdigest()
    model.add_details(missing=missing)
    return model
