"""`engine materialize` from the command line, on a file of definitions."""

import sys
import textwrap

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.cli import main

DEFINITIONS = """
    from engine.feature_store import *

    store = FeatureStore(DuckDBOffline({folder!r}, threads=1), LMDBOnline({folder!r} + "/online"))
    weather = FeatureView("weather", Entity("origin"), Source("weather.parquet", "t"), ["temp"])
    plane = FeatureView("plane", Entity("tail"), Source("plane.parquet", "t"), ["seats"])
"""


@pytest.fixture
def definitions(tmp_path):
    times = pa.array([0, 3600], pa.timestamp("s", "UTC"))
    pq.write_table(
        pa.table({"origin": ["EWR", "LGA"], "t": times, "temp": [1.0, 2.0]}), tmp_path / "weather.parquet"
    )
    pq.write_table(pa.table({"tail": [1, 1], "t": times, "seats": [10, 20]}), tmp_path / "plane.parquet")
    path = tmp_path / "definitions.py"
    path.write_text(textwrap.dedent(DEFINITIONS.format(folder=str(tmp_path))))
    return path


def test_all_views_or_those_named_are_brought_online(definitions, capsys):
    assert main(["materialize", str(definitions), "weather", "--end", "1970-01-01T00:30:00Z"]) == 0
    assert capsys.readouterr().out == (
        "weather: 1 rows: 1 written, 0 there already, 0 older than what is there, 0 done by an earlier run\n"
    )
    assert main(["materialize", str(definitions)]) == 0
    assert capsys.readouterr().out == (
        "weather: 2 rows: 1 written, 1 there already, 0 older than what is there, 0 done by an earlier run\n"
        "plane: 1 rows: 1 written, 0 there already, 0 older than what is there, 0 done by an earlier run\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["../weather"], "defines no view '../weather'; there are: plane, weather"),
        (["--start", "2013-01-01"], "start_time: '2013-01-01' has no time zone"),
        (["--start", "2013-01-02T00:00Z", "--end", "2013-01-01T00:00Z"], "the range is empty"),
    ],
)
def test_mistakes_are_explained(definitions, arguments, message, capsys):
    assert main(["materialize", str(definitions), *arguments]) == 1
    assert message in capsys.readouterr().err


def test_a_file_that_defines_nothing_is_refused(tmp_path, capsys):
    (tmp_path / "empty.py").write_text("")
    assert main(["materialize", str(tmp_path / "empty.py")]) == 1
    assert "expected one FeatureStore among its names, found 0" in capsys.readouterr().err
    assert main(["materialize", str(tmp_path / "none.py")]) == 1
    assert "none.py: no such file" in capsys.readouterr().err
    assert main(["materialize", "no.such.module"]) == 1
    assert "no such module, and no Python file" in capsys.readouterr().err


def test_modules_beside_the_file_and_views_in_lists_are_found(definitions, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", list(sys.path))
    folder = definitions.parent
    (folder / "entities_beside.py").write_text(
        "from engine.feature_store import Entity\nplane = Entity('tail')\n"
    )
    lines = (
        definitions.read_text()
        .replace("plane = FeatureView", "views = [FeatureView")
        .replace('["seats"])', '["seats"])]')
    )
    lines = lines.replace('Entity("tail")', "entity").replace(
        "weather = FeatureView", "more = {1: FeatureView"
    )
    lines = lines.replace('["temp"])', '["temp"])}')
    definitions.write_text("from entities_beside import plane as entity\n" + lines)
    assert main(["materialize", str(definitions), "plane", "weather"]) == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["plane", "weather"]


def test_two_views_of_one_name_are_refused(definitions, capsys):
    text = definitions.read_text()
    again = next(line for line in text.splitlines() if line.startswith("weather"))
    definitions.write_text(f"{text}same = weather\nother{again.replace('temp', 'wind')}\n")
    assert main(["materialize", str(definitions)]) == 1
    assert "defines two views named 'weather'; rename one of them" in capsys.readouterr().err
