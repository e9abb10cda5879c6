"""Deleting, tagging, noting and searching; names, classes and metrics of any kind."""

import math
import sqlite3

import numpy as np
import pytest
from tests.unit.registry.bundles import constant

from engine.errors import RegistryError
from engine.registry import ModelRegistry
from engine.registry.bundle import labels_of


@pytest.fixture
def registry(tmp_path):
    """Three versions of "model": they answer 1, 2 and 3."""
    found = ModelRegistry(tmp_path / "registry", code=False)
    for value in (1, 2, 3):
        found.register(constant(tmp_path, value), {"auc": value / 10})
    return found


def actions(registry, name="model"):
    return [
        (entry.action, entry.alias, entry.before, entry.after, entry.note) for entry in registry.history(name)
    ]


def test_a_deleted_version_is_gone_and_its_number_and_log_stay(registry, tmp_path):
    registry.promote("model", 1)
    registry.promote("model", 2)
    registry.promote("model", 3)
    digest = registry.resolve("model@2").manifest["artifacts"]["primary"]["digest"]
    assert registry.delete("model@2", note="privacy").number == 2
    assert [version.number for version in registry.versions("model")] == [1, 3]
    with pytest.raises(RegistryError, match="'model' has no version 2; there are: 1, 3"):
        registry.resolve("model@2")
    assert registry.rollback("model").number == 1
    assert ("delete", None, 2, 2, "privacy") in actions(registry)
    assert (registry.path / "blobs" / digest).exists()
    assert registry.gc().orphans == 1
    assert not (registry.path / "blobs" / digest).exists()
    assert registry.verify().problems == []


def test_the_number_of_the_last_version_is_never_used_again(registry, tmp_path):
    registry.delete("model@3")
    assert registry.register(constant(tmp_path, 4)).number == 4
    assert registry.register(constant(tmp_path, 3), {"auc": 0.3}).number == 5


def test_a_version_that_serves_is_not_deleted_and_an_alias_is_no_version(registry):
    registry.promote("model", 1)
    registry.promote("model", 1, "staging")
    with pytest.raises(
        RegistryError, match="model@1 cannot be deleted, because production, staging points at it"
    ):
        registry.delete("model@1")
    for reference in ("model", "model@production"):
        with pytest.raises(
            RegistryError, match=r"names an alias: say name@NUMBER .* or delete_alias\(name, alias\)"
        ):
            registry.delete(reference)
    with pytest.raises(RegistryError, match="has no version 9"):
        registry.delete("model@9")


def test_going_back_over_a_deleted_version_is_a_real_step(registry):
    for number in (1, 2, 1):
        registry.promote("model", number)
    registry.delete("model@2")
    assert registry.alias("model").past == ()


def test_a_deleted_alias_and_one_made_again_has_a_later_generation(registry):
    registry.promote("model", 1)
    registry.promote("model", 2)
    with pytest.raises(RegistryError, match="expected generation 1, got 2"):
        registry.delete_alias("model", "production", generation=1)
    state = registry.delete_alias("model", "production", note="retired")
    assert (state.number, state.generation) == (2, 2)
    with pytest.raises(RegistryError, match="has no alias 'production'; there are: none"):
        registry.resolve("model")
    with pytest.raises(RegistryError, match="has no alias 'production'"):
        registry.delete_alias("model", "production")
    assert actions(registry)[-1] == ("delete alias", "production", 2, 2, "retired")
    assert registry.promote("model", 1).generation == 3


def test_tags_and_notes_are_found_and_logged(registry):
    assert registry.tags("model@1") == {}
    assert registry.set_tags("model@1", {"team": "Risk", "stage": "old"}) == {"stage": "old", "team": "Risk"}
    assert registry.set_tags("model@1", {"stage": None}, note="tidy") == {"team": "Risk"}
    registry.set_tags("model@1", {"team": "Risk"})
    registry.add_note("model@2", "Beats the Holiday peak")
    assert actions(registry)[3:] == [
        ("tag", None, None, 1, "stage=old; team=Risk"),
        ("tag", None, None, 1, "tidy: stage removed"),
        ("note", None, None, 2, "Beats the Holiday peak"),
    ]

    def numbers(*arguments, **conditions):
        return [version.number for version in registry.search(*arguments, **conditions)]

    assert numbers() == [1, 2, 3]
    assert numbers("risk") == [1]
    assert numbers("holiday") == [2]
    assert numbers(tags={"team": ""}) == numbers(tags={"team": "Risk"}) == [1]
    assert numbers(tags={"team": "risk"}) == []
    assert numbers(metrics={"auc": (0.2, None)}) == [2, 3]
    assert numbers(metrics={"auc": (None, 0.2)}, name="model") == [1, 2]
    assert numbers(metrics={"rmse": (None, None)}) == numbers(name="other") == []
    digest = registry.resolve("model@1").version.digest
    assert registry.versions("model")[0].digest == digest
    registry.delete("model@1")
    assert numbers("risk") == []


@pytest.mark.parametrize(
    ("tags", "text"),
    [
        ({"": "x"}, "a tag's key must be a text of 1 to 256"),
        ({"a": 5}, "tag 'a' must be a text of at most 4,096"),
    ],
)
def test_tags_that_are_no_texts(registry, tags, text):
    with pytest.raises(RegistryError, match=text):
        registry.set_tags("model@1", tags)
    with pytest.raises(RegistryError, match="a note must not be empty"):
        registry.add_note("model@1", " ")


def test_a_registry_of_an_earlier_release_has_no_table_of_tags(registry):
    with sqlite3.connect(registry.path / "registry.db") as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_master WHERE name='tags'").fetchone() == (0,)
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
    assert registry.tags("model@1") == {}
    assert [version.number for version in registry.search("model", tags={"x": ""})] == []


@pytest.mark.parametrize("name", ["Team/Fraud-Model", "team/fraud-model", "A", "a/b/c.d", "x" * 128])
def test_names_with_slashes_and_capitals_are_kept_apart(registry, tmp_path, name):
    version = registry.register(constant(tmp_path, 9), name=name)
    assert str(version) == f"{name}@1"
    registry.promote(name, version)
    assert registry.resolve(name).version == version
    assert registry.resolve(f"{name}@production").manifest["name"] == name
    assert registry.names() == sorted(["model", name])
    assert sorted(path.name for path in registry.path.iterdir() if path.is_dir()) == ["blobs", "notices"]


def test_names_that_differ_in_case_are_two_models(registry, tmp_path):
    registry.register(constant(tmp_path, 5), name="Model")
    assert [version.number for version in registry.versions("Model")] == [1]
    assert len(registry.versions("model")) == 3


def test_metrics_that_are_no_finite_numbers_come_back_as_they_were(registry, tmp_path):
    version = registry.register(
        constant(tmp_path, 8), {"auc": math.nan, "up": math.inf, "down": -np.inf, "n": 3}
    )
    found = registry.resolve(version).metrics
    assert math.isnan(found.pop("auc"))
    assert found == {"up": math.inf, "down": -math.inf, "n": 3}
    assert registry.search(metrics={"auc": (None, None)}, name="model")[:3] == registry.versions("model")[:3]


def test_classes_keep_their_types(registry, tmp_path):
    assert registry.resolve("model@1").classes is None
    with pytest.raises(RegistryError, match="model@1 has no classes: its answers are numbers"):
        registry.resolve("model@1").labels([0.5])
    for classes in ((False, True), (1, 2), ("no", "yes"), (-1.5, 2.0)):
        version = registry.register(constant(tmp_path, 8), classes=classes)
        found = registry.resolve(version).classes
        assert found == classes
        assert [type(label) for label in found] == [type(label) for label in classes]
    bundle = registry.resolve(registry.register(constant(tmp_path, 8), classes=np.array(["a", "b"])))
    assert bundle.classes == ("a", "b")
    assert bundle.labels([0.2, 0.5, 0.7, float("nan")]) == ["a", "a", "b", None]


def test_the_label_of_an_answer_by_hand():
    assert labels_of([[0.1, 0.7, 0.2], [0.5, 0.2, 0.3], [np.nan, 1, 0]], ("a", "b", "c")) == ["b", "a", None]
    assert labels_of([0.0, 2.0, 3.0, 0.5], (10, 20, 30)) == [10, 30, None, None]
    with pytest.raises(RegistryError, match="expected 2 answers a row, one for each class, got 3"):
        labels_of([[0.1, 0.7, 0.2]], (0, 1))


def test_a_scikit_learn_model_has_the_same_bytes_each_time(tmp_path):
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression

    rows = np.random.default_rng(0).normal(size=(60, 2))
    for make in (lambda: RandomForestClassifier(3, random_state=0), LogisticRegression):
        registry = ModelRegistry(tmp_path / "trusting", code=False, trust=True)
        fitted = [make().fit(rows, rows[:, 0] > 0) for _ in range(2)]
        first, second = (registry.register(model) for model in fitted)
        assert first == second
        answers = registry.resolve(first).primary().predict(rows)
        np.testing.assert_allclose(answers, fitted[0].predict_proba(rows)[:, 1], rtol=1e-6)


def test_a_wrong_path_makes_nothing(tmp_path):
    import engine

    wrong = tmp_path / "nowhere" / "registry"
    with pytest.raises(RegistryError, match=r"no registry at .*registry.db is missing; check the path"):
        engine.open("model@production", registry=wrong)
    with pytest.raises(RegistryError, match="no registry at"):
        ModelRegistry(wrong, create=False)
    assert list(tmp_path.iterdir()) == []
