"""The registry: versions, aliases, the content of a bundle, and errors. Expectations are worked out by hand."""

import json
import sqlite3
import subprocess
import threading
import time

import numpy as np
import pytest
from tests.unit.registry.bundles import constant, step

import engine
from engine import transform as t
from engine.errors import RegistryError
from engine.registry import ModelRegistry, Version
from engine.registry.versions import parse


@pytest.fixture
def registry(tmp_path):
    with ModelRegistry(tmp_path / "registry", code=False) as made:
        yield made


@pytest.fixture
def three(registry, tmp_path):
    """A registry with versions 1, 2 and 3 of "model", which answer 1, 2 and 3."""
    for value in (1, 2, 3):
        registry.register(constant(tmp_path, value))
    return registry


def answer(bundle):
    return bundle.primary().predict([[0.0, 0.0]]).tolist()


def test_the_articles_call_registers_under_the_default_name(registry, tmp_path):
    version = registry.register(constant(tmp_path, 7), metrics={"auc": 0.75})
    assert (version.name, version.number, str(version)) == ("model", 1, "model@1")
    bundle = registry.resolve("model@1")
    assert answer(bundle) == [7.0]
    assert bundle.metrics == {"auc": 0.75}
    assert bundle.version == version
    assert (bundle.fallback(), bundle.program(), bundle.golden, bundle.reference) == (None, None, None, None)
    assert (bundle.default, bundle.policy, bundle.diff) == (None, {}, "")


def test_numbers_count_up_for_each_name_and_the_same_bundle_is_the_same_version(registry, tmp_path):
    one, two = constant(tmp_path, 1), constant(tmp_path, 2)
    assert [registry.register(path, name="a").number for path in (one, two, one)] == [1, 2, 1]
    assert registry.register(one, name="b").number == 1
    assert registry.register(one, {"auc": 0.5}, name="a").number == 3  # other metrics, another version
    assert registry.names() == ["a", "b"]
    assert [version.number for version in registry.versions("a")] == [1, 2, 3]


def test_a_versions_digest_depends_on_what_it_is_and_not_on_when_or_where(tmp_path):
    model = constant(tmp_path, 1)
    made = [ModelRegistry(tmp_path / folder, code=False).register(model, {"b": 1, "a": 2}) for folder in "xy"]
    assert made[0].digest == made[1].digest


def test_a_bundle_gives_back_what_was_registered(registry, tmp_path):
    program = engine.FeatureProgram.fit([t.number("a"), t.number("b")], {"a": [0.0], "b": [0.0]})
    version = registry.register(
        step(tmp_path, 10, 20),
        {"auc": np.float64(0.5)},
        name="flight-delay",
        fallback=constant(tmp_path, 15),
        default=0.25,
        program=program,
        golden=(np.array([[1.0, 0.0], [2.0, 0.0]]), [10.0, 20.0]),
        reference={"columns": {"a": [1, 2]}},
        policy={"deadline_ms": 5.0, "lane": "inline"},
        lineage={"dataset": "abc", "views": {"flights": "def"}},
    )
    bundle = registry.resolve("flight-delay@1")
    assert bundle.primary().predict([[1.0, 0.0], [2.0, 0.0]]).tolist() == [10.0, 20.0]
    assert bundle.fallback().predict([[0.0, 0.0]]).tolist() == [15.0]
    assert bundle.program().digest == program.digest
    assert bundle.golden.rows.tolist() == [[1.0, 0.0], [2.0, 0.0]]
    assert bundle.golden.values.tolist() == [10.0, 20.0]
    assert bundle.reference == {"columns": {"a": [1, 2]}}
    assert (bundle.default, bundle.policy) == (0.25, {"deadline_ms": 5.0, "lane": "inline"})
    assert bundle.lineage["dataset"] == "abc"
    assert bundle.lineage["environment"]["packages"]["numpy"] == np.__version__
    assert bundle.manifest["shape"] == {"n_features": 2, "n_outputs": 1}
    assert registry.resolve(version).version == version
    assert registry.resolve(f"flight-delay@sha256:{version.digest}").version == version
    assert registry.resolve(f"flight-delay@sha256:{version.digest[:8]}").version == version


def test_golden_rows_alone_get_the_stored_primarys_answers(registry, tmp_path):
    registry.register(step(tmp_path, 10, 20), golden=np.array([[1.0, 0.0], [3.0, 0.0]], dtype=np.float32))
    golden = registry.resolve("model@1").golden
    assert golden.values.tolist() == [10.0, 20.0]
    assert golden.rows.dtype == np.float32


def test_fitted_objects_are_saved_in_their_own_formats(registry, tmp_path):
    import lightgbm
    import xgboost
    from sklearn.linear_model import LogisticRegression

    rows = np.random.default_rng(3).normal(size=(200, 3))
    labels = (rows[:, 0] > 0).astype(int)
    settings = {"objective": "binary", "verbosity": -1, "num_threads": 1}
    booster = lightgbm.train(settings, lightgbm.Dataset(rows, labels), 5)
    boosted = xgboost.XGBClassifier(n_estimators=5, n_jobs=1).fit(rows, labels)
    logistic = LogisticRegression().fit(rows, labels)
    expected = {
        "lightgbm": (booster, booster.predict(rows, num_threads=1)),
        "xgboost-ubjson": (boosted, boosted.predict_proba(rows)[:, 1]),
        "skops": (logistic, logistic.predict_proba(rows)[:, 1]),
    }
    for kind, (fitted, values) in expected.items():
        bundle = registry.resolve(registry.register(fitted))
        assert bundle.manifest["artifacts"]["primary"]["format"] == kind
        np.testing.assert_allclose(bundle.primary().predict(rows), values, rtol=1e-5)


def test_an_early_stopped_wrapper_is_stored_as_it_predicts(registry):
    import xgboost

    rng = np.random.default_rng(4)
    rows = rng.normal(size=(300, 3))
    labels = (rows[:, 0] + rng.normal(size=300) > 0).astype(int)
    fitted = xgboost.XGBClassifier(n_estimators=200, learning_rate=0.5, early_stopping_rounds=3, n_jobs=1)
    fitted.fit(rows[:200], labels[:200], eval_set=[(rows[200:], labels[200:])], verbose=False)
    assert fitted.best_iteration < 150
    stored = registry.resolve(registry.register(fitted)).primary()
    np.testing.assert_allclose(stored.predict(rows), fitted.predict_proba(rows)[:, 1], rtol=1e-5)


def test_scikit_learns_trees_need_trust_because_reading_them_runs_code(registry, tmp_path):
    from sklearn.tree import DecisionTreeClassifier

    rows = np.arange(8.0).reshape(-1, 1)
    tree = DecisionTreeClassifier(random_state=0).fit(rows, rows[:, 0] > 3)
    with pytest.raises(RegistryError, match=r"types that skops does not know.*trust=True"):
        registry.register(tree)
    trusting = ModelRegistry(registry.path, trust=True, code=False)
    bundle = trusting.resolve(trusting.register(tree))
    assert bundle.primary().predict(rows).tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    with pytest.raises(RegistryError, match=r"model@1 primary cannot be loaded.*trust=True"):
        registry.resolve("model@1").primary()


@pytest.mark.parametrize(
    "name",
    [
        "",
        "..",
        "../x",
        "a/../b",
        "a//b",
        "/a",
        "a/",
        "a/.b",
        "-a",
        ".hidden",
        "a" * 129,
        "a b",
        "a\n",
        "ä",
        None,
        7,
        "a@b",
        "a\x00",
        "a\\b",
    ],
)
def test_names_that_are_not_allowed(registry, tmp_path, name):
    with pytest.raises(RegistryError):
        registry.register(constant(tmp_path, 1), name="" if name is None else name)
    for call in (registry.versions, registry.aliases, registry.history, registry.rollback):
        with pytest.raises(RegistryError):
            call(name)
    with pytest.raises(RegistryError):
        registry.promote("model", 1, alias=name)
    assert registry.names() == []


@pytest.mark.parametrize(
    ("reference", "fields"),
    [
        ("a", ("a", "production", None, None)),
        ("a@canary", ("a", "canary", None, None)),
        ("a@7", ("a", None, 7, None)),
        ("a@sha256:0123abcd", ("a", None, None, "0123abcd")),
        ("a..b@x", ("a..b", "x", None, None)),
    ],
)
def test_references(reference, fields):
    found = parse(reference)
    assert (found.name, found.alias, found.number, found.digest) == fields


@pytest.mark.parametrize(
    "reference",
    ["", "@", "a@", "a@b@c", "a@../x", "a@sha256:", "a@sha256:12", "a@sha256:XYZ01234", "a@-1", 7, "../a@1"],
)
def test_references_that_are_none(registry, reference):
    with pytest.raises(RegistryError):
        registry.resolve(reference)


def test_promote_and_rollback_flip_one_alias_and_leave_a_log(three):
    assert three.promote("model", 1).generation == 1
    assert three.promote("model", 2, note="better AUC").generation == 2
    state = three.promote("model", 3)
    assert (state.number, state.generation, state.past) == (3, 3, (1, 2))
    three.promote("model", 1, alias="canary")
    assert answer(three.resolve("model@production")) == [3.0]
    assert three.rollback("model").number == 2
    assert answer(three.resolve("model")) == [2.0]
    state = three.rollback("model", note="again")
    assert (state.number, state.generation, state.past) == (1, 5, ())
    with pytest.raises(RegistryError, match="model@production has no version before 1 to roll back to"):
        three.rollback("model")
    assert [state.alias for state in three.aliases("model")] == ["canary", "production"]
    log = [
        (entry.action, entry.before, entry.after, entry.generation)
        for entry in three.history("model", "production")
    ]
    assert log == [
        ("promote", None, 1, 1), ("promote", 1, 2, 2), ("promote", 2, 3, 3),
        ("rollback", 3, 2, 4), ("rollback", 2, 1, 5),
    ]  # fmt: skip
    notes = {entry.note for entry in three.history("model")}
    assert {"better AUC", "again"} <= notes
    assert all("@" in entry.who for entry in three.history("model"))


def test_promoting_what_is_there_already_changes_nothing(three):
    three.promote("model", 2)
    assert three.promote("model", 2).generation == 1
    assert len(three.history("model", "production")) == 1


@pytest.mark.parametrize("version", [2, "2", "production"])
def test_what_promote_takes_for_a_version(three, version):
    three.promote("model", 2)
    assert three.promote("model", version, alias="blue").number == 2


def test_promote_takes_a_version_of_its_own_name_only(three, tmp_path):
    other = three.register(constant(tmp_path, 9), name="other")
    assert three.promote("other", other).number == 1
    with pytest.raises(RegistryError, match=r"other@1 is not a version of 'model'"):
        three.promote("model", other)


def test_a_flip_can_be_made_to_depend_on_the_generation_that_was_seen(three):
    three.promote("model", 1, generation=0)
    with pytest.raises(RegistryError, match=r"model@production has moved on: expected generation 0, got 1"):
        three.promote("model", 2, generation=0)
    three.promote("model", 2, generation=1)
    three.rollback("model", generation=2)
    with pytest.raises(RegistryError, match="moved on"):
        three.rollback("model", generation=2)
    assert three.alias("model").number == 1


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        ("nothing@1", r"no model 'nothing' in .*; there are: model"),
        ("nothing", "no model 'nothing'"),
        ("model@9", r"'model' has no version 9; there are: 1, 2, 3"),
        ("model@blue", r"'model' has no alias 'blue'; there are: none"),
        ("model@sha256:00000000", "expected one version"),
    ],
)
def test_what_is_not_there_is_said_with_what_is(three, reference, text):
    with pytest.raises(RegistryError, match=text):
        three.resolve(reference)


def test_the_history_is_ordered_even_where_the_clock_goes_backwards(three, monkeypatch):
    real = time.time_ns
    for hour in range(3):
        monkeypatch.setattr(time, "time_ns", lambda hour=hour: real() - hour * 3600 * 10**9)
        three.promote("model", hour + 1)
    entries = three.history("model", "production")
    assert [entry.after for entry in entries] == [1, 2, 3]
    assert entries[2].at_ns < entries[0].at_ns
    assert three.rollback("model").number == 2


def test_diff_names_what_differs(registry, tmp_path):
    registry.register(constant(tmp_path, 1), {"auc": 0.5}, lineage={"config": {"trees": 5}}, default=1)
    registry.register(
        constant(tmp_path, 2), {"auc": 0.6}, lineage={"config": {"trees": 9}, "by": "x"}, default=1
    )
    found = registry.diff("model@1", "model@2")
    assert found["metrics.auc"] == (0.5, 0.6)
    assert found["lineage.config.trees"] == (5, 9)
    assert found["lineage.by"] == (None, "x")
    assert "artifacts.primary.digest" in found
    assert "default" not in found
    assert registry.diff("model@1", "model@1") == {}


@pytest.mark.parametrize(
    ("keywords", "text"),
    [
        ({"metrics": {"auc": None}}, r"metrics\['auc'\] must be a number, got None"),
        ({"metrics": {"auc": "high"}}, r"metrics\['auc'\] must be a number, got 'high'"),
        ({"classes": ["a"]}, r"classes must be two labels or more, all distinct, got \['a'\]"),
        ({"classes": ["a", "a"]}, "two labels or more, all distinct"),
        ({"classes": "ab"}, "two labels or more, all distinct, got 'ab'"),
        ({"classes": [0.0, float("nan")]}, "classes must be texts, booleans or finite numbers, got nan"),
        ({"classes": 7}, "classes must be a sequence of labels, got int"),
        ({"policy": {"deadline": 5}}, "policy has no deadline; there are: deadline_ms"),
        ({"policy": {"deadline_ms": [5]}}, "must be a number or text"),
        ({"default": float("inf")}, "default must be a finite number"),
        ({"default": lambda: 0.0}, "default must be a finite number"),
        ({"default": [1.0, 2.0], "golden": np.zeros((1, 2))}, "default must have 1 values, got 2"),
        ({"golden": (np.zeros((1, 2)), [8.0])}, r"golden row 0: expected 8, got 7 \(1 of 1 rows differ\)"),
        ({"golden": (np.zeros((1, 2)), [float("nan")])}, "golden row 0: expected a finite value, got nan"),
        ({"golden": (np.zeros((2, 2)), [7.0])}, r"shapes \[2, 2\] and \[1\]"),
        ({"golden": np.zeros((1, 3))}, r"golden rows: expected rows of shape \[n, 2\]"),
        ({"golden": 5}, "golden must be"),
        ({"golden": ("a", "b")}, "golden must be"),
        ({"fallback": "wide"}, "primary and fallback must agree: 2 features"),
        ({"fallback": "missing.txt"}, "fallback missing.txt cannot be read: No such file"),
        ({"program": "narrow"}, "program must make the primary's 2 features, got 1"),
        ({"program": '{"x": 1}'}, "the program was not written by FeatureProgram.save"),
        ({"program": 5}, "program must be a FeatureProgram"),
        ({"reference": object()}, "reference must be plain JSON"),
        ({"note": "x" * 5000}, "a note may have 4,096 characters"),
        ({"lineage": {"x": float("nan")}}, "plain JSON"),
    ],
)
def test_parts_that_cannot_be_stored_or_do_not_fit(registry, tmp_path, keywords, text):
    if keywords.get("fallback") == "wide":
        keywords = {"fallback": constant(tmp_path, 1, n_features=3)}
    if keywords.get("program") == "narrow":
        keywords = {"program": engine.FeatureProgram.fit([t.number("a")], {"a": [0.0]})}
    with pytest.raises(RegistryError, match=text):
        registry.register(constant(tmp_path, 7), **keywords)
    assert registry.names() == []


def test_models_that_cannot_be_stored(registry, tmp_path):
    with pytest.raises(RegistryError, match="a Python callable: its code lives in your program"):
        registry.register(lambda rows: rows)
    with pytest.raises(RegistryError, match="a loaded Model, which does not keep the bytes"):
        registry.register(engine.load_model(constant(tmp_path, 1)))
    with pytest.raises(RegistryError, match=r"builtins\.dict"):
        registry.register({})
    with pytest.raises(RegistryError, match="must be a plain file"):
        registry.register("/dev/null")
    pickled = tmp_path / "model.pkl"
    pickled.write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(RegistryError, match="a pickle, which can run any code"):
        registry.register(pickled)
    rubbish = tmp_path / "rubbish"
    rubbish.write_bytes(b"no model at all")
    with pytest.raises(RegistryError, match="begins with b'no model at all'"):
        registry.register(rubbish)
    import lightgbm

    with pytest.raises(RegistryError, match="lightgbm LGBMClassifier, cannot be saved"):
        registry.register(lightgbm.LGBMClassifier())


def test_an_onnx_model_is_stored_whole_or_not_at_all(registry, tmp_path):
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.array([[1.0], [2.0]], dtype=np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "whole.onnx"
    path.write_bytes(model.SerializeToString())
    assert registry.resolve(registry.register(path)).primary().predict([[1.0, 1.0]]).tolist() == [3.0]
    apart = tmp_path / "apart.onnx"
    onnx.save(model, str(apart), save_as_external_data=True, size_threshold=0, location="weights")
    with pytest.raises(RegistryError, match=r"keeps tensors in separate files \(weights\)"):
        registry.register(apart)


def test_the_commit_and_what_was_changed_since_are_recorded(tmp_path):
    from engine.registry import lineage

    lineage.code.cache_clear()
    repository = tmp_path / "repository"
    repository.mkdir()

    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(["git", *identity, *arguments], cwd=repository, check=True, capture_output=True)
        return done.stdout.decode().strip()

    git("init", "-q")
    (repository / "train.py").write_text("rate = 1\n")
    git("add", ".")
    git("commit", "-qm", "first")
    (repository / "train.py").write_text("rate = 2\n")
    registry = ModelRegistry(tmp_path / "registry", code=repository)
    bundle = registry.resolve(registry.register(constant(tmp_path, 1)))
    assert bundle.lineage["code"] == {"commit": git("rev-parse", "HEAD"), "dirty": True}
    assert "-rate = 1\n+rate = 2\n" in bundle.diff
    elsewhere = ModelRegistry(tmp_path / "elsewhere", code=tmp_path)
    assert elsewhere.resolve(elsewhere.register(constant(tmp_path, 1))).lineage["code"] == {"commit": None}


def test_a_watch_tells_of_each_flip_once(three):
    watch = three.watch("model@production")
    with pytest.raises(RegistryError, match="no alias 'production'"):
        watch.poll()
    three.promote("model", 1)
    assert watch.poll().number == 1
    assert watch.poll() is None
    three.promote("model", 2, alias="canary")
    assert watch.poll() is None
    three.promote("model", 2)
    three.promote("model", 3)
    assert watch.poll().number == 3
    three.rollback("model")
    assert watch.poll().number == 2
    watch.close()
    with pytest.raises(RegistryError, match="only an alias can be followed"):
        three.watch("model@1")
    assert three.watch("model", generation=4).poll() is None


def test_verify_reads_everything_back(three):
    found = three.verify()
    assert (found.versions, found.blobs, found.problems) == (3, 3, [])


def test_gc_removes_what_nobody_refers_to_and_nothing_else(three):
    blobs = three.path / "blobs"
    needed = {path.name for path in blobs.iterdir()}
    (blobs / ("0" * 64)).write_bytes(b"orphan")
    (blobs / "0123.77.abc.part").write_bytes(b"half")
    (blobs / "README").write_bytes(b"somebody's own")
    found = three.gc()
    assert (found.parts, found.orphans, found.bytes) == (1, 1, 10)
    assert {path.name for path in blobs.iterdir()} == {*needed, "README"}
    assert three.verify().problems == []


def test_manifests_are_plain_json_in_the_index(three):
    with sqlite3.connect(three.path / "registry.db") as index:
        (content,) = index.execute("SELECT manifest FROM versions WHERE number=1").fetchone()
    body = json.loads(content)
    assert set(body) == {
        "format", "version", "name", "artifacts", "default", "policy", "metrics", "shape", "lineage"
    }  # fmt: skip


def test_versions_are_values():
    assert Version("a", 1, "0" * 64, 5) == Version("a", 1, "0" * 64, 5)
    assert len({Version("a", 1, "0" * 64, 5), Version("a", 1, "0" * 64, 5)}) == 1


def test_makers_of_one_registry_wait_for_each_other(tmp_path):
    for turn in range(20):
        errors = []
        start = threading.Barrier(8)

        def make(folder=tmp_path / str(turn), errors=errors, start=start):
            start.wait()
            try:
                ModelRegistry(folder, code=False)
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=make) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
