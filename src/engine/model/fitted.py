"""Turns fitted objects into models. Fitting an object has imported its library already."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from engine.errors import UnsupportedModelError
from engine.model.model import Model

LIBRARIES = ("lightgbm", "xgboost", "sklearn", "catboost", "treelite")


def library_of(fitted: Any) -> str | None:
    """Return the one of LIBRARIES that the object's class comes from, or None."""
    library = type(fitted).__module__.partition(".")[0]
    return library if library in LIBRARIES else None


def read_fitted(fitted: Any, library: str) -> Model:
    """Read a fitted object of `library`, one of LIBRARIES.

    Raises:
        UnsupportedModelError: the object is not fitted, of another class, or cannot be represented exactly.
    """
    if library == "lightgbm":
        return _read_lightgbm(fitted)
    if library == "xgboost":
        return _read_xgboost(fitted)
    if library == "catboost":
        return _read_catboost(fitted)
    if library == "treelite":
        return _read_treelite(fitted)
    from engine.model.readers import sklearn_linear, sklearn_trees

    if type(fitted).__name__ in sklearn_trees.ESTIMATORS:
        return sklearn_trees.read_trees(fitted)
    return sklearn_linear.read_linear(fitted)


def _read_lightgbm(fitted: Any) -> Model:
    from engine.model.readers.lightgbm import read_lightgbm

    kind = type(fitted).__name__
    booster = fitted if hasattr(fitted, "model_to_string") else getattr(fitted, "booster_", None)
    if booster is None:
        raise UnsupportedModelError(
            f"expected a lightgbm Booster or a fitted LGBM model, got lightgbm {kind}"
        )
    # Without a number of iterations this keeps the best one where training stopped early, as predict does.
    return read_lightgbm(booster.model_to_string().encode(), f"lightgbm {kind}")


def _read_catboost(fitted: Any) -> Model:
    from engine.model.readers.catboost import read_catboost

    kind = type(fitted).__name__
    if not hasattr(fitted, "save_model") or not fitted.is_fitted():
        raise UnsupportedModelError(f"expected a fitted CatBoost model, got catboost {kind}")
    with tempfile.TemporaryDirectory() as folder:  # CatBoost writes its JSON to files alone
        path = Path(folder, "model.json")
        fitted.save_model(str(path), format="json")
        return read_catboost(path.read_bytes(), f"catboost {kind}")


def _read_treelite(fitted: Any) -> Model:
    from engine.model.readers.treelite import read_treelite

    if not hasattr(fitted, "serialize_bytes"):
        raise UnsupportedModelError(f"expected a treelite Model, got treelite {type(fitted).__name__}")
    return read_treelite(fitted.serialize_bytes(), "treelite Model")


def _read_xgboost(fitted: Any) -> Model:
    from engine.model.readers.xgboost import read_xgboost_ubjson

    kind = type(fitted).__name__
    if hasattr(fitted, "save_raw"):
        booster = fitted
    elif hasattr(fitted, "get_booster"):
        booster = fitted.get_booster()
        # The wrappers' predict stops at the best iteration; a Booster's own predict uses every tree.
        best = getattr(booster, "best_iteration", None) if _stopped_early(fitted) else None
        if best is not None:
            booster = booster[: int(best) + 1]
    else:
        raise UnsupportedModelError(f"expected an xgboost Booster or a fitted XGB model, got xgboost {kind}")
    return read_xgboost_ubjson(bytes(booster.save_raw("ubj")), f"xgboost {kind}")


def _stopped_early(fitted: Any) -> bool:
    try:
        return fitted.best_iteration is not None
    except AttributeError:
        return False
