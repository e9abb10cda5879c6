"""A model: a scorer and the facts that a caller needs about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from engine.errors import InputTypeError
from engine.model import rows as by_name
from engine.model._scorer import describe, is_plain, score

if TYPE_CHECKING:  # `types` has it from Python 3.13 on only, and nothing needs it at run time
    from typing_extensions import CapsuleType


def _fixed(categories: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: tuple(values) if isinstance(values, Sequence) and not hasattr(values, "code") else values
        for name, values in categories.items()
    }


class Model:
    """A loaded model, ready to score rows and to be handed to `Engine`. Immutable; safe to use from any thread.

    `load_model` makes one of a file or a fitted object. Call the constructor only with a scorer of your own.

    Attributes:
        scorer: PyCapsule named `engine.scorer.v1` that scores rows (csrc/include/engine/scorer.h).
        n_features: int, values a row.
        n_outputs: int, values an answer; 1 for regression and binary classification.
        format: str, the source's format: "lightgbm", "xgboost", "catboost", "treelite", "sklearn", "onnx", "arrays" or
            "python".
        digest: str, sha256 of the model's content as 64 hex digits.
        feature_names: tuple of str, names of the columns in order; None where the model carries none.
        categories: dict, a categorical feature's name -> tuple of its categories in the order of their codes; None
            where the model carries none. Rows with names are matched with them.
        computes_float32: bool. True: rows in double are rounded to float32.
        probe_rows: float64 [n, n_features], rows that the model takes, to measure it with; None where it takes any.
        native: bool. True: a call takes microseconds and never takes the GIL, so the model fits the inline lane and may
            be a fallback.

    Args:
        scorer: the capsule; the model keeps it alive.
        format, digest, feature_names, categories: as the attributes.
        details: more facts for `describe()`.

    Raises:
        ConfigError: `scorer` is not a scorer capsule of a version that this package reads.
    """

    __slots__ = (
        "_details",
        "_float64_plain",
        "categories",
        "computes_float32",
        "digest",
        "feature_names",
        "format",
        "n_features",
        "n_outputs",
        "native",
        "probe_rows",
        "scorer",
    )

    def __init__(
        self,
        scorer: CapsuleType,
        *,
        format: str,
        digest: str,
        feature_names: Sequence[str] | None = None,
        details: Mapping[str, Any] | None = None,
        categories: Mapping[str, Any] | None = None,
    ) -> None:
        info = describe(scorer)
        self.scorer = scorer
        self.n_features: int = info["n_features"]
        self.n_outputs: int = info["n_outputs"]
        self.native: bool = info["native"] and not info["takes_gil"]
        self.format = format
        self.digest = digest
        self.feature_names = tuple(feature_names) if feature_names is not None else None
        self.categories = _fixed(categories) if categories else None
        self.computes_float32 = not info["float64_rows"]
        self.probe_rows: npt.NDArray[np.float64] | None = None
        # Whether float64 rows need no look: the model reads doubles, or has already warned of what it rounds.
        self._float64_plain = not self.computes_float32
        self._details = dict(details or {})

    def predict(self, rows: Any, *, threads: int = 1, strict: bool = False) -> npt.NDArray[np.float64]:
        """Score rows now, without a deadline, to what the training library's own `predict` returns.

        Blocks until all rows are scored. Native and ONNX models release the GIL meanwhile.

        Args:
            rows: float32 or float64 [n, n_features]; NaN is a missing value. Read in place where the last axis is
                contiguous, else copied once. Rows with names (a data frame, pyarrow Table, Series, mapping or list of
                mappings) are matched by name where the model knows names, see docs/models.md. A model that computes in
                float32 rounds float64 rows: a value beyond float32's range becomes an infinity of its sign. The first
                whole number that rounding changes gives a UserWarning.
            threads: int from 1, the most threads that share the rows, 256 at a time. The calling thread is one of them;
                the others end with the call. The answers are the same bits with any number.
            strict: refuse columns that the model does not know, instead of ignoring them.

        Returns:
            float64 [n] for one output, [n, n_outputs] for several.

        Raises:
            InputError: another shape or dtype, a missing column, a value that is no number, or threads below 1.
            ModelError: the model failed.

        Example:
            >>> load_model("model.txt").predict(rows, threads=4)     # doctest: +SKIP
        """
        if not is_plain(rows, self._float64_plain):
            rows = self._numbers(rows, strict)
        return score(self.scorer, rows, threads)

    def _numbers(self, rows: Any, strict: bool) -> Any:
        # Rows as an array of numbers, its columns in the model's order.
        if type(rows) is not np.ndarray or rows.dtype.kind not in "fiub":
            rows = self._matched(rows, strict)
        if not self._float64_plain and rows.dtype != np.float32 and rows.ndim == 2:
            self._float64_plain = by_name.warn_lost(rows, self.feature_names)
        return rows

    def _matched(self, rows: Any, strict: bool) -> npt.NDArray[Any]:
        return by_name.matched(
            rows, self.feature_names, n_features=self.n_features, strict=strict, categories=self.categories
        )

    def renamed(self, names: Sequence[str]) -> Model:
        """Return the same model with other names for its columns; the native memory is shared."""
        other = object.__new__(type(self))
        for kind in type(self).__mro__:
            for name in getattr(kind, "__slots__", ()):
                setattr(other, name, getattr(self, name))
        other.feature_names = tuple(names)
        if self.categories is not None and self.feature_names is not None:
            new = dict(zip(self.feature_names, other.feature_names, strict=True))
            other.categories = {new[name]: values for name, values in self.categories.items() if name in new}
        return other

    def add_details(self, **facts: Any) -> None:
        """Add facts for `describe()`. For readers of models, before anybody else has the model."""
        self._details.update(facts)

    def describe(self) -> dict[str, Any]:
        """Return the model's facts as a dict of plain values.

        Always there: `format`, `digest`, `n_features`, `n_outputs`, `native`. Each reader adds its own: `objective`
        and `link`; of a boosted model `trees_used`, `trees_total` and `best_iteration` (of early stopping, counted
        from 0, or None); of an XGBoost wrapper with a number for missing values, `missing`; of a forest `trees`,
        `leaves`, `depth`, `layout_single`, `layout_batch`, `batch_rows_min`,
        `instruction_set` and `calibration_us_row` (layout -> microseconds a row, alone and in blocks of 64); of a dense
        net `layers` and `precision`; of ONNX `runtime`.
        """
        return {
            "format": self.format,
            "digest": self.digest,
            "n_features": self.n_features,
            "n_outputs": self.n_outputs,
            "native": self.native,
            **self._details,
        }

    def __copy__(self) -> Model:
        return self  # immutable

    def __deepcopy__(self, memo: dict[int, Any]) -> Model:
        return self

    def __reduce__(self) -> Any:
        raise InputTypeError(
            "a Model cannot be pickled, because it is native memory: pickle the fitted object or send the file, and "
            "call load_model there"
        )

    def __repr__(self) -> str:
        return (
            f"Model(format={self.format!r}, n_features={self.n_features}, n_outputs={self.n_outputs}, "
            f"digest={self.digest[:12]!r})"
        )
