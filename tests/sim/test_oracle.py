"""The oracles against each other and against hand-made cases, and the policy against the oracles."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import seed as hypothesis_seed
from hypothesis import strategies as st
from tests.sim.oracle import most_in_time
from tests.sim.seed import SEED

from engine.errors import ConfigError
from engine.simulation import _simulator
from engine.simulation.oracle import goodput_vs_oracle, most_at_most, most_exactly
from engine.simulation.random_plans import EXACT
from engine.simulation.simulate import native_plan, simulate

COSTS = {"base_ns": 5, "row_ns": 5}


@pytest.mark.parametrize(
    ("arrivals", "rows_max", "most"),
    [
        ([(0, 25)] * 5, 2, 3),  # a pair for 15 and one for 10
        ([(0, 25)] * 5, 4, 4),  # four for 25
        ([(0, 9)] * 2, 4, 0),  # not even one
        ([(0, 100), (12, 10)], 4, 2),  # the first, done at 10, then the urgent one, from 12 to 22
        ([(0, 100), (8, 12)], 4, 2),  # first run at 0 it would leave the urgent one till 20, which is in time
        ([(0, 16), (1, 16)], 4, 2),  # one batch from 1 to 16; one after the other the second would end at 20
        (
            [(0, 34), (3, 10), (14, 10)],
            4,
            3,
        ),  # the urgent ones from 3 to 13 and 14 to 24, the patient one last
        ([], 4, 0),
    ],
)
def test_exactly_by_hand(arrivals, rows_max, most):
    assert most_exactly(arrivals, **COSTS, batch_rows_max=rows_max) == most


def brute_force(arrivals, base_ns, row_ns, batch_rows_max):
    """Try every order of every subset, cut into batches in every way."""
    best = 0
    for order in itertools.permutations(range(len(arrivals))):
        for cuts in itertools.product([False, True], repeat=max(len(order) - 1, 0)):
            batches = [[order[0]]] if order else []
            for i, cut in zip(order[1:], cuts, strict=True):
                if cut:
                    batches.append([i])
                else:
                    batches[-1].append(i)
            free = done = 0
            for batch in batches:
                start = max([free, *(arrivals[i][0] for i in batch)])
                end = start + base_ns + row_ns * len(batch)
                if len(batch) <= batch_rows_max and all(end <= sum(arrivals[i]) for i in batch):
                    free, done = end, done + len(batch)
            best = max(best, done)
    return best


_ARRIVALS = st.lists(st.tuples(st.integers(0, 40), st.integers(5, 60)), max_size=5)


@hypothesis_seed(SEED)
@settings(max_examples=60, deadline=None, database=None)
@given(arrivals=_ARRIVALS, base_ns=st.integers(0, 10), row_ns=st.integers(1, 10), rows_max=st.integers(1, 4))
def test_exactly_is_what_trying_everything_finds(arrivals, base_ns, row_ns, rows_max):
    arrivals.sort()
    got = most_exactly(arrivals, base_ns=base_ns, row_ns=row_ns, batch_rows_max=rows_max)
    assert got == brute_force(arrivals, base_ns, row_ns, rows_max)


@hypothesis_seed(SEED)
@settings(max_examples=60, deadline=None, database=None)
@given(
    gaps=st.lists(st.integers(0, 15), max_size=10),
    budget=st.integers(5, 60),
    base_ns=st.integers(0, 10),
    row_ns=st.integers(1, 10),
    rows_max=st.integers(1, 5),
)
def test_exactly_is_what_the_oracle_for_one_deadline_finds(gaps, budget, base_ns, row_ns, rows_max):
    arrivals = list(itertools.accumulate(gaps))
    most = most_in_time(arrivals, budget, base_ns, row_ns, rows_max)
    mixed = [(arrived, budget) for arrived in arrivals]
    assert most_exactly(mixed, base_ns=base_ns, row_ns=row_ns, batch_rows_max=rows_max) == most


@hypothesis_seed(SEED)
@settings(max_examples=100, deadline=None, database=None)
@given(
    arrivals=st.lists(st.tuples(st.integers(0, 100), st.sampled_from([10, 30, 90])), max_size=9),
    base_ns=st.integers(0, 10),
    row_ns=st.integers(1, 10),
    rows_max=st.integers(1, 5),
)
def test_the_bound_is_one(arrivals, base_ns, row_ns, rows_max):
    arrivals.sort()
    costs = {"base_ns": base_ns, "row_ns": row_ns, "batch_rows_max": rows_max}
    assert most_exactly(arrivals, **costs) <= most_at_most(arrivals, **costs) + 1e-6


def test_the_bound_by_hand():
    # A batch of four costs 25: 6.25 a row. One executor has time for 4 rows in 25, and 16 in 100; two for twice that.
    costs = COSTS | {"batch_rows_max": 4}
    assert most_at_most([(0, 25)] * 10, **costs) == pytest.approx(4.0)
    assert most_at_most([(0, 100)] * 20, **costs) == pytest.approx(16.0)
    assert most_at_most([(0, 100)] * 40, **costs, executors=2) == pytest.approx(32.0)
    # A row that must be done by 10 runs alone and costs 10: of ten, one. The others then have 90 left, 14.4 rows.
    assert most_at_most([(0, 10)] * 10 + [(0, 100)] * 20, **costs) == pytest.approx(16.0)
    assert most_at_most([(0, 10)] * 10 + [(0, 100)] * 10, **costs) == pytest.approx(11.0)
    assert most_at_most([(0, 9)] * 10, **costs) == 0.0


def test_too_much_for_the_exact_oracle():
    with pytest.raises(ConfigError, match="at most 14 arrivals, got 15"):
        most_exactly([(0, 1)] * 15, **COSTS, batch_rows_max=1)
    with pytest.raises(ConfigError, match="for one executor, got 2"):
        goodput_vs_oracle(exactly=True, executors=2, requests=5)


@hypothesis_seed(SEED)
@settings(max_examples=60, deadline=None, database=None)
@given(
    seed=st.integers(0, 2**32),
    load=st.sampled_from([0.3, 0.9, 1.5, 3.0]),
    base_us=st.sampled_from([0.0, 50.0, 1000.0]),
    row_us=st.sampled_from([10.0, 120.0, 700.0]),
    rows_max=st.integers(1, 6),
)
def test_no_policy_beats_the_future(seed, load, base_us, row_us, rows_max):
    result = goodput_vs_oracle(
        exactly=True, seed=seed, load=load, batch_base_us=base_us, batch_row_us=row_us, batch_rows_max=rows_max,
        deadline_ms={2.0: 1.0, 10.0: 1.0, 100.0: 1.0}, requests=9, **EXACT,
    )  # fmt: skip
    assert result["in_time"] <= result["oracle"]
    assert result["on_time"] == 1.0


# If a batch costs much before its first row, the next arrival decides which batch to start now. The oracle knows it.
@pytest.mark.parametrize("load", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize(
    ("base_us", "row_us", "share"), [(50.0, 120.0, 0.97), (50.0, 700.0, 0.9), (1000.0, 20.0, 0.72)]
)
def test_small_cases_come_near_the_exact_oracle(load, base_us, row_us, share):
    got = best = 0
    for seed in range(60):
        result = goodput_vs_oracle(
            exactly=True, seed=seed, load=load, batch_base_us=base_us, batch_row_us=row_us, batch_rows_max=4,
            deadline_ms={2.0: 1.0, 10.0: 1.0, 100.0: 1.0}, requests=9, **EXACT,
        )  # fmt: skip
        got, best = got + result["in_time"], best + result["oracle"]
    assert got >= share * best, (got, best)


@pytest.mark.parametrize("load", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("executors", [1, 4])
def test_mixed_deadlines_and_bursts_come_near_the_bound(load, executors):
    result = goodput_vs_oracle(
        load=load,
        requests=int(load * executors * 8_279 * 3.0),
        executors=executors,
        deadline_ms={2.0: 1.0, 10.0: 1.0, 100.0: 1.0},
        faults=[{"fault": "bursting", "requests": 100 * executors, "every_ms": 100.0}],
    )
    assert result["on_time"] == 1.0
    assert result["ratio"] >= 0.95


def test_the_oracle_sees_what_the_policy_sees():
    arguments = {"requests": 50, "faults": [{"fault": "bursting", "requests": 20, "from_ms": 1.0}]}
    arrivals = _simulator.arrivals(native_plan(**arguments))
    assert len(arrivals) == 50
    assert sum(arrived == 1_000_000 for arrived, _ in arrivals) == 20
    assert [budget for _, budget in arrivals] == [10_000_000] * 50
    assert sorted(arrivals) == arrivals


def test_arrivals_are_the_same_for_any_policy_of_random_deadlines():
    rng = random.Random(1)
    mix = {ms: rng.random() for ms in (1.0, 2.0, 3.0)}
    arguments = {"requests": 3_000, "deadline_ms": mix, "rate_per_s": 10.0}
    budgets = [budget for _, budget in _simulator.arrivals(native_plan(**arguments))]
    by_deadline = simulate(**arguments)["by_deadline"]
    assert [budgets.count(round(fate["deadline_ms"] * 1e6)) for fate in by_deadline] == [
        fate["arrived"] for fate in by_deadline
    ]
