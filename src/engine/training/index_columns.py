"""The columns that hold a pandas index. Writers add them to tables and to Parquet files; they are no features."""

from __future__ import annotations

import contextlib
import glob
import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

_UNNAMED = re.compile(r"__index_level_\d+__")  # pandas writes an index without a name under this one


def index_columns(table: pa.Table, config: Any) -> set[str]:
    """Return the names of a table's columns that hold a pandas index.

    They are found by the name of an unnamed index, by the pandas metadata of the table, and by the index or the pandas
    metadata of the labels' source. A column that the config's `columns` names is a feature: the caller asked for it.

    Args:
        table: the training table.
        config: the dataset config.
    """
    found = {name for name in table.column_names if _UNNAMED.fullmatch(name)}
    found.update(_of_metadata(table.schema.metadata))
    labels = getattr(config, "labels", None)
    if labels is not None:
        found.update(_of_source(labels))
    return (found & set(table.column_names)) - set(getattr(config, "columns", None) or ())


def _of_source(source: Any) -> Iterator[str]:
    data = getattr(source, "data", None)
    names = getattr(getattr(data, "index", None), "names", None)
    if data is not None and names is not None and hasattr(data, "columns"):  # a data frame
        yield from (name for name in names if isinstance(name, str) and name not in data.columns)
        return
    yield from _of_metadata(getattr(getattr(data, "schema", None), "metadata", None))
    for pattern in getattr(source, "patterns", None) or ():
        for path in sorted(glob.glob(str(pattern)))[
            :1
        ]:  # one dataset, so one writer: its first file is enough
            with contextlib.suppress(
                Exception
            ):  # the store reads the file in earnest, and explains its errors
                import pyarrow.parquet as pq

                yield from _of_metadata(pq.read_schema(path).metadata)


def _of_metadata(metadata: Any) -> list[str]:
    """Return the index columns that a schema's pandas metadata names. A range index is no column."""
    try:
        columns = json.loads(metadata[b"pandas"])["index_columns"]
    except (KeyError, TypeError, ValueError):
        return []
    return [name for name in columns if isinstance(name, str)]
