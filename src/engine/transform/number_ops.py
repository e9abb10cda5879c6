"""Operations on numbers. A missing value is NaN and stays NaN unless the op's own words say otherwise.

Statistics are taken over the values that are not missing, as the ops before have left them: after `impute`
nothing is missing any more, so the mean and the standard deviation then count the imputed rows too.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np

from engine.errors import ProgramError
from engine.transform.ops import Column, Op, fitted, number, optional_number
from engine.transform.plan import Plan
from engine.transform.statistics import Numbers


@dataclass(frozen=True)
class Impute(Op):
    """Missing values become `value`: a constant, or the mean, median or most frequent value (the least of
    several)."""

    op: ClassVar[str] = "impute"
    strategy: str = "constant"
    value: float | None = None

    def __post_init__(self) -> None:
        if self.strategy not in ("constant", "mean", "median", "most_frequent"):
            raise ProgramError(
                f"impute: unknown strategy {self.strategy!r}; expected a number, 'mean', 'median' or "
                f"'most_frequent'"
            )
        if self.strategy == "constant" and self.value is None:
            raise ProgramError("impute: strategy 'constant' needs a value")
        object.__setattr__(self, "value", optional_number(self.value, "impute value"))

    def fit(self, column: Column) -> Self:
        if self.strategy == "constant":
            return self
        values = Numbers(column, self.op)
        learn = {"mean": values.mean, "median": values.median, "most_frequent": values.most_frequent}
        return replace(self, value=learn[self.strategy]())

    def compile(self, plan: Plan, register: int) -> int:
        return plan.step("impute", register, x=fitted(self.value, self.op))


@dataclass(frozen=True)
class Missing(Op):
    """1 where the value is missing, else 0."""

    op: ClassVar[str] = "missing"

    def compile(self, plan: Plan, register: int) -> int:
        return plan.step("missing", register)


class Scaling(Op):
    """(v - shift) / divisor in float64, for the ops that differ only in what they learn."""

    op: ClassVar[str] = "_scaling"

    def shift_and_divisor(self) -> tuple[float | None, float | None]:
        raise NotImplementedError

    def compile(self, plan: Plan, register: int) -> int:
        shift, divisor = self.shift_and_divisor()
        # A column that never varied has divisor 0 and comes out as 0 for the value it had: divided by 1.
        return plan.step("scale", register, x=fitted(shift, self.op), y=fitted(divisor, self.op) or 1.0)


@dataclass(frozen=True)
class Standardise(Scaling):
    """(v - mean) / std with the population standard deviation (over n); a constant column is only shifted."""

    op: ClassVar[str] = "standardise"
    mean: float | None = None
    std: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", optional_number(self.mean, "standardise mean"))
        object.__setattr__(self, "std", optional_number(self.std, "standardise std"))

    def fit(self, column: Column) -> Self:
        values = Numbers(column, self.op)
        if values.low == values.high:  # where rounding the mean would make it look as if the column varied
            return replace(self, mean=values.low, std=0.0)
        centre = values.mean()
        spread = math.sqrt(values.variance(centre))
        return replace(self, mean=centre, std=number(spread, "standardise std"))

    def shift_and_divisor(self) -> tuple[float | None, float | None]:
        return self.mean, self.std


@dataclass(frozen=True)
class MinMax(Scaling):
    """(v - low) / (high - low) with the least and greatest value seen; not clipped; a constant column is
    only shifted."""

    op: ClassVar[str] = "min_max"
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "low", optional_number(self.low, "min_max low"))
        object.__setattr__(self, "high", optional_number(self.high, "min_max high"))

    def fit(self, column: Column) -> Self:
        values = Numbers(column, self.op)
        number(values.high - values.low, "min_max range")
        return replace(self, low=values.low, high=values.high)

    def shift_and_divisor(self) -> tuple[float | None, float | None]:
        return self.low, fitted(self.high, self.op) - fitted(self.low, self.op)


@dataclass(frozen=True)
class Robust(Scaling):
    """(v - median) / (third quartile - first), quartiles interpolated linearly; divided by 1 where they are
    equal."""

    op: ClassVar[str] = "robust"
    median: float | None = None
    range: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "median", optional_number(self.median, "robust median"))
        object.__setattr__(self, "range", optional_number(self.range, "robust range"))

    def fit(self, column: Column) -> Self:
        first, median, third = Numbers(column, self.op).quantiles([0.25, 0.5, 0.75])
        return replace(self, median=median, range=number(third - first, "robust range"))

    def shift_and_divisor(self) -> tuple[float | None, float | None]:
        return self.median, self.range


@dataclass(frozen=True)
class Clip(Op):
    """At least `low` and at most `high`; None leaves that side open."""

    op: ClassVar[str] = "clip"
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "low", optional_number(self.low, "clip low"))
        object.__setattr__(self, "high", optional_number(self.high, "clip high"))
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ProgramError(f"clip: low {self.low} is above high {self.high}")

    def compile(self, plan: Plan, register: int) -> int:
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        return plan.step("clip", register, x=low, y=high)


@dataclass(frozen=True)
class Log1p(Op):
    """ln(1 + v); -inf at -1, NaN below."""

    op: ClassVar[str] = "log1p"

    def compile(self, plan: Plan, register: int) -> int:
        return plan.step("log1p", register)


@dataclass(frozen=True)
class Sqrt(Op):
    """The square root; NaN below zero."""

    op: ClassVar[str] = "sqrt"

    def compile(self, plan: Plan, register: int) -> int:
        return plan.step("sqrt", register)


@dataclass(frozen=True)
class Power(Op):
    """v to the power `exponent`; NaN below zero unless the exponent is whole."""

    op: ClassVar[str] = "power"
    exponent: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "exponent", number(self.exponent, "power exponent"))

    def compile(self, plan: Plan, register: int) -> int:
        return plan.step("power", register, x=self.exponent)


@dataclass(frozen=True)
class Bucketize(Op):
    """The index of the value's bucket, 0 to len(edges). A value on an edge belongs above it (`edge="left"`,
    the bucket is closed on its left) or below it (`edge="right"`). `quantiles=n` learns n - 1 inner edges,
    equal ones once."""

    op: ClassVar[str] = "bucketize"
    edges: tuple[float, ...] | None = None
    quantiles: int | None = None
    edge: str = "left"

    def __post_init__(self) -> None:
        if self.edge not in ("left", "right"):
            raise ProgramError(f"bucketize: edge is 'left' or 'right', got {self.edge!r}")
        if self.edges is None and (
            isinstance(self.quantiles, bool) or not isinstance(self.quantiles, int) or self.quantiles < 2
        ):
            raise ProgramError(f"bucketize: needs edges, or quantiles of at least 2, got {self.quantiles!r}")
        if self.edges is not None:
            edges = tuple(number(edge, "bucketize edge") for edge in self.edges)
            if any(a >= b for a, b in itertools.pairwise(edges)):
                raise ProgramError(f"bucketize: edges must rise strictly, got {list(edges)}")
            object.__setattr__(self, "edges", edges)

    @property
    def n_codes(self) -> int | None:
        return None if self.edges is None else len(self.edges) + 1

    def fit(self, column: Column) -> Self:
        if self.quantiles is None:
            return self
        inner = [i / self.quantiles for i in range(1, self.quantiles)]
        return replace(self, edges=tuple(sorted(set(Numbers(column, self.op).quantiles(inner)))))

    def compile(self, plan: Plan, register: int) -> int:
        edges = plan.edges(fitted(self.edges, self.op))
        return plan.step("bucket", register, table=edges, count=int(self.edge == "right"))


@dataclass(frozen=True)
class OneHotCodes(Op):
    """One column a code, 0 to `n` - 1; anything else, NaN too, is all zeros. `n` is the number of buckets
    after `bucketize`, else learned: one more than the greatest seen."""

    op: ClassVar[str] = "one_hot"
    final: ClassVar[bool] = True
    n: int | None = None

    def __post_init__(self) -> None:
        if self.n is not None and (
            isinstance(self.n, bool) or not isinstance(self.n, int) or not 0 < self.n <= 65536
        ):
            raise ProgramError(f"one_hot: expected 1 to 65536 columns, got {self.n!r}")

    def fit(self, column: Column) -> Self:
        if self.n is not None:
            return self
        values = Numbers(column, self.op)
        if values.low < 0 or any((part != np.floor(part)).any() for part in values.parts()):
            raise ProgramError("one_hot of a number needs codes 0, 1, …: bucketize it first")
        return replace(self, n=int(values.high) + 1)

    def compile(self, plan: Plan, register: int) -> int:
        return register

    def emit(self, plan: Plan, register: int, name: str) -> None:
        plan.emit_one_hot(register, [f"{name}={code}" for code in range(fitted(self.n, self.op))])


@dataclass(frozen=True)
class Cyclic(Op):
    """Two columns, sin and cos of 2 pi v / period: hour 23 comes out near hour 0."""

    op: ClassVar[str] = "cyclic"
    final: ClassVar[bool] = True
    period: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "period", number(self.period, "cyclic period"))
        if self.period <= 0.0:
            raise ProgramError(f"cyclic: the period must be above zero, got {self.period}")

    def compile(self, plan: Plan, register: int) -> int:
        return register

    def emit(self, plan: Plan, register: int, name: str) -> None:
        plan.emit(plan.step("sine", register, x=self.period), f"{name}:sin")
        plan.emit(plan.step("cosine", register, x=self.period), f"{name}:cos")


def parse_impute(with_: Any) -> Impute:
    """The short form: impute("median") or impute(0.0)."""
    if isinstance(with_, str):
        return Impute(strategy=with_)
    return Impute(value=number(with_, "impute"))
