"""A model: a scorer with the facts a caller needs about it. Readers of formats make them; `load_model` is the door."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from engine.model import _scorer

if TYPE_CHECKING:  # `types` has it from Python 3.13 on only, and nothing needs it at run time
    from typing_extensions import CapsuleType


class Model:
    """A loaded model, ready to score rows and to be handed to `Engine`. Immutable; safe to use from any thread.

    Attributes:
        scorer: the PyCapsule `engine.scorer.v1` that does the work (csrc/include/engine/scorer.h).
        n_features: values a row.
        n_outputs: values an answer; 1 for regression and binary classification.
        format: what it was read from: "lightgbm", "xgboost", "sklearn", "onnx", "python", "arrays".
        digest: sha256 of the model's content as 64 hex digits.
        feature_names: names of the columns in order, or None where the model carries none.
        native: true where a call costs microseconds and never takes the GIL: fit for the inline lane and as fallback.
    """

    __slots__ = (
        "_details",
        "digest",
        "feature_names",
        "format",
        "n_features",
        "n_outputs",
        "native",
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
    ) -> None:
        info = _scorer.describe(scorer)
        self.scorer = scorer
        self.n_features: int = info["n_features"]
        self.n_outputs: int = info["n_outputs"]
        self.native: bool = info["native"] and not info["takes_gil"]
        self.format = format
        self.digest = digest
        self.feature_names = tuple(feature_names) if feature_names is not None else None
        self._details = dict(details or {})

    def predict(self, rows: npt.ArrayLike, *, threads: int = 1) -> npt.NDArray[np.float64]:
        """Scores rows here and now, without a deadline; what the training library's `predict` returns.

        Args:
            rows: float32 or float64 [n, n_features]; NaN is a missing value. Borrowed where the last axis is
                contiguous, copied otherwise. A model that computes in float32 rounds float64 rows: what lies
                beyond float32's range becomes an infinity of its sign.
            threads: at most this many share the rows, 256 at a time, the calling thread being one of them; the
                others live for this call. Answers are the same bits with any number.

        Returns:
            float64 [n] for one output, [n, n_outputs] for several.

        Raises:
            InputError: another shape or dtype, or no thread.
            ModelError: the model itself failed.
        """
        return _scorer.score(self.scorer, rows, threads)

    def describe(self) -> dict[str, Any]:
        """What this model is: format, shape, digest, and what its reader found (trees, depth, layout, …)."""
        return {
            "format": self.format,
            "digest": self.digest,
            "n_features": self.n_features,
            "n_outputs": self.n_outputs,
            "native": self.native,
            **self._details,
        }

    def __repr__(self) -> str:
        return (
            f"Model(format={self.format!r}, n_features={self.n_features}, n_outputs={self.n_outputs}, "
            f"digest={self.digest[:12]!r})"
        )
