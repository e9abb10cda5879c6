"""The policy against a scheduler that knows the future: never more in time than possible, and not far off."""

import pytest
from hypothesis import given, note, settings
from hypothesis import seed as hypothesis_seed
from hypothesis import strategies as st
from tests.sim.oracle import most_in_time
from tests.sim.seed import SEED

from engine.simulation import _simulator
from engine.simulation.simulate import native_plan, simulate

EXACT = {"batch_noise": 0.0, "fallback_noise": 0.0, "overshoot_us": 0.0, "overshoot_tail_share": 0.0}


def goodput_vs_oracle(**arguments) -> tuple[int, int]:
    """Answered by the primary in time, and the most that could be: one executor, one deadline, no noise."""
    arguments = EXACT | {"executors": 1} | arguments
    result = simulate(**arguments)
    assert result["violations_total"] == 0
    assert result["on_time"] == 1.0  # so every primary answer is one in time
    plan = native_plan(**arguments)
    [(budget_ns, _)] = plan["deadlines"]
    arrivals_ns = [arrived for arrived, _ in _simulator.arrivals(plan)]
    best = most_in_time(
        arrivals_ns, budget_ns, plan["batch_base_ns"], plan["batch_row_ns"], plan["batch_rows_max"]
    )
    return result["by_source"]["primary"], best


def test_oracle_by_hand():
    # Five at once, due after 25: one at a time for 10 each two are in time; in pairs for 15 a pair and one
    # more for 10; in one batch of four for 25, four.
    assert most_in_time([0] * 5, 25, 0, 10, 1) == 2
    assert most_in_time([0] * 5, 25, 5, 5, 2) == 3
    assert most_in_time([0] * 5, 25, 5, 5, 4) == 4
    # The first is left out, for it would make three others late.
    assert most_in_time([0, 8, 8, 8], 9, 9, 0, 4) == 3
    assert most_in_time([], 10, 1, 1, 4) == 0


@hypothesis_seed(SEED)
@settings(max_examples=60, deadline=None, database=None)
@given(
    seed=st.integers(0, 2**32),
    load=st.sampled_from([0.3, 0.9, 1.5, 3.0]),
    base_us=st.sampled_from([0.0, 50.0, 1000.0]),
    row_us=st.sampled_from([10.0, 120.0, 700.0]),
    rows_max=st.integers(1, 6),
    deadline_ms=st.sampled_from([0.5, 2.0, 10.0]),
)
def test_nobody_beats_the_future(seed, load, base_us, row_us, rows_max, deadline_ms):
    note(f"ENGINE_SEED={SEED}")
    got, best = goodput_vs_oracle(
        seed=seed, load=load, batch_base_us=base_us, batch_row_us=row_us, batch_rows_max=rows_max,
        deadline_ms=deadline_ms, requests=60,
    )  # fmt: skip
    assert got <= best


@pytest.mark.parametrize("load", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize(("base_us", "row_us"), [(0.0, 200.0), (50.0, 120.0), (1000.0, 20.0)])
def test_the_policy_comes_near_the_future(load, base_us, row_us):
    got = best = 0
    for seed in range(5):
        one, most = goodput_vs_oracle(
            seed=seed, load=load, batch_base_us=base_us, batch_row_us=row_us, batch_rows_max=8, requests=150
        )
        got, best = got + one, best + most
    assert got >= 0.8 * best, (got, best)
