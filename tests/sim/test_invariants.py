"""Whatever the load and the faults: one outcome a request, no late work, queue bounded, runs repeatable."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import seed as hypothesis_seed
from tests.sim.plans import check, plans, random_plan
from tests.sim.seed import SEED

from engine.planning.simulate import simulate


# 100 plans of 2,000 requests: the 200 thousand of `make test`.
@hypothesis_seed(SEED)
@settings(max_examples=100, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(plan=plans(requests=2_000))
def test_invariants_hold_under_any_load_and_faults(plan):
    check(simulate(**plan), plan)


@hypothesis_seed(SEED)
@settings(max_examples=10, deadline=None, database=None)
@given(plan=plans(requests=500))
def test_a_seed_is_a_trace(plan):
    first, again = simulate(**plan), simulate(**plan)
    other = simulate(**(plan | {"seed": plan["seed"] + 1}))
    del first["events_per_s"], again["events_per_s"]
    assert first == again, plan
    assert other["trace_hash"] != first["trace_hash"], plan


@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_ten_million_requests(simulation_seed):
    rng = random.Random(simulation_seed)
    for _ in range(100):
        plan = random_plan(rng, 100_000)
        check(simulate(**plan), plan)
