"""The base of all ops: an op has parameters, learns constants from a column, and compiles to native steps.

An op is an immutable dataclass. A field that fitting fills is None before; a fitted op is a new object. The fields of
an op are its JSON, so the digest of a program covers them all. Only native steps compute values, when fitting too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

from engine._common import arguments
from engine.errors import ProgramError
from engine.transform.plan import NUMBER, Plan

#: Gives a column in batches, from the start at each call: float64 [rows] with NaN, or lists of str and None.
Column = Callable[[], Iterator[Any]]

#: (kind that the op reads, its name) -> the op.
REGISTRY: dict[tuple[str, str], type[Op]] = {}


@dataclass(frozen=True)
class Op:
    """One operation on the value of a feature.

    Attributes:
        op: its name in a spec.
        reads: the kind of value that it takes: "number", "category" or "timestamp".
        gives: the kind of value that it leaves.
        final: True if it makes output columns of its own, so that no op can follow.
    """

    op: ClassVar[str]
    reads: ClassVar[str] = NUMBER
    gives: ClassVar[str] = NUMBER
    final: ClassVar[bool] = False

    @property
    def n_codes(self) -> int | None:
        """How many codes 0, 1, … the fitted op can give. None if it gives other numbers or is not fitted."""
        return None

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        REGISTRY[cls.reads, cls.op] = cls

    def fit(self, column: Column) -> Self:
        """Return the op with its constants, learned from the values that the ops before it give."""
        return self

    def compile(self, plan: Plan, register: int) -> int:
        """Append the op's steps to the plan. Return the register of its result."""
        raise NotImplementedError

    def emit(self, plan: Plan, register: int, name: str) -> None:
        """Append the output columns of a feature that ends in this op."""
        plan.emit(register, name)

    def to_json(self) -> dict[str, Any]:
        """Return the op as JSON: its name, and each field that is not None."""
        out: dict[str, Any] = {"op": self.op}
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                out[field.name] = list(value) if isinstance(value, tuple) else value
        return out


def op_from_json(reads: str, found: Any) -> Op:
    """Return the op that JSON describes: {"op": name, field: value, …}, or the name alone.

    Args:
        reads: the kind of value that the op gets; ops on numbers and on categories can share a name.

    Raises:
        ProgramError: an unknown op or field, or a value that the field does not take.
    """
    described = {"op": found} if isinstance(found, str) else found
    if not isinstance(described, dict) or not isinstance(described.get("op"), str):
        raise ProgramError(f"expected an op as a name or an object with 'op', got {found!r}")
    name = described["op"]
    if (reads, name) not in REGISTRY:
        known = ", ".join(sorted(op for kind, op in REGISTRY if kind == reads))
        raise ProgramError(f"unknown op {name!r} for a {reads}; expected one of: {known}")
    kind = REGISTRY[reads, name]
    given = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in described.items()
        if key != "op"
    }
    unknown = given.keys() - {field.name for field in fields(kind)}
    if unknown:
        expected = ", ".join(field.name for field in fields(kind)) or "none"
        raise ProgramError(f"op {name!r} has no parameter {sorted(unknown)[0]!r}; expected: {expected}")
    try:
        return kind(**given)
    except (TypeError, ValueError, AttributeError) as error:
        raise error if isinstance(error, ProgramError) else ProgramError(f"op {name!r}: {error}") from None


def finite(name: str, value: Any) -> float:
    """Return a finite number as a float. Raise ProgramError, which names the parameter, for any other value."""
    return arguments.finite_number(name, value, error=ProgramError)


def optional_finite(name: str, value: Any) -> float | None:
    """Return None or a finite number. Raise ProgramError for any other value."""
    return None if value is None else finite(name, value)


def whole(name: str, value: Any, low: int, high: int) -> int:
    """Return an int from `low` to `high`. Raise ProgramError for any other value."""
    return arguments.whole(name, value, low, high, error=ProgramError)


def one_of(name: str, value: Any, choices: Sequence[str]) -> str:
    """Return one of `choices`. Raise ProgramError, which lists them, for any other value."""
    return arguments.one_of(name, value, choices, error=ProgramError)


def fitted(value: Any, op: str) -> Any:
    """Return a constant that fitting fills. Raise ProgramError if it is None."""
    if value is None:
        raise ProgramError(f"op {op!r} has not been fitted")
    return value
