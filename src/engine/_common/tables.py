"""The columns of a caller's table. Its kind is recognised by its attributes, so no library is imported.

A table is a mapping of columns, a pandas or Polars data frame, a pyarrow Table or RecordBatch, a NumPy structured
array, a DuckDB relation, or a list of mappings (one a row). A column is a NumPy array, a Series, an Arrow array or any
sequence; the caller of this module turns it into numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from engine.errors import InputError, InputTypeError

KINDS = "a mapping of columns, a pandas or Polars data frame, a pyarrow Table, a structured array or a list of mappings"
NAMES_SHOWN = 20


class Columns:
    """The columns of one table by name.

    Attributes:
        names: of all columns, in the table's order. For a list of mappings: of all keys, in order of first appearance.

    Args:
        source: the table.
        wanted: names of the columns to read from a DuckDB relation. One query reads them all, because two queries might
            return the rows in different orders. Other tables ignore it.

    Raises:
        InputTypeError: `source` is no table.
        InputError: two columns of a data frame have one name, or a relation lacks a wanted one.
    """

    def __init__(self, source: Any, wanted: Sequence[str] | None = None) -> None:
        if is_relation(source):
            source = project(source, list(source.columns) if wanted is None else wanted).to_arrow_table()
        self._take: Callable[[str], Any] = lambda name: source[name]
        if isinstance(source, Mapping):
            self.names = list(source)
        elif hasattr(source, "num_columns") and hasattr(source, "schema"):
            self.names = (
                source.schema.names
            )  # pyarrow; not `column_names`, which treats a wrapper as a column
        elif getattr(getattr(source, "dtype", None), "names", None):
            self.names = list(source.dtype.names)
        elif hasattr(source, "columns") and hasattr(source, "__getitem__"):
            self.names = list(source.columns)
        elif is_rows(source):
            self.names = list(dict.fromkeys(key for row in source for key in row))
            self._take = lambda name: [row.get(name) for row in source]
        else:
            raise InputTypeError(f"expected a table ({KINDS}), got {type(source).__name__}")
        self._known = set(self.names)
        self._twice: list[str] = []
        if len(self._known) != len(self.names):
            self._twice = [name for name in self.names if self.names.count(name) > 1]
            # An Arrow table may repeat a name that nobody reads, as joins do. Its names are refused when they are read.
            if not hasattr(source, "schema"):
                raise InputError(f"the table has two columns named {self._twice[0]!r}")

    def __getitem__(self, name: str) -> Any:
        """Return the column named `name`. Raises InputError if there is none, and lists the others, or if there are two."""
        if name not in self._known:
            raise absent(name, self.names)
        if name in self._twice:
            raise InputError(f"the table has two columns named {name!r}")
        return self._take(name)


def is_rows(source: Any) -> bool:
    """Return whether `source` is a sequence of mappings, one a row. An empty sequence is."""
    return (
        isinstance(source, Sequence)
        and not isinstance(source, str | bytes)
        and all(isinstance(row, Mapping) for row in source)
    )


def absent(name: str, names: Sequence[Any]) -> InputError:
    """Return the error for a missing column."""
    return InputError(f"the table has no column {name!r}; it has: {', '.join(map(str, names[:NAMES_SHOWN]))}")


def is_relation(source: Any) -> bool:
    """Whether `source` is a DuckDB relation."""
    return hasattr(source, "project") and hasattr(source, "fetchnumpy")


def project(relation: Any, names: Sequence[str]) -> Any:
    """The relation of the named columns, in that order. Raises InputError for a column that is not there."""
    for name in names:
        if name not in relation.columns:
            raise absent(name, relation.columns)
    quoted = (name.replace('"', '""') for name in names)
    return relation.project(", ".join(f'"{name}"' for name in quoted))
