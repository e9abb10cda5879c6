"""Operations on categories. A missing category is None; what it becomes in the end is NaN unless the op says
otherwise.

Categories are compared as UTF-8 bytes, exactly: no case folding, no normalisation. A whole number counts as
its decimal digits, so 7, 7.0 and "7" are one category.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from engine.errors import ProgramError
from engine.transform._program import CODES_MAX
from engine.transform.ops import Column, Op, fitted, number, optional_number, whole
from engine.transform.plan import TEXT, Plan
from engine.transform.statistics import ExactSum, count_texts, most_frequent_text

Values = list[str | None]


def texts(values: Any, what: str) -> tuple[str, ...]:
    """`values` as distinct strings that UTF-8 can encode, or a ProgramError."""
    if not isinstance(values, (list, tuple)):
        raise ProgramError(f"{what}: expected a list of strings, got {values!r}")
    out = tuple(values)
    for value in out:
        if not isinstance(value, str):
            raise ProgramError(f"{what}: expected strings, got {value!r}")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ProgramError(
                f"{what}: {value!r} holds a lone surrogate, which UTF-8 cannot encode"
            ) from None
    if len(set(out)) != len(out):
        raise ProgramError(f"{what}: a category is given twice")
    if len(out) > CODES_MAX:
        raise ProgramError(f"{what}: at most {CODES_MAX} categories, got {len(out)}; hash them instead")
    return out


@dataclass(frozen=True)
class ImputeText(Op):
    """Missing categories become `value`: a constant or the most frequent one (the first in code point
    order)."""

    op: ClassVar[str] = "impute"
    reads: ClassVar[str] = TEXT
    gives: ClassVar[str] = TEXT
    strategy: str = "constant"
    value: str | None = None

    def __post_init__(self) -> None:
        if self.strategy not in ("constant", "most_frequent"):
            raise ProgramError(
                f"impute: unknown strategy {self.strategy!r}; expected 'constant' or 'most_frequent'"
            )
        if self.value is None and self.strategy == "constant":
            raise ProgramError("impute: strategy 'constant' needs a value")
        if self.value is not None:
            texts([self.value], "impute value")

    def fit(self, column: Column) -> Self:
        if self.strategy == "constant":
            return self
        return replace(self, value=most_frequent_text(column, self.op))

    def apply(self, values: Values) -> Values:
        """What fitting the ops after this one reads."""
        return [self.value if value is None else value for value in values]

    def compile(self, plan: Plan, register: int) -> int:
        table = plan.table([fitted(self.value, self.op)], [0.0])
        return plan.step("text_impute", register, kind=TEXT, table=table)


@dataclass(frozen=True)
class Ordinal(Op):
    """The category's place in `categories` (learned: all seen, in code point order), `unknown` for any
    other; `missing` is the code of a missing one, NaN where it is None."""

    op: ClassVar[str] = "ordinal"
    reads: ClassVar[str] = TEXT
    categories: tuple[str, ...] | None = None
    unknown: float = -1.0
    missing: float | None = None

    def __post_init__(self) -> None:
        if self.categories is not None:
            object.__setattr__(self, "categories", texts(self.categories, "ordinal categories"))
        object.__setattr__(self, "unknown", number(self.unknown, "ordinal unknown"))
        object.__setattr__(self, "missing", optional_number(self.missing, "ordinal missing"))

    @property
    def n_codes(self) -> int | None:
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
class OneHot(Op):
    """One column a category (learned: all seen, in code point order); an unknown or missing one is all
    zeros."""

    op: ClassVar[str] = "one_hot"
    reads: ClassVar[str] = TEXT
    final: ClassVar[bool] = True
    categories: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.categories is not None:
            object.__setattr__(self, "categories", texts(self.categories, "one_hot categories"))

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
    """XXH64(UTF-8 bytes, seed) modulo `buckets`; `missing` is the bucket of a missing one, NaN where it is
    None."""

    op: ClassVar[str] = "hash"
    reads: ClassVar[str] = TEXT
    buckets: int = 0
    seed: int = 0
    missing: float | None = None

    def __post_init__(self) -> None:
        whole(self.buckets, "hash buckets", 1, CODES_MAX)
        whole(self.seed, "hash seed", 0, 2**64 - 1)
        object.__setattr__(self, "missing", optional_number(self.missing, "hash missing"))

    def compile(self, plan: Plan, register: int) -> int:
        return plan.step("hash", register, count=self.buckets, seed=self.seed, y=_or_nan(self.missing))


@dataclass(frozen=True)
class Count(Op):
    """How many rows of the fitted table had this category; 0 for one it never had, NaN for a missing one."""

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
            object.__setattr__(self, "categories", texts(self.categories, "count categories"))
            for count in self.counts:
                whole(count, "count", 0, 2**53)
            if len(self.counts) != len(self.categories):
                raise ProgramError("count: expected one count a category")

    def fit(self, column: Column) -> Self:
        counts = count_texts(column, self.op, CODES_MAX)
        return replace(self, categories=tuple(counts), counts=tuple(counts.values()))

    def compile(self, plan: Plan, register: int) -> int:
        table = plan.table(fitted(self.categories, self.op), map(float, fitted(self.counts, self.op)))
        return plan.step("lookup", register, table=table, x=0.0, y=math.nan)


@dataclass(frozen=True)
class Target(Op):
    """The category's mean of the column `label`, drawn towards the mean of all rows by `smoothing` rows'
    worth:
    (sum + smoothing * prior) / (count + smoothing). An unknown category is the prior, a missing one NaN."""

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
        object.__setattr__(self, "smoothing", number(self.smoothing, "target smoothing"))
        if self.smoothing < 0.0:
            raise ProgramError(f"target: smoothing is at least zero, got {self.smoothing}")
        object.__setattr__(self, "prior", optional_number(self.prior, "target prior"))
        if (self.categories is None) != (self.means is None):
            raise ProgramError("target: categories and means come together, and fitting learns both")
        if self.categories is not None and self.means is not None:
            object.__setattr__(self, "categories", texts(self.categories, "target categories"))
            if not isinstance(self.means, (list, tuple)) or len(self.means) != len(self.categories):
                raise ProgramError("target: expected one mean a category")
            object.__setattr__(self, "means", tuple(number(mean, "target mean") for mean in self.means))

    def fit_labels(self, pairs: Iterable[tuple[str | None, float]]) -> Self:
        """The op with the means of these rows of category and label; sums are rounded once, so the order of rows does
        not matter."""
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
    """1 where the category is missing, else 0."""

    op: ClassVar[str] = "missing"
    reads: ClassVar[str] = TEXT

    def compile(self, plan: Plan, register: int) -> int:
        return plan.step("text_missing", register)


@dataclass(frozen=True)
class Length(Op):
    """The text's length in UTF-8 bytes; NaN for a missing one."""

    op: ClassVar[str] = "length"
    reads: ClassVar[str] = TEXT

    def compile(self, plan: Plan, register: int) -> int:
        return plan.step("length", register, y=math.nan)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
