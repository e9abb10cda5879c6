"""What an operation of a feature is: its parameters, how it learns its constants, and the native steps it
becomes.

An op is an immutable dataclass. A field that fitting fills is None before; a fitted op is a new object. Its
fields are its JSON, so the digest of a program covers them all. Arithmetic happens only in the native steps,
at fit time too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

from engine.errors import ProgramError
from engine.transform.plan import NUMBER, Plan

#: A column in batches, from the start at each call: float64 [rows] with NaN, or lists of str and None.
Column = Callable[[], Iterator[Any]]

REGISTRY: dict[tuple[str, str], type[Op]] = {}


@dataclass(frozen=True)
class Op:
    """One operation. Subclasses name themselves (`op`), what they read (`reads`) and what they leave
    (`gives`)."""

    op: ClassVar[str]
    reads: ClassVar[str] = NUMBER
    gives: ClassVar[str] = NUMBER
    #: True where the op makes its own output columns, so that nothing may follow it.
    final: ClassVar[bool] = False

    @property
    def n_codes(self) -> int | None:
        """How many codes 0, 1, … a fitted op can leave, None where it leaves other numbers."""
        return None

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        REGISTRY[cls.reads, cls.op] = cls

    def fit(self, column: Column) -> Self:
        """The op with its constants, from what the ops before this one leave of a column."""
        return self

    def compile(self, plan: Plan, register: int) -> int:
        """Appends this op's steps to the plan; returns the register it leaves its result in."""
        raise NotImplementedError

    def emit(self, plan: Plan, register: int, name: str) -> None:
        """Makes the output columns of a feature that ends in this op."""
        plan.emit(register, name)

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {"op": self.op}
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                out[field.name] = list(value) if isinstance(value, tuple) else value
        return out


def op_from_json(reads: str, found: Any) -> Op:
    """An op from its JSON form: {"op": name, field: value, …}, or the bare name."""
    described = {"op": found} if isinstance(found, str) else found
    if not isinstance(described, dict) or not isinstance(described.get("op"), str):
        raise ProgramError(f"expected an op as a name or an object with 'op', got {found!r}")
    name = described["op"]
    if (reads, name) not in REGISTRY:
        known = ", ".join(sorted(op for kind, op in REGISTRY if kind == reads))
        raise ProgramError(f"unknown op {name!r} for a {reads}; expected one of: {known}")
    kind = REGISTRY[reads, name]
    arguments = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in described.items()
        if key != "op"
    }
    unknown = arguments.keys() - {field.name for field in fields(kind)}
    if unknown:
        expected = ", ".join(field.name for field in fields(kind)) or "none"
        raise ProgramError(f"op {name!r} has no parameter {sorted(unknown)[0]!r}; expected: {expected}")
    try:
        return kind(**arguments)
    except (TypeError, ValueError, AttributeError) as error:
        raise error if isinstance(error, ProgramError) else ProgramError(f"op {name!r}: {error}") from None


def number(value: Any, what: str) -> float:
    """`value` as a finite float, or a ProgramError that names the parameter."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ProgramError(f"{what}: expected a finite number, got {value!r}")
    return float(value)


def optional_number(value: Any, what: str) -> float | None:
    return None if value is None else number(value, what)


def whole(value: Any, what: str, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ProgramError(f"{what}: expected a whole number from {low} to {high}, got {value!r}")
    return value


def fitted(value: Any, op: str) -> Any:
    """A constant that fitting must have filled."""
    if value is None:
        raise ProgramError(f"op {op!r} has not been fitted")
    return value
