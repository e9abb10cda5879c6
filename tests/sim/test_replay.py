"""The checks themselves: each invariant can be broken, the simulator sees it, and one printed command repeats it."""

import json
import shlex
import subprocess
import sys

import pytest
from tests.sim.plans import check

from engine.errors import ConfigError
from engine.simulation import replay
from engine.simulation.fault_plan import INVARIANTS
from engine.simulation.random_plans import EXACT, random_plan
from engine.simulation.simulate import simulate

PLAN = EXACT | {"requests": 500, "load": 0.5, "deadline_ms": 10.0}


@pytest.mark.parametrize("invariant", INVARIANTS)
def test_a_broken_invariant_is_seen(invariant):
    check(simulate(**PLAN), PLAN | {"queue_rows_max": 4096, "batch_rows_max": 64})
    result = simulate(**PLAN, faults=[{"fault": "sabotaging", "broken": invariant, "from_ms": 10.0}])
    assert result["violations"][invariant] > 0
    assert result["first_violation"]
    with pytest.raises(AssertionError, match=r"replay: python -m engine\.simulation\.replay"):
        check(result, PLAN)


def run(command: str) -> subprocess.CompletedProcess[str]:
    words = shlex.split(command)
    assert words[0] == "python"
    return subprocess.run([sys.executable, *words[1:]], capture_output=True, text=True, timeout=60)


def test_a_failing_seed_is_repeated_by_the_command_it_prints(monkeypatch, root):
    monkeypatch.setenv("PYTHONPATH", str(root / "src"))
    first = run("python -m engine.simulation.replay 7 --requests 2000 --sabotage answered_once")
    assert first.returncode == 1, first.stderr
    broken, command, fewest = first.stdout.splitlines()
    assert broken.startswith("broken: answered_once at event ")
    again = run(command.removeprefix("replay: "))
    assert (again.returncode, again.stdout) == (1, first.stdout)
    # The fewest faults that still fail are the sabotage alone.
    shrunk = run(fewest.removeprefix("fewest faults: "))
    assert shrunk.returncode == 1
    assert "broken: answered_once" in shrunk.stdout
    plan = json.loads(shlex.split(fewest)[-1])
    assert plan["faults"] == [{"fault": "sabotaging", "broken": "answered_once"}]


def test_a_plan_as_json_runs_as_it_would_have(capsys):
    plan = random_plan(3, 1_000)
    assert replay.main([json.dumps(plan)]) == 0
    assert "all holds" in capsys.readouterr().out


def test_seeds_are_tried_until_one_fails(capsys):
    assert replay.main(["5", "--seeds", "20", "--requests", "200"]) == 0
    assert replay.main(["5", "--seeds", "20", "--requests", "200", "--sabotage", "answered_once"]) == 1
    assert "replay 5 --requests 200 --sabotage answered_once" in capsys.readouterr().out


def test_liveness_is_replayed_too(capsys):
    plan = {"requests": 20_000, "load": 0.5, "faults": [{"fault": "failing", "until_ms": 500.0}]}
    assert replay.main([json.dumps(plan), "--liveness"]) == 0


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["[1]"], "the plan must be a JSON object"),
        (["{"], "replay: "),
        (["@/nowhere/plan.json"], "/nowhere/plan.json"),
        (['{"load": -1.0}'], "load must be a number"),
        (['{"faults": []}', "--liveness"], "the plan needs a fault that ends"),
    ],
)
def test_bad_arguments_say_so(words, text, capsys):
    assert replay.main(words) == 2
    assert text in capsys.readouterr().err


def test_what_cannot_be_judged_is_refused():
    with pytest.raises(ConfigError, match="give the plan more requests"):
        replay.broken({"requests": 1_000, "faults": [{"fault": "failing", "until_ms": 500.0}]}, liveness=True)
