"""Learning the constants of a spec from a table.

Each op learns from the values that the ops before it give. The native steps that will serve compute those values, so
fitting sees the same bits as serving.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from engine.errors import ProgramError
from engine.transform.batches import Batches
from engine.transform.number_ops import OneHotCodes
from engine.transform.ops import Column, Op
from engine.transform.plan import TEXT, Plan
from engine.transform.spec import Feature
from engine.transform.table import Table
from engine.transform.text_ops import Target


def inputs_of(features: Iterable[Feature]) -> list[tuple[str, str]]:
    """Return (name, kind) of every input, in order of first use. Raise ProgramError for a name of two kinds."""
    kinds: dict[str, str] = {}
    for feature in features:
        for name, kind in feature.inputs():
            if kinds.setdefault(name, kind) != kind:
                raise ProgramError(
                    f"input {name!r} is read both as a {kinds[name]} and as a {kind}; it has one type"
                )
    return list(kinds.items())


def fit_features(features: Sequence[Feature], table: Table | Batches) -> list[Feature]:
    """Return the features with every constant learned from a table."""
    return [_fit(feature, table) for feature in features]


def columns_to_fit(features: Sequence[Feature]) -> list[str]:
    """Return the columns that fitting reads: the inputs, then the labels."""
    names = [name for name, _ in inputs_of(features)]
    names += [label for feature in features for label in feature.labels()]
    return list(dict.fromkeys(names))


def without_fold(features: Sequence[Feature], table: Table | Batches, fold: int, folds: int) -> list[Feature]:
    """Return fitted features with target means learned anew, from the rows with an index modulo `folds` != `fold`."""
    return [_without_fold(feature, table, fold, folds) for feature in features]


def _without_fold(feature: Feature, table: Table | Batches, fold: int, folds: int) -> Feature:
    parts = tuple(_without_fold(part, table, fold, folds) for part in feature.of)
    done = replace(feature, of=parts, ops=())
    for op in feature.ops:
        if isinstance(op, Target):
            pairs = _pairs(done, op.label, table)
            op = op.fit_labels(pair for i, pair in enumerate(pairs) if i % folds != fold)
        done = replace(done, ops=(*done.ops, op))
    return done


def _fit(feature: Feature, table: Table | Batches) -> Feature:
    done = replace(feature, of=tuple(_fit(part, table) for part in feature.of), ops=())
    for op in feature.ops:
        try:
            fitted = _fit_op(op, done, table)
        except ProgramError as error:
            raise ProgramError(f"feature {feature.label!r}: {error}") from None
        done = replace(done, ops=(*done.ops, fitted))
    return done


def _fit_op(op: Op, before: Feature, table: Table | Batches) -> Op:
    codes = before.n_codes
    if isinstance(op, OneHotCodes) and op.n is None and codes is not None:
        return replace(op, n=codes)  # a bucket without rows has a column too
    if isinstance(op, Target):
        return op.fit_labels(_pairs(before, op.label, table))
    return op.fit(_column(before, table)) if _learns(op) else op


def _learns(op: Op) -> bool:
    return type(op).fit is not Op.fit


def _pairs(feature: Feature, label: str, table: Table | Batches) -> Iterator[tuple[str | None, float]]:
    """Yield the category and the label of every row."""
    for part in table.parts():
        yield from zip(_texts(feature, part), part.numbers(label).tolist(), strict=True)


def _column(feature: Feature, table: Table | Batches) -> Column:
    """Return the values of a feature whose ops so far are fitted."""
    if feature.gives == TEXT:
        return lambda: (_texts(feature, part) for part in table.parts())
    inputs = inputs_of([feature])
    plan = Plan(inputs)
    plan.emit(feature.compile(plan), "value")
    native = plan.build()

    def values(part: Table) -> Any:
        columns = [part.column(name, kind) for name, kind in inputs]
        return native.batch(columns, part.n_rows, as_float64=True)[:, 0]

    return lambda: map(values, table.parts())


def _texts(feature: Feature, part: Table) -> list[str | None]:
    values = part.text_values(feature.input or "")
    for op in feature.ops:
        values = op.apply(values)  # type: ignore[attr-defined]
    return values
