"""A table that comes in batches, for fitting on more rows than memory holds.

The batches are read from the start for each constant that is learned, one at a time; what cannot be read twice (an
iterator, a RecordBatchReader, a DuckDB relation, which may give other rows at the next asking) is written to a
temporary file on disk first. What is learned is to the bit what the whole table would have taught.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from engine.errors import InputError, InputTypeError, MissingDependencyError
from engine.transform.table import Table

#: Rows of a batch where it is for us to say.
BATCH_ROWS = 1 << 16


class Batches:
    """Tables one after another, as often as asked for.

    Args:
        source: a function that returns an iterable of tables, the same at each call.
        names: the columns that are read.
    """

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

    def _tables(self) -> Iterator[Table]:
        batches = self._source()
        if not isinstance(batches, Iterable) or hasattr(batches, "column_names"):
            raise InputTypeError(
                f"expected a function that returns an iterable of tables, it returned {type(batches).__name__}"
            )
        for batch in batches:
            yield Table(batch, self._names, refuse_missing=self._refuse_missing)


def batches_of(source: Any, names: Sequence[str]) -> Callable[[], Iterable[Any]] | None:
    """A function that gives the batches of what is no table in memory, None for what is one.

    Raises InputError for a path that cannot be read, MissingDependencyError where pyarrow is needed.
    """
    if isinstance(source, (str, os.PathLike)):
        return _dataset_batches(_open_dataset(source), names)
    if hasattr(source, "project") and hasattr(source, "fetchnumpy"):  # a DuckDB relation
        absent = [name for name in names if name not in source.columns]
        if absent:
            raise InputError(
                f"the table has no column {absent[0]!r}; it has: {', '.join(source.columns[:20])}"
            )
        quoted = ", ".join('"' + name.replace('"', '""') + '"' for name in names)
        relation = source.project(quoted)
        # The name since DuckDB 1.4, and the one before.
        reader = getattr(relation, "to_arrow_reader", None) or relation.fetch_record_batch
        return _Spool(reader(BATCH_ROWS), names).read
    if hasattr(source, "scanner") and hasattr(source, "schema"):  # a pyarrow dataset
        return _dataset_batches(source, names)
    if hasattr(source, "read_next_batch") or hasattr(source, "__next__"):
        return _Spool(source, names).read
    if callable(source) and not hasattr(source, "columns"):
        return source  # type: ignore[no-any-return]
    return None


def _open_dataset(path: str | os.PathLike[str]) -> Any:
    _arrow()
    import pyarrow.dataset

    try:
        return pyarrow.dataset.dataset(os.fspath(path), format="parquet")
    except (OSError, ValueError) as error:
        raise InputError(f"{os.fspath(path)}: expected a Parquet file or a folder of them: {error}") from None


def _dataset_batches(dataset: Any, names: Sequence[str]) -> Callable[[], Iterator[Any]]:
    absent = [name for name in names if name not in dataset.schema.names]
    if absent:
        raise InputError(
            f"the table has no column {absent[0]!r}; it has: {', '.join(dataset.schema.names[:20])}"
        )
    # Readahead is what a scan holds beside the batch at hand.
    options = {"batch_size": BATCH_ROWS, "batch_readahead": 1, "fragment_readahead": 1}
    return lambda: dataset.to_batches(columns=list(names), **options)


class _Spool:
    """Batches that come once, in a temporary file of Arrow streams that goes when this does."""

    def __init__(self, batches: Iterable[Any], names: Sequence[str]) -> None:
        arrow = _arrow()
        handle, self._path = tempfile.mkstemp(prefix="engine-fit-", suffix=".arrows")
        os.close(handle)
        weakref.finalize(self, os.unlink, self._path)
        with arrow.OSFile(self._path, "wb") as file:
            for batch in batches:
                table = _as_arrow(batch, names)
                with arrow.ipc.new_stream(file, table.schema) as stream:
                    stream.write_table(table, max_chunksize=BATCH_ROWS)

    def read(self) -> Iterator[Any]:
        arrow = _arrow()
        with arrow.OSFile(self._path, "rb") as file:
            while file.tell() < file.size():
                yield from arrow.ipc.open_stream(file)


def _as_arrow(batch: Any, names: Sequence[str]) -> Any:
    """The columns as a pyarrow Table; an absent one is left for `Table` to name, when the batch is read."""
    arrow = _arrow()
    if isinstance(batch, arrow.RecordBatch):
        batch = arrow.Table.from_batches([batch])
    elif hasattr(batch, "to_arrow"):  # Polars
        batch = batch.to_arrow()
    elif isinstance(batch, Mapping):
        batch = arrow.table({name: batch[name] for name in names if name in batch})
    elif isinstance(batch, Sequence) and all(isinstance(row, Mapping) for row in batch):
        batch = arrow.table({name: [row.get(name) for row in batch] for name in names})
    elif hasattr(batch, "iloc"):  # pandas
        batch = arrow.Table.from_pandas(batch[[n for n in names if n in batch.columns]], preserve_index=False)
    if not isinstance(batch, arrow.Table):
        raise InputTypeError(
            f"expected batches that are tables (pyarrow, pandas, Polars, mappings of columns or lists of mappings), "
            f"got {type(batch).__name__}"
        )
    return batch.select([name for name in names if name in batch.column_names])


def _arrow() -> Any:
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError:
        raise MissingDependencyError(
            "fitting from a file or a stream needs pyarrow: pip install 'deadline-engine[store]'"
        ) from None
    return pyarrow
