"""`engine monitor report` as it is typed."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine import cli


@pytest.fixture
def tables(tmp_path):
    draw = np.random.default_rng(5)
    n = 3_000

    def write(name, shift):
        table = pa.table(
            {
                "x": draw.normal(shift, 1.0, n),
                "city": draw.choice(["Oslo", "Rome"], n),
                "p": draw.random(n),
                "at": pa.array(np.arange(n), pa.timestamp("s", "UTC")),
            }
        )
        pq.write_table(table, tmp_path / name)
        return str(tmp_path / name)

    return write("a.parquet", 0.0), write("same.parquet", 0.0), write("moved.parquet", 2.0)


def typed(capsys, *words):
    status = cli.main(["monitor", "report", *words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_a_shift_is_an_alert_and_the_page_is_written(tables, tmp_path, capsys):
    before, same, moved = tables
    page = str(tmp_path / "page.html")
    words = ["--reference", before, "--out", page, "--outputs", "p", "--json"]
    status, out, _ = typed(capsys, *words, "--current", same)
    assert (status, json.loads(out)) == (0, {"report": page, "rows": 3000, "alerts": []})
    status, out, _ = typed(capsys, "--fail", *words, "--current", moved)
    found = json.loads(out)
    assert status == 1
    assert any("x" in alert["message"] for alert in found["alerts"])
    assert "<html" in (tmp_path / "page.html").read_text()
    status, out, _ = typed(
        capsys, "--reference", before, "--current", moved, "--columns", "city", "--out", page
    )
    assert (status, out) == (0, f"{page}: 3,000 rows against 3,000, 0 alerts\n")


def test_mistakes_are_one_line(tables, tmp_path, capsys):
    before, same, _ = tables
    status, _, err = typed(capsys, "--reference", before, "--current", str(tmp_path / "none.parquet"))
    assert status == 1
    assert "none.parquet: cannot be read as Parquet" in err
    status, _, err = typed(capsys, "--reference", before, "--current", same, "--columns", "x,y")
    assert status == 1
    assert err.endswith("a.parquet: no column 'y'; it has: x, city, p, at\n")
    status, _, err = typed(capsys, "--reference", before, "--current", same, "--out", f"{before}/page.html")
    assert status == 1
    assert err.count("\n") == 1
