"""The reading form of a spec: what each feature is made of, as short immutable objects.

    from engine import transform as t

    spec = [
        t.number("dep_delay").impute("median").standardise(),
        t.number("hour").cyclic(24),
        t.category("carrier").ordinal(),
        t.category("dest").hash(buckets=64),
        t.ratio(t.number("distance"), t.number("air_time"), when_zero=0.0).named("speed"),
    ]

Every verb returns a new feature, so a prefix may be shared. The same spec as JSON is `[f.to_json() for f in
spec]`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from engine.errors import ProgramError
from engine.transform import date_ops, number_ops, text_ops, vector_ops
from engine.transform.functions import UserFunction
from engine.transform.ops import Op, op_from_json
from engine.transform.plan import NUMBER, TEXT, TIMESTAMP, TIMESTAMP_UTC, VECTOR, Plan


@dataclass(frozen=True)
class Feature:
    """One input or a combination of features, followed by ops; makes one or more output columns.

    Attributes:
        kind: "number", "category", "timestamp", "vector", or the combination: "difference", "ratio", "product",
            "cross", "cross_codes", "geo_distance", "function".
        input: the input's name, None for a combination.
        of: the features combined.
        ops: what happens to the value, in order.
        name: of the output column; None means the input's name. Ops with several columns add a suffix to it.
        parameters: of the source: `zone`, `naive`; `size`, `index`; `when_zero`; `buckets`, `seed`; `radius_km`.
        function: the user's, where that is the kind.
    """

    kind: str
    input: str | None = None
    of: tuple[Feature, ...] = ()
    ops: tuple[Op, ...] = ()
    name: str | None = None
    parameters: tuple[tuple[str, Any], ...] = ()
    function: UserFunction | None = None

    def named(self, name: str) -> Feature:
        """Names the output column."""
        return replace(self, name=name_of(name, "an output"))

    def then(self, op: Op | str | dict[str, Any]) -> Feature:
        """Appends an op; the verbs below are short forms of it."""
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
                f"feature {self.label!r}: op {made.op!r} reads a {made.reads}, and what comes before is "
                f"a {self.gives}"
            )
        return replace(self, ops=(*self.ops, made))

    def __getitem__(self, index: int) -> Feature:
        """One value of a vector, or of a function with several outputs."""
        if self.n_values == 1 or isinstance(index, bool) or not isinstance(index, int):
            raise ProgramError(f"feature {self.label!r} has one value, or is indexed by a whole number")
        if not 0 <= index < self.n_values:
            raise ProgramError(
                f"feature {self.label!r}: expected an index below {self.n_values}, got {index}"
            )
        return replace(self, parameters=(*self.parameters, ("index", index)))

    def __iter__(self) -> Iterator[Feature]:
        return (self[i] for i in range(self.n_values))

    def impute(self, with_: float | str) -> Feature:
        """Fills missing values: a number, "mean", "median" or "most_frequent"; for a category
        "most_frequent" or, by `impute_constant`, any text."""
        if self.gives == TEXT:
            if with_ != "most_frequent":
                raise ProgramError(
                    f"feature {self.label!r}: a category is imputed with 'most_frequent', or with a text by "
                    f"impute_constant({with_!r})"
                )
            return self.then(text_ops.ImputeText(strategy="most_frequent"))
        return self.then(number_ops.parse_impute(with_))

    def impute_constant(self, value: float | str) -> Feature:
        """Fills missing values with one value: a number, or a text for a category."""
        if self.gives == TEXT:
            return self.then(text_ops.ImputeText(value=value))  # type: ignore[arg-type]
        return self.then(number_ops.Impute(value=value))  # type: ignore[arg-type]

    def missing(self) -> Feature:
        """1 where the value is missing, else 0."""
        return self.then("missing")

    def standardise(self) -> Feature:
        """(v - mean) / population standard deviation."""
        return self.then(number_ops.Standardise())

    def min_max(self) -> Feature:
        """(v - least) / (greatest - least)."""
        return self.then(number_ops.MinMax())

    def robust(self) -> Feature:
        """(v - median) / interquartile range."""
        return self.then(number_ops.Robust())

    def clip(self, low: float | None = None, high: float | None = None) -> Feature:
        """At least `low`, at most `high`."""
        return self.then(number_ops.Clip(low, high))

    def log1p(self) -> Feature:
        """ln(1 + v)."""
        return self.then(number_ops.Log1p())

    def sqrt(self) -> Feature:
        """The square root."""
        return self.then(number_ops.Sqrt())

    def power(self, exponent: float) -> Feature:
        """v to a power."""
        return self.then(number_ops.Power(exponent))

    def part(self, part: str) -> Feature:
        """A part of a timestamp in its declared zone; see `date_ops.DatePart`."""
        return self.then(date_ops.DatePart(part, self.parameter("zone") or ""))

    def bucketize(
        self, edges: Sequence[float] | None = None, *, quantiles: int | None = None, edge: str = "left"
    ) -> Feature:
        """The index of the value's bucket; see `number_ops.Bucketize` for which side an edge belongs to."""
        return self.then(number_ops.Bucketize(None if edges is None else tuple(edges), quantiles, edge))

    def cyclic(self, period: float) -> Feature:
        """Two columns, sine and cosine of a full turn every `period`."""
        return self.then(number_ops.Cyclic(period))

    def ordinal(
        self, categories: Sequence[str] | None = None, *, unknown: float = -1.0, missing: float | None = None
    ) -> Feature:
        """The category's place among those given, or those seen when fitting."""
        return self.then(
            text_ops.Ordinal(None if categories is None else tuple(categories), unknown, missing)
        )

    def one_hot(self, categories: Sequence[str] | None = None) -> Feature:
        """One column a category; for a number (a bucket) one column a code."""
        if self.gives == NUMBER:
            return self.then(number_ops.OneHotCodes())
        return self.then(text_ops.OneHot(None if categories is None else tuple(categories)))

    def hash(self, buckets: int, *, seed: int = 0, missing: float | None = None) -> Feature:
        """XXH64 of the text, modulo `buckets`."""
        return self.then(text_ops.Hash(buckets, seed, missing))

    def count(self) -> Feature:
        """How often the category was seen when fitting."""
        return self.then(text_ops.Count())

    def target(self, label: str, *, smoothing: float = 20.0) -> Feature:
        """The category's smoothed mean of the column `label`, which is read when fitting and never when
        serving.
        Rows to train a model on come from `FeatureProgram.fit_batch`."""
        return self.then(text_ops.Target(label, smoothing))

    def length(self) -> Feature:
        """The text's length in UTF-8 bytes."""
        return self.then(text_ops.Length())

    def embed(self, table: Mapping[str, Sequence[float]], *, unknown: str | None = None) -> Feature:
        """The category's vector, one column a number; an unknown or missing one has the vector of `unknown`, or
        zeros."""
        return self.then(vector_ops.Embed.of(table, unknown))

    def tokens(self, buckets: int, *, seed: int = 0) -> Feature:
        """How many of the text's tokens hash into each of `buckets` columns."""
        return self.then(vector_ops.Tokens(buckets, seed))

    def parameter(self, name: str) -> Any:
        """A parameter of the source, None where it has none of that name."""
        return dict(self.parameters).get(name)

    @property
    def gives(self) -> str:
        """What the last op leaves: "number", "category" or "timestamp"."""
        if self.ops:
            return self.ops[-1].gives
        return self.kind if self.kind in (TEXT, TIMESTAMP) else NUMBER

    @property
    def n_values(self) -> int:
        """Values of the source: more than 1 for a vector, or a function of several outputs, that is not
        indexed."""
        if self.parameter("index") is not None:
            return 1
        return self.function.outputs if self.function is not None else self.parameter("size") or 1

    @property
    def n_codes(self) -> int | None:
        """How many codes 0, 1, … the feature can leave, None where it leaves other numbers or is not fitted."""
        if self.ops:
            return self.ops[-1].n_codes
        codes = [part.n_codes for part in self.of]
        if self.kind != "cross_codes" or None in codes:
            return None
        return math.prod(code for code in codes if code is not None)

    @property
    def label(self) -> str:
        if self.name is not None:
            return self.name
        kind = self.kind if self.function is None else self.function.name
        label = self.input if self.input is not None else f"{kind}({', '.join(f.label for f in self.of)})"
        index = self.parameter("index")
        return label if index is None else f"{label}[{index}]"

    def inputs(self) -> Iterator[tuple[str, str]]:
        """(name, kind) of every input this feature reads."""
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
        """Columns that only fitting reads."""
        for op in self.ops:
            if isinstance(op, text_ops.Target):
                yield op.label
        for part in self.of:
            yield from part.labels()

    def compile(self, plan: Plan) -> int:
        """Appends the steps of this feature; returns the register of its value."""
        if self.input is not None:
            register = plan.input(self.input)
        else:
            register = self._combine(plan, [part.compile(plan) for part in self.of])
        register += self.parameter("index") or 0
        for op in self.ops:
            register = op.compile(plan, register)
        return register

    def emit(self, plan: Plan) -> None:
        """Appends the steps and the output columns."""
        register = self.compile(plan)
        if self.ops:
            self.ops[-1].emit(plan, register, self.label)
        elif self.gives != NUMBER:
            verbs = "ordinal, one_hot, hash or count" if self.gives == TEXT else "part"
            raise ProgramError(f"feature {self.label!r} ends as a {self.gives}: add {verbs}")
        elif self.n_values == 1:
            plan.emit(register, self.label)
        else:
            for i in range(self.n_values):
                plan.emit(register + i, f"{self.label}[{i}]")

    def _combine(self, plan: Plan, registers: list[int]) -> int:
        if self.function is not None:
            return plan.call(self.function, registers, self.function.outputs)
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
        """The feature as JSON, `sources.feature_from_json` reads it back."""
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


def name_of(name: Any, what: str) -> str:
    if not isinstance(name, str) or not name:
        raise ProgramError(f"the name of {what} is a string that is not empty, got {name!r}")
    return str(name)
