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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from engine.errors import ProgramError
from engine.transform import number_ops, text_ops
from engine.transform.ops import Op, op_from_json, optional_number, whole
from engine.transform.plan import NUMBER, TEXT, Plan

COMBINATIONS = {"difference": NUMBER, "ratio": NUMBER, "product": NUMBER, "cross": TEXT}


@dataclass(frozen=True)
class Feature:
    """One input or a combination of features, followed by ops; makes one or more output columns.

    Attributes:
        kind: "number", "category", or the combination: "difference", "ratio", "product", "cross".
        input: the input's name, None for a combination.
        of: the two features combined.
        ops: what happens to the value, in order.
        name: of the output column; None means the input's name. Ops with several columns add a suffix to it.
        parameters: of the combination: `when_zero`; `buckets` and `seed`.
    """

    kind: str
    input: str | None = None
    of: tuple[Feature, ...] = ()
    ops: tuple[Op, ...] = ()
    name: str | None = None
    parameters: tuple[tuple[str, float | None], ...] = ()

    def named(self, name: str) -> Feature:
        """Names the output column."""
        return replace(self, name=_name(name, "an output"))

    def then(self, op: Op | str | dict[str, Any]) -> Feature:
        """Appends an op; the verbs below are short forms of it."""
        made = op if isinstance(op, Op) else op_from_json(self.gives, op)
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

    @property
    def gives(self) -> str:
        """What the last op leaves: "number" or "category"."""
        if self.ops:
            return self.ops[-1].gives
        return TEXT if self.kind == TEXT else NUMBER

    @property
    def label(self) -> str:
        if self.name is not None:
            return self.name
        return self.input if self.input is not None else f"{self.kind}({', '.join(f.label for f in self.of)})"

    def inputs(self) -> Iterator[tuple[str, str]]:
        """(name, kind) of every input this feature reads."""
        if self.input is not None:
            yield self.input, self.kind
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
            a, b = (part.compile(plan) for part in self.of)
            register = _combine(plan, self.kind, a, b, dict(self.parameters))
        for op in self.ops:
            register = op.compile(plan, register)
        return register

    def emit(self, plan: Plan) -> None:
        """Appends the steps and the output columns."""
        register = self.compile(plan)
        if self.ops:
            self.ops[-1].emit(plan, register, self.label)
        elif self.gives == TEXT:
            raise ProgramError(
                f"feature {self.label!r} ends as a category: add ordinal, one_hot, hash or count"
            )
        else:
            plan.emit(register, self.label)

    def to_json(self) -> dict[str, Any]:
        """The feature as JSON, `feature_from_json` reads it back."""
        out: dict[str, Any] = {"type": self.kind}
        if self.input is not None:
            out["input"] = self.input
        if self.of:
            out["of"] = [part.to_json() for part in self.of]
        out |= {key: value for key, value in self.parameters if value is not None}
        if self.ops:
            out["ops"] = [op.to_json() for op in self.ops]
        if self.name is not None:
            out["name"] = self.name
        return out


def number(name: str) -> Feature:
    """A number input; without ops it passes through, NaN for what is missing."""
    return Feature(NUMBER, input=_name(name, "an input"))


def category(name: str) -> Feature:
    """A category input: text, or whole numbers read as their digits."""
    return Feature(TEXT, input=_name(name, "an input"))


def difference(a: Feature, b: Feature) -> Feature:
    """a - b; NaN where either is missing."""
    return _combination("difference", a, b)


def product(a: Feature, b: Feature) -> Feature:
    """a * b; NaN where either is missing."""
    return _combination("product", a, b)


def ratio(a: Feature, b: Feature, *, when_zero: float | None = None) -> Feature:
    """a / b; `when_zero` (None: NaN) where b is zero; NaN where either is missing."""
    return _combination("ratio", a, b, when_zero=optional_number(when_zero, "ratio when_zero"))


def cross(a: Feature, b: Feature, *, buckets: int, seed: int = 0) -> Feature:
    """XXH64 of b's text, seeded by the XXH64 of a's text (seeded by `seed`), modulo `buckets`; NaN where
    either is missing."""
    whole(buckets, "cross buckets", 1, text_ops.CODES_MAX)
    whole(seed, "cross seed", 0, 2**64 - 1)
    return _combination("cross", a, b, buckets=buckets, seed=seed)


def feature_from_json(found: Any) -> Feature:
    """A feature from `Feature.to_json` or from hand-written JSON; raises ProgramError saying what is
    wrong."""
    if not isinstance(found, dict):
        raise ProgramError(f"expected a feature as an object, got {found!r}")
    allowed = {"type", "input", "of", "ops", "name", "when_zero", "buckets", "seed"}
    unknown = found.keys() - allowed
    if unknown:
        raise ProgramError(
            f"unknown key {min(map(str, unknown))!r} in a feature; expected: {', '.join(sorted(allowed))}"
        )
    made = _source_from_json(found)
    ops = found.get("ops", [])
    if not isinstance(ops, list):
        raise ProgramError(f"feature {made.label!r}: 'ops' is a list, got {ops!r}")
    for op in ops:
        made = made.then(op)
    return made if found.get("name") is None else made.named(found["name"])


def _source_from_json(found: dict[str, Any]) -> Feature:
    kind = found.get("type")
    if kind in (NUMBER, TEXT):
        return Feature(str(kind), input=_name(found.get("input"), "an input"))
    if not isinstance(kind, str) or kind not in COMBINATIONS:
        known = ", ".join([NUMBER, TEXT, *COMBINATIONS])
        raise ProgramError(f"unknown feature type {kind!r}; expected one of: {known}")
    parts = found.get("of")
    if not isinstance(parts, list) or len(parts) != 2:
        raise ProgramError(f"a {kind} is of two features, got {parts!r}")
    a, b = map(feature_from_json, parts)
    if kind == "ratio":
        return ratio(a, b, when_zero=found.get("when_zero"))
    if kind == "cross":
        return cross(a, b, buckets=found.get("buckets", 0), seed=found.get("seed", 0))
    return _combination(kind, a, b)


def _combination(kind: str, a: Feature, b: Feature, **parameters: float | None) -> Feature:
    for part in (a, b):
        if (
            not isinstance(part, Feature)
            or part.gives != COMBINATIONS[kind]
            or (part.ops and part.ops[-1].final)
        ):
            raise ProgramError(
                f"a {kind} is of two {COMBINATIONS[kind]} features of one column, got {part!r}"
            )
    return Feature(kind, of=(a, b), parameters=tuple(sorted(parameters.items())))


def _combine(plan: Plan, kind: str, a: int, b: int, parameters: dict[str, Any]) -> int:
    if kind == "ratio":
        when_zero = parameters["when_zero"]
        return plan.step("ratio", a, b, x=math.nan if when_zero is None else when_zero)
    if kind == "cross":
        return plan.step("hash_cross", a, b, count=parameters["buckets"], seed=parameters["seed"], y=math.nan)
    return plan.step(kind, a, b)


def _name(name: Any, what: str) -> str:
    if not isinstance(name, str) or not name:
        raise ProgramError(f"the name of {what} is a string that is not empty, got {name!r}")
    return str(name)
