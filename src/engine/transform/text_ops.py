"""Ops on categories. A missing category is None, and gives NaN unless the op says otherwise.

Categories are equal if their UTF-8 bytes are: there is no case folding and no normalisation. A whole number counts as
its decimal digits, so 7, 7.0 and "7" are one category.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from engine.errors import ProgramError
from engine.transform._program import CODES_MAX
from engine.transform.number_ops import check_map
from engine.transform.ops import Column, Op, finite, fitted, one_of, optional_finite, whole
from engine.transform.plan import TEXT, Plan
from engine.transform.statistics import ExactSum, count_texts, most_frequent_text

Values = list[str | None]


def texts(name: str, values: Any) -> tuple[str, ...]:
    """Return a list of distinct strings as a tuple.

    Args:
        name: of the parameter, for the error.

    Raises:
        ProgramError: no list of strings, a string that UTF-8 cannot encode, a string given twice, or too many.
    """
    if not isinstance(values, (list, tuple)):
        raise ProgramError(f"{name}: expected a list of strings, got {values!r}")
    out = tuple(values)
    for value in out:
        if not isinstance(value, str):
            raise ProgramError(f"{name}: expected strings, got {value!r}")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ProgramError(
                f"{name}: {value!r} holds a lone surrogate, which UTF-8 cannot encode"
            ) from None
    if len(set(out)) != len(out):
        raise ProgramError(f"{name}: a category is given twice")
    if len(out) > CODES_MAX:
        raise ProgramError(f"{name}: at most {CODES_MAX} categories, got {len(out)}; hash them instead")
    return out


@dataclass(frozen=True)
class ImputeText(Op):
    """Replace a missing category by `value`.

    Attributes:
        strategy: "constant", or "most_frequent": learn the most frequent category (the first in code point order of
            several equally frequent ones).
        value: a text.
    """

    op: ClassVar[str] = "impute"
    reads: ClassVar[str] = TEXT
    gives: ClassVar[str] = TEXT
    strategy: str = "constant"
    value: str | None = None

    def __post_init__(self) -> None:
        one_of("impute strategy", self.strategy, ("constant", "most_frequent"))
        if self.value is None and self.strategy == "constant":
            raise ProgramError("impute: strategy 'constant' needs a value")
        if self.value is not None:
            texts("impute value", [self.value])

    def fit(self, column: Column) -> Self:
        if self.strategy == "constant":
            return self
        return replace(self, value=most_frequent_text(column, self.op))

    def apply(self, values: Values) -> Values:
        """Return the values of a column after this op, for fitting the ops that follow."""
        return [self.value if value is None else value for value in values]

    def compile(self, plan: Plan, register: int) -> int:
        table = plan.table([fitted(self.value, self.op)], [0.0])
        return plan.step("text_impute", register, kind=TEXT, table=table)


@dataclass(frozen=True)
class Ordinal(Op):
    """Give the category's place in `categories`.

    Attributes:
        categories: None learns all categories, in code point order.
        unknown: the code of any other category.
        missing: the code of a missing category; None means NaN.
    """

    op: ClassVar[str] = "ordinal"
    reads: ClassVar[str] = TEXT
    categories: tuple[str, ...] | None = None
    unknown: float = -1.0
    missing: float | None = None

    def __post_init__(self) -> None:
        if self.categories is not None:
            object.__setattr__(self, "categories", texts("ordinal categories", self.categories))
        object.__setattr__(self, "unknown", finite("ordinal unknown", self.unknown))
        object.__setattr__(self, "missing", optional_finite("ordinal missing", self.missing))

    @property
    def n_codes(self) -> int | None:
        """How many categories there are. None before fitting, or if `unknown` or `missing` is a code from 0 on."""
        others = (self.unknown, -1.0 if self.missing is None else self.missing)
        return None if self.categories is None or max(others) >= 0.0 else len(self.categories)

    def fit(self, column: Column) -> Self:
        if self.categories is not None:
            return self
        return replace(self, categories=tuple(count_texts(column, self.op, CODES_MAX)))

    def compile(self, plan: Plan, register: int) -> int:
        categories = fitted(self.categories, self.op)
        table = plan.table(categories, map(float, range(len(categories))))
        return plan.step("lookup", register, table=table, x=self.unknown, y=_or_nan(self.missing))


@dataclass(frozen=True)
class Map(Op):
    """Give the number that belongs to a category.

    Attributes:
        categories: the keys.
        values: one number for each category.
        unknown: the result for any other category; None means NaN.
        missing: the result for a missing category; None means NaN.
        refuse: "unknown" refuses a row with any other category, "unknown_or_missing" one with a missing category too.
    """

    op: ClassVar[str] = "map"
    reads: ClassVar[str] = TEXT
    categories: tuple[str, ...] = ()
    values: tuple[float, ...] = ()
    unknown: float | None = None
    missing: float | None = None
    refuse: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "categories", texts("map categories", self.categories))
        check_map(self, self.categories)

    def compile(self, plan: Plan, register: int) -> int:
        table = plan.table(self.categories, self.values)
        if self.refuse is not None:
            plan.known(register, TEXT, table, missing=self.refuse == "unknown")
        return plan.step("lookup", register, table=table, x=_or_nan(self.unknown), y=_or_nan(self.missing))


@dataclass(frozen=True)
class OneHot(Op):
    """Give one column for each category: 1 in its own, 0 in the others. Any other category, or none, is all zeros.

    Attributes:
        categories: None learns all categories, in code point order.
    """

    op: ClassVar[str] = "one_hot"
    reads: ClassVar[str] = TEXT
    final: ClassVar[bool] = True
    categories: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.categories is not None:
            object.__setattr__(self, "categories", texts("one_hot categories", self.categories))

    def fit(self, column: Column) -> Self:
        if self.categories is not None:
            return self
        return replace(self, categories=tuple(count_texts(column, self.op, CODES_MAX)))

    def compile(self, plan: Plan, register: int) -> int:
        categories = fitted(self.categories, self.op)
        table = plan.table(categories, map(float, range(len(categories))))
        return plan.step("lookup", register, table=table, x=-1.0, y=math.nan)

    def emit(self, plan: Plan, register: int, name: str) -> None:
        plan.emit_one_hot(register, [f"{name}={category}" for category in fitted(self.categories, self.op)])


@dataclass(frozen=True)
class Hash(Op):
    """Give XXH64(UTF-8 bytes, seed) modulo `buckets`.

    Attributes:
        buckets: 1 to 2^24.
        seed: 0 to 2^64 - 1.
        missing: the result for a missing category; None means NaN.
    """

    op: ClassVar[str] = "hash"
    reads: ClassVar[str] = TEXT
    buckets: int = 0
    seed: int = 0
    missing: float | None = None

    def __post_init__(self) -> None:
        whole("hash buckets", self.buckets, 1, CODES_MAX)
        whole("hash seed", self.seed, 0, 2**64 - 1)
        object.__setattr__(self, "missing", optional_finite("hash missing", self.missing))

    def compile(self, plan: Plan, register: int) -> int:
        return plan.step("hash", register, count=self.buckets, seed=self.seed, y=_or_nan(self.missing))


@dataclass(frozen=True)
class Count(Op):
    """Give how many rows of the fitted table had the category: 0 for an unknown one, NaN for a missing one.

    Attributes:
        categories: all categories of the table, in code point order.
        counts: one count for each.
    """

    op: ClassVar[str] = "count"
    reads: ClassVar[str] = TEXT
    categories: tuple[str, ...] | None = None
    counts: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if (self.categories is None) != (self.counts is None):
            raise ProgramError("count: categories and counts come together, and fitting learns both")
        if self.categories is not None and self.counts is not None:
            if not isinstance(self.counts, (list, tuple)):
                raise ProgramError(f"count: expected a list of counts, got {self.counts!r}")
            object.__setattr__(self, "categories", texts("count categories", self.categories))
            for count in self.counts:
                whole("count counts", count, 0, 2**53)
            if len(self.counts) != len(self.categories):
                raise ProgramError("count: expected one count for each category")

    def fit(self, column: Column) -> Self:
        counts = count_texts(column, self.op, CODES_MAX)
        return replace(self, categories=tuple(counts), counts=tuple(counts.values()))

    def compile(self, plan: Plan, register: int) -> int:
        table = plan.table(fitted(self.categories, self.op), map(float, fitted(self.counts, self.op)))
        return plan.step("lookup", register, table=table, x=0.0, y=math.nan)


@dataclass(frozen=True)
class Target(Op):
    """Give the category's smoothed mean of a label: (sum + smoothing * prior) / (count + smoothing).

    An unknown category gives the prior, a missing one NaN.

    Attributes:
        label: the column of the label. Only fitting reads it.
        smoothing: at least 0: how many rows of the prior are added to each category.
        categories: all categories of the table, in code point order.
        means: one smoothed mean for each.
        prior: the mean of the label over all rows.
    """

    op: ClassVar[str] = "target"
    reads: ClassVar[str] = TEXT
    label: str = ""
    smoothing: float = 20.0
    categories: tuple[str, ...] | None = None
    means: tuple[float, ...] | None = None
    prior: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.label, str) or not self.label:
            raise ProgramError(f"target: expected the name of the label column, got {self.label!r}")
        object.__setattr__(self, "smoothing", finite("target smoothing", self.smoothing))
        if self.smoothing < 0.0:
            raise ProgramError(f"target: smoothing is at least zero, got {self.smoothing}")
        object.__setattr__(self, "prior", optional_finite("target prior", self.prior))
        if (self.categories is None) != (self.means is None):
            raise ProgramError("target: categories and means come together, and fitting learns both")
        if self.categories is not None and self.means is not None:
            object.__setattr__(self, "categories", texts("target categories", self.categories))
            if not isinstance(self.means, (list, tuple)) or len(self.means) != len(self.categories):
                raise ProgramError("target: expected one mean for each category")
            object.__setattr__(self, "means", tuple(finite("target means", mean) for mean in self.means))

    def fit_labels(self, pairs: Iterable[tuple[str | None, float]]) -> Self:
        """Return the op with the means of these (category, label) rows.

        Each sum is rounded once, so the order of the rows does not matter.

        Raises:
            ProgramError: no row, a label that is not finite, or more than 2^24 categories.
        """
        found: dict[str, ExactSum] = {}
        every = ExactSum()
        for value, label in pairs:
            if not math.isfinite(label):
                raise ProgramError(f"op 'target' needs a finite value of {self.label!r} in every row")
            every.add(label)
            if value is not None:
                found.setdefault(value, ExactSum()).add(label)
                if len(found) > CODES_MAX:
                    raise ProgramError(f"op 'target': at most {CODES_MAX} categories; hash them instead")
        if every.count == 0:
            raise ProgramError(f"op 'target' needs a finite value of {self.label!r} in every row")
        prior = every.value() / every.count
        categories = tuple(sorted(found))
        means = tuple(
            (found[c].value() + self.smoothing * prior) / (found[c].count + self.smoothing)
            for c in categories
        )
        return replace(self, categories=categories, means=means, prior=prior)

    def compile(self, plan: Plan, register: int) -> int:
        table = plan.table(fitted(self.categories, self.op), fitted(self.means, self.op))
        return plan.step("lookup", register, table=table, x=fitted(self.prior, self.op), y=math.nan)


@dataclass(frozen=True)
class MissingText(Op):
    """Give 1 for a missing category, else 0."""

    op: ClassVar[str] = "missing"
    reads: ClassVar[str] = TEXT

    def compile(self, plan: Plan, register: int) -> int:
        return plan.step("text_missing", register)


@dataclass(frozen=True)
class Length(Op):
    """Give the text's length in UTF-8 bytes; NaN for a missing text."""

    op: ClassVar[str] = "length"
    reads: ClassVar[str] = TEXT

    def compile(self, plan: Plan, register: int) -> int:
        return plan.step("length", register, y=math.nan)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
