"""Fitted scikit-learn objects that no native reader represents: a Python callable around their own `predict`.

Exact by construction, since scikit-learn itself answers; it takes the GIL, so such a model is for the batch lane and is
never a fallback.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import UnsupportedModelError
from engine.model import _callable
from engine.model.model import Model
from engine.model.python import CallableModel

Array = npt.NDArray[Any]
METHODS = ("predict", "predict_proba", "decision_function", "score_samples")


def read_by_library(fitted: Any, kind: str, reason: str) -> Model:
    """Wrap one fitted estimator.

    A classifier gives probabilities, of class 1 where there are two, or its `decision_function` where it has none; an
    outlier detector its `decision_function`; any other estimator its `predict`.

    Args:
        fitted: the estimator.
        kind: its class's name.
        reason: why no native reader takes it, for `describe()["native_reason"]`.

    Raises:
        UnsupportedModelError: the estimator is not fitted, gives labels alone or has several targets of classes.
    """
    n_features = getattr(fitted, "n_features_in_", None)
    if n_features is None:
        raise UnsupportedModelError(f"scikit-learn {kind} is not fitted, or does not say its n_features_in_")
    names = getattr(fitted, "feature_names_in_", None)
    names = None if names is None else [str(name) for name in names]
    categories = _text_categories(fitted, names)
    method = _method(fitted, kind)
    score = _scored(fitted, method, names, categories)
    try:
        probed = score(np.zeros((2, n_features)))
    except Exception as error:
        raise UnsupportedModelError(
            f"scikit-learn {kind}: its {method} fails on rows of zeros: {type(error).__name__}: "
            f"{error}; pass a callable around it"
        ) from error
    if probed.ndim not in (1, 2) or probed.dtype.kind not in "fiub":
        raise UnsupportedModelError(
            f"scikit-learn {kind}: its {method} gives {probed.dtype} of shape {list(probed.shape)}, and no numbers "
            f"a row; pass a callable around it"
        )
    outputs = 1 if probed.ndim == 1 else probed.shape[1]
    return CallableModel(
        _callable.Callable(score, int(n_features), outputs, True),
        format="sklearn",
        digest=_digest(fitted),
        feature_names=names,
        categories=categories,
        details={"estimator": kind, "runtime": "scikit-learn", "method": method, "native_reason": reason},
    )


def _method(fitted: Any, kind: str) -> str:
    if hasattr(fitted, "classes_"):
        if (
            isinstance(fitted.classes_, list)
            and fitted.classes_
            and isinstance(fitted.classes_[0], np.ndarray)
        ):
            raise UnsupportedModelError(
                f"scikit-learn {kind} of {len(fitted.classes_)} targets; load one for each target"
            )
        order: tuple[str, ...] = ("predict_proba", "decision_function")
    elif hasattr(fitted, "offset_"):
        order = ("decision_function", "predict")
    else:
        order = ("predict",)
    for method in order:
        if hasattr(fitted, method):
            return method
    raise UnsupportedModelError(
        f"scikit-learn {kind} has no {' or '.join(order)}; fit it so that it has (probability=True, say), or pass a "
        f"callable around its predict"
    )


def _scored(
    fitted: Any, method: str, names: list[str] | None, categories: dict[str, list[Any]] | None
) -> Callable[[Array], Array]:
    call = getattr(fitted, method)
    two_classes = method == "predict_proba" and len(fitted.classes_) == 2
    frame: Any = None
    if names is not None:  # scikit-learn warns at each call with an array where it was fitted on a data frame
        try:
            import pandas

            frame = pandas.DataFrame
        except ImportError:
            pass

    def score(rows: Array) -> Array:
        given: Any = rows
        if frame is not None:
            given = frame(rows, columns=names)
            for name, values in (categories or {}).items():
                given[name] = _values(given[name].to_numpy(), values)
        answer = np.asarray(call(given))
        return answer[:, 1] if two_classes else answer

    return score


def _values(codes: Array, values: list[Any]) -> Array:
    found = np.empty(len(codes), object)
    for at, code in enumerate(codes):
        found[at] = values[int(code)] if 0 <= code < len(values) else None
    return found


def _text_categories(fitted: Any, names: list[str] | None) -> dict[str, list[Any]] | None:
    """The categories of a histogram booster that was fitted on columns of text; their codes stand for them in rows."""
    encoder = getattr(getattr(fitted, "_preprocessor", None), "named_transformers_", {}).get("encoder")
    categorical = getattr(fitted, "is_categorical_", None)
    if encoder is None or names is None or categorical is None:
        return None
    columns = [name for name, is_one in zip(names, categorical, strict=True) if is_one]
    found = {
        name: [each for each in values if each is not None and each == each]
        for name, values in zip(columns, encoder.categories_, strict=True)
    }
    return {
        name: values for name, values in found.items() if any(isinstance(each, str) for each in values)
    } or None


def _digest(fitted: Any) -> str:
    try:
        content = pickle.dumps(fitted)
    except Exception:  # an object may hold what no pickle takes
        content = str(id(fitted)).encode()
    return hashlib.sha256(content).hexdigest()
