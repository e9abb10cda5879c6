"""For any bytes: the quick reader of JSON rows gives the result of a whole JSON library, or that library's error."""

import json

import hypothesis.strategies as st
import orjson
import pytest
from hypothesis import example, given, settings

from engine import transform as t
from engine.errors import InputError, InputTypeError

SPEC = [
    t.number("x"),
    t.number("löng name of more than sixteen bytes"),
    t.category("c").hash(buckets=1 << 24),
    t.category("d").length(),
    t.vector("v", 2),
]
TABLE = {"x": [1.0], "löng name of more than sixteen bytes": [1.0], "c": ["a"], "d": ["b"], "v": [[1.0, 2.0]]}
IMPUTING = t.FeatureProgram.fit(SPEC, TABLE)
REFUSING = t.FeatureProgram.fit(SPEC, TABLE, missing="error")


def outcome(call, *arguments):
    try:
        return call(*arguments).tobytes()
    except (InputError, InputTypeError) as error:
        return type(error), str(error)


def by_library(program, data):
    """The outcome of `row` for the row that orjson reads."""
    try:
        row = orjson.loads(data)
    except ValueError:
        return InputError
    return outcome(program.row, row)


def assert_alike(data):
    for program in (IMPUTING, REFUSING):
        expected, got = by_library(program, data), outcome(program.row_json, data)
        if expected is InputError:
            assert got[0] is InputError
            assert got[1].startswith("expected a row as JSON: ")
        else:
            assert got == expected


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**64), 2**64),
    st.integers(-20, 20),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
)
values = st.one_of(
    scalars, st.lists(scalars, max_size=3), st.dictionaries(st.text(max_size=3), scalars, max_size=2)
)
names = st.sampled_from([*TABLE, "other", "", "X", 'quo"te'])
objects = st.one_of(st.dictionaries(names, values, max_size=7), st.lists(values, max_size=6))


@settings(max_examples=300, deadline=None)
@given(objects, st.sampled_from([None, 1, "\t"]), st.booleans())
@example({"x": -0.0, "c": -0.0}, None, False)
@example({"x": 10**400}, None, False)
def test_rows_that_are_json(row, indent, ascii_only):
    assert_alike(json.dumps(row, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass"))


fit_rows = st.fixed_dictionaries(
    {
        "x": st.one_of(
            st.none(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False)
        ),
        "löng name of more than sixteen bytes": st.floats(-1e9, 1e9),
        "c": st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.text(max_size=20)),
        "d": st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
        "v": st.lists(st.one_of(st.none(), st.floats(-1, 1)), min_size=2, max_size=2),
    }
)


@settings(max_examples=300, deadline=None)
@given(fit_rows, st.data())
def test_damaged_bytes(row, data):
    written = bytearray(
        json.dumps(row, ensure_ascii=data.draw(st.booleans())).encode("utf-8", "surrogatepass")
    )
    assert_alike(bytes(written))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(written) - 1))
        piece = data.draw(
            st.sampled_from([b"", b'"', b"\\", b",", b"}", b"0", b".", b"-", b"e", b" ", b"\xff", b"[", b":"])
        )
        written[place : place + data.draw(st.integers(0, 2))] = piece
    assert_alike(bytes(written))


@pytest.mark.parametrize(
    "text", ["-0", "1e400", "-1e400", "1" * 309, "1" * 5000, "1e-400", "0." + "0" * 400 + "1"]
)
def test_numbers_at_the_ends_of_the_range(text):
    assert_alike(f'{{"x": {text}, "c": "a"}}'.encode())
