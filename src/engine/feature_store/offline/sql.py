"""The SQL of views and of the point-in-time join, one text for each dialect.

The join is a union of labels and rows by event time, and then the last row in a window. It needs no ASOF join, which
BigQuery and Spark do not have though emulators of the former take it. The last row is taken as one struct, so that a
null in it stays a null.

Relations have the columns k0… for keys, t for the event time and c for the created time in nanoseconds, o for the place
in the source, and f0… for features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

NEVER = 2**63 - 1


@dataclass(frozen=True)
class Dialect:
    """The differences between dialects of SQL.

    Attributes:
        name: of the dialect.
        types: the type of each kind of value, by kind.
        last: the last value that is not null, as the function of a window.
        quote: the sign around an identifier.
    """

    name: str
    types: Mapping[str, str]
    last: str
    quote: str = "`"
    escaped: str = "``"
    struct: str = field(default="STRUCT({fields})")

    def identifier(self, name: str) -> str:
        """A column name as an identifier."""
        return f"{self.quote}{name.replace(self.quote, self.escaped)}{self.quote}"


SPARK = Dialect(
    "spark",
    MappingProxyType(
        {"bool": "BOOLEAN", "int": "BIGINT", "float": "DOUBLE", "text": "STRING", "bytes": "BINARY", "time": "BIGINT",
         "list": "ARRAY<DOUBLE>"}
    ),
    "last_value({0}) IGNORE NULLS",
)  # fmt: skip
BIGQUERY = Dialect(
    "bigquery",
    MappingProxyType(
        {"bool": "BOOL", "int": "INT64", "float": "FLOAT64", "text": "STRING", "bytes": "BYTES", "time": "INT64",
         "list": "ARRAY<FLOAT64>"}
    ),
    "LAST_VALUE({0} IGNORE NULLS)",
    # A backtick cannot stand in a column's name there.
    escaped="",
)  # fmt: skip


def names(letter: str, count: int) -> list[str]:
    """The names of `count` columns: k0, k1, …."""
    return [f"{letter}{i}" for i in range(count)]


def join(
    dialect: Dialect,
    labels: str,
    rows: str,
    *,
    keys: int,
    features: int,
    carried: Sequence[str],
    ttl_ns: int | None,
    explain: bool = False,
    created: bool = True,
) -> str:
    """SQL of the row of a view for each label: `carried`, v_t, and f0…, which are null where the row has expired.

    Args:
        dialect: the dialect.
        labels: a relation of k0…, t and the columns `carried`.
        rows: a relation of k0…, t, c, o, f0…, copies included.
        keys, features: the numbers of them.
        carried: names of columns of the labels, as identifiers.
        ttl_ns: the view's TTL in nanoseconds; None for none.
        created: whether rows have created times; without, the sort is cheaper by a column.
        explain: add v_first, the event time of the entity's first row, null without one.
    """
    of_keys, of_features = names("k", keys), names("f", features)
    entity = ", ".join(of_keys)
    # The union takes the type of a null from its other side.
    blank = "".join(f", NULL AS {name}" for name in carried)
    taken = "".join(f", {name}" for name in carried)
    order, copies = ("c NULLS FIRST, o", "c, o") if created else ("o", "o")
    none = "NULL AS c, NULL AS o" if created else "NULL AS o"
    struct = dialect.struct.format(fields=", ".join(f"{name} AS {name}" for name in ["t", *of_features]))
    last = dialect.last.format("v")
    first = f", MIN(CASE WHEN side = 0 THEN t END) OVER (PARTITION BY {entity}) AS v_first" if explain else ""
    holds = "v.t <= t" if ttl_ns is None else f"(t < {-NEVER + ttl_ns} OR v.t >= t - {ttl_ns})"
    shown = ", ".join(
        [*carried, "t", "v.t AS v_t", *(["v_first"] if explain else [])]
        + [f"CASE WHEN {holds} THEN v.{name} END AS {name}" for name in of_features]
    )
    return (
        f"SELECT {shown} FROM (SELECT t, side{taken}, {last} OVER (PARTITION BY {entity} "
        f"ORDER BY t, side, {order} ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS v"
        f"{first} FROM (SELECT {entity}, t, 0 AS side, {copies}{blank}, "
        # A row of the year 9999 holds at no instant, and its entity is known all the same.
        f"CASE WHEN t < {NEVER} THEN {struct} END AS v FROM {rows} "
        f"UNION ALL SELECT {entity}, t, 1 AS side, {none}{taken}, NULL AS v FROM {labels}) AS joint"
        ") AS held WHERE side = 1"
    )


def newest(rows: str, *, keys: int, features: int, range_ns: tuple[int | None, int | None]) -> str:
    """SQL of the newest row of each entity with start <= t < end: k0…, t, c, f0…. The same in every dialect."""
    of_keys = names("k", keys)
    columns = ", ".join([*of_keys, "t", "c", *names("f", features)])
    start, end = range_ns
    wanted = [f"t < {NEVER if end is None else end}", *([] if start is None else [f"t >= {start}"])]
    return (
        f"SELECT {columns} FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY {', '.join(of_keys)} "
        f"ORDER BY t DESC, c DESC NULLS LAST, o DESC) AS place FROM {rows} WHERE {' AND '.join(wanted)}) AS ranked "
        "WHERE place = 1"
    )
