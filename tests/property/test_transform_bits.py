"""For any program and any row: one row and a table, of every kind, give the same bits."""

import json
import math
from datetime import UTC, datetime

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
from hypothesis import given, reject, settings

from engine import transform as t
from engine.errors import ProgramError
from engine.transform.date_ops import PARTS


@t.function(outputs=2)
def both(a, b):
    return a + b, a * b


def sum_and_product(a, b):
    return both(a, b)[1]


def geo(a, b):
    return t.geo_distance(a, b, b, a)


numbers = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.floats(width=32),
    st.sampled_from(
        [0.0, -0.0, 5e-324, -5e-324, 1e-310, 1.7e308, -1.7e308, math.nan, math.inf, -math.inf, -1.0]
    ),
)
texts = st.one_of(
    st.none(),
    st.sampled_from(["", "a", "AA", "Zürich", "日本", "\0", "x" * 40]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=70),
    st.integers(-(2**63), 2**63 - 1),
)
finite = st.floats(-1e6, 1e6)


def number_steps(feature):
    """Append one op on a number with drawn parameters. Statistics come from FIT alone."""
    return st.one_of(
        st.builds(feature.impute, st.one_of(finite, st.sampled_from(["mean", "median", "most_frequent"]))),
        st.just(feature.missing()),
        st.just(feature.standardise()),
        st.just(feature.min_max()),
        st.just(feature.robust()),
        st.builds(lambda a, b: feature.clip(min(a, b), max(a, b)), finite, finite),
        st.just(feature.sqrt()),
        st.builds(feature.power, st.sampled_from([2, 3, -1, 0.5, 1.25, -70])),
        st.just(feature.log1p()),
        st.builds(
            lambda edges, edge: feature.bucketize(sorted(edges), edge=edge),
            st.sets(finite, min_size=1, max_size=6),
            st.sampled_from(["left", "right"]),
        ),
    )


@st.composite
def number_features(draw, depth=2):
    a = t.number(draw(st.sampled_from(["x", "y"])))
    if depth and draw(st.booleans()):
        b = draw(number_features(depth=depth - 1))
        combine = draw(st.sampled_from([t.ratio, t.difference, t.product, sum_and_product, geo]))
        a = combine(a, b)
    # The square root and the logarithm come last, because FIT would have no statistics after them.
    for _ in range(draw(st.integers(0, 3))):
        if a.ops and a.ops[-1].op in ("sqrt", "log1p", "power"):
            break
        a = draw(number_steps(a))
    return a


def endings(feature):
    return st.sampled_from([feature, feature.cyclic(7.0), feature.bucketize([-1.0, 0.0, 3.5]).one_hot()])


text_features = st.sampled_from(
    [t.category("c"), t.category("d"), t.category("c").impute("most_frequent")]
).flatmap(
    lambda c: st.sampled_from(
        [
            c.ordinal(),
            c.ordinal(["a", "日本"], unknown=5, missing=6),
            c.one_hot(),
            c.hash(buckets=1 << 24, seed=11),
            c.hash(buckets=1),
            c.count(),
            c.target("label"),
            c.length(),
            c.missing(),
            c.length().log1p(),
            c.tokens(5, seed=2),
            c.embed({"a": [0.1, 2.0], "日本": [-1.0, 1e30]}, unknown="a"),
            t.cross(c.ordinal(), t.number("x").bucketize([0.0, 2.0])),
            t.cross(c.ordinal(["", "a"]), c.ordinal()).one_hot(),
            t.cross(c, t.category("d"), buckets=1000),
        ]
    )
)

at = t.timestamp("at", zone="Europe/Berlin", naive="utc")
other_features = st.sampled_from(
    [
        t.vector("v", 3),
        t.vector("v", 3)[1].standardise(),
        t.ratio(t.vector("v", 3)[0], t.number("x")),
        *(at.part(part) for part in PARTS),
        at.part("second_of_day").cyclic(86400),
        at.part("month").one_hot(),
        both(t.number("x"), t.vector("v", 3)[2]),
    ]
)
timestamps = st.one_of(
    st.none(),
    st.datetimes(datetime(1800, 1, 1), datetime(2300, 1, 1)),
    st.datetimes(datetime(1800, 1, 1), datetime(2300, 1, 1), timezones=st.just(UTC)),
)
vectors = st.one_of(st.none(), st.lists(numbers, min_size=3, max_size=3))

FIT = {
    "v": [[1.0, 2.0, None], [0.0, 3.0, 1.0], None, [1, 1, 1], [2, 2, 2], [5, 6, 7]],
    "at": [datetime(2024, month, 1, tzinfo=UTC) for month in range(1, 7)],
    "x": [1.0, None, 2.5, -3.0, 7.0, 0.0],
    "y": [0.5, 1.0, 2.0, 4.0, None, 9.0],
    "c": ["a", "Zürich", None, "a", "AA", ""],
    "label": [1, 0, 0, 1, 1, 0],
    "d": ["日本", "\0", "x" * 40, "1", "2", None],
}


@st.composite
def programs(draw):
    features = draw(
        st.lists(
            st.one_of(number_features().flatmap(endings), text_features, other_features),
            min_size=1,
            max_size=5,
        )
    )
    named = [feature.named(f"f{i}") for i, feature in enumerate(features)]
    try:
        return t.FeatureProgram.fit(named, FIT)
    except ProgramError as error:
        # A combination may leave nothing to learn from (0 / 0 everywhere); any other refusal is a failure.
        assert "nothing to learn from" in str(error) or "infinite" in str(error)  # noqa: PT017
        reject()


rows = st.lists(
    st.fixed_dictionaries(
        {}, optional={"x": numbers, "y": numbers, "c": texts, "d": texts, "v": vectors, "at": timestamps}
    ),
    max_size=9,
)


@settings(max_examples=80, deadline=None)
@given(programs(), rows)
def test_row_and_batch_agree_bit_for_bit(program, data):
    expected = b"".join(program.row(row).tobytes() for row in data)
    full = [{name: row.get(name) for name in program.input_names} for row in data]
    columns = {name: [row[name] for row in full] for name in program.input_names}
    # Repeated past a block of 128, so that a full and a ragged block are both seen.
    many = {name: values * 40 for name, values in columns.items()}
    assert program.batch(data).tobytes() == expected
    assert program.batch(columns).tobytes() == expected
    assert program.batch(many).tobytes() == expected * 40
    assert b"".join(program.row(list(row.values())).tobytes() for row in full) == expected
    assert b"".join(program.row(dict(reversed(row.items()))).tobytes() for row in full) == expected
    written = [json.dumps(row, default=datetime.isoformat) for row in full]
    assert b"".join(program.row(json.loads(row)).tobytes() for row in written) == expected
    readable = [row for row in written if "NaN" not in row and "Infinity" not in row]
    assert b"".join(program.row_json(row.encode()).tobytes() for row in readable) == b"".join(
        program.row(json.loads(row)).tobytes() for row in readable
    )
    out = np.empty((len(data) * 40, program.n_outputs), np.float32)
    assert program.batch(many, out=out).tobytes() == expected * 40
    loaded = t.FeatureProgram.from_json(program.to_json(), functions=[both])
    assert loaded.digest == program.digest
    assert loaded.batch(columns).tobytes() == expected


def arrow(values, name):
    if name in "xy":
        plain = [None if value is None else float(value) for value in values]
        return pa.array(plain, pa.float64())
    if name == "at":
        return pa.array(
            [value and value.replace(tzinfo=UTC) for value in values], pa.timestamp("us", "Asia/Tokyo")
        )
    if name == "v":
        plain = [None if v is None else [None if p is None else float(p) for p in v] for v in values]
        return pa.array(plain, pa.list_(pa.float64(), 3))
    plain = [None if value is None else str(value) for value in values]
    return pa.chunked_array([pa.array(plain[:2], pa.string()), pa.array(plain[2:], pa.string())])


@settings(max_examples=50, deadline=None)
@given(programs(), rows)
def test_arrow_columns_agree_with_rows(program, data):
    columns = {name: [row.get(name) for row in data] for name in program.input_names}
    expected = b"".join(program.row(row).tobytes() for row in data)
    table = pa.table({name: arrow(values, name) for name, values in columns.items()})
    assert program.batch(table).tobytes() == expected
    assert program.batch(table.slice(1)).tobytes() == expected[program.n_outputs * 4 :]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1),
    st.sampled_from([np.int64, np.float32, np.float64]),
)
def test_numpy_columns_agree_with_their_scalars(values, dtype):
    program = t.FeatureProgram.fit([t.number("x").standardise()], FIT)
    column = np.array(values).astype(dtype)
    by_row = b"".join(program.row({"x": value}).tobytes() for value in column)
    assert program.batch({"x": column}).tobytes() == by_row
    assert program.batch({"x": column.tolist()}).tobytes() == by_row
