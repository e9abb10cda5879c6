"""A training table split by time, and the features that are made of it where nobody says which."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from engine import transform
from engine.errors import TrainingError
from engine.transform import Feature

if TYPE_CHECKING:
    import pyarrow as pa

DATASET = b"engine.dataset"  # where a feature store's table says what it is


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Rows before an instant to learn from, and the others to be judged by. Rows of one instant stay together.

    Attributes:
        learn, judge: pyarrow tables, in order of time; rows of one instant in their own order.
        learn_labels, judge_labels: float64 [rows].
        at: the first instant to be judged by, as text.
        dropped: rows without a label.
    """

    learn: pa.Table
    judge: pa.Table
    learn_labels: npt.NDArray[np.float64]
    judge_labels: npt.NDArray[np.float64]
    at: str
    dropped: int


def by_time(table: pa.Table, label: str, time: str, holdout: float) -> Split:
    """Splits off the last `holdout` share of the rows that have a label.

    Raises:
        TrainingError: a column that is missing or holds something else, too few rows, one instant alone.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    for column, what in ((label, "label"), (time, "time")):
        if column not in table.column_names:
            raise TrainingError(
                f"the dataset has no {what} column {column!r}; it has: {', '.join(table.column_names[:30])}"
            )
    kind = table.schema.field(time).type
    if not (pa.types.is_temporal(kind) or pa.types.is_integer(kind)):
        raise TrainingError(f"the time column {time!r} must hold timestamps, got {kind}")
    try:
        values = pc.cast(table[label], pa.float64())
    except pa.ArrowInvalid as error:
        raise TrainingError(f"the label column {label!r} must hold numbers: {error}") from None
    known = pc.and_(pc.is_finite(pc.fill_null(values, float("nan"))), pc.is_valid(table[time]))
    kept = table.filter(known)
    if len(kept) < 2:
        raise TrainingError(
            f"the dataset has {len(kept)} rows with a label and a time (of {len(table)}); at least 2 are needed"
        )
    kept = kept.take(_in_order(kept[time]))
    instants = kept[time].combine_chunks()
    at = instants[min(len(kept) - 1, int(len(kept) * (1.0 - holdout)))]
    first = int(pc.sum(pc.less(instants, at)).as_py() or 0)
    if first == 0:
        raise TrainingError(
            f"no row is before {at}: the column {time!r} has too few instants to split off a share of {holdout:g}"
        )
    labels = pc.cast(kept[label], pa.float64()).to_numpy()
    learn, judge = kept.slice(0, first), kept.slice(first)
    return Split(learn, judge, labels[:first], labels[first:], str(at), len(table) - len(kept))


def _in_order(column: Any) -> npt.NDArray[np.int64]:
    """Positions in order of time, the rows of one instant in their own order, so that a table is always split alike."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_integer(column.type):
        column = pc.cast(column, pa.timestamp("ns", tz=getattr(column.type, "tz", None)), safe=False)
    return np.argsort(pc.cast(column, pa.int64()).to_numpy(), kind="stable")


def features_of(table: pa.Table, without: Sequence[str]) -> list[Feature]:
    """The plainest features of a table: numbers and booleans as they are, texts by their place among those seen.

    Timestamps are left out, and so are `without` and the reasons that a feature store adds. Raises TrainingError where
    nothing is left.
    """
    import pyarrow as pa

    features = []
    for field in table.schema:
        if field.name in without or field.name.endswith("__reason"):
            continue
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
            features.append(transform.number(field.name))
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
            features.append(transform.category(field.name).ordinal(missing=-2.0))
    if not features:
        raise TrainingError(
            f"the dataset has no column to make a feature of; it has: {', '.join(table.column_names[:30])}"
        )
    return features


def about(table: pa.Table, config: Any) -> dict[str, Any]:
    """What the dataset is, for the lineage: what the feature store's table says of itself, else what can be told.

    Keys: digest (of the config and its sources where they know it, else of the rows), rows, and the store's own.
    """
    found: dict[str, Any] = {}
    if table.schema.metadata and DATASET in table.schema.metadata:
        found = json.loads(table.schema.metadata[DATASET])
    if "digest" not in found:
        found["digest"] = getattr(config, "digest", None) or digest_of(table)
    return {**found, "rows": len(table)}


def digest_of(table: pa.Table) -> str:
    """sha256 of a table's rows, however they are cut into chunks; 64 hex digits."""
    import pyarrow as pa

    sink = hashlib.sha256()
    plain = table.replace_schema_metadata(None).combine_chunks()
    with pa.ipc.new_stream(pa.PythonFile(_Writer(sink), mode="w"), plain.schema) as out:
        out.write_table(plain)
    return sink.hexdigest()


class _Writer:
    """A file that only hashes."""

    closed = False

    def __init__(self, sink: Any) -> None:
        self._sink = sink

    def write(self, data: Any) -> int:
        self._sink.update(data)
        return len(data)

    def flush(self) -> None: ...

    def close(self) -> None: ...
