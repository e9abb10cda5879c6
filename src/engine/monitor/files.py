"""The page of two files: a reference and later rows, without a service. Rows are read in parts, never all at once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine._common.optional import need
from engine.errors import MonitorError
from engine.monitor._ids import WideIds
from engine.monitor._table import as_values
from engine.monitor.drift.fitting import fit_column
from engine.monitor.reference import ROWS_MIN, Reference

if TYPE_CHECKING:
    from engine.monitor.monitor import ModelMonitor

# The chance that two files of the same kind show any alert.
FALSE_ALARM = 0.05
PART_ROWS = 65536
# Columns of a reference that are fitted at the same time; each takes memory.
FITTERS_MAX = 4
# Parts in which the later rows are tested; the row at which a change began is known as exactly.
BLOCKS = 1000


def compare(
    reference: str | Path | Reference,
    current: str | Path,
    *,
    columns: Sequence[str] | None = None,
    outputs: Sequence[str] = (),
    categorical: Sequence[str] = (),
    ordered: bool = True,
    name: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> ModelMonitor:
    """Return a closed monitor that has seen all rows of one Parquet file against another; `report` writes its page.

    All rows of `current` are one window. The chance that rows of the same kind raise any alert is at most 5 %.

    Args:
        reference: a Parquet file of at least 100 rows in the order they came, or a Reference.
        current: a Parquet file with the same columns; one that it lacks is missing in every row.
        columns: which columns; None for all of numbers and text.
        outputs: columns that are outputs of the model, and not inputs.
        categorical: columns whose numbers are codes.
        ordered: False where the order of the reference's rows means nothing.
        name: of the model, for the page.
        progress: called with the rows that are compared and with all rows, after each part.

    Raises:
        MonitorError: no Parquet file, too few rows, or a column that is not there or holds neither numbers nor text.
        MissingDependencyError: pyarrow is not installed.
    """
    from engine.monitor.monitor import ModelMonitor

    made = reference if isinstance(reference, Reference) else _fit(
        Path(reference), columns, outputs, categorical, ordered
    )  # fmt: skip
    later = _open(Path(current))
    rows = later.metadata.num_rows
    if not rows:
        raise MonitorError(f"{current}: expected at least one row, got none")
    monitor = ModelMonitor(
        made,
        handlers=[],
        window_rows=max(rows, 50),
        block_rows=min(max(rows // BLOCKS, 50), 1000),
        false_alarms_per_100k=min(FALSE_ALARM * 100_000 / rows, 1000.0),
        background=False,
        name=name or Path(current).stem,
    )
    wanted = [column.name for column in (*made.features, *made.outputs)]
    there = [column for column in later.schema_arrow.names if column in wanted]
    if not there:
        raise MonitorError(
            f"{current}: expected columns of the reference ({', '.join(wanted[:6])}), got none of them"
        )
    with monitor:
        for part in later.iter_batches(PART_ROWS, columns=there):
            _update(monitor, part)
            if progress is not None:
                progress(monitor.input_distribution.rows or monitor.output_distribution.rows, rows)
    return monitor


def _update(monitor: ModelMonitor, part: Any) -> None:
    import pyarrow

    reference = monitor.reference
    assert reference is not None
    if reference.features:
        monitor.input_distribution.update(pyarrow.Table.from_batches([part]))
    if reference.outputs:
        nothing = np.full(part.num_rows, np.nan)
        names = [column.name for column in reference.outputs]
        values = [part.column(name) if name in part.schema.names else nothing for name in names]
        monitor.output_distribution.update(
            np.stack([as_values(name, column)[0] for name, column in zip(names, values, strict=True)], axis=1)
        )


def _open(path: Path) -> Any:
    parquet = need("pyarrow.parquet", "the report of two files", "store")
    try:
        # Without pre_buffer, which would keep the whole file in memory.
        return parquet.ParquetFile(path, pre_buffer=False)
    except Exception as error:  # pyarrow has errors of its own for each kind of damage
        raise MonitorError(f"{path}: cannot be read as Parquet: {error}") from None


def _fit(
    path: Path,
    columns: Sequence[str] | None,
    outputs: Sequence[str],
    categorical: Sequence[str],
    ordered: bool,
) -> Reference:
    """Return the reference of a file, read column by column, because all columns together may not fit."""
    file = _open(path)
    if file.metadata.num_rows < ROWS_MIN:
        raise MonitorError(f"{path}: expected at least {ROWS_MIN} rows, got {file.metadata.num_rows}")
    known = list(dict.fromkeys(name.split(".")[0] for name in file.schema_arrow.names))
    for name in (*(columns or ()), *outputs, *categorical):
        if name not in known:
            raise MonitorError(f"{path}: no column {name!r}; it has: {', '.join(known[:30])}")
    chosen = list(columns) if columns is not None else list(_usable(file.schema_arrow))
    inputs = [name for name in chosen if name not in outputs]

    reading = threading.Lock()

    def fitted(name: str) -> Any:
        with reading:
            column = file.read(columns=[name]).column(name)
        values, levels = as_values(name, column)
        wide: tuple[int, ...] = ()
        if name in categorical and not levels and (ids := WideIds.of(column.to_numpy())):
            values, wide = ids.codes(column.to_numpy(), values), tuple(ids)
        return fit_column(
            name, values, categorical=name in categorical or bool(levels), levels=levels, wide_ids=wide, ordered=ordered
        )  # fmt: skip

    # Sorting, which takes most of the time, runs without the GIL.
    with ThreadPoolExecutor(min(os.cpu_count() or 1, FITTERS_MAX)) as pool:
        columns_made = list(pool.map(fitted, [*inputs, *outputs]))
    return Reference(columns_made[: len(inputs)], columns_made[len(inputs) :])


def _usable(schema: Any) -> Iterator[str]:
    """Yield the names of columns of numbers, truth values and text; times and lists are left out."""
    from pyarrow import types

    for field in schema:
        kind = field.type.value_type if types.is_dictionary(field.type) else field.type
        numbers = types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)
        index = field.name.startswith("__index_level_")  # of pandas
        if not index and (numbers or types.is_string(kind) or types.is_large_string(kind)):
            yield field.name
