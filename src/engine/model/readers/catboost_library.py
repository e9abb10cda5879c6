"""CatBoost models that no native reader represents, such as those with categories: a callable around catboost itself.

Rows are arrays of numbers, and CatBoost wants categories as whole numbers or text. Whole numbers go to it as they
are. A text has a code in the rows: `Categories` gives each text that it sees a code of its own, -1.5, -2.5 and so on,
which no category of numbers has, and the callable turns it back.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import UnsupportedModelError
from engine.model import _callable, iterations
from engine.model.iterations import Range
from engine.model.model import Model
from engine.model.python import CallableModel
from engine.model.readers.catboost import LINKS, Link

Array = npt.NDArray[Any]
TEXTS_MAX = 1 << 22  # of one column; more are no categories


class Categories:
    """Codes for the categories of one column, made as they come."""

    def __init__(self) -> None:
        self._codes: dict[str, float] = {}
        self._texts: list[str] = []
        self._lock = threading.Lock()

    def code(self, value: Any) -> float:
        """Return the code of a category: a whole number itself, or a negative half for a text."""
        if value is None or (isinstance(value, float) and value != value):
            return float("nan")
        if isinstance(value, int | float | np.number | np.bool_) and float(value).is_integer():
            return float(value)  # a bool is 0 or 1, as in CatBoost
        text = str(value)
        found = self._codes.get(text)
        if found is None:
            with self._lock:
                found = self._codes.get(text)
                if found is None:
                    if len(self._texts) == TEXTS_MAX:
                        return float("nan")
                    self._texts.append(text)
                    found = self._codes[text] = -len(self._texts) - 0.5
        return found

    def category(self, code: float) -> Any:
        """Return the category of a code, as CatBoost takes it. A missing one is "nan", as in a frame."""
        if code != code:
            return "nan"
        if code == int(code):
            return int(code)
        at = int(-code) - 1
        if code < 0 and 0 <= at < len(self._texts) and code == -at - 1.5:
            return self._texts[at]
        raise ValueError(f"a category must be a whole number or text, got {code!r}")


def read_by_library(fitted: Any, kind: str, reason: str, rounds: Range) -> Model:
    """Wrap one fitted model. A classifier gives probabilities, of class 1 where there are two.

    Args:
        fitted: the model.
        kind: stands for it in messages.
        reason: why no native reader takes it, for `describe()["native_reason"]`.
        rounds: the first tree and the end of those in use; all by default.

    Raises:
        UnsupportedModelError: text or embedding features, or a loss whose answer is not known here.
        ConfigError: rounds that the model does not have.
    """
    if others := [
        name for name in ("text", "embedding") if getattr(fitted, f"_get_{name}_feature_indices")()
    ]:
        raise UnsupportedModelError(
            f"{kind}: the model has {' and '.join(others)} features, and rows hold numbers; train it on numbers "
            f"made of them, such as those of a feature program (tokens, hash, embed)"
        )
    loss = str(fitted._object._get_loss_function_name()).partition(":")[0]
    if loss not in LINKS:
        raise UnsupportedModelError(
            f"{kind}: loss {loss!r} has an answer that is not known here; serve its own predict: load_model("
            f"model.predict, n_features={len(fitted.feature_names_)}, n_outputs=…, dtype='float64')"
        )
    used = iterations.chosen(int(fitted.tree_count_), rounds, None, kind)
    names = [str(name) for name in fitted.feature_names_]
    columns = {int(at): Categories() for at in fitted.get_cat_feature_indices()}
    score = _scored(fitted, loss, used, columns)
    outputs = score(np.zeros((2, len(names))))
    model = CallableModel(
        _callable.Callable(score, len(names), 1 if outputs.ndim == 1 else outputs.shape[1], True),
        format="catboost",
        digest=hashlib.sha256(fitted._serialize_model()).hexdigest(),
        feature_names=names,
        categories={names[at]: codes for at, codes in columns.items()} or None,
        details={
            "objective": loss,
            "runtime": "catboost",
            "native_reason": reason,
            "trees_used": used.end - used.first,
            "trees_total": used.total,
            "best_iteration": None,
        },
    )
    if columns:  # categories are whole numbers
        model.probe_rows = np.random.default_rng(0).standard_normal((64, len(names)))
        model.probe_rows[:, list(columns)] = 0.0
    return model


def _scored(
    fitted: Any, loss: str, used: iterations.Rounds, columns: dict[int, Categories]
) -> Callable[[Array], Array]:
    import catboost  # the object at hand has imported it

    link = LINKS[loss]
    kind = {Link.IDENTITY: "RawFormulaVal", Link.EXPONENTIAL: "Exponent"}.get(link, "Probability")

    def score(rows: Array) -> Array:
        given: Any = rows
        if columns:
            given = rows.astype(object)
            for at, codes in columns.items():
                given[:, at] = [codes.category(code) for code in rows[:, at].tolist()]
        answer = np.asarray(
            catboost.CatBoost.predict(
                fitted,
                given,
                prediction_type=kind,
                ntree_start=used.first,
                ntree_end=used.end,
                thread_count=1,
            )
        )
        return answer[:, 1] if kind == "Probability" and answer.ndim == 2 and answer.shape[1] == 2 else answer

    return score
