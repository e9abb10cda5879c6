"""Ops on a category that give several columns of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from engine.errors import ProgramError
from engine.transform.ops import Op, whole
from engine.transform.plan import TEXT, Plan
from engine.transform.text_ops import texts

#: Columns of one feature.
COLUMNS_MAX = 65_536


@dataclass(frozen=True)
class Embed(Op):
    """Give the category's float32 vector.

    Attributes:
        categories: the keys.
        vectors: one vector for each category, all of one length from 1 to 65,536.
        unknown: the category that stands for an unknown or missing one; None gives zeros.
    """

    op: ClassVar[str] = "embed"
    reads: ClassVar[str] = TEXT
    final: ClassVar[bool] = True
    categories: tuple[str, ...] = ()
    vectors: tuple[tuple[float, ...], ...] = ()
    unknown: str | None = None

    def __post_init__(self) -> None:
        categories = texts("embed categories", self.categories)
        try:
            with np.errstate(over="ignore"):  # a number beyond float32 becomes infinite and is refused below
                table = np.array([[float(v) for v in vector] for vector in self.vectors], dtype=np.float32)
        except (TypeError, ValueError, OverflowError) as error:
            raise ProgramError(f"embed: expected vectors of numbers, all of one length: {error}") from None
        if table.ndim != 2 or len(table) != len(categories) or not 1 <= table.shape[1] <= COLUMNS_MAX:
            raise ProgramError(
                f"embed: expected one vector of 1 to {COLUMNS_MAX} numbers for each of {len(categories)} categories, "
                f"got an array of shape {list(table.shape)}"
            )
        if not np.isfinite(table).all():
            raise ProgramError("embed: expected finite float32 numbers")
        if self.unknown is not None and self.unknown not in categories:
            raise ProgramError(f"embed: unknown={self.unknown!r} is not one of the categories")
        object.__setattr__(self, "categories", categories)
        object.__setattr__(self, "vectors", tuple(map(tuple, table.tolist())))

    @classmethod
    def of(cls, table: Mapping[str, Sequence[float]], unknown: str | None = None) -> Embed:
        """Return the op for a mapping from category to vector."""
        return cls(tuple(table), tuple(tuple(vector) for vector in table.values()), unknown)

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "vectors": [list(vector) for vector in self.vectors]}

    def compile(self, plan: Plan, register: int) -> int:
        place = -1.0 if self.unknown is None else float(self.categories.index(self.unknown))
        table = plan.table(self.categories, map(float, range(len(self.categories))))
        return plan.step("lookup", register, table=table, x=place, y=place)

    def emit(self, plan: Plan, register: int, name: str) -> None:
        names = [f"{name}[{i}]" for i in range(len(self.vectors[0]))]
        plan.emit_vector(register, names, np.array(self.vectors, dtype=np.float32))


@dataclass(frozen=True)
class Tokens(Op):
    """Give one column for each bucket: how many of the text's tokens have XXH64(token, seed) % buckets in it.

    A token is a longest run of ASCII letters, digits, and characters beyond ASCII. A missing text gives NaN in every
    column.

    Attributes:
        buckets: 1 to 65,536.
        seed: 0 to 2^64 - 1.
    """

    op: ClassVar[str] = "tokens"
    reads: ClassVar[str] = TEXT
    final: ClassVar[bool] = True
    buckets: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        whole("tokens buckets", self.buckets, 1, COLUMNS_MAX)
        whole("tokens seed", self.seed, 0, 2**64 - 1)

    def compile(self, plan: Plan, register: int) -> int:
        return register

    def emit(self, plan: Plan, register: int, name: str) -> None:
        plan.emit_tokens(register, [f"{name}#{i}" for i in range(self.buckets)], self.seed)
