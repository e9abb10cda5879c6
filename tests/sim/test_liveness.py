"""Liveness: after a fault, service returns to the control's, and soon."""

import pytest
from tests.sim.seed import SEED

from engine.simulation import replay
from engine.simulation.liveness import recovery
from engine.simulation.random_plans import recovering_plan

START, END = 500.0, 900.0
WINDOW = {"from_ms": START, "until_ms": END}

# Each kind of fault that ends, at its worst.
FAULTS = {
    "stall": [{"fault": "stalling", "stall_ms": 400.0, "from_ms": START}],
    "stalls": [{"fault": "stalling", "stall_ms": 30.0, "every_ms": 60.0, **WINDOW}],
    "slow": [{"fault": "slow", "factor": 10.0, **WINDOW}],
    "very slow": [{"fault": "slow", "factor": 200.0, **WINDOW}],
    "dearer by the row": [{"fault": "slow", "extra_us": 500.0, "extra_us_per_row": 300.0, **WINDOW}],
    "faster": [{"fault": "slow", "factor": 0.1, **WINDOW}],
    "failing": [{"fault": "failing", **WINDOW}],
    "nan": [{"fault": "corrupting", **WINDOW}],
    "hang": [{"fault": "hanging", **WINDOW}],
    "one executor hangs": [{"fault": "hanging", "executor": 0, **WINDOW}],
    "dead": [{"fault": "dying", **WINDOW}],
    "burst": [{"fault": "bursting", "requests": 3_000, "from_ms": START}],
    "overload": [{"fault": "overloading", "factor": 6.0, **WINDOW}],
    "swaps": [{"fault": "swapping", "every_ms": 1.0, **WINDOW}],
    "swaps measured too dear": [{"fault": "swapping", "measured": 1.3, "every_ms": 10.0, **WINDOW}],
    "swaps measured too cheap": [{"fault": "swapping", "measured": 0.7, "every_ms": 10.0, **WINDOW}],
    "cancels": [{"fault": "cancelling", "share": 1.0, **WINDOW}],
    "all at once": [
        {"fault": "overloading", "factor": 3.0, **WINDOW},
        {"fault": "slow", "factor": 5.0, **WINDOW},
        {"fault": "failing", "share": 0.3, **WINDOW},
        {"fault": "hanging", "executor": 0, **WINDOW},
        {"fault": "swapping", "every_ms": 5.0, **WINDOW},
    ],
}


@pytest.mark.parametrize("deadline_ms", [10.0, {2.0: 1.0, 10.0: 1.0, 100.0: 1.0}], ids=["10", "mixed"])
@pytest.mark.parametrize("load", [0.5, 2.0])
@pytest.mark.parametrize("fault", FAULTS)
def test_service_comes_back_after(fault, load, deadline_ms):
    plan = {
        "load": load,
        "requests": int(load * 2 * 8_279 * (5.0 if "overload" in fault else 3.0)),
        "executors": 2,
        "deadline_ms": deadline_ms,
        "faults": FAULTS[fault],
    }
    result = recovery(plan, within_ms=1_000.0)
    again = replay.command(plan, ["--liveness"])
    assert result["first_violation"] == "", again
    assert result["recovered"], f"{result['why']}\n{again}"
    # The primary serves again much sooner than that.
    assert result["recovery_ms"] is not None, again
    assert result["recovery_ms"] <= 600.0, again


def test_a_load_of_a_half_three_and_a_half():
    plan = {
        "load": 0.5,
        "requests": 60_000,
        "faults": [{"fault": "overloading", "factor": 6.0, "from_ms": 1_000.0, "until_ms": 2_000.0}],
    }
    result = recovery(plan, within_ms=100.0)
    assert result["recovered"], result["why"]
    assert result["recovery_ms"] <= 50.0


def test_the_report_names_the_figure_that_has_not_recovered():
    # The fault still acts in the window of the judgement.
    plan = {
        "load": 0.9,
        "requests": 30_000,
        "faults": [
            {"fault": "failing", "until_ms": 10.0},
            {"fault": "hanging", "from_ms": 0.0, "until_ms": 2_500.0},
        ],
    }
    result = recovery(plan, within_ms=-2_400.0)
    assert not result["recovered"]
    assert result["why"].startswith("primary's share 0.")


def test_a_fault_without_end_is_part_of_the_control():
    # Ten times as slow from half a second on, to the end: no worse than the same from the start.
    plan = {
        "load": 0.05,
        "requests": 4_000,
        "deadline_ms": 100.0,
        "faults": [
            {"fault": "slow", "factor": 10.0, "from_ms": 500.0},
            {"fault": "failing", "from_ms": 500.0, "until_ms": 600.0},
        ],
    }
    result = recovery(plan, within_ms=1_000.0)
    assert result["recovered"], result["why"]


@pytest.mark.parametrize("seed", range(4))
def test_random_faults_are_recovered_from(seed):
    plan = recovering_plan(SEED + seed)
    wrong = replay.broken(plan, liveness=True)
    assert not wrong, replay.message(SEED + seed, wrong, ["--liveness"])


@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_many_random_faults_are_recovered_from(simulation_seed):
    for seed in range(simulation_seed, simulation_seed + 300):
        wrong = replay.broken(recovering_plan(seed), liveness=True)
        assert not wrong, replay.message(seed, wrong, ["--liveness"])


@pytest.mark.parametrize(
    "fault",
    [
        {"fault": "jumping", "jump_ms": 200.0, "from_ms": 500.0},
        {"fault": "oversleeping", "late_ms": 5.0, "share": 0.01, **WINDOW},
    ],
    ids=["jump", "late wake-ups"],
)
def test_the_safety_margin_forgets_a_bad_moment_within_seconds(fault):
    # Few waits time out here, so the margin learns little about timers: it must decay with time alone.
    plan = {
        "load": 0.6,
        "requests": 90_000,
        "batch_base_us": 500.0,
        "batch_row_us": 60.0,
        "batch_rows_max": 16,
        "deadline_ms": {2.0: 1.0, 10.0: 1.0, 100.0: 1.0},
        "faults": [fault],
    }
    result = recovery(plan, within_ms=7_000.0)
    assert result["recovered"], f"{result['why']}\n{replay.command(plan, ['--liveness'])}"
