import json

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from engine.errors import MonitorError
from engine.monitor import Reference

N = 200


def table():
    rng = np.random.default_rng(0)
    return {
        "age": rng.normal(40, 10, N).tolist(),
        "carrier": (["AA", "UA", "AA", None] * (N // 4)),
        "gate": np.arange(N) % 7,
    }


def rows_of(columns):
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def relation(columns):
    duckdb = pytest.importorskip("duckdb")
    return duckdb.connect().from_arrow(pa.table(columns))


FORMS = [dict, pd.DataFrame, pl.DataFrame, pa.table, pa.RecordBatch.from_pydict, relation, rows_of]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_table_gives_the_same_reference(form):
    assert Reference.fit(form(table())).to_json() == Reference.fit(table()).to_json()


def test_numbers_text_and_codes_are_told_apart():
    made = Reference.fit(table(), outputs=np.linspace(0, 1, N))
    age, carrier, gate = made.features
    assert (age.bins.discrete, carrier.bins.discrete, gate.bins.discrete) == (False, True, True)
    assert carrier.levels == ("AA", "UA")
    assert carrier.counts.tolist() == [100, 50]
    assert carrier.missing == 50
    assert [column.name for column in made.outputs] == ["prediction"]
    assert made.rows == N


def test_names_choose_and_order_columns():
    assert Reference.fit(table(), ["gate", "age"]).names == ("gate", "age")
    assert Reference.fit(np.zeros((N, 2))).names == ("f0", "f1")
    assert Reference.fit([[0.0, 1.0]] * N).names == ("f0", "f1")


def test_a_structured_array_is_a_table():
    rows = np.zeros(N, dtype=[("a", "f4"), ("b", "i8")])
    made = Reference.fit(rows)
    assert made.names == ("a", "b")
    assert made.matrix(rows).shape == (N, 2)


def test_json_reads_back_to_the_same():
    made = Reference.fit(table(), outputs=np.linspace(0, 1, N))
    for text in (made.to_json(), made.to_json().encode(), json.loads(made.to_json())):
        assert Reference.from_json(text).to_json() == made.to_json()
    assert "NaN" not in made.to_json()


def test_a_row_is_encoded_by_name_or_place():
    made = Reference.fit(table())
    assert made.row({"age": 33, "carrier": "UA", "gate": 2, "other": 1}).tolist() == [33.0, 1.0, 2.0]
    assert made.row({"age": None, "carrier": "ZZ"}).tolist()[1] == -2.0
    assert np.isnan(made.row({})).all()
    assert made.row([33, "AA", 2]).tolist() == [33.0, 0.0, 2.0]


def test_many_rows_are_encoded_in_any_form():
    made = Reference.fit(table())
    expected = made.matrix(rows_of(table()))
    assert expected.shape == (N, 3)
    for form in FORMS:
        np.testing.assert_array_equal(made.matrix(form(table())), expected)
    assert made.matrix({"age": 1.0, "carrier": "AA", "gate": 0}).tolist() == [[1.0, 0.0, 0.0]]
    assert made.matrix([]).shape == (0, 3)
    # A feature that the table does not have is missing in every row.
    assert np.isnan(made.matrix(pd.DataFrame({"age": [1.0]}))[0, 1:]).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Reference.fit(np.zeros((50, 2))), "at least 100 rows"),
        (
            lambda: Reference.fit(np.zeros((N, 2)), ["a"]),
            "expected 2 names, one a column of the matrix, got 1",
        ),
        (lambda: Reference.fit(np.zeros((N, 2)), ["a", "a"]), "feature names must differ"),
        (lambda: Reference.fit({"a": np.zeros(N)}, ["b"]), "the table has no column 'b'; it has: a"),
        (lambda: Reference.fit({"a": np.zeros(N), "b": np.zeros(N + 1)}), "different lengths"),
        (lambda: Reference.fit({"a": np.zeros(N)}, categorical=["b"]), "categorical: no column 'b'"),
        (lambda: Reference.fit({"a": np.zeros(N, dtype="datetime64[s]")}), "expected numbers or text"),
        (lambda: Reference.fit({"a": [object()] * N}), "feature 'a': expected a number or None"),
        (lambda: Reference.fit(np.zeros(N)), r"expected a table .* or a matrix of shape \[n, n_features\]"),
        (lambda: Reference.fit("rows"), "expected a table"),
        (lambda: Reference.fit(7), "expected a table"),
        (
            lambda: Reference.fit(pd.DataFrame(np.zeros((N, 2)), columns=["a", "a"])),
            "two columns named 'a'",
        ),
        (lambda: Reference.fit(np.zeros((N, 1)), outputs=np.zeros(N - 1)), "different lengths"),
        (lambda: Reference.from_json("{"), "not a reference"),
        (lambda: Reference.from_json("[]"), "expected a reference of format"),
        (lambda: Reference.from_json({"format": "engine.monitor.reference/1"}), "two lists of columns"),
    ],
)
def test_an_unusable_argument_is_named(make, message):
    with pytest.raises(MonitorError, match=message):
        make()


def damaged(**changes):
    made = json.loads(Reference.fit({"age": np.arange(N) * 1.5}).to_json())
    made["features"][0] |= changes
    return made


@pytest.mark.parametrize(
    "changes",
    [
        {"counts": [1, 2]},
        {"cuts": [3.0, 1.0]},
        {"cuts": None},
        {"n_bins": 10**9},
        {"rows": "many"},
        {"bin_of": [0]},
        {"missing": -1},
        {"moments": [1]},
        {"dependence": [[1, 2]]},
    ],
)
def test_a_damaged_column_is_named(changes):
    with pytest.raises(MonitorError, match="reference column 'age'"):
        Reference.from_json(damaged(**changes))


def test_a_row_of_another_width_names_both():
    made = Reference.fit(np.random.default_rng(0).normal(size=(N, 3)))
    with pytest.raises(MonitorError, match=r"expected a row of 3 features \(f0, f1, f2\), got \(2,\)"):
        made.row([1.0, 2.0])
    with pytest.raises(MonitorError, match=r"expected rows of 3 features .*, got 2"):
        made.matrix(np.zeros((5, 2)))


def test_missing_values_of_every_kind_are_missing():
    made = Reference.fit(
        {"x": pd.array([1, pd.NA, 3, None] * 50, dtype="object"), "y": [0.5, float("nan")] * 100}
    )
    assert [column.missing for column in made.features] == [100, 100]
    assert np.isnan(made.row({"x": pd.NA, "y": None})).all()


def test_ordered_false_takes_rows_as_independent():
    hours = np.repeat(np.random.default_rng(0).normal(size=100), 50)
    ordered, shuffled = Reference.fit({"x": hours}), Reference.fit({"x": hours}, ordered=False)
    assert ordered.features[0].mean_dependence.factor > 10
    assert shuffled.features[0].mean_dependence.independent
    assert shuffled.features[0].calibration is None


def test_features_that_move_together_are_told_and_kept():
    rng = np.random.default_rng(0)
    shared = rng.normal(size=1000)
    table = {
        "a": shared + rng.normal(size=1000) * 0.3,
        "b": rng.normal(size=1000),
        "c": np.exp(-shared + rng.normal(size=1000) * 0.3),
        "constant": np.ones(1000),
    }
    reference = Reference.fit(table)
    assert reference.together == (("a", "c"),)
    assert Reference.from_json(reference.to_json()).together == (("a", "c"),)


def test_a_cycle_of_the_reference_is_found():
    rng = np.random.default_rng(1)
    time = np.arange(40_000)
    reference = Reference.fit(
        {"x": np.sin(time * 2 * np.pi / 2000) + rng.normal(size=40_000), "y": rng.random(40_000)}
    )
    assert reference.features[0].calibration.period == 2000.0
    assert reference.features[0].mean_dependence.independent
    assert reference.features[1].calibration.period == 0.0
