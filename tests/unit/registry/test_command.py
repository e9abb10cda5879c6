"""`engine registry …` as it is typed."""

import json

import pytest
from tests.unit.registry.bundles import constant

from engine import cli
from engine.registry import ModelRegistry


@pytest.fixture
def typed(tmp_path, capsys):
    """Run a command on a registry with two versions of "flight-delay". Return its exit status and output."""
    registry = ModelRegistry(tmp_path / "registry", code=False)
    for value in (1, 2):
        registry.register(constant(tmp_path, value), {"auc": 0.5 + value / 10}, name="flight-delay")
    registry.promote("flight-delay", 1)

    def run(*words):
        status = cli.main(["registry", "--registry", str(registry.path), *words])
        captured = capsys.readouterr()
        return status, captured.out + captured.err

    run.registry = registry
    return run


def test_list(typed):
    status, out = typed("list")
    assert status == 0
    assert "flight-delay@2  production: 1" in out
    lines = typed("list", "flight-delay")[1].splitlines()
    assert [line.split()[0] for line in lines] == ["version", "flight-delay@1", "flight-delay@2"]
    assert "production" in lines[1]
    assert "auc 0.6" in lines[1]


def test_show_and_diff(typed):
    body = json.loads(typed("show", "flight-delay@production")[1])
    assert body["registered"]["number"] == 1
    assert body["metrics"] == {"auc": 0.6}
    out = typed("diff", "flight-delay@1", "flight-delay@2")[1]
    assert "metrics.auc" in out
    assert typed("diff", "flight-delay@1", "flight-delay@1")[1] == "nothing\n"
    assert typed("show", "flight-delay@1", "--diff")[1] == ""


def test_promote_rollback_and_history(typed):
    assert typed("promote", "flight-delay@2", "--note", "better") == (
        0,
        "flight-delay@production is flight-delay@2, generation 2\n",
    )
    assert typed("promote", "flight-delay@production", "--alias", "stable")[0] == 0
    assert typed("rollback", "flight-delay") == (
        0,
        "flight-delay@production is flight-delay@1 again, generation 3\n",
    )
    _, out = typed("--json", "history", "flight-delay")
    entries = json.loads(out)
    assert [entry["action"] for entry in entries] == ["register"] * 2 + ["promote"] * 3 + ["rollback"]
    assert entries[3]["note"] == "better"


def test_verify_and_gc(typed):
    text = f"2 versions, 2 blobs, {_bytes(typed)} bytes read back\nall as registered\n"
    assert typed("verify") == (0, text)
    (typed.registry.path / "blobs" / "1.part").write_bytes(b"abc")
    assert typed("gc") == (0, "removed 1 temporary files and 0 orphans, 3 bytes\n")
    blob = next((typed.registry.path / "blobs").iterdir())
    blob.unlink()
    status, out = typed("verify")
    assert status == 1
    assert "it is missing" in out


def _bytes(typed):
    return f"{sum(path.stat().st_size for path in (typed.registry.path / 'blobs').iterdir()):,}"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["show", "flight-delay@9"], "has no version 9; there are: 1, 2"),
        (["rollback", "../x"], "name must be"),
        (["rollback", "flight-delay"], "to roll back to"),
        (["promote", "flight-delay@1", "--alias", "7"], "alias must not be a number"),
    ],
)
def test_errors_are_explained(typed, words, text):
    status, out = typed(*words)
    assert status == 1
    assert text in out
    assert "Traceback" not in out


def test_a_mistyped_folder_is_not_made_a_registry(tmp_path, capsys):
    assert cli.main(["registry", "--registry", str(tmp_path / "no"), "list"]) == 1
    assert "no registry at" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
