"""Fitting batch by batch learns to the bit what the whole table teaches; DuckDB's tables are tables."""

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from engine import transform as t
from engine.errors import InputError, InputTypeError

SPEC = [
    t.number("x").impute("median").standardise(),
    t.number("x").impute("mean").bucketize(quantiles=4).one_hot().named("q"),
    t.number("x").robust().named("r"),
    t.ratio(t.number("x"), t.number("y").clip(1.0)).min_max().named("share"),
    t.category("c").impute("most_frequent").one_hot(),
    t.category("c").count().named("n"),
    t.category("c").target("label").named("mean"),
]


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(5)
    x = rng.normal(size=1000) * 10.0 ** rng.integers(-3, 6, 1000)
    x[::9] = np.nan
    c = [None if i % 7 == 0 else f"c{i * i % 11}" for i in range(1000)]
    return pa.table(
        {"x": x, "y": rng.normal(size=1000), "c": c, "label": rng.integers(0, 2, 1000), "other": c}
    )


@pytest.mark.parametrize("rows", [1, 300, 1000, 5000])
def test_batches_teach_what_the_table_does(table, rows):
    whole = t.FeatureProgram.fit(SPEC, table)
    by_batch = t.FeatureProgram.fit(SPEC, lambda: table.to_batches(max_chunksize=rows))
    assert by_batch.digest == whole.digest
    assert (
        t.FeatureProgram.fit(SPEC, lambda: iter(table.to_batches(max_chunksize=rows))).digest == whole.digest
    )


def test_a_duckdb_relation_is_a_table(table):
    assert duckdb.sql("select 1") is not None
    relation = duckdb.from_arrow(table)
    program = t.FeatureProgram.fit(SPEC, relation)
    assert program.digest == t.FeatureProgram.fit(SPEC, table).digest
    assert program.batch(relation).tobytes() == program.batch(table).tobytes()
    assert program.batch(relation.limit(0)).shape == (0, program.n_outputs)
    with pytest.raises(InputError, match="the table has no column 'x'; it has: other"):
        program.batch(relation.project("other"))
    quoted = duckdb.sql('select 1.5::double as "a ""b"""')
    assert t.FeatureProgram.fit([t.number('a "b"')], quoted).batch(quoted).tolist() == [[1.5]]


def test_batches_that_cannot_be_read_twice_are_refused(table):
    once = iter(table.to_batches(max_chunksize=100))
    with pytest.raises(InputError, match="held 1000 rows the first time and 0 now"):
        t.FeatureProgram.fit(SPEC, lambda: once)
    with pytest.raises(
        InputTypeError, match="a function that returns an iterable of tables, it returned int"
    ):
        t.FeatureProgram.fit(SPEC, lambda: 5)
    with pytest.raises(InputTypeError, match="it returned Table"):
        t.FeatureProgram.fit(SPEC, lambda: table)
    with pytest.raises(InputError, match="at least one row"):
        t.FeatureProgram.fit(SPEC, list)
    with pytest.raises(InputError, match="no column 'c'"):
        t.FeatureProgram.fit(SPEC, lambda: [table.drop_columns(["c"])])
