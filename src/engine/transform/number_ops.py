"""Ops on numbers. A missing value is NaN, and stays NaN unless the op says otherwise.

An op learns from the values that are not missing, as the ops before it give them. After `impute` none is missing, so
the mean and the standard deviation count the imputed rows too.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np

from engine.errors import ProgramError
from engine.transform.ops import Column, Op, finite, fitted, one_of, optional_finite, whole
from engine.transform.plan import NUMBER, Plan
from engine.transform.statistics import Numbers

ONE_HOT_CODES_MAX = 65_536
QUANTILES_MAX = 2**31 - 1


@dataclass(frozen=True)
class Impute(Op):
    """Replace a missing value by `value`.

    Attributes:
        strategy: "constant", or how `value` is learned: "mean", "median", or "most_frequent" (the least of several
            equally frequent values).
        value: a finite number.
    """

    op: ClassVar[str] = "impute"
    strategy: str = "constant"
    value: float | None = None

    def __post_init__(self) -> None:
        one_of("impute strategy", self.strategy, ("constant", "mean", "median", "most_frequent"))
        if self.strategy == "constant" and self.value is None:
            raise ProgramError("impute: strategy 'constant' needs a value")
        object.__setattr__(self, "value", optional_finite("impute value", self.value))

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
    """Give 1 for a missing value, else 0."""

    op: ClassVar[str] = "missing"

    def compile(self, plan: Plan, register: int) -> int:
        return plan.step("missing", register)


class Scaling(Op):
    """The base of ops that give (v - shift) / divisor and differ in what they learn."""

    op: ClassVar[str] = "_scaling"

    def shift_and_divisor(self) -> tuple[float | None, float | None]:
        """Return both constants, None before fitting."""
        raise NotImplementedError

    def compile(self, plan: Plan, register: int) -> int:
        shift, divisor = self.shift_and_divisor()
        # A constant column has divisor 0. It is divided by 1 instead, so its one value becomes 0.
        return plan.step("scale", register, x=fitted(shift, self.op), y=fitted(divisor, self.op) or 1.0)


@dataclass(frozen=True)
class Standardise(Scaling):
    """Give (v - mean) / std. A constant column is divided by 1.

    Attributes:
        mean: of the values.
        std: the population standard deviation (over n, not n - 1).
    """

    op: ClassVar[str] = "standardise"
    mean: float | None = None
    std: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", optional_finite("standardise mean", self.mean))
        object.__setattr__(self, "std", optional_finite("standardise std", self.std))

    def fit(self, column: Column) -> Self:
        values = Numbers(column, self.op)
        if values.low == values.high:  # rounding the mean could make a constant column look as if it varied
            return replace(self, mean=values.low, std=0.0)
        centre = values.mean()
        spread = math.sqrt(values.variance(centre))
        return replace(self, mean=centre, std=finite("standardise std", spread))

    def shift_and_divisor(self) -> tuple[float | None, float | None]:
        return self.mean, self.std


@dataclass(frozen=True)
class MinMax(Scaling):
    """Give (v - low) / (high - low), not clipped. A constant column is divided by 1.

    Attributes:
        low: the least value.
        high: the greatest value.
    """

    op: ClassVar[str] = "min_max"
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "low", optional_finite("min_max low", self.low))
        object.__setattr__(self, "high", optional_finite("min_max high", self.high))

    def fit(self, column: Column) -> Self:
        values = Numbers(column, self.op)
        finite("min_max range", values.high - values.low)
        return replace(self, low=values.low, high=values.high)

    def shift_and_divisor(self) -> tuple[float | None, float | None]:
        return self.low, fitted(self.high, self.op) - fitted(self.low, self.op)


@dataclass(frozen=True)
class Robust(Scaling):
    """Give (v - median) / range. A column whose quartiles are equal is divided by 1.

    Attributes:
        median: of the values.
        range: third quartile - first quartile, both interpolated linearly.
    """

    op: ClassVar[str] = "robust"
    median: float | None = None
    range: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "median", optional_finite("robust median", self.median))
        object.__setattr__(self, "range", optional_finite("robust range", self.range))

    def fit(self, column: Column) -> Self:
        first, median, third = Numbers(column, self.op).quantiles([0.25, 0.5, 0.75])
        return replace(self, median=median, range=finite("robust range", third - first))

    def shift_and_divisor(self) -> tuple[float | None, float | None]:
        return self.median, self.range


@dataclass(frozen=True)
class Affine(Op):
    """Give v * factor + offset, rounded after each."""

    op: ClassVar[str] = "affine"
    factor: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", finite("affine factor", self.factor))
        object.__setattr__(self, "offset", finite("affine offset", self.offset))

    def compile(self, plan: Plan, register: int) -> int:
        return plan.step("affine", register, x=self.factor, y=self.offset)


@dataclass(frozen=True)
class MapNumber(Op):
    """Give the value that belongs to a number.

    Attributes:
        keys: rising numbers.
        values: one number for each key.
        unknown: the result for any other number; None means NaN.
        missing: the result for a missing number; None means NaN.
        refuse: "unknown" refuses a row with any other number, "unknown_or_missing" one with a missing number too.
    """

    op: ClassVar[str] = "map"
    keys: tuple[float, ...] = ()
    values: tuple[float, ...] = ()
    unknown: float | None = None
    missing: float | None = None
    refuse: str | None = None

    def __post_init__(self) -> None:
        keys = tuple(finite("map keys", key) for key in self.keys)
        if any(a >= b for a, b in itertools.pairwise(keys)):
            raise ProgramError(f"map: keys must rise strictly, got {list(keys)}")
        object.__setattr__(self, "keys", keys)
        check_map(self, keys)

    def compile(self, plan: Plan, register: int) -> int:
        matches = plan.matches(self.keys, self.values)
        if self.refuse is not None:
            plan.known(register, NUMBER, matches, missing=self.refuse == "unknown")
        x, y = (math.nan if value is None else value for value in (self.unknown, self.missing))
        return plan.step("match", register, table=matches, x=x, y=y)


def check_map(op: Any, keys: Sequence[Any]) -> None:
    """Set the fields of a `map` that has these keys to floats. Raise ProgramError for a value that is not accepted."""
    if not isinstance(op.values, (list, tuple)) or len(op.values) != len(keys):
        raise ProgramError(f"map: expected one value for each of {len(keys)} keys, got {op.values!r:.80}")
    object.__setattr__(op, "values", tuple(finite("map values", value) for value in op.values))
    object.__setattr__(op, "unknown", optional_finite("map unknown", op.unknown))
    object.__setattr__(op, "missing", optional_finite("map missing", op.missing))
    if op.refuse is not None:
        one_of("map refuse", op.refuse, ("unknown", "unknown_or_missing"))


@dataclass(frozen=True)
class Clip(Op):
    """Give `low` for a lesser value and `high` for a greater one. None leaves that side open."""

    op: ClassVar[str] = "clip"
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "low", optional_finite("clip low", self.low))
        object.__setattr__(self, "high", optional_finite("clip high", self.high))
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ProgramError(f"clip: low {self.low} is above high {self.high}")

    def compile(self, plan: Plan, register: int) -> int:
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        return plan.step("clip", register, x=low, y=high)


@dataclass(frozen=True)
class Log1p(Op):
    """Give ln(1 + v): -inf at -1, NaN below."""

    op: ClassVar[str] = "log1p"

    def compile(self, plan: Plan, register: int) -> int:
        return plan.step("log1p", register)


@dataclass(frozen=True)
class Sqrt(Op):
    """Give the square root; NaN below zero."""

    op: ClassVar[str] = "sqrt"

    def compile(self, plan: Plan, register: int) -> int:
        return plan.step("sqrt", register)


@dataclass(frozen=True)
class Power(Op):
    """Give v to the power `exponent`; NaN for a negative v unless the exponent is whole."""

    op: ClassVar[str] = "power"
    exponent: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "exponent", finite("power exponent", self.exponent))

    def compile(self, plan: Plan, register: int) -> int:
        return plan.step("power", register, x=self.exponent)


@dataclass(frozen=True)
class Bucketize(Op):
    """Give the index of the value's bucket, 0 to len(edges).

    Attributes:
        edges: rising.
        quantiles: n learns the n - 1 inner edges of n quantiles. Equal edges become one.
        edge: the bucket of a value on an edge: "left" the one above it (closed on its left), "right" the one below.
    """

    op: ClassVar[str] = "bucketize"
    edges: tuple[float, ...] | None = None
    quantiles: int | None = None
    edge: str = "left"

    def __post_init__(self) -> None:
        one_of("bucketize edge", self.edge, ("left", "right"))
        if self.edges is None:
            if self.quantiles is None:
                raise ProgramError("bucketize: needs edges or quantiles")
            whole("bucketize quantiles", self.quantiles, 2, QUANTILES_MAX)
        else:
            edges = tuple(finite("bucketize edges", edge) for edge in self.edges)
            if any(a >= b for a, b in itertools.pairwise(edges)):
                raise ProgramError(f"bucketize: edges must rise strictly, got {list(edges)}")
            object.__setattr__(self, "edges", edges)

    @property
    def n_codes(self) -> int | None:
        """How many buckets there are. None before fitting."""
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
    """Give one column for each code 0 to `n` - 1; any other value, NaN too, is all zeros.

    Attributes:
        n: after `bucketize` or a `cross` of codes, how many codes there can be. Else learned: the greatest code + 1.
        names: what follows "=" in the name of each column; None means the codes.
    """

    op: ClassVar[str] = "one_hot"
    final: ClassVar[bool] = True
    n: int | None = None
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.n is not None:
            whole("one_hot n", self.n, 1, ONE_HOT_CODES_MAX)
        if self.names is not None:
            if not all(isinstance(name, str) for name in self.names) or len(self.names) != self.n:
                raise ProgramError(
                    f"one_hot: expected one name for each of {self.n} codes, got {self.names!r:.80}"
                )
            object.__setattr__(self, "names", tuple(self.names))

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
        n = fitted(self.n, self.op)
        plan.emit_one_hot(register, [f"{name}={code}" for code in self.names or range(n)])


@dataclass(frozen=True)
class Cyclic(Op):
    """Give two columns: sin and cos of 2 pi v / period. With period 24, hour 23 comes out near hour 0."""

    op: ClassVar[str] = "cyclic"
    final: ClassVar[bool] = True
    period: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "period", finite("cyclic period", self.period))
        if self.period <= 0.0:
            raise ProgramError(f"cyclic: the period must be above zero, got {self.period}")

    def compile(self, plan: Plan, register: int) -> int:
        return register

    def emit(self, plan: Plan, register: int, name: str) -> None:
        plan.emit(plan.step("sine", register, x=self.period), f"{name}:sin")
        plan.emit(plan.step("cosine", register, x=self.period), f"{name}:cos")


def parse_impute(with_: Any) -> Impute:
    """Return the op of the short forms impute("median") and impute(0.0)."""
    if isinstance(with_, str):
        return Impute(strategy=with_)
    return Impute(value=finite("impute", with_))
