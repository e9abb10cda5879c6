"""The point-in-time join in DuckDB: for each label row the newest row of a view that was true at the label's instant.

Label rows come out as they went in: none is dropped, none is doubled. A view's row at exactly the label's instant
counts. The newest row decides, even where a value in it is null or its TTL has passed: no older row takes its place.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from engine.feature_store.offline import view_rows
from engine.feature_store.offline.base import (
    EXPIRED,
    FOUND,
    NOT_YET,
    NULL_KEY,
    UNKNOWN_ENTITY,
    Joined,
    View,
    as_feature,
)
from engine.feature_store.offline.columns import is_unsigned


def join(cursor: Any, labels: Any, label_ns: npt.NDArray[np.int64], view: View, rows: str) -> Joined:
    """The view's row for each label.

    Args:
        cursor: the DuckDB connection that runs it; the view's source is registered with it.
        labels: a pyarrow Table with the view's keys among its columns, in types that `check_keys` has accepted.
        label_ns: int64 [labels], the instants.
        view: the view.
        rows: SQL of the view's rows, one for each entity and event time: k0…, t, f0….
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    keys = _key_columns(labels, view)
    n_rows = len(label_ns)
    cursor.register("labels", pa.table({**keys, "i": pa.array(np.arange(n_rows)), "t": pa.array(label_ns)}))
    same = " AND ".join(f"l.{key} = v.{key}" for key in keys)
    features = "".join(f", v.f{i}" for i in range(len(view.kinds_out)))
    found = cursor.sql(
        f"SELECT l.i, v.t{features} FROM labels l ASOF LEFT JOIN ({rows}) v ON {same} AND l.t >= v.t"
    ).to_arrow_table()
    found = _in_place(found, n_rows)
    columns = [as_feature(found[f"f{i}"], kind) for i, kind in enumerate(view.kinds_out)]
    reasons = _reasons(found["t"], label_ns, view.definition.ttl_ns)
    _explain(reasons, keys, cursor, view_rows.known_keys(view.definition, view.snapshot, view.kinds), same)
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
    """FOUND or EXPIRED for a label with a row, and NOT_YET for one without, which `_explain` looks into.

    Args:
        matched: the event time of each label's row, null where there is none.
        label_ns: int64 [labels], the instants.
        ttl_ns: the view's TTL in nanoseconds, or None.
    """
    absent = matched.is_null().to_numpy()
    reasons = np.where(absent, NOT_YET, FOUND).astype(np.uint8)
    if ttl_ns is not None:
        # Unsigned, because an event and a label at the two ends of the clock are 584 years apart.
        age = label_ns.view(np.uint64) - matched.fill_null(0).to_numpy().view(np.uint64)
        reasons[~absent & (age > ttl_ns)] = EXPIRED
    return reasons


def _explain(
    reasons: npt.NDArray[np.uint8], keys: dict[str, Any], cursor: Any, known_keys: str, same: str
) -> None:
    """Change NOT_YET to NULL_KEY where a key is null, and to UNKNOWN_ENTITY where the source has no such entity."""
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
    """The labels' key columns in the view's types, under the names of the query: k0, k1, …."""
    import pyarrow as pa

    types = {"int": pa.int64(), "text": pa.string(), "bytes": pa.binary()}
    keys = {}
    for i, (key, kind) in enumerate(zip(view.definition.keys, view.key_kinds, strict=True)):
        # DuckDB compares whole numbers of any two types by their value.
        unsigned = kind == "int" and is_unsigned(labels[key].type)
        keys[f"k{i}"] = labels[key].cast(pa.uint64() if unsigned else _plain(types[kind], labels[key].type))
    return keys


def _plain(wanted: Any, given: Any) -> Any:
    """The type to cast a column to. DuckDB reads a UUID, and then takes it for its text."""
    return given if getattr(given, "extension_name", None) is not None else wanted
