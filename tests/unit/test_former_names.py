"""Module paths of version 0.1 that people may have imported keep working, with a warning that names the new one."""

import importlib
import subprocess
import sys

import pytest

FORMER = {
    "engine.service": "engine.rollout",
    "engine.service.probation": "engine.rollout.probation",
    "engine.batch": "engine.scoring",
    "engine.batch.score": "engine.scoring.score",
    "engine.planning": "engine.simulation",
    "engine.planning.simulate": "engine.simulation.simulate",
    "engine.planning.load": "engine.loadgen.load",
    "engine.planning.faults": "engine.testing.faults",
}


@pytest.mark.parametrize("old", FORMER)
def test_a_former_path_is_the_new_module_and_warns(old):
    script = (
        "import importlib, sys, warnings\n"
        "with warnings.catch_warnings(record=True) as seen:\n"
        "    warnings.simplefilter('always')\n"
        f"    old = importlib.import_module({old!r})\n"
        f"new = importlib.import_module({FORMER[old]!r})\n"
        "told = [str(each.message) for each in seen if issubclass(each.category, DeprecationWarning)]\n"
        f"assert any({FORMER[old].split('.')[1]!r} in text for text in told), told\n"
        "for name in getattr(new, '__all__', []):\n"
        "    assert getattr(old, name) is getattr(new, name), name\n"
        f"assert old is new or {old.count('.')} == 1, old\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_former_command_still_runs():
    words = [sys.executable, "-m", "engine.planning.replay", "3", "--requests", "200"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "all holds" in done.stdout


def test_the_new_path_does_not_warn():
    importlib.import_module("engine.rollout")
