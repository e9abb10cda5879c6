"""Fitting batch by batch learns the same bits as fitting on the whole table. A DuckDB relation is a table."""

import ast
import os
import subprocess
import sys
import tempfile

import duckdb
import numpy as np
import polars
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
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


def in_pandas(table, folder):
    return (batch.to_pandas() for batch in table.to_batches(max_chunksize=130))


def in_polars(table, folder):
    return iter(polars.from_arrow(table).iter_slices(170))


def in_rows(table, folder):
    return iter([table.slice(0, 400).to_pylist(), table.slice(400).to_pylist()])


def in_mappings(table, folder):
    return iter([table.slice(0, 3).to_pydict(), table.slice(3).to_pydict()])


def a_reader(table, folder):
    return table.to_reader(max_chunksize=77)


def a_file(table, folder):
    pyarrow.parquet.write_table(table, folder / "rows.parquet", row_group_size=90)
    return folder / "rows.parquet"


def a_folder(table, folder):
    for i in range(4):
        pyarrow.parquet.write_table(table.slice(i * 250, 250), folder / f"{i}.parquet")
    return str(folder)


def a_dataset(table, folder):
    return pyarrow.dataset.dataset(a_folder(table, folder))


def a_relation(table, folder):
    return duckdb.from_arrow(table)


SOURCES = [in_pandas, in_polars, in_rows, in_mappings, a_reader, a_file, a_folder, a_dataset, a_relation]


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_of_batches_teaches_what_the_table_does(source, table, tmp_path):
    whole = t.FeatureProgram.fit(SPEC, table)
    assert t.FeatureProgram.fit(SPEC, source(table, tmp_path)).digest == whole.digest


def test_what_is_kept_on_disk_is_gone_afterwards(table, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    t.FeatureProgram.fit(SPEC, a_reader(table, None))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputTypeError, match=r"expected batches that are tables .*, got int"):
        t.FeatureProgram.fit(SPEC, iter([5]))
    assert list(tmp_path.iterdir()) == []


def test_files_that_do_not_fit_are_refused(table, tmp_path):
    with pytest.raises(InputError, match=r"rows\.csv: expected a Parquet file or a folder of them"):
        t.FeatureProgram.fit(SPEC, tmp_path / "rows.csv")
    (tmp_path / "rows.parquet").write_bytes(b"not a file of that kind")
    with pytest.raises(InputError, match=r"rows\.parquet: expected a Parquet file"):
        t.FeatureProgram.fit(SPEC, tmp_path / "rows.parquet")
    path = a_file(table.drop_columns(["c"]), tmp_path)
    with pytest.raises(InputError, match="the table has no column 'c'; it has: x, y"):
        t.FeatureProgram.fit(SPEC, path)


CHILD = """
import resource, sys
import numpy as np
from engine import transform as t

BATCHES, ROWS = 160, 100_000  # 16 million rows, 128 MB a column

def batches():
    for i in range(BATCHES):
        draw = np.random.default_rng(i)
        # Column x has each whole number once. Column few has nine values, and 1.0 is the most frequent one.
        order = (np.arange(i * ROWS, (i + 1) * ROWS) * 7_368_787) % (BATCHES * ROWS)
        yield {"x": order.astype(np.float64), "few": order % 8 - (order == 0)}

spec = [
    t.number("x").impute("median").robust(),
    t.number("x").bucketize(quantiles=4).named("q"),
    t.number("few").impute("most_frequent").named("few"),
]
t.FeatureProgram.fit(spec, {"x": [1.0, 2.0], "few": [1, 1]})
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
limit = used + 96 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
if sys.argv[1] == "whole":
    np.concatenate([batch["x"] for batch in batches()])
print([op.to_json() for feature in t.FeatureProgram.fit(spec, batches).features for op in feature.ops])
"""


def child(how):
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run([sys.executable, "-c", CHILD, how], capture_output=True, text=True, env=environment)


@pytest.mark.slow
def test_a_column_larger_than_memory():
    assert "MemoryError" in child("whole").stderr  # a whole column does not fit into the limit
    done = child("batches")
    assert done.returncode == 0, done.stderr
    n = 16_000_000
    assert ast.literal_eval(done.stdout) == [
        {"op": "impute", "strategy": "median", "value": (n - 1) / 2},
        {"op": "robust", "median": (n - 1) / 2, "range": (n - 1) * 0.75 - (n - 1) * 0.25},
        {
            "op": "bucketize",
            "edges": [(n - 1) * q for q in (0.25, 0.5, 0.75)],
            "quantiles": 4,
            "edge": "left",
        },
        {"op": "impute", "strategy": "most_frequent", "value": 1.0},
    ]


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
