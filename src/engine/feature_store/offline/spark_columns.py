"""Columns of a source as expressions of Spark, in the types of their kinds: a time as a whole number, and so on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from engine.feature_store.instants import NS_MAX
from engine.feature_store.offline import sql
from engine.feature_store.offline.base import EXPIRED, FOUND, NOT_YET, NULL_KEY, REASONS, UNKNOWN_ENTITY, View
from engine.feature_store.offline.columns import SourceColumns, is_unsigned, kind_of
from engine.feature_store.offline.sources import NULL_PARTITION

TYPES = {
    "bool": "BOOLEAN", "int": "BIGINT", "float": "DOUBLE", "text": "STRING", "bytes": "BINARY", "time": "BIGINT",
    "list": "ARRAY<DOUBLE>",
}  # fmt: skip
UNSIGNED = "DECIMAL(20,0)"
_DAY_US = 86_400 * 10**6


def column(columns: SourceColumns, name: str) -> Any:
    """A column of the source, or a field within one."""
    import pyspark.sql.functions as f

    path = columns.path_of(name)
    assert path is not None, "the columns of a view were checked"
    found = f.col(sql.SPARK.identifier(path[0]))
    for part in path[1:]:
        found = found.getField(part)
    return found


def value(columns: SourceColumns, name: str, kind: str | None, *, key: bool = False) -> Any:
    """A column cast to the type of its kind; a time as microseconds since 1970, rounded to the past.

    Args:
        kind: None for a column of nulls.
        key: it is a key, whose uint64 stays unsigned.
    """
    import pyspark.sql.functions as f

    if kind is None:
        return f.lit(None).cast("string")
    of_type, found = columns.type_of(name, "columns"), column(columns, name)
    if kind == "time":
        return microseconds(found, of_type)
    if getattr(of_type, "extension_name", None) == "arrow.uuid":
        text = f.lower(f.hex(found))
        return f.regexp_replace(text, "^(.{8})(.{4})(.{4})(.{4})(.{12})$", "$1-$2-$3-$4-$5")
    return found.cast(UNSIGNED if key and kind == "int" and is_unsigned(of_type) else TYPES[kind])


def microseconds(found: Any, of_type: Any) -> Any:
    """A column of times as microseconds since 1970."""
    import pyarrow as pa
    import pyspark.sql.functions as f

    if pa.types.is_date(of_type):
        return f.unix_date(found).cast("bigint") * f.lit(_DAY_US)
    if of_type.unit == "ns":
        # Read as a whole number.
        return f.call_function("div", found - f.pmod(found, f.lit(1000)), f.lit(1000))
    if of_type.tz is not None:
        return f.unix_micros(found)
    # Without a zone, whatever the session's zone is.
    day = f.unix_date(found.cast("date")).cast("bigint") * f.lit(_DAY_US)
    clock = (f.hour(found) * f.lit(3600) + f.minute(found) * f.lit(60)).cast("bigint") * f.lit(10**6)
    return day + clock + (f.extract(f.lit("SECOND"), found) * f.lit(10**6)).cast("bigint")


def instant(columns: SourceColumns, name: str) -> Any:
    """A column of timestamps or dates as nanoseconds since 1970. One before 1677 is taken for the first that there is,
    one after 2262 for `sql.NEVER`."""
    import pyarrow as pa
    import pyspark.sql.functions as f

    of_type, found = columns.type_of(name, "times"), column(columns, name)
    if pa.types.is_timestamp(of_type) and of_type.unit == "ns":
        return found
    whole = microseconds(found, of_type)
    last = NS_MAX // 1000
    if pa.types.is_date(of_type):
        last = NS_MAX // (1000 * _DAY_US) * _DAY_US
    return (
        f.when(whole > last, f.lit(sql.NEVER))
        .when(whole < -last, f.lit(-last * 1000))
        .otherwise(whole * f.lit(1000))
    )


def in_path(columns: SourceColumns, name: str) -> Any:
    """The value of a column that stands in the names of folders, as `name=value`: of the last such folder."""
    import pyspark.sql.functions as f

    pattern = f".*/{re.escape(name)}=([^/]*)/.*"
    found = f.regexp_extract(f.col("_metadata.file_path"), pattern, 1)
    # Spark gives the path as a URI, in which the signs that the writer escaped are escaped again.
    for _ in range(2):
        found = f.url_decode(f.replace(found, f.lit("+"), f.lit("%2B")))
    found = f.when(found.isin("", NULL_PARTITION), f.lit(None)).otherwise(found)
    return found.cast(TYPES["int" if kind_of(columns.types[name]) == "int" else "text"])


def alike(found: Any, view: View, place: int) -> Any:
    """A key column of the labels in the type of the view's key; null for a value that this type has not."""
    kind = view.key_kinds[place]
    unsigned = kind == "int" and is_unsigned(
        view.snapshot.type_of(view.definition.source_keys[place], "keys")
    )
    if kind == "int":
        return found.try_cast(UNSIGNED if unsigned else TYPES[kind])
    return found.cast(TYPES[kind])


def shown(found: Any, kind: str) -> Any:
    """A feature as it stands in tables: a time becomes a timestamp."""
    import pyspark.sql.functions as f

    return f.timestamp_micros(found) if kind == "time" else found


def reason(view: View, columns: Sequence[str], null_key: Any) -> Any:
    """The reason of a label as a text.

    Args:
        columns: of the joined DataFrame.
        null_key: whether a key of the label is null.
    """
    import pyspark.sql.functions as f

    if "reason" in columns:
        return f.element_at(f.array(*(f.lit(text) for text in REASONS)), f.col("reason") + 1)
    ttl_ns = view.definition.ttl_ns
    expired = f.lit(False)
    if ttl_ns is not None:
        expired = (f.col("t") >= f.lit(-NS_MAX + ttl_ns)) & (f.col("v_t") < f.col("t") - f.lit(ttl_ns))
    return (
        f.when(null_key, REASONS[NULL_KEY])
        .when(f.col("v_first").isNull(), REASONS[UNKNOWN_ENTITY])
        .when(f.col("v_t").isNull(), REASONS[NOT_YET])
        .when(expired, REASONS[EXPIRED])
        .otherwise(REASONS[FOUND])
    )
