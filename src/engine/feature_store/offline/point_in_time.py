"""The point-in-time join: for each label row the newest row of each view that was true at the label's instant.

Label rows come out as they went in, none dropped, none doubled. A view's row at exactly the label's instant counts. The
newest row decides, also where a value in it is null, and where its TTL has passed: an older row never steps in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from engine.errors import InputError
from engine.feature_store import view_rows
from engine.feature_store.instants import NS_MAX
from engine.feature_store.sources import kind_of

if TYPE_CHECKING:
    from engine.feature_store.offline import DuckDBOffline, View

# What became of a label row in a view, by code. Everything but the first is a missing row.
REASONS = ("found", "null_key", "unknown_entity", "not_yet", "expired")
FOUND, NULL_KEY, UNKNOWN_ENTITY, NOT_YET, EXPIRED = range(len(REASONS))
_WORDS = {"int": "whole numbers", "text": "text"}


@dataclass(frozen=True)
class Joined:
    """One view's part of a training table.

    Attributes:
        columns: of each feature, in the view's order, a pyarrow array as long as the labels.
        reasons: uint8 [labels], an index into REASONS.
    """

    columns: list[Any]
    reasons: npt.NDArray[np.uint8]


def join(store: DuckDBOffline, labels: Any, label_ns: npt.NDArray[np.int64], view: View) -> Joined:
    """The view's row for each label.

    Args:
        store: whose DuckDB does it.
        labels: a pyarrow Table with the view's keys among its columns.
        label_ns: int64 [labels], the instants.
        view: to take the rows from.

    Raises:
        InputError: a key column that the labels lack or have in another type.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    from engine.feature_store.offline import as_feature, mapped_errors

    keys = _key_columns(labels, view)
    n_rows = len(label_ns)
    cursor = store.cursor(view.snapshot)
    place = pa.array(np.arange(n_rows))
    cursor.register("labels", pa.table({**keys, "i": place, "t": pa.array(label_ns)}))
    end_ns = int(label_ns.max()) if n_rows else 0
    same = " AND ".join(f"l.{key} = v.{key}" for key in keys)
    features = "".join(f", v.f{i}" for i in range(len(view.kinds_out)))
    with mapped_errors(f"joining view {view.definition.name!r}"):
        rows = store.rows(view, cursor, None if end_ns == NS_MAX else end_ns + 1)
        found = cursor.sql(
            f"SELECT l.i, v.t{features} FROM labels l ASOF LEFT JOIN ({rows}) v ON {same} AND l.t >= v.t"
        ).to_arrow_table()
        found = _in_place(found, n_rows)
        columns = [as_feature(found[f"f{i}"], kind) for i, kind in enumerate(view.kinds_out)]
        reasons = _reasons(found["t"], label_ns, view.definition.ttl_ns)
        _explain(
            reasons, keys, cursor, view_rows.known_keys(view.definition, view.snapshot, view.kinds), same
        )
    expired = reasons == EXPIRED
    if expired.any():
        mask = pa.array(expired)
        columns = [pc.if_else(mask, pa.scalar(None, column.type), column) for column in columns]
    return Joined(columns, reasons)


def _in_place(found: Any, n_rows: int) -> Any:
    """The rows in the labels' order, which a parallel join does not keep."""
    places = found["i"].to_numpy()
    if len(places) != n_rows:
        raise AssertionError(f"the join made {len(places)} rows of {n_rows} labels")
    order = np.full(n_rows, -1, dtype=np.int64)
    order[places] = np.arange(n_rows)
    if n_rows and order.min() < 0:
        raise AssertionError("the join lost a label row")
    # Gathering from one chunk is several times faster than from many.
    return found.combine_chunks().take(order)


def _reasons(matched: Any, label_ns: npt.NDArray[np.int64], ttl_ns: int | None) -> npt.NDArray[np.uint8]:
    """FOUND, EXPIRED, or NOT_YET for every label without a row, which `_explain` looks into."""
    absent = matched.is_null().to_numpy()
    reasons = np.where(absent, NOT_YET, FOUND).astype(np.uint8)
    if ttl_ns is not None:
        # As unsigned: an event at one end of the clock and a label at the other are 584 years apart.
        age = label_ns.view(np.uint64) - matched.fill_null(0).to_numpy().view(np.uint64)
        reasons[~absent & (age > ttl_ns)] = EXPIRED
    return reasons


def _explain(
    reasons: npt.NDArray[np.uint8], keys: dict[str, Any], cursor: Any, known_keys: str, same: str
) -> None:
    """Tells a missing key and an unknown entity from one whose first row comes after the label."""
    import pyarrow as pa

    absent = np.flatnonzero(reasons == NOT_YET)
    if not len(absent):
        return
    null = np.zeros(len(absent), dtype=bool)
    picked = pa.table(keys).take(absent)
    for name in picked.column_names:
        null |= picked[name].is_null().to_numpy()
    cursor.register("absent", picked.append_column("i", pa.array(np.arange(len(absent)))))
    known = cursor.sql(
        f"SELECT l.i FROM absent l WHERE EXISTS (SELECT 1 FROM ({known_keys}) v WHERE {same})"
    ).fetchnumpy()["i"]
    codes = np.full(len(absent), UNKNOWN_ENTITY, dtype=np.uint8)
    codes[known] = NOT_YET
    codes[null] = NULL_KEY
    reasons[absent] = codes


def _key_columns(labels: Any, view: View) -> dict[str, Any]:
    """The labels' key columns in the type that the view's have, under the names of the query."""
    import pyarrow as pa

    definition = view.definition
    columns = {}
    for i, (key, kind) in enumerate(zip(definition.keys, view.key_kinds, strict=True)):
        if key not in labels.column_names:
            raise InputError(
                f"view {definition.name!r} needs key column {key!r} in the labels, which have: "
                f"{', '.join(labels.column_names[:30])}"
            )
        column = labels[key]
        found = kind_of(column.type)
        if found != kind and not pa.types.is_null(column.type):
            raise InputError(
                f"key column {key!r}: view {definition.name!r} has {_WORDS[kind]}, the labels have {column.type}; "
                "cast one of them"
            )
        columns[f"k{i}"] = column.cast(pa.int64() if kind == "int" else pa.string())
    return columns
