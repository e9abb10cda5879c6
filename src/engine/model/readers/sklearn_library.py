"""Fitted scikit-learn objects that no native reader represents: a Python callable around their own `predict`.

Exact by construction, since scikit-learn itself answers; it takes the GIL, so such a model is for the batch lane and is
never a fallback.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import UnsupportedModelError
from engine.model import _callable
from engine.model.model import Model
from engine.model.python import CallableModel
from engine.model.readers import sklearn_texts

Array = npt.NDArray[Any]
METHODS = ("predict", "predict_proba", "decision_function", "score_samples")


def read_by_library(fitted: Any, kind: str, reason: str) -> Model:
    """Wrap one fitted estimator.

    A classifier gives probabilities, of class 1 where there are two, or its `decision_function` where it has none; an
    outlier detector its `decision_function`; any other estimator its `predict`. Columns that its encoders know as text
    are text in rows with names; in rows of numbers they have codes.

    Args:
        fitted: the estimator.
        kind: its class's name.
        reason: why no native reader takes it, for `describe()["native_reason"]`.

    Raises:
        UnsupportedModelError: the estimator is not fitted, gives labels alone or has several targets of classes.
    """
    names, n_features = _columns(fitted)
    if n_features is None:
        raise UnsupportedModelError(f"scikit-learn {kind} is not fitted, or does not say its n_features_in_")
    categories = _text_categories(fitted, names)
    texts = {} if categories is not None else sklearn_texts.text_columns(fitted, names, n_features)
    method = method_of(fitted, kind)
    score = _scored(fitted, method, names, categories, texts)
    rows, categorical = _probe_rows(fitted, names, n_features)
    try:
        try:
            probed = score(rows)
        except Exception:
            rows[:] = np.where(categorical, rows, 0.0)
            probed = score(rows)
    except Exception as error:
        raise UnsupportedModelError(
            f"scikit-learn {kind}: its {method} fails on rows of zeros: {type(error).__name__}: "
            f"{error}; pass a callable around it, load_model(fn, n_features={n_features}), which turns rows of numbers "
            f"into what it takes"
        ) from error
    if probed.ndim not in (1, 2) or probed.dtype.kind not in "fiub":
        raise UnsupportedModelError(
            f"scikit-learn {kind}: its {method} gives {probed.dtype} of shape {list(probed.shape)}, and no numbers "
            f"a row; pass a callable around it that gives numbers, load_model(fn, n_features={n_features})"
        )
    outputs = 1 if probed.ndim == 1 else probed.shape[1]
    columns = names if names is not None else [f"x{at}" for at in range(n_features)]
    coded: dict[str, Any] = {columns[at]: codes for at, codes in texts.items()}
    model = CallableModel(
        _callable.Callable(score, n_features, outputs, True),
        format="sklearn",
        digest=_digest(fitted),
        feature_names=columns if texts else names,
        categories=categories or coded or None,
        details={"estimator": kind, "runtime": "scikit-learn", "method": method, "native_reason": reason},
    )
    model.probe_rows = rows if categorical.any() else None
    return model


def _probe_rows(fitted: Any, names: list[str] | None, n_features: int) -> tuple[Array, Array]:
    """Two rows with categories that the encoders know, and a mask of those columns."""
    rows = np.random.default_rng(0).standard_normal((2, n_features))
    categorical = np.zeros(n_features, bool)
    for at, value in sklearn_texts.known_values(fitted, names, n_features).items():
        rows[:, at], categorical[at] = value, True
    return rows, categorical


def _columns(fitted: Any) -> tuple[list[str] | None, int | None]:
    """The names of the columns that the estimator was fitted on, where it knows them, and their number."""
    names, count = (_attribute(fitted, name) for name in ("feature_names_in_", "n_features_in_"))
    if names is not None:
        return [str(name) for name in names], len(names)
    if count is None and hasattr(fitted, "steps"):  # a pipeline whose first step passes its columns through
        for _, step in fitted.steps:
            if step is not None and not isinstance(step, str):
                return _columns(step)
    return None, None if count is None else int(count)


def _attribute(fitted: Any, name: str) -> Any:
    try:
        return getattr(fitted, name, None)
    except Exception:  # a property of a meta-estimator that asks an inner one
        return None


def method_of(fitted: Any, kind: str) -> str:
    """Return the name of the method that answers for an estimator. Raise UnsupportedModelError if there is none."""
    last = fitted.steps[-1][1] if hasattr(fitted, "steps") and hasattr(fitted, "named_steps") else fitted
    classes = _attribute(last, "classes_")
    if classes is not None:
        if isinstance(classes, list) and classes and isinstance(classes[0], np.ndarray):
            raise UnsupportedModelError(
                f"scikit-learn {kind} of {len(classes)} targets, whose probabilities are a list of arrays; fit and "
                f"load one estimator for each target"
            )
        order: tuple[str, ...] = ("predict_proba", "decision_function")
    elif hasattr(last, "offset_"):
        order = ("decision_function", "predict")
    else:
        order = ("predict",)
    for method in order:
        if hasattr(fitted, method):
            return method
    raise UnsupportedModelError(f"scikit-learn {kind} has no {' or '.join(order)}: {_way_out(fitted)}")


def _way_out(fitted: Any) -> str:
    if getattr(fitted, "voting", None) == "hard":
        return "it votes by labels; model.set_params(voting='soft') makes it give probabilities, if its estimators do"
    if getattr(fitted, "novelty", None) is False:
        return "it scores only the rows that it was fitted on; fit it with novelty=True"
    if not hasattr(fitted, "predict"):
        return "it says nothing of rows that it was not fitted on; choose an estimator with a predict"
    return (
        f"it gives labels alone; where these are numbers, load_model(model.predict, "
        f"n_features={_columns(fitted)[1] or '…'}, dtype='float64') serves them"
    )


def scores(answer: Any, method: str, fitted: Any) -> Array:
    """Return an answer of `method` as a model gives it: of two classes the probability of class 1 alone."""
    array = np.asarray(answer)
    return (
        array[:, 1] if method == "predict_proba" and array.ndim == 2 and len(fitted.classes_) == 2 else array
    )


def _scored(
    fitted: Any,
    method: str,
    names: list[str] | None,
    categories: dict[str, list[Any]] | None,
    texts: Mapping[int, sklearn_texts.OpenTexts],
) -> Callable[[Array], Array]:
    call = getattr(fitted, method)
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
            for at, codes in texts.items():
                given[names[at]] = codes.texts_of(rows[:, at])  # type: ignore[index]
        elif texts:
            given = rows.astype(object)
            for at, codes in texts.items():
                given[:, at] = codes.texts_of(rows[:, at])
        return scores(call(given), method, fitted)

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
