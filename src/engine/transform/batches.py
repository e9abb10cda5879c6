"""A table that comes in batches, for fitting on more rows than memory holds.

Fitting reads the batches from the start for each constant, one batch at a time, and learns the same bits as from the
whole table. A source that cannot be read twice is first written to a temporary file: an iterator, a RecordBatchReader,
or a DuckDB relation, which may give its rows in another order the next time.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from engine._common import optional
from engine._common.tables import absent, is_relation, is_rows, project
from engine.errors import InputError, InputTypeError
from engine.transform.table import Table

#: Rows of a batch, where this module chooses.
BATCH_ROWS = 1 << 16


class Batches:
    """The batches of a table, which can be read again and again.

    Args:
        source: a function that returns an iterable of tables, the same rows in the same order at each call.
        names: the columns to read.
        refuse_missing: as for `Table`.

    Attributes:
        n_rows: number of rows in all batches.

    Raises:
        InputTypeError: `source` does not return an iterable of tables.
        InputError: as for `Table`.
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
        """Yield every batch, in order. Raise InputError if the number of rows is not that of the first time."""
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
    """Return a function that gives the batches of a source, or None if the source is a table in memory.

    Args:
        source: anything that `FeatureProgram.fit` takes.
        names: the columns to read.

    Raises:
        InputError: a path that is no Parquet file or folder, or a source without one of the columns.
        MissingDependencyError: the source needs pyarrow, which is not installed.
    """
    if isinstance(source, (str, os.PathLike)):
        return _dataset_batches(_open_dataset(source), names)
    if is_relation(source):
        relation = project(source, names)
        # DuckDB renamed the method in 1.4.
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
    try:
        return _need("pyarrow.dataset").dataset(os.fspath(path), format="parquet")
    except (OSError, ValueError) as error:
        raise InputError(f"{os.fspath(path)}: expected a Parquet file or a folder of them: {error}") from None


def _dataset_batches(dataset: Any, names: Sequence[str]) -> Callable[[], Iterator[Any]]:
    for name in names:
        if name not in dataset.schema.names:
            raise absent(name, dataset.schema.names)
    # A scan keeps the batches that it reads ahead in memory.
    options = {"batch_size": BATCH_ROWS, "batch_readahead": 1, "fragment_readahead": 1}
    return lambda: dataset.to_batches(columns=list(names), **options)


class _Spool:
    """Batches that can be read once, kept in a temporary file of Arrow streams. The file goes with this object."""

    def __init__(self, batches: Iterable[Any], names: Sequence[str]) -> None:
        arrow = _need("pyarrow")
        handle, self._path = tempfile.mkstemp(prefix="engine-fit-", suffix=".arrows")
        os.close(handle)
        weakref.finalize(self, os.unlink, self._path)
        with arrow.OSFile(self._path, "wb") as file:
            for batch in batches:
                table = _as_arrow(batch, names)
                with arrow.ipc.new_stream(file, table.schema) as stream:
                    stream.write_table(table, max_chunksize=BATCH_ROWS)

    def read(self) -> Iterator[Any]:
        """Yield the batches as pyarrow RecordBatches, from the start."""
        arrow = _need("pyarrow")
        with arrow.OSFile(self._path, "rb") as file:
            while file.tell() < file.size():
                yield from arrow.ipc.open_stream(file)


def _as_arrow(batch: Any, names: Sequence[str]) -> Any:
    """Return the columns as a pyarrow Table. An absent one is left out; `Table` names it when it reads the batch."""
    arrow = _need("pyarrow")
    if isinstance(batch, arrow.RecordBatch):
        batch = arrow.Table.from_batches([batch])
    elif hasattr(batch, "to_arrow"):  # Polars
        batch = batch.to_arrow()
    elif isinstance(batch, Mapping):
        batch = arrow.table({name: batch[name] for name in names if name in batch})
    elif is_rows(batch):
        batch = arrow.table({name: [row.get(name) for row in batch] for name in names})
    elif hasattr(batch, "iloc"):  # pandas
        batch = arrow.Table.from_pandas(batch[[n for n in names if n in batch.columns]], preserve_index=False)
    if not isinstance(batch, arrow.Table):
        raise InputTypeError(
            f"expected batches that are tables (pyarrow, pandas, Polars, mappings of columns or lists of mappings), "
            f"got {type(batch).__name__}"
        )
    return batch.select([name for name in names if name in batch.column_names])


def _need(module: str) -> Any:
    return optional.need(module, "fitting from a file or a stream", "store")
