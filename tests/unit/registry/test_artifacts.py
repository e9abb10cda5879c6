"""Artifacts of the caller's own: any bytes, under any plain name, part of the version's content."""

import json

import pytest
from tests.unit.registry.bundles import constant

from engine import cli
from engine.errors import RegistryError
from engine.registry import ModelRegistry


@pytest.fixture
def registry(tmp_path):
    return ModelRegistry(tmp_path / "registry", default_name="Team/Fraud", code=False)


def test_any_bytes_and_files_belong_to_a_version(registry, tmp_path):
    model = constant(tmp_path, 1)
    (tmp_path / "words" / "below").mkdir(parents=True)
    (tmp_path / "words" / "a.txt").write_bytes(b"a")
    (tmp_path / "words" / "below" / "B ä.txt").write_bytes(b"")
    given = {
        "tokenizer.json": b"{}",
        "Report.HTML": tmp_path / "words" / "a.txt",
        "words": str(tmp_path / "words"),
    }
    version = registry.register(model, artifacts=given)
    assert str(version) == "Team/Fraud@1"
    bundle = registry.resolve(version)
    assert bundle.artifacts == ("Report.HTML", "tokenizer.json", "words/a.txt", "words/below/B ä.txt")
    assert bundle.artifact("tokenizer.json") == b"{}"
    assert (bundle.artifact("Report.HTML"), bundle.artifact("words/below/B ä.txt")) == (b"a", b"")
    # They are content: the same ones are the same version, others another.
    assert registry.register(model, artifacts=given) == version
    assert registry.register(model, artifacts={**given, "tokenizer.json": b"[]"}).number == 2
    assert registry.register(model).number == 3
    assert registry.resolve("Team/Fraud@3").artifacts == ()
    assert registry.verify().problems == []
    registry.delete("Team/Fraud@2")
    assert registry.gc().orphans == 1
    assert registry.resolve(version).artifact("tokenizer.json") == b"{}"


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../up", "a/../b", "a//b", "a\nb", "a\\b", "x" * 257, 7])
def test_names_that_could_be_paths_elsewhere_are_refused(registry, tmp_path, name):
    with pytest.raises(RegistryError, match="the name of an artifact must be 1 to 256 printable characters"):
        registry.register(constant(tmp_path, 1), artifacts={name: b"x"})
    assert registry.names() == []


def test_mistakes_are_named(registry, tmp_path):
    model = constant(tmp_path, 1)
    with pytest.raises(RegistryError, match=r"the artifact .*none cannot be read: No such file"):
        registry.register(model, artifacts={"a": tmp_path / "none"})
    with pytest.raises(RegistryError, match="artifact 'a' must be bytes or a path, got int"):
        registry.register(model, artifacts={"a": 5})
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "x").write_bytes(b"")
    with pytest.raises(RegistryError, match="two artifacts would be called 'f/x'"):
        registry.register(model, artifacts={"f": tmp_path / "f", "f/x": b""})
    bundle = registry.resolve(registry.register(model, artifacts={"primary": b"mine"}))
    assert bundle.artifact("primary") == b"mine"
    with pytest.raises(RegistryError, match=r"has no artifact 'none'; there are: primary"):
        bundle.artifact("none")


def test_the_command_lists_and_writes_them(registry, tmp_path, capsys, monkeypatch):
    registry.register(constant(tmp_path, 1), artifacts={"words/a.txt": b"abc"})
    folder = ["--registry", str(registry.path), "--json"]
    assert cli.main(["registry", "artifact", "Team/Fraud@1", *folder]) == 0
    assert json.loads(capsys.readouterr().out) == [{"artifact": "words/a.txt", "bytes": 3}]
    monkeypatch.chdir(tmp_path)
    assert cli.main(["registry", "artifact", "Team/Fraud@1", "words/a.txt", *folder]) == 0
    assert (tmp_path / "a.txt").read_bytes() == b"abc"
    assert json.loads(capsys.readouterr().out) == {"artifact": "words/a.txt", "output": "a.txt", "bytes": 3}
    assert cli.main(["registry", "artifact", "Team/Fraud@1", "words/a.txt", *folder]) == 1
    assert "a.txt: is there already; say --out FILE" in capsys.readouterr().err
