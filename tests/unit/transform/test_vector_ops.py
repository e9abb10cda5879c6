"""Vectors in, vectors out, tokens, exact crosses, powers and distances."""

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from engine import transform as t
from engine.errors import InputError, InputTypeError, ProgramError
from engine.transform._program import xxh64
from engine.transform.frozen import plain_loads


@pytest.fixture
def vectors():
    v = t.vector("v", 3)
    return t.FeatureProgram.fit([v, v[1].standardise().named("s")], {"v": [[1.0, 2.0, 3.0], [1.0, 4.0, 3.0]]})


def test_a_vector_is_one_column_a_value(vectors):
    assert vectors.input_names == ("v",)
    assert vectors.output_names == ("v[0]", "v[1]", "v[2]", "s")
    assert vectors.row({"v": [7, 3.0, True]}).tolist() == [7.0, 3.0, 1.0, 0.0]
    assert vectors.row({"v": (1, 2, 3)}).tolist() == vectors.row_json(b'{"v": [1, 2, 3]}').tolist()
    assert np.isnan(vectors.row({})).all()
    assert np.isnan(vectors.row({"v": [1, None, 2]})).tolist() == [False, True, False, True]


def test_columns_of_vectors_agree_with_rows(vectors):
    array = np.arange(1200, dtype=np.float32).reshape(400, 3) / 7
    expected = b"".join(vectors.row([row]).tobytes() for row in array)
    wide = np.zeros((400, 8), np.float32)
    wide[:, 2:5] = array
    fixed = pa.FixedSizeListArray.from_arrays(array.ravel(), 3)
    columns = [
        array,
        array.astype(np.float64),
        np.asfortranarray(array),
        wide[:, 2:5],
        array.tolist(),
        list(array),
    ]
    columns += [
        fixed,
        pa.chunked_array([fixed[:7], fixed[7:]]),
        pl.Series(array.tolist(), dtype=pl.Array(pl.Float32, 3)),
    ]
    for column in columns:
        assert vectors.batch({"v": column}).tobytes() == expected
    assert vectors.batch({"v": fixed[5:]}).tobytes() == expected[5 * 16 :]
    missing = vectors.batch({"v": pa.array([[1, 2, 3], None], pa.list_(pa.float64(), 3))})
    assert np.isnan(missing).all(axis=1).tolist() == [False, True]


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        ([1, 2], InputError, "input 'v': expected 3 numbers, got 2"),
        (np.zeros((1, 3)), InputError, r"expected 3 numbers, got shape \[1, 3\]"),
        ("abc", InputTypeError, "expected 3 numbers or None, got str"),
        (7, InputTypeError, "expected 3 numbers or None, got int"),
        ([1, "x", 2], InputTypeError, r"input 'v\[1\]': expected a number"),
    ],
)
def test_what_is_no_vector_is_refused(vectors, value, error, words):
    with pytest.raises(error, match=words):
        vectors.row({"v": value})


def test_columns_that_do_not_fit_are_refused(vectors):
    with pytest.raises(InputError, match=r"column 'v': expected 3 values a row, got shape \[2, 2\]"):
        vectors.batch({"v": np.zeros((2, 2))})
    numbers = t.FeatureProgram.fit([t.number("x")], {"x": [1.0]})
    with pytest.raises(InputTypeError, match=r"one-dimensional column, got ndarray of shape \[2, 3\]"):
        numbers.batch({"x": np.zeros((2, 3))})
    with pytest.raises(ProgramError, match=r"read both as a vector\[3\] and as a vector\[2\]"):
        t.FeatureProgram.fit([t.vector("v", 3), t.vector("v", 2).named("w")], {"v": [[1, 2, 3]]})


TABLE = {"a": [1.0, 2.0], "b": [0.1, -4.0]}


def test_an_embedding_is_looked_up():
    c = t.category("c")
    program = t.FeatureProgram.fit([c.embed(TABLE), c.embed(TABLE, unknown="b").named("d")], {"c": ["x"]})
    assert program.output_names == ("c[0]", "c[1]", "d[0]", "d[1]")
    tenth = np.float32(0.1)
    assert program.batch({"c": ["a", "b", "z", None]}).tolist() == [
        [1, 2, 1, 2],
        [tenth, -4, tenth, -4],
        [0, 0, tenth, -4],
        [0, 0, tenth, -4],
    ]
    assert t.FeatureProgram.from_json(program.to_json()).digest == program.digest


@pytest.mark.parametrize(
    ("table", "unknown", "words"),
    [
        ({}, None, "expected one vector"),
        ({"a": [1.0], "b": [1.0, 2.0]}, None, "embed"),
        ({"a": [float("nan")]}, None, "finite"),
        ({"a": [1e39]}, None, "finite"),
        ({"a": []}, None, "expected one vector of 1 to"),
        ({"a": ["x"]}, None, "expected vectors of numbers"),
        ({"a": [1.0]}, "b", "unknown='b' is not one of the categories"),
    ],
)
def test_an_embedding_that_makes_no_sense_is_refused(table, unknown, words):
    with np.errstate(over="ignore"), pytest.raises(ProgramError, match=words):
        t.category("c").embed(table, unknown=unknown)


def test_tokens_are_counted_by_their_hash():
    program = t.FeatureProgram.fit([t.category("text").tokens(4, seed=3)], {"text": ["x"]})
    expected = [0, 0, 0, 0]
    for token in ("Hello", "wörld", "42", "Hello"):
        expected[xxh64(token.encode(), 3) % 4] += 1
    assert program.row({"text": " Hello, wörld--42 (Hello)"}).tolist() == expected
    assert program.row({"text": ""}).tolist() == program.row({"text": "?!"}).tolist() == [0, 0, 0, 0]
    assert np.isnan(program.row({})).all()
    assert program.row({"text": "a " * 500_000}).sum() == 500_000


def test_a_cross_without_buckets_has_a_code_for_each_pair():
    pair = t.cross(t.category("c").ordinal(["x", "y"]), t.number("n").bucketize([0.0, 10.0]))
    table = {"c": ["x", "y", "y", "z", None], "n": [-1, 0, 11, 0, 0]}
    program = t.FeatureProgram.fit([pair.named("code"), pair.one_hot().named("hot")], table)
    assert len(program.output_names) == 1 + 2 * 3
    rows = program.batch(table)
    assert rows[:3, 0].tolist() == [0.0, 4.0, 5.0]
    assert np.isnan(rows[3:, 0]).all()
    assert rows[:, 1:].argmax(axis=1).tolist()[:3] == [0, 4, 5]
    assert rows[:, 1:].sum(axis=1).tolist() == [1, 1, 1, 0, 0]
    assert t.FeatureProgram.from_json(program.to_json()).digest == program.digest
    with pytest.raises(ProgramError, match="is of ordinals or bucketized numbers"):
        t.FeatureProgram.fit([t.cross(t.number("n"), t.number("n"))], table)


def test_powers():
    x = t.number("x")
    program = t.FeatureProgram.fit([x.power(e).named(str(e)) for e in (2, 0.5, -1, 1.5)], {"x": [1.0]})
    assert program.row({"x": 4.0}).tolist() == [16.0, 2.0, 0.25, 8.0]
    assert program.row({"x": -2.0}).tolist()[::2] == [4.0, -0.5]
    assert np.isnan(program.row({"x": -2.0})[[1, 3]]).all()


def test_distances_between_places():
    names = ["lat", "lon", "to_lat", "to_lon"]
    distance = t.geo_distance(*map(t.number, names))
    program = t.FeatureProgram.fit([distance.named("km")], {name: [0.0] for name in names})
    assert program.row([52.52, 13.405, 48.8566, 2.3522])[0] == pytest.approx(
        877.46, abs=0.01
    )  # Berlin to Paris
    assert program.row([0, 0, 0, 0])[0] == 0.0
    assert np.isnan(program.row([91, 0, 0, 0])[0])
    with pytest.raises(ProgramError, match="radius must be above zero"):
        t.geo_distance(*map(t.number, names), radius_km=0.0)


@pytest.mark.parametrize("reader", ["orjson", "json"])
def test_a_row_as_json(reader, monkeypatch):
    if reader == "json":
        monkeypatch.setattr("engine.transform.frozen._json_reader", lambda: plain_loads)
    program = t.FeatureProgram.fit([t.number("x"), t.category("c").ordinal(["a"])], {"x": [1.0], "c": ["a"]})
    for row in (b'{"x": 0.1, "c": "a", "other": [1]}', '[0.1, "a"]', bytearray(b'[0.1,"a"]')):
        assert program.row_json(row).tobytes() == program.row([0.1, "a"]).tobytes()
    for bad in (b"", b"{", b'{"x": NaN}', b'{"x": Infinity}', b"\xff", "[" * 100_000):
        with pytest.raises(InputError, match="as JSON"):
            program.row_json(bad)
    with pytest.raises(InputTypeError, match="input 'x'"):
        program.row_json(b'{"x": "1"}')
