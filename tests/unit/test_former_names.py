"""Module paths of version 0.1 that people may have imported keep working, with a warning that names the new one."""

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
    "engine.planning.simulation_plan": "engine.simulation.plan",
    "engine.planning.fault_plan": "engine.simulation.fault_plan",
    "engine.planning.liveness": "engine.simulation.liveness",
    "engine.planning.oracle": "engine.simulation.oracle",
    "engine.planning.random_plans": "engine.simulation.random_plans",
    "engine.planning.bench": "engine.loadgen.bench",
    "engine.planning.drive": "engine.loadgen.drive",
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
        "texts = [str(each.message) for each in seen if issubclass(each.category, DeprecationWarning)]\n"
        f"assert any({FORMER[old].split('.')[1]!r} in text for text in texts), texts\n"
        # engine.planning had no public names of its own.
        "for name in getattr(new, '__all__', []) if old.__name__ != 'engine.planning' else []:\n"
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


DOCUMENTED = """
import engine.service
from engine.service import Event, Probation, Service, open
from engine.batch import Scored, score
from engine.batch.score import score as same
from engine.planning import bench, drive, fault_plan, faults, liveness, load, oracle, random_plans, replay
from engine.planning.load import Reply
from engine.planning.oracle import most_at_most
from engine.planning.replay import broken, command
from engine.planning.simulate import simulate
from engine.registry.manifest import Golden
assert engine.service.open is open and same is score and callable(score)
assert load.Reply is Reply and oracle.most_at_most is most_at_most
"""


def test_every_import_that_version_0_1_documented_still_works():
    """The documentation, the README, the change log and the examples of version 0.1, and its own tests."""
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:engine", "-c", DOCUMENTED],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_the_new_paths_do_not_warn():
    script = "import engine.loadgen, engine.rollout, engine.scoring, engine.simulation, engine.testing"
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
