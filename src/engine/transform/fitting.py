"""Learning the constants of a spec from a table.

Each op learns from what the ops before it leave, computed by the same native steps that will serve, so that what was
seen when fitting is to the bit what is computed later.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from engine.errors import ProgramError
from engine.transform.ops import Op
from engine.transform.plan import NUMBER, TEXT, Plan
from engine.transform.spec import Feature
from engine.transform.table import Table


def inputs_of(features: Iterable[Feature]) -> list[tuple[str, str]]:
    """(name, kind) of every input in the order of first use; a name has one kind."""
    kinds: dict[str, str] = {}
    for feature in features:
        for name, kind in feature.inputs():
            if kinds.setdefault(name, kind) != kind:
                raise ProgramError(
                    f"input {name!r} is read both as a number and as a category; it has one type"
                )
    return list(kinds.items())


def fit_features(features: Sequence[Feature], table: Table) -> list[Feature]:
    """The features with every constant learned."""
    return [_fit(feature, table) for feature in features]


def _fit(feature: Feature, table: Table) -> Feature:
    done = replace(feature, of=tuple(_fit(part, table) for part in feature.of), ops=())
    for op in feature.ops:
        try:
            fitted = op.fit(_values(done, table)) if _learns(op) else op
        except ProgramError as error:
            raise ProgramError(f"feature {feature.label!r}: {error}") from None
        done = replace(done, ops=(*done.ops, fitted))
    return done


def _learns(op: Op) -> bool:
    return type(op).fit is not Op.fit


def _values(feature: Feature, table: Table) -> Any:
    """The value of a partly fitted feature for every row: float64 [rows], or a list of str and None."""
    if feature.gives == TEXT:
        values = table.text_values(feature.input or "")
        for op in feature.ops:
            values = op.apply(values)  # type: ignore[attr-defined]
        return values
    inputs = inputs_of([feature])
    plan = Plan(inputs)
    plan.emit(feature.compile(plan), "value")
    columns = [table.numbers(name) if kind == NUMBER else table.texts(name) for name, kind in inputs]
    return plan.build().batch(columns, table.n_rows, as_float64=True)[:, 0]
