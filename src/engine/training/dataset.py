"""A training table: its split by time, its default features, and its facts for the lineage."""

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

DATASET = b"engine.dataset"  # the key of a feature store's own facts in the table's metadata


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """A table cut at an instant: the rows before it to learn from, the others to judge by.

    Attributes:
        learn, judge: pyarrow tables in order of time; rows of one instant keep their order and stay together.
        learn_labels, judge_labels: float64 [rows].
        at: the instant, as text.
        dropped: rows without a label or a time.
    """

    learn: pa.Table
    judge: pa.Table
    learn_labels: npt.NDArray[np.float64]
    judge_labels: npt.NDArray[np.float64]
    at: str
    dropped: int


def by_time(table: pa.Table, label: str, time: str, holdout: float) -> Split:
    """Split off the last `holdout` share of the rows that have a label.

    Raises:
        TrainingError: a column is missing or of the wrong type, or there are too few rows or instants.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    for column, role in ((label, "label"), (time, "time")):
        if column not in table.column_names:
            raise TrainingError(
                f"the dataset has no {role} column {column!r}; it has: {', '.join(table.column_names[:30])}"
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
    """Return positions in order of time. Rows of one instant keep their order, so equal tables split equally."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_integer(column.type):
        column = pc.cast(column, pa.timestamp("ns", tz=getattr(column.type, "tz", None)), safe=False)
    return np.argsort(pc.cast(column, pa.int64()).to_numpy(), kind="stable")


def features_of(table: pa.Table, without: Sequence[str]) -> list[Feature]:
    """Return default features of a table: numbers and booleans as they are, texts as ordinals.

    Timestamps, the columns `without`, and the reason columns of a feature store are left out. Raises TrainingError if
    no column is left.
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
    """Return facts about the dataset for the lineage: the feature store's own, digest and rows.

    The digest is the feature store's, else the config's, else that of the rows.
    """
    found: dict[str, Any] = {}
    if table.schema.metadata and DATASET in table.schema.metadata:
        found = json.loads(table.schema.metadata[DATASET])
    if "digest" not in found:
        found["digest"] = getattr(config, "digest", None) or digest_of(table)
    return {**found, "rows": len(table)}


def digest_of(table: pa.Table) -> str:
    """Return the sha256 of a table's rows, 64 hex digits. It does not depend on the chunks."""
    import pyarrow as pa

    sink = hashlib.sha256()
    plain = table.replace_schema_metadata(None).combine_chunks()
    with pa.ipc.new_stream(pa.PythonFile(_Writer(sink), mode="w"), plain.schema) as out:
        out.write_table(plain)
    return sink.hexdigest()


class _Writer:
    """A file that hashes everything written to it."""

    closed = False

    def __init__(self, sink: Any) -> None:
        self._sink = sink

    def write(self, data: Any) -> int:
        self._sink.update(data)
        return len(data)

    def flush(self) -> None: ...

    def close(self) -> None: ...
