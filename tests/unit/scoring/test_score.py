"""engine score: Parquet to Parquet, in order, in parts that a later run takes up."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.unit.registry.bundles import overflowing, step

import engine
from engine import cli
from engine import transform as t
from engine.errors import InputError
from engine.registry import ModelRegistry
from engine.scoring import score
from engine.scoring.parts import Parts


@pytest.fixture
def registry(tmp_path):
    made = ModelRegistry(tmp_path / "registry", code=False)
    made.register(step(tmp_path, 10, 20))
    made.promote("model", 1)
    return made


@pytest.fixture
def source(tmp_path):
    """250,000 rows in row groups of 7,001: f0 counts 0, 1, 2, 3, 0, … so that answers are 10, 10, 20, 20, 10, …"""
    count = np.arange(250_000)
    table = pa.table({"id": count, "f0": (count % 4).astype(float), "f1": np.zeros(len(count))})
    path = tmp_path / "in.parquet"
    pq.write_table(table, path, row_group_size=7_001)
    return path


def expected(rows):
    return np.where(np.arange(rows) % 4 <= 1, 10.0, 20.0)


def test_answers_come_in_the_inputs_order_with_the_columns_kept(registry, source, tmp_path):
    done = score(registry.resolve("model"), source, tmp_path / "out.parquet", keep=["id"], threads=3)
    assert (done.rows, done.parts, done.resumed, done.not_finite) == (250_000, 3, 0, 0)
    out = pq.read_table(tmp_path / "out.parquet")
    assert out.column_names == ["id", "prediction"]
    assert (out["id"].to_numpy() == np.arange(250_000)).all()
    assert (out["prediction"].to_numpy() == expected(250_000)).all()
    assert out.schema.metadata[b"engine.version"] == b"model@1"
    assert not (tmp_path / "out.parquet.parts").exists()


def test_a_program_reads_its_inputs_by_name(registry, tmp_path):
    program = engine.FeatureProgram.fit([t.number("b"), t.number("a")], {"a": [0.0], "b": [0.0]})
    version = registry.register(step(tmp_path, 10, 20), program=program)
    pq.write_table(pa.table({"a": [9.0, 9.0], "text": ["x", "y"], "b": [1.0, 2.0]}), tmp_path / "in.parquet")
    score(registry.resolve(version), tmp_path / "in.parquet", tmp_path / "out.parquet", column="late")
    assert pq.read_table(tmp_path / "out.parquet")["late"].to_pylist() == [10.0, 20.0]


def test_nulls_are_missing_and_answers_that_are_no_numbers_are_counted(registry, tmp_path):
    pq.write_table(pa.table({"f0": [None, 1.0, 2.0], "f1": pa.array([1, None, 0])}), tmp_path / "in.parquet")
    version = registry.register(overflowing(tmp_path))
    done = score(registry.resolve(version), tmp_path / "in.parquet", tmp_path / "out.parquet")
    values = pq.read_table(tmp_path / "out.parquet")["prediction"].to_numpy()
    assert values[1:].tolist() == [1.0, np.inf]
    assert done.not_finite == 1


def test_several_outputs_are_a_list(registry, tmp_path):
    from tests.unit.model.handmade_models import lightgbm_text, lightgbm_tree

    trees = [lightgbm_tree(leaf="1"), lightgbm_tree(leaf="2")]
    version = registry.register(lightgbm_text(trees, per_iteration=2))
    pq.write_table(pa.table({"f0": [0.0], "f1": [0.0]}), tmp_path / "in.parquet")
    score(registry.resolve(version), tmp_path / "in.parquet", tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet")["prediction"].to_pylist() == [[1.0, 2.0]]


def test_a_file_without_rows(registry, tmp_path):
    pq.write_table(
        pa.table({"f0": pa.array([], pa.float64()), "f1": pa.array([], pa.float64())}), tmp_path / "in"
    )
    done = score(registry.resolve("model"), tmp_path / "in", tmp_path / "out")
    assert done.rows == 0
    assert pq.read_table(tmp_path / "out").column_names == ["prediction"]


def test_finished_parts_are_taken_up_and_those_of_another_run_are_not(
    registry, source, tmp_path, monkeypatch
):
    target = tmp_path / "out.parquet"

    def dies(self, count, schema):
        raise KeyboardInterrupt

    def interrupted(**keywords):
        with monkeypatch.context() as patched:
            patched.setattr(Parts, "join", dies)
            with pytest.raises(KeyboardInterrupt):
                score(registry.resolve("model"), source, target, **keywords)

    interrupted()
    assert not target.exists()
    (tmp_path / "out.parquet.parts" / "000001.parquet").write_bytes(b"PAR1 damaged")
    assert score(registry.resolve("model"), source, target).resumed == 2
    assert (pq.read_table(target)["prediction"].to_numpy() == expected(250_000)).all()
    interrupted()
    assert score(registry.resolve("model"), source, target, keep=["id"]).resumed == 0
    interrupted()
    os.utime(source)
    assert score(registry.resolve("model"), source, target).resumed == 0


def test_two_at_once_into_the_same_output(registry, source, tmp_path):
    with Parts(tmp_path / "out.parquet", "a" * 64).held():
        with pytest.raises(InputError, match="another process is scoring into"):
            score(registry.resolve("model"), source, tmp_path / "out.parquet")


@pytest.mark.parametrize(
    ("table", "keywords", "text"),
    [
        ({"f0": [1.0]}, {}, "takes 2 features, got 1 columns besides those to keep: f0"),
        ({"f0": [1.0], "f1": ["x"]}, {}, "column 'f1' has type string"),
        ({"f0": [1.0], "f1": [1.0]}, {"keep": ["id"]}, "no column 'id' to keep; it has: f0, f1"),
        ({"f0": [1.0], "f1": [1.0]}, {"keep": ["f0"], "column": "f0"}, "cannot be called 'f0'"),
        ({"f0": [1.0], "f1": [1.0]}, {"threads": 0}, "threads must be an int from 1 to 4,096, got 0"),
    ],
)
def test_files_that_do_not_fit(registry, tmp_path, table, keywords, text):
    pq.write_table(pa.table(table), tmp_path / "in.parquet")
    with pytest.raises(InputError, match=text):
        score(registry.resolve("model"), tmp_path / "in.parquet", tmp_path / "out.parquet", **keywords)
    assert not (tmp_path / "out.parquet").exists()


def test_what_is_no_parquet_and_where_nothing_can_be_written(registry, source, tmp_path):
    (tmp_path / "text").write_text("hello")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        score(registry.resolve("model"), tmp_path / "text", tmp_path / "out")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        score(registry.resolve("model"), tmp_path / "missing", tmp_path / "out")
    with pytest.raises(InputError, match="cannot be written"):
        score(registry.resolve("model"), source, tmp_path / "nowhere" / "out")


def test_a_model_that_fails_half_way_leaves_no_output(registry, source, tmp_path, monkeypatch):
    class Failing:
        calls = 0

        def __init__(self, model):
            self.model = model

        def __getattr__(self, name):
            return getattr(self.model, name)

        def predict(self, rows):
            Failing.calls += 1
            if Failing.calls == 20:
                raise engine.errors.ModelError("no more")
            return self.model.predict(rows)

    bundle = registry.resolve("model")
    load = type(bundle).primary
    monkeypatch.setattr(type(bundle), "primary", lambda self: Failing(load(self)))
    with pytest.raises(engine.errors.ModelError, match="no more"):
        score(bundle, source, tmp_path / "out", threads=2)
    assert not (tmp_path / "out").exists()


def test_the_command(registry, source, tmp_path, capsys):
    words = ["score", "--model", "model@production", "--registry", str(registry.path), "--keep", "id"]
    assert cli.main([*words, str(source), str(tmp_path / "out.parquet")]) == 0
    assert "model@1: 250,000 rows in" in capsys.readouterr().out
    assert cli.main([*words, str(tmp_path / "no"), str(tmp_path / "out.parquet")]) == 1
    assert "cannot be read as Parquet" in capsys.readouterr().err
    assert cli.main(["score", "--model", "m", "--registry", str(tmp_path / "x"), "a", "b"]) == 1
    assert "no registry at" in capsys.readouterr().err


CHILD = """
    import sys
    from engine.scoring import score
    from engine.registry import ModelRegistry
    registry, source, target = sys.argv[1:]
    done = score(ModelRegistry(registry).resolve("model"), source, target, threads=1)
    print(done.resumed)
"""


@pytest.mark.slow
def test_a_killed_run_is_resumed(registry, source, tmp_path):
    target = tmp_path / "out.parquet"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    command = [sys.executable, "-c", textwrap.dedent(CHILD), str(registry.path), str(source), str(target)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    first = tmp_path / "out.parquet.parts" / "000000.parquet"
    until = time.monotonic() + 60
    while not first.exists() and child.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.0005)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    if not target.exists():
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        assert int(done.stdout) >= 1
    assert (pq.read_table(target)["prediction"].to_numpy() == expected(250_000)).all()
