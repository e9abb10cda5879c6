"""The columns of a matrix on its way through fitted scikit-learn transformers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.errors import ProgramError
from engine.transform.ops import Op
from engine.transform.plan import TEXT
from engine.transform.sources import category, number
from engine.transform.spec import Feature


@dataclass(frozen=True)
class Block:
    """Columns that one feature gives together, such as those of a one-hot.

    Attributes:
        feature: gives all of them.
        size: how many.
        single: gives one of them, so that more ops can follow.
    """

    feature: Feature
    size: int
    single: Callable[[int], Feature]


@dataclass(frozen=True)
class Column:
    """One column of a matrix on its way through the transformers.

    Attributes:
        name: of the feature that it will be, or of its block's.
        input: the input that it is, while its kind is open.
        feature: what it is so far; None while its kind is open, and in a block.
        block: the block that it is a column of.
        place: its index in the block.
    """

    name: str
    input: str = ""
    feature: Feature | None = None
    block: Block | None = None
    place: int = 0

    def of_kind(self, kind: str) -> Feature:
        """Return the column as a feature of NUMBER or TEXT. Raise ProgramError if it is of the other kind."""
        if self.block is not None:
            made = self.block.single(self.place)
        elif self.feature is None:
            made = category(self.input) if kind == TEXT else number(self.input)
        else:
            made = self.feature
        if made.gives != kind:
            raise ProgramError(
                f"column {self.name!r} is a {made.gives}, and a later step reads it as a {kind}"
            )
        return made

    def then(self, op: Op) -> Column:
        return Column(self.name, feature=self.of_kind(op.reads).then(op))


Columns = list[Column]


def columns_of(name: str, block: Block) -> Columns:
    """Return all columns of a block."""
    return [Column(name, block=block, place=i) for i in range(block.size)]


def class_name(transformer: Any) -> str:
    """Return the name of the class of an object, for errors."""
    return type(transformer).__name__


def is_missing(value: Any) -> bool:
    """Whether a learned value or a category stands for a missing one."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return bool(isinstance(value, (float, np.floating)) and np.isnan(value))
