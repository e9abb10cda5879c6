"""Safety under any load and any faults: one outcome a request, no late work, bounds kept, runs repeatable."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import seed as hypothesis_seed
from tests.sim.plans import check, plans
from tests.sim.seed import SEED

from engine.simulation.random_plans import EXACT, random_plan
from engine.simulation.replay import command
from engine.simulation.simulate import simulate


def check_seed(seed, requests):
    plan = random_plan(seed, requests)
    check(simulate(**plan), plan)


# 100 plans of 2,000 requests: 200,000 in `make test`.
@hypothesis_seed(SEED)
@settings(max_examples=100, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(plan=plans(requests=2_000))
def test_invariants_hold_under_any_load_and_faults(plan):
    check(simulate(**plan), plan)


# The promise, checked without the simulator's help: without noise in the machine no answer is late, whatever the
# primary does. (Cancels are left out, because a core may be busy for a caller that gave up; a clock jump is noise.)
@hypothesis_seed(SEED)
@settings(max_examples=50, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(plan=plans(requests=2_000))
def test_without_noise_every_answer_is_in_time(plan):
    noise = ("jumping", "oversleeping", "cancelling")
    plan |= EXACT | {"faults": [fault for fault in plan["faults"] if fault["fault"] not in noise]}
    result = simulate(**plan)
    check(result, plan)
    assert result["on_time"] == 1.0, command(plan)


@hypothesis_seed(SEED)
@settings(max_examples=10, deadline=None, database=None)
@given(plan=plans(requests=500))
def test_a_seed_is_a_trace(plan):
    first, again = simulate(**plan), simulate(**plan)
    other = simulate(**(plan | {"seed": plan["seed"] + 1}))
    del first["events_per_s"], again["events_per_s"]
    assert first == again, command(plan)
    assert other["trace_hash"] != first["trace_hash"], command(plan)


# Seeds that once failed, and the defect; so far each was in the simulator.
@pytest.mark.parametrize(
    "seed",
    [
        167,  # a late answer by an overslept fallback timer, after its caller had given up
        1093,  # two faults killed one executor; the end of the first took away its batch
    ],
)
def test_a_seed_that_once_failed(seed):
    check_seed(seed, 10_000)


@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_ten_million_requests(simulation_seed):
    for seed in range(simulation_seed, simulation_seed + 1_000):
        check_seed(seed, 10_000)


@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_long_runs(simulation_seed):
    for seed in range(simulation_seed, simulation_seed + 20):
        check_seed(seed, 500_000)
