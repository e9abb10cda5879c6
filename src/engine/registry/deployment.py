"""A deployment: a bundle loaded into memory and tried, so that it may take traffic."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import EngineError, RegistryError
from engine.model import Model
from engine.model.golden import Golden
from engine.registry.bundle import Bundle
from engine.transform import FeatureProgram

TRIAL_ROWS = 64


@dataclass(frozen=True, slots=True, eq=False)
class Deployment:
    """The loaded parts of a version. They fit together, and the primary gave the golden answers.

    Attributes:
        bundle: the bundle they were loaded from; `bundle.version` names it.
        primary, fallback, default, program: as `Engine` takes them; default is None for NaN.
        rows: float32 or float64 [n, n_features], rows to warm up on: the golden rows, else standard normal values.
    """

    bundle: Bundle
    primary: Model
    fallback: Model | None
    default: Any
    program: FeatureProgram | None
    rows: npt.NDArray[Any]

    @classmethod
    def of(cls, bundle: Bundle, functions: Iterable[Any] = ()) -> Deployment:
        """Load a bundle and try it, on the calling thread.

        Args:
            functions: your own `@transform` functions that the program calls.

        Raises:
            RegistryError: an artifact is damaged, the parts do not fit, or a model answers its golden or trial rows
                wrongly. The message names the version and the part.
        """
        try:
            primary, fallback, program = bundle.primary(), bundle.fallback(), bundle.program(functions)
            golden = bundle.golden
        except RegistryError as error:
            raise RegistryError(f"{bundle.version} is refused: {error}") from error
        rows = golden.rows if golden is not None else _trial_rows(primary.n_features)
        reason = _misfit(primary, fallback, program, golden) or _wrong_answers(
            primary, fallback, golden, rows
        )
        if reason:
            raise RegistryError(f"{bundle.version} is refused: {reason}")
        return cls(bundle, primary, fallback, bundle.default, program, rows)


def _misfit(
    primary: Model, fallback: Model | None, program: FeatureProgram | None, golden: Golden | None
) -> str | None:
    if fallback is not None:
        for width in ("n_features", "n_outputs"):
            if getattr(primary, width) != getattr(fallback, width):
                return (
                    f"wrong width: the primary has {getattr(primary, width)} {width}, "
                    f"the fallback {getattr(fallback, width)}"
                )
    if program is not None and program.n_outputs != primary.n_features:
        return f"wrong width: the program makes {program.n_outputs} features, the primary takes {primary.n_features}"
    if golden is not None and golden.rows.shape[1] != primary.n_features:
        return f"wrong width: golden rows have {golden.rows.shape[1]} features, the primary takes {primary.n_features}"
    return None


def _wrong_answers(
    primary: Model, fallback: Model | None, golden: Golden | None, rows: npt.NDArray[Any]
) -> str | None:
    for role, model in (("primary", primary), ("fallback", fallback)):
        if model is None:
            continue
        try:
            found = model.predict(rows)
        except EngineError as error:
            return f"the {role} failed on {len(rows)} rows: {error}"
        finite = np.isfinite(found).reshape(len(rows), -1).all(axis=1)
        if not finite.all():
            return (
                f"the {role} answered no number for {int((~finite).sum())} of {len(rows)} rows, "
                f"row {int(np.argmin(finite))} first"
            )
        if golden is not None and role == "primary" and (wrong := golden.mismatch(found)):
            return wrong
    return None


def _trial_rows(n_features: int) -> npt.NDArray[np.float64]:
    return np.random.default_rng(0).standard_normal((TRIAL_ROWS, n_features))
