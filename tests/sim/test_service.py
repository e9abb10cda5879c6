"""How well the policy serves, on fixed seeds, beyond the invariants. Time is virtual: figures are exact."""

import pytest

from engine.simulation.simulate import simulate

CURVES = {
    "row-bound": {"batch_base_us": 50.0, "batch_row_us": 120.0},
    "launch-bound": {"batch_base_us": 2000.0, "batch_row_us": 20.0},
    "light": {"batch_base_us": 10.0, "batch_row_us": 5.0},
}


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize(
    ("load", "goodput"), [(0.5, 0.48), (0.9, 0.86), (1.0, 0.92), (1.2, 0.92), (2.0, 0.92), (10.0, 0.92)]
)
def test_every_answer_is_in_time_and_the_primary_stays_busy(curve, load, goodput):
    result = simulate(load=load, requests=400_000 if curve == "light" else 60_000, **CURVES[curve])
    assert result["on_time"] == 1.0
    assert result["primary_goodput"] >= goodput


@pytest.mark.parametrize("executors", [1, 4])
@pytest.mark.parametrize("load", [0.5, 2.0])
@pytest.mark.parametrize("curve", ["row-bound", "launch-bound"])
def test_full_service_is_back_within_a_deadline_of_a_stall(curve, load, executors):
    seconds = 8.0
    per_s = 64e6 * executors / (CURVES[curve]["batch_base_us"] + 64 * CURVES[curve]["batch_row_us"])
    result = simulate(
        load=load,
        requests=int(load * per_s * seconds),
        executors=executors,
        stall_ms=200.0,
        stall_every_ms=2000.0,
        **CURVES[curve],
    )
    assert result["on_time"] >= 0.9999
    assert result["recovery_ms"] <= 10.0
    assert result["primary_goodput"] >= 0.85 * 0.9 * min(load, 1.0)


def test_mixed_deadlines_are_all_met():
    result = simulate(load=2.0, requests=100_000, deadline_ms={2.0: 1.0, 10.0: 1.0, 100.0: 1.0})
    assert result["on_time"] == 1.0
    assert result["primary_goodput"] >= 0.9


def test_one_hung_executor_of_four_is_replaced_or_costs_its_quarter():
    plan = {"load": 2.0, "requests": 200_000, "executors": 4, "hang_from_ms": 10.0}
    left, replaced = simulate(**plan, replace_hung=False), simulate(**plan)
    assert left["on_time"] == replaced["on_time"] == 1.0
    assert 0.65 <= left["primary_goodput"] <= 0.76
    assert replaced["replaced"] == 1
    assert replaced["primary_goodput"] >= 0.85


def test_a_primary_that_becomes_twice_as_slow_serves_half():
    result = simulate(load=1.0, requests=100_000, slow_factor=2.0)
    assert result["on_time"] == 1.0
    assert 0.44 <= result["primary_goodput"] <= 0.51


def test_a_primary_that_takes_longer_than_any_deadline_leaves_it_to_the_fallback():
    result = simulate(load=1.0, requests=20_000, slow_factor=1000.0, deadline_ms=10.0)
    assert result["on_time"] == 1.0
    assert result["by_source"]["primary"] == 0
    assert result["by_source"]["fallback"] >= 19_990


def test_where_the_cores_cannot_run_all_fallbacks_the_default_answers_in_time():
    result = simulate(rate_per_s=1_000_000.0, requests=200_000, fallback_us=10.0, cores=2)
    assert result["by_source"]["default"] > 100_000
    assert result["on_time"] == 1.0
