"""A training table: its split, its default features, and its facts for the lineage."""

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
from engine.training import labels
from engine.transform import Feature

if TYPE_CHECKING:
    import pyarrow as pa

DATASET = b"engine.dataset"  # the key of a feature store's own facts in the table's metadata


TIME, RANDOM, ORDER = "time", "random", "order"
SPLITS = (TIME, RANDOM, ORDER)
SEED = 13  # of a random split: equal tables split equally


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """A table cut in two: rows to learn from, and rows to judge by.

    Attributes:
        learn, judge: pyarrow tables. Split by time they are in order of time; rows of one instant keep their order and
            stay together. Otherwise they are in the table's order.
        learn_labels, judge_labels: float64 [rows]; codes where the labels are classes.
        classes: the labels in the order of their codes; None where labels are numbers.
        learn_weights, judge_weights: float64 [rows]; None without weights.
        positions: int64 [rows of learn], their places in the table as it was given.
        at: the instant of the split as text, or the way of splitting.
        dropped: rows without a label, a time, a weight or a group.
        left_out: rows after the split that are of a group with rows before it.
    """

    learn: pa.Table
    judge: pa.Table
    learn_labels: npt.NDArray[np.float64]
    judge_labels: npt.NDArray[np.float64]
    classes: tuple[Any, ...] | None
    learn_weights: npt.NDArray[np.float64] | None
    judge_weights: npt.NDArray[np.float64] | None
    positions: npt.NDArray[np.int64]
    at: str
    dropped: int
    left_out: int = 0


def by_time(table: pa.Table, label: str, time: str, holdout: float) -> Split:
    """Split off the last `holdout` share of the rows that have a label. Raises as `split`."""
    return split(table, label, time, holdout)


def split(
    table: pa.Table,
    label: str,
    time: str | None,
    holdout: float,
    *,
    how: str = TIME,
    weight: str | None = None,
    group: str | None = None,
    class_weights: Any = None,
    task: str | None = None,
    n_classes: int | None = None,
) -> Split:
    """Split off a `holdout` share of the rows that have a label, and encode the labels.

    Args:
        table: the training table.
        label: column of labels.
        time: column of instants; needed to split by time.
        holdout: share of the rows to judge by, in (0, 1).
        how: "time": the latest rows; "order": the last rows of the table; "random": rows, or whole groups, drawn with a
            fixed seed.
        weight: column of the rows' weights, at least 0.
        group: column whose rows of one value stay on one side. Split by time or order, rows after the split are left
            out if their group has rows before it.
        class_weights: "balanced", or weights by label; they multiply the rows' weights.
        task, n_classes: as `labels.encoded` takes them.

    Raises:
        TrainingError: a column is missing or of the wrong type, there are too few rows, instants or groups, or the
            labels or weights make no sense.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    wanted = ((label, "label"), (time, "time"), (weight, "weight"), (group, "group"))
    for column, role in wanted:
        if column is not None and column not in table.column_names:
            raise TrainingError(
                f"the dataset has no {role} column {column!r}; it has: {', '.join(table.column_names[:30])}"
            )
    if how == TIME:
        assert time is not None, "a split by time has a time column"
        kind = table.schema.field(time).type
        if not (pa.types.is_temporal(kind) or pa.types.is_integer(kind)):
            raise TrainingError(f"the time column {time!r} must hold timestamps, got {kind}")
    known = labels.known(table[label], label)
    for column in (time if how == TIME else None, weight, group):
        if column is not None:
            known = known & pc.is_valid(table[column]).to_numpy()
    places = np.flatnonzero(known)
    if len(places) < 2:
        raise TrainingError(
            f"the dataset has {len(places)} rows with a label{' and a time' if how == TIME else ''} (of {len(table)}); "
            f"at least 2 are needed"
        )
    if how == TIME:
        places = places[_in_order(table[time].take(pa.array(places)))]
    kept = table.take(pa.array(places))
    groups = codes(kept[group]) if group is not None else None
    if how == TIME and time is not None:
        later, at = _by_instant(kept[time], time, holdout)
    elif how == ORDER:
        later, at = np.arange(len(kept)) >= _first(len(kept), holdout), ORDER
    else:
        later, at = _drawn(len(kept), holdout, groups), RANDOM
    left_out = np.zeros(len(kept), dtype=bool)
    if groups is not None and how != RANDOM:
        left_out = later & np.isin(groups, np.unique(groups[~later]))
        if (later & ~left_out).sum() == 0:
            raise TrainingError(
                f"every row after the split is of a {group!r} that has rows before it, so none is left to judge by; "
                f'say split="random", which draws whole groups'
            )
    earlier = np.flatnonzero(~later)
    learn, judge = kept.take(pa.array(earlier)), kept.filter(pa.array(later & ~left_out))
    found = labels.encoded(learn[label], judge[label], label, task=task, n_classes=n_classes)
    of_rows = [weights(part[weight], weight) if weight is not None else None for part in (learn, judge)]
    if class_weights is not None:
        of_rows[0] = _by_class(found, of_rows[0], class_weights)  # metrics are of the rows as they are
    return Split(
        learn,
        judge,
        found.learn,
        found.judge,
        found.classes,
        of_rows[0],
        of_rows[1],
        places[earlier],
        at,
        len(table) - len(places),
        int(left_out.sum()),
    )


def _first(n: int, holdout: float) -> int:
    """Return the position of the first row to judge by. At least one row is on either side."""
    return min(n - 1, max(1, int(n * (1.0 - holdout))))


def _by_instant(column: Any, name: str, holdout: float) -> tuple[npt.NDArray[np.bool_], str]:
    """Return which rows are at or after the instant of the split, and the instant as text."""
    import pyarrow.compute as pc

    instants = column.combine_chunks()
    at = instants[min(len(instants) - 1, int(len(instants) * (1.0 - holdout)))]
    later = ~np.asarray(pc.less(column, at).to_numpy())
    if later.all():
        raise TrainingError(
            f"no row is before {at}: the column {name!r} has too few instants to split off a share of {holdout:g}"
        )
    return later, str(at)


def _drawn(n: int, holdout: float, groups: npt.NDArray[np.int64] | None) -> npt.NDArray[np.bool_]:
    """Return which rows a seeded draw takes: rows, or whole groups until they have the share."""
    units = np.arange(n) if groups is None else groups
    n_units = int(units.max()) + 1
    if n_units < 2:
        raise TrainingError("the dataset has one group; at least 2 are needed to split it by groups")
    order = np.random.default_rng(SEED).permutation(n_units)
    rows = np.cumsum(np.bincount(units, minlength=n_units)[order])
    taken = min(n_units - 1, max(1, int(np.searchsorted(rows, n * holdout)) + 1))
    return np.isin(units, order[:taken])


def codes(column: Any) -> npt.NDArray[np.int64]:
    """Return a code from 0 for each value of a column without nulls."""
    import pyarrow as pa

    codes = column.combine_chunks()
    codes = codes if pa.types.is_dictionary(codes.type) else codes.dictionary_encode()
    return np.asarray(codes.indices.to_numpy(zero_copy_only=False)).astype(np.int64)


def codes_in_order(column: Any) -> npt.NDArray[np.int64]:
    """Return a number for each instant of a column that is in order of time, ascending with it."""
    import pyarrow as pa
    import pyarrow.compute as pc

    whole = column if pa.types.is_integer(column.type) else codes(column)
    if not isinstance(whole, np.ndarray):
        whole = pc.cast(whole, pa.int64()).to_numpy()
    return np.cumsum(np.diff(whole, prepend=whole[:1]) != 0)


def weights(column: Any, name: str) -> npt.NDArray[np.float64]:
    """Return a column of weights as float64. Raises TrainingError if they are no finite numbers of at least 0."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not (
        pa.types.is_integer(column.type)
        or pa.types.is_floating(column.type)
        or pa.types.is_decimal(column.type)
    ):
        raise TrainingError(f"the weight column {name!r} must hold numbers, got {column.type}")
    found = np.asarray(pc.cast(column, pa.float64()).to_numpy(), dtype=np.float64)
    if not np.isfinite(found).all() or (found < 0.0).any():
        row = int(np.flatnonzero(~np.isfinite(found) | (found < 0.0))[0])
        raise TrainingError(
            f"the weight column {name!r} must hold finite numbers of at least 0, got {found[row]}"
        )
    if not found.any():
        raise TrainingError(f"the weight column {name!r} holds zeros only")
    return found


def _by_class(
    found: labels.Encoded, own: npt.NDArray[np.float64] | None, class_weights: Any
) -> npt.NDArray[np.float64]:
    """Return the weights of the rows to learn from times those of their classes."""
    if found.classes is None:
        raise TrainingError(
            'class_weights needs labels that are classes; these are numbers, say task="classification"'
        )
    n_classes = len(found.classes)
    if class_weights == "balanced":
        totals = np.bincount(found.learn.astype(int), own, minlength=n_classes)
        factors = totals.sum() / (n_classes * np.where(totals > 0.0, totals, np.inf))
    else:
        unknown = [label for label in class_weights if label not in found.classes]
        if unknown:
            raise TrainingError(
                f"class_weights has {unknown[0]!r}, which is no label; there are: "
                f"{', '.join(map(repr, found.classes[:20]))}"
            )
        factors = np.array([float(class_weights.get(label, 1.0)) for label in found.classes])
        if not np.isfinite(factors).all() or (factors < 0.0).any() or not factors.any():
            raise TrainingError(
                f"class_weights must be finite numbers of at least 0, got {class_weights!r:.120}"
            )
    by_row = factors[found.learn.astype(int)]
    return by_row if own is None else own * by_row


def _in_order(column: Any) -> npt.NDArray[np.int64]:
    """Return positions in order of time. Rows of one instant keep their order, so equal tables split equally."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_integer(column.type):
        column = pc.cast(column, pa.timestamp("ns", tz=getattr(column.type, "tz", None)), safe=False)
    return np.argsort(pc.cast(column, pa.int64()).to_numpy(), kind="stable")


def features_of(table: pa.Table, without: Sequence[str]) -> list[Feature]:
    """Return default features of a table: numbers and booleans as they are, texts as ordinals.

    Timestamps, the columns `without` (a pandas index among them), and the reason columns of a feature store are left
    out. Raises TrainingError if no column is left.
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
