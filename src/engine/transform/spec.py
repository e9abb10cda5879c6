"""Features: the immutable objects that a spec is made of.

    from engine import transform as t

    spec = [
        t.number("dep_delay").impute("median").standardise(),
        t.number("hour").cyclic(24),
        t.category("carrier").ordinal(),
        t.category("dest").hash(buckets=64),
        t.ratio(t.number("distance"), t.number("air_time"), when_zero=0.0).named("speed"),
    ]

Every method returns a new feature, so features may share their beginning. The same spec as JSON is
`[feature.to_json() for feature in spec]`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from engine.errors import ProgramError
from engine.transform import date_ops, number_ops, text_ops, vector_ops
from engine.transform.ops import Op, op_from_json
from engine.transform.plan import NUMBER, TEXT, TIMESTAMP, TIMESTAMP_UTC, VECTOR, NativeFunction, Plan


@dataclass(frozen=True)
class Feature:
    """One input or combination of features, followed by ops. Gives one or more output columns.

    Build it with `number`, `category`, `timestamp`, `vector`, a combination such as `ratio`, or a function of your own.
    Each method below returns a new feature. An op that does not fit raises ProgramError.

    Attributes:
        kind: "number", "category", "timestamp", "vector", or a combination: "difference", "ratio", "product", "cross",
            "cross_codes", "geo_distance", "function".
        input: the input's name; None for a combination.
        of: the features that a combination combines.
        ops: the ops, in order.
        name: the name of the output column; None means the input's name. A feature of several columns adds a suffix.
        parameters: (name, value) of each parameter of the source: `zone`, `naive`; `size`, `index`; `when_zero`;
            `buckets`, `seed`; `radius_km`.
        function: the function that a feature of kind "function" calls.
    """

    kind: str
    input: str | None = None
    of: tuple[Feature, ...] = ()
    ops: tuple[Op, ...] = ()
    name: str | None = None
    parameters: tuple[tuple[str, Any], ...] = ()
    function: NativeFunction | None = None

    def named(self, name: str) -> Feature:
        """Name the output column. A feature of several columns adds a suffix: "by=UA", "hour:sin", "v[0]"."""
        return replace(self, name=name_of(name, "an output"))

    def then(self, op: Op | str | dict[str, Any]) -> Feature:
        """Append an op: an object, its name, or its JSON form {"op": name, field: value, …}.

        The methods below are short forms of this one.

        Raises:
            ProgramError: an unknown op, a value that a field does not take, or an op that cannot follow here.
        """
        made = op if isinstance(op, Op) else op_from_json(self.gives, op)
        if self.n_values > 1:
            raise ProgramError(
                f"feature {self.label!r} is {self.n_values} values: take one with [0], [1], … before op {made.op!r}"
            )
        if self.ops and self.ops[-1].final:
            raise ProgramError(
                f"feature {self.label!r}: nothing can follow {self.ops[-1].op!r}, which makes columns"
            )
        if made.reads != self.gives:
            raise ProgramError(
                f"feature {self.label!r}: op {made.op!r} reads a {made.reads}, and the feature so far is a {self.gives}"
            )
        return replace(self, ops=(*self.ops, made))

    def __getitem__(self, index: int) -> Feature:
        """Take one value, from 0 on, of a vector or of a function with several outputs. Ops can follow it."""
        if self.n_values == 1 or isinstance(index, bool) or not isinstance(index, int):
            raise ProgramError(f"feature {self.label!r} has one value, or is indexed by a whole number")
        if not 0 <= index < self.n_values:
            raise ProgramError(
                f"feature {self.label!r}: expected an index below {self.n_values}, got {index}"
            )
        return replace(self, parameters=(*self.parameters, ("index", index)))

    def __iter__(self) -> Iterator[Feature]:
        """Iterate over the values of a vector, or of a function with several outputs."""
        return (self[i] for i in range(self.n_values))

    def impute(self, with_: float | str) -> Feature:
        """Replace a missing value.

        Args:
            with_: for a number: a finite number, or "mean", "median" or "most_frequent" (the least of several equally
                frequent values) to learn one. For a category: "most_frequent" (the first in code point order of
                several equally frequent ones).
        """
        if self.gives == TEXT:
            if with_ != "most_frequent":
                raise ProgramError(
                    f"feature {self.label!r}: a category is imputed with 'most_frequent', or with a text by "
                    f"impute_constant({with_!r})"
                )
            return self.then(text_ops.ImputeText(strategy="most_frequent"))
        return self.then(number_ops.parse_impute(with_))

    def impute_constant(self, value: float | str) -> Feature:
        """Replace a missing value by `value`: a finite number, or a text for a category."""
        if self.gives == TEXT:
            return self.then(text_ops.ImputeText(value=value))  # type: ignore[arg-type]
        return self.then(number_ops.Impute(value=value))  # type: ignore[arg-type]

    def missing(self) -> Feature:
        """Give 1 for a missing number or category, else 0."""
        return self.then("missing")

    def standardise(self) -> Feature:
        """Give (v - mean) / std of a number, both learned; std is over n. A constant column is divided by 1."""
        return self.then(number_ops.Standardise())

    def min_max(self) -> Feature:
        """Give (v - least) / (greatest - least) of a number, both learned, not clipped.

        A constant column is divided by 1.
        """
        return self.then(number_ops.MinMax())

    def robust(self) -> Feature:
        """Give (v - median) / (third quartile - first) of a number, all learned. Equal quartiles are divided by 1."""
        return self.then(number_ops.Robust())

    def clip(self, low: float | None = None, high: float | None = None) -> Feature:
        """Give `low` for a lesser number and `high` for a greater one. None leaves that side open."""
        return self.then(number_ops.Clip(low, high))

    def log1p(self) -> Feature:
        """Give ln(1 + v) of a number: -inf at -1, NaN below."""
        return self.then(number_ops.Log1p())

    def sqrt(self) -> Feature:
        """Give the square root of a number; NaN below zero."""
        return self.then(number_ops.Sqrt())

    def power(self, exponent: float) -> Feature:
        """Give v to the power `exponent`; NaN for a negative number unless the exponent is whole."""
        return self.then(number_ops.Power(exponent))

    def part(self, part: str) -> Feature:
        """Give a part of a timestamp, in the time zone of its input.

        Args:
            part: "year", "month" 1-12, "day" 1-31, "day_of_year" 1-366, "weekday" (Monday is 0), "hour", "minute",
                "second" (with its fraction), "second_of_day", or "unix_second".
        """
        return self.then(date_ops.DatePart(part, self.parameter("zone") or ""))

    def bucketize(
        self, edges: Sequence[float] | None = None, *, quantiles: int | None = None, edge: str = "left"
    ) -> Feature:
        """Give the index of a number's bucket, 0 to len(edges).

        Args:
            edges: strictly rising.
            quantiles: without edges: learn the inner edges of this many quantiles, at least 2. Equal edges become one.
            edge: where a number on an edge belongs: "left" to the bucket above it, "right" to the one below.
        """
        return self.then(number_ops.Bucketize(None if edges is None else tuple(edges), quantiles, edge))

    def cyclic(self, period: float) -> Feature:
        """Give two columns, sine and cosine of 2 pi v / period. `period` is above zero: 24 for hours of a day."""
        return self.then(number_ops.Cyclic(period))

    def ordinal(
        self, categories: Sequence[str] | None = None, *, unknown: float = -1.0, missing: float | None = None
    ) -> Feature:
        """Give a category's place, from 0 on, in a list.

        Args:
            categories: the list; None learns all categories, in code point order.
            unknown: the result for any other category.
            missing: the result for a missing category; None gives NaN.
        """
        return self.then(
            text_ops.Ordinal(None if categories is None else tuple(categories), unknown, missing)
        )

    def one_hot(self, categories: Sequence[str] | None = None) -> Feature:
        """Give one column for each category: 1 in its own, 0 in the others. Unknown and missing are all zeros.

        After `bucketize` or a `cross` of codes: one column for each code.

        Args:
            categories: the categories; None learns all of them, in code point order. Not for codes.
        """
        if self.gives == NUMBER:
            return self.then(number_ops.OneHotCodes())
        return self.then(text_ops.OneHot(None if categories is None else tuple(categories)))

    def hash(self, buckets: int, *, seed: int = 0, missing: float | None = None) -> Feature:
        """Give XXH64 of a category's UTF-8 bytes, modulo `buckets`.

        Args:
            buckets: 1 to 2^24.
            seed: 0 to 2^64 - 1.
            missing: the result for a missing category; None gives NaN.
        """
        return self.then(text_ops.Hash(buckets, seed, missing))

    def count(self) -> Feature:
        """Give how many rows had the category when fitting: 0 for an unknown one, NaN for a missing one."""
        return self.then(text_ops.Count())

    def target(self, label: str, *, smoothing: float = 20.0) -> Feature:
        """Give a category's smoothed mean of a label: (sum + smoothing * prior) / (count + smoothing).

        The prior is the mean over all rows; an unknown category gives it, a missing one NaN. Get the rows to train a
        model on from `FeatureProgram.fit_batch`, so that no row sees its own label.

        Args:
            label: the column of the label. Fitting reads it, serving never does.
            smoothing: at least 0.
        """
        return self.then(text_ops.Target(label, smoothing))

    def length(self) -> Feature:
        """Give a text's length in UTF-8 bytes; NaN for a missing text."""
        return self.then(text_ops.Length())

    def embed(self, table: Mapping[str, Sequence[float]], *, unknown: str | None = None) -> Feature:
        """Give a category's float32 vector, one column for each number.

        Args:
            table: one vector for each category, all of one length from 1 to 65,536.
            unknown: the category that stands for an unknown or missing one; None gives zeros.
        """
        return self.then(vector_ops.Embed.of(table, unknown))

    def tokens(self, buckets: int, *, seed: int = 0) -> Feature:
        """Give one column for each bucket: how many of a text's tokens have XXH64(token, seed) % buckets in it.

        A token is a longest run of ASCII letters, digits, and characters beyond ASCII. A missing text is all NaN.

        Args:
            buckets: 1 to 65,536.
            seed: 0 to 2^64 - 1.
        """
        return self.then(vector_ops.Tokens(buckets, seed))

    def parameter(self, name: str) -> Any:
        """Return a parameter of the source; None if it has none of that name."""
        return dict(self.parameters).get(name)

    @property
    def gives(self) -> str:
        """The kind of value after the last op: "number", "category" or "timestamp"."""
        if self.ops:
            return self.ops[-1].gives
        return self.kind if self.kind in (TEXT, TIMESTAMP) else NUMBER

    @property
    def n_values(self) -> int:
        """Values of the source: more than 1 for a vector, or a function with several outputs, without an index."""
        if self.parameter("index") is not None:
            return 1
        return self.function.outputs if self.function is not None else self.parameter("size") or 1

    @property
    def n_codes(self) -> int | None:
        """How many codes 0, 1, … the fitted feature can give. None if it gives other numbers or is not fitted."""
        if self.ops:
            return self.ops[-1].n_codes
        codes = [part.n_codes for part in self.of]
        if self.kind != "cross_codes" or None in codes:
            return None
        return math.prod(code for code in codes if code is not None)

    @property
    def label(self) -> str:
        """The name of the output column, or its beginning: `name`, else the input's, else "ratio(a, b)"."""
        if self.name is not None:
            return self.name
        kind = self.kind if self.function is None else self.function.name
        label = self.input if self.input is not None else f"{kind}({', '.join(f.label for f in self.of)})"
        index = self.parameter("index")
        return label if index is None else f"{label}[{index}]"

    def inputs(self) -> Iterator[tuple[str, str]]:
        """Yield (name, kind) of every input that the feature reads. The kind of a vector has its size: "vector[8]"."""
        if self.input is not None:
            kind = self.kind
            if kind == VECTOR:
                kind = f"{VECTOR}[{self.parameter('size')}]"
            elif self.parameter("naive") == "utc":
                kind = TIMESTAMP_UTC
            yield self.input, kind
        for part in self.of:
            yield from part.inputs()

    def labels(self) -> Iterator[str]:
        """Yield the label columns that fitting reads."""
        for op in self.ops:
            if isinstance(op, text_ops.Target):
                yield op.label
        for part in self.of:
            yield from part.labels()

    def compile(self, plan: Plan) -> int:
        """Append the feature's steps to a plan. Return the register of its value."""
        if self.input is not None:
            register = plan.input(self.input)
        else:
            register = self._combine(plan, [part.compile(plan) for part in self.of])
        register += self.parameter("index") or 0
        for op in self.ops:
            register = op.compile(plan, register)
        return register

    def emit(self, plan: Plan) -> None:
        """Append the feature's steps and output columns to a plan. Raise ProgramError if it does not end as numbers."""
        register = self.compile(plan)
        if self.gives != NUMBER:
            verbs = "ordinal, one_hot, hash or count" if self.gives == TEXT else "part"
            raise ProgramError(f"feature {self.label!r} ends as a {self.gives}: add {verbs}")
        if self.ops:
            self.ops[-1].emit(plan, register, self.label)
        elif self.n_values == 1:
            plan.emit(register, self.label)
        else:
            for i in range(self.n_values):
                plan.emit(register + i, f"{self.label}[{i}]")

    def _combine(self, plan: Plan, registers: list[int]) -> int:
        if self.function is not None:
            return plan.call(self.function, registers)
        if self.kind == "ratio":
            when_zero = self.parameter("when_zero")
            return plan.step("ratio", *registers, x=math.nan if when_zero is None else when_zero)
        if self.kind == "cross":
            buckets, seed = self.parameter("buckets"), self.parameter("seed")
            return plan.step("hash_cross", *registers, count=buckets, seed=seed, y=math.nan)
        if self.kind == "cross_codes":
            if any(part.n_codes is None for part in self.of):
                raise ProgramError(
                    f"{self.label}: a cross without buckets is of ordinals or bucketized numbers"
                )
            return plan.step("cross_codes", *registers, count=self.of[1].n_codes or 0)
        if self.kind == "geo_distance":
            return plan.step("haversine", *registers, x=self.parameter("radius_km"))
        return plan.step(self.kind, *registers)

    def to_json(self) -> dict[str, Any]:
        """Return the feature as JSON, fitted constants included. `FeatureProgram.fit` takes a list of these."""
        out: dict[str, Any] = {"type": self.kind}
        if self.input is not None:
            out["input"] = self.input
        if self.of:
            out["of"] = [part.to_json() for part in self.of]
        out |= {key: value for key, value in self.parameters if value is not None}
        if self.function is not None:
            out["function"] = {
                "name": self.function.name,
                "digest": self.function.digest,
                "outputs": self.function.outputs,
            }
        if self.ops:
            out["ops"] = [op.to_json() for op in self.ops]
        if self.name is not None:
            out["name"] = self.name
        return out


def name_of(name: Any, whose: str) -> str:
    """Return a name. Raise ProgramError, which says whose it is, unless it is a string that is not empty."""
    if not isinstance(name, str) or not name:
        raise ProgramError(f"the name of {whose} is a string that is not empty, got {name!r}")
    return str(name)
