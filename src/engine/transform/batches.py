"""A table that comes in batches, for fitting on more rows than memory holds.

Each constant is learned from one column at a time, which is gathered in a pass of its own over the batches: in
memory are one batch, and 8 bytes a row for the column at hand. So what is learned is to the bit what the whole
table would have taught.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import InputError, InputTypeError
from engine.transform.table import Table


class Batches:
    """Tables one after another, as often as asked for; reads like a `Table`."""

    def __init__(
        self, source: Callable[[], Iterable[Any]], names: Sequence[str], *, refuse_missing: bool = False
    ) -> None:
        self._source = source
        self._names = names
        self._refuse_missing = refuse_missing
        self.n_rows = 0
        self.n_rows = sum(part.n_rows for part in self._tables())

    def parts(self) -> Iterator[Table]:
        """Every batch, in order; raises InputError where the rows are not as many as the first time."""
        n_rows = 0
        for part in self._tables():
            n_rows += part.n_rows
            yield part
        if n_rows != self.n_rows:
            raise InputError(
                f"the batches held {self.n_rows} rows the first time and {n_rows} now; each call must begin anew and "
                f"give the same rows in the same order"
            )

    def numbers(self, name: str) -> npt.NDArray[np.float64]:
        """float64 [n_rows], NaN for what is missing."""
        return np.concatenate([part.numbers(name) for part in self.parts()])

    def text_values(self, name: str) -> list[str | None]:
        """A list of str and None; equal texts are one object."""
        known: dict[str | None, str | None] = {}
        return [known.setdefault(value, value) for part in self.parts() for value in part.text_values(name)]

    def _tables(self) -> Iterator[Table]:
        batches = self._source()
        if not isinstance(batches, Iterable) or hasattr(batches, "column_names"):
            raise InputTypeError(
                f"expected a function that returns an iterable of tables, it returned {type(batches).__name__}"
            )
        for batch in batches:
            yield Table(batch, self._names, refuse_missing=self._refuse_missing)
