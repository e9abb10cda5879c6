"""engine score: Parquet to Parquet, in order, in parts that a later run takes up."""

import json
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
    seen = []

    def progress(*counts):
        seen.append(counts)

    done = score(
        registry.resolve("model"), source, tmp_path / "out.parquet", keep=["id"], threads=3, progress=progress
    )
    assert max(seen) == (250_000, 250_000)
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
                score(registry.resolve("model"), source, target, overwrite=True, **keywords)

    interrupted()
    assert not target.exists()
    (tmp_path / "out.parquet.parts" / "000001.parquet").write_bytes(b"PAR1 damaged")
    assert score(registry.resolve("model"), source, target).resumed == 2
    assert (pq.read_table(target)["prediction"].to_numpy() == expected(250_000)).all()
    interrupted()
    again = score(registry.resolve("model"), source, target, keep=["id"], overwrite=True)
    assert again.resumed == 0
    interrupted()
    os.utime(source)
    assert score(registry.resolve("model"), source, target, overwrite=True).resumed == 0


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


def small(path, rows=3):
    pq.write_table(pa.table({"f0": [float(i) for i in range(rows)], "f1": [0.0] * rows}), path)
    return path


@pytest.mark.parametrize("kind", ["same", "spelling", "link", "hard link", "parts"])
def test_the_input_is_never_the_output(registry, tmp_path, monkeypatch, kind):
    source = target = small(tmp_path / "data.parquet")
    monkeypatch.chdir(tmp_path)
    if kind == "spelling":
        target = "../" + tmp_path.name + "/./data.parquet"
    elif kind == "link":
        target = tmp_path / "other.parquet"
        target.symlink_to("data.parquet")
    elif kind == "hard link":
        target = tmp_path / "other.parquet"
        os.link(source, target)
    elif kind == "parts":
        (tmp_path / "out.parquet.parts").mkdir()
        source, target = small(tmp_path / "out.parquet.parts" / "000000.parquet"), tmp_path / "out.parquet"
    before = source.read_bytes()
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"is the input|lies among the parts"):
            score(registry.resolve("model"), source, target, overwrite=overwrite)
    assert source.read_bytes() == before
    assert (
        cli.main(["score", "--model", "model", "--registry", str(registry.path), str(source), str(target)])
        == 1
    )
    assert source.read_bytes() == before


def test_foreign_files_are_never_replaced_and_own_ones_when_asked(registry, tmp_path):
    source, target = small(tmp_path / "in.parquet"), tmp_path / "out.parquet"
    bundle = registry.resolve("model")
    for make in (lambda: target.write_text("my notes"), lambda: small(target, 5), target.mkdir):
        make()
        for overwrite in (False, True):
            with pytest.raises(InputError, match="no output of engine score, so it is never replaced"):
                score(bundle, source, target, overwrite=overwrite)
        target.rmdir() if target.is_dir() else target.unlink()
    assert score(bundle, source, target).rows == 3
    first = target.read_bytes()
    with pytest.raises(InputError, match=r"an output of an earlier run: say overwrite=True \(--overwrite\)"):
        score(bundle, small(source, 2), target)
    assert target.read_bytes() == first
    assert score(bundle, source, target, overwrite=True).rows == 2
    words = ["score", "--model", "model", "--registry", str(registry.path), str(source), str(target)]
    assert cli.main(words) == 1
    assert cli.main([*words, "--overwrite"]) == 0
    assert [path.name for path in tmp_path.glob("out.parquet*")] == ["out.parquet"]


def test_an_output_through_a_link_takes_the_place_of_its_target(registry, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out.parquet").symlink_to("disk/real.parquet")
    score(registry.resolve("model"), small(tmp_path / "in.parquet"), tmp_path / "out.parquet")
    assert (tmp_path / "out.parquet").is_symlink()
    assert pq.read_table(tmp_path / "disk" / "real.parquet").num_rows == 3


def test_a_folder_of_parts_with_other_files_is_left_alone(registry, tmp_path):
    folder = tmp_path / "out.parquet.parts"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds 'thesis.txt', which is no part of an output"):
        score(registry.resolve("model"), small(tmp_path / "in.parquet"), tmp_path / "out.parquet")
    assert (folder / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("classes", "below", "above", "kind"),
    [
        (("no", "yes"), 0.25, 0.75, pa.string()),
        ((False, True), 0.25, 0.75, pa.bool_()),
        ((1, 2), 0.25, 0.75, pa.int64()),
        ((-1.5, 2.0), 0.5, 0.75, pa.float64()),
        ((10, "b"), 0.25, 0.75, pa.string()),
        ((7, 8, 9), 0.0, 2.0, pa.int64()),
    ],
)
def test_labels_are_given_back(registry, tmp_path, classes, below, above, kind):
    version = registry.register(step(tmp_path, below, above), classes=classes)
    score(registry.resolve(version), small(tmp_path / "in.parquet"), tmp_path / "out.parquet", column="y")
    out = pq.read_table(tmp_path / "out.parquet")
    assert out.column_names == ["y", "y_label"]
    assert out["y"].to_pylist() == [below, below, above]
    assert out.schema.field("y_label").type == kind
    found = [
        str(label) if pa.types.is_string(kind) else label for label in (classes[0], classes[0], classes[-1])
    ]
    assert out["y_label"].to_pylist() == found
    with pytest.raises(InputError, match="the labels are called 'f0_label', which is a column to keep"):
        pq.write_table(pa.table({"f0": [0.0], "f1": [0.0], "f0_label": [1]}), tmp_path / "taken.parquet")
        score(
            registry.resolve(version),
            tmp_path / "taken.parquet",
            tmp_path / "b.parquet",
            keep=["f0_label"],
            column="f0",
        )


def test_labels_of_0_and_1_and_answers_that_are_no_numbers(registry, tmp_path):
    source = small(tmp_path / "in.parquet")
    plain = registry.register(step(tmp_path, 0.25, 0.75), classes=(0, 1))
    score(registry.resolve(plain), source, tmp_path / "plain.parquet")
    assert pq.read_table(tmp_path / "plain.parquet").column_names == ["prediction"]
    odd = registry.register(overflowing(tmp_path), classes=("a", "b"))
    score(registry.resolve(odd), source, tmp_path / "odd.parquet")
    assert pq.read_table(tmp_path / "odd.parquet")["prediction_label"].to_pylist() == ["b", "b", None]


def test_a_model_file_is_scored_without_a_registry(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ENGINE_REGISTRY", raising=False)
    source, model = small(tmp_path / "in.parquet"), step(tmp_path, 10, 20)
    assert cli.main(["score", str(source), "out.parquet", "--model", model.name, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["model"], said["rows"], said["output"]) == (model.name, 3, "out.parquet")
    assert pq.read_table("out.parquet")["prediction"].to_pylist() == [10.0, 10.0, 20.0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.parquet", "out.parquet", model.name]
    score(engine.load_model(model), source, tmp_path / "again.parquet")
    assert pq.read_table("again.parquet")["prediction"].to_pylist() == [10.0, 10.0, 20.0]
    with pytest.raises(
        engine.errors.InputTypeError, match="expected a Bundle, a Model or the path of one, got int"
    ):
        score(5, source, tmp_path / "c.parquet")
    assert cli.main(["score", str(source), "d.parquet", "--model", "missing.txt"]) == 1
    assert "no model file 'missing.txt', and no registry at 'registry'" in capsys.readouterr().err


def test_a_name_in_the_registry_comes_before_a_file(registry, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source, model = small(tmp_path / "in.parquet"), step(tmp_path, 1, 2)
    model.rename("model")
    assert cli.main(["score", "in.parquet", "a.parquet", "--model", "model"]) == 0
    assert pq.read_table("a.parquet")["prediction"].to_pylist() == [10.0, 10.0, 20.0]
    assert (
        cli.main(["score", str(source), "b.parquet", "--model", "./model", "--registry", str(registry.path)])
        == 0
    )
    assert pq.read_table("b.parquet")["prediction"].to_pylist() == [1.0, 1.0, 2.0]


def test_texts_of_a_pipeline_and_categories_of_a_forest(registry, tmp_path):
    import lightgbm
    import pandas as pd
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    frame = pd.DataFrame({"city": ["a", "b", "a", None, "c"], "size": [1.0, 2.0, 3.0, 4.0, np.nan]})
    known = frame.fillna({"size": 0.0})
    encoder = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["city"]), remainder="passthrough"
    )
    pipeline = make_pipeline(encoder, Ridge()).fit(known, [1.0, 2.0, 3.0, 4.0, 5.0])
    category = frame.assign(city=pd.Categorical(frame["city"]))
    forest = lightgbm.train(
        {"min_data_in_leaf": 1, "min_data_per_group": 1, "cat_smooth": 0, "verbosity": -1},
        lightgbm.Dataset(category, [1.0, 2.0, 3.0, 4.0, 5.0]),
        5,
    )
    for name, model, rows, expected in (
        ("pipeline", pipeline, known, pipeline.predict(known)),
        ("forest", forest, category, forest.predict(category)),
    ):
        rows.assign(id=range(5))[["id", "size", "city"]].to_parquet(tmp_path / f"{name}.parquet")
        version = registry.register(model, name=name)
        score(registry.resolve(version), tmp_path / f"{name}.parquet", tmp_path / f"{name}.out", keep=["id"])
        out = pq.read_table(tmp_path / f"{name}.out")
        np.testing.assert_allclose(out["prediction"].to_numpy(), expected, rtol=1e-6, atol=1e-6)
