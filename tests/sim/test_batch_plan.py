"""Batches are formed where they pay, by the cost that was learned, and never at the price of a deadline.

An executor that is idle and starts at once keeps up by itself: what arrives while it works is its next batch. Waiting
on purpose, the deferred dispatch of Symphony (arXiv 2308.07470), is for where a row costs much less in a full batch and
several executors would each take a small one. Clipper (NSDI 2017) finds the size by additive increase; here it is the
learned L(b) that says which size is worth waiting for, as in Clockwork (OSDI 2020).
"""

import pytest

from engine.simulation.simulate import simulate

# us for a batch of b rows: base + row * b
LAUNCH_BOUND = {"batch_base_us": 2000.0, "batch_row_us": 20.0}
ROW_BOUND = {"batch_base_us": 5.0, "batch_row_us": 120.0}
CURVES = [LAUNCH_BOUND, ROW_BOUND, {"batch_base_us": 500.0, "batch_row_us": 60.0}]


def run(load, curve, **arguments):
    executors = arguments.setdefault("executors", 1)
    per_s = 64e6 * executors / (curve["batch_base_us"] + 64 * curve["batch_row_us"])
    result = simulate(load=load, requests=max(3_000, int(load * per_s)), **curve, **arguments)
    assert result["violations_total"] == 0, result["first_violation"]
    return result


@pytest.mark.parametrize("deadline_ms", [10.0, {4.0: 1.0, 20.0: 1.0}], ids=["10", "mixed"])
@pytest.mark.parametrize("executors", [1, 2, 4])
@pytest.mark.parametrize("load", [0.05, 0.2, 0.7, 1.0, 2.0])
@pytest.mark.parametrize("curve", CURVES, ids=["launch", "row", "both"])
def test_never_one_alone_when_another_queued_would_be_in_time_too(curve, load, executors, deadline_ms):
    assert run(load, curve, executors=executors, deadline_ms=deadline_ms)["batches_of_one_avoidable"] == 0


@pytest.mark.parametrize("executors", [1, 2, 4])
@pytest.mark.parametrize("load", [0.1, 0.4, 0.8, 0.9])
@pytest.mark.parametrize("curve", CURVES, ids=["launch", "row", "both"])
def test_whatever_is_chosen_everything_that_fits_is_answered_by_the_primary(curve, load, executors):
    result = run(load, curve, executors=executors, deadline_ms=10.0)
    assert result["primary_in_time"] >= 0.995 * result["requests"]


def test_eight_in_an_instant_are_one_batch_not_eight():
    bursts = [{"fault": "bursting", "requests": 8, "every_ms": 50.0}]
    for executors in (1, 4):
        result = simulate(
            rate_per_s=1e-3,
            requests=800,
            executors=executors,
            deadline_ms=10.0,
            faults=bursts,
            **LAUNCH_BOUND,
        )
        assert result["primary_in_time"] == 800
        assert result["batches"] == 100


def test_waiting_is_for_where_it_pays():
    # A row costs the same in any batch, so waiting gains nothing.
    assert run(0.4, ROW_BOUND, executors=4)["held"] == 0
    # One executor fills the next batch while it runs this one.
    assert run(0.4, LAUNCH_BOUND, executors=1)["held"] == 0
    # Four executors would each start a small batch: they wait, and no request is late for it.
    result = run(0.4, LAUNCH_BOUND, executors=4)
    assert result["held"] > 0
    assert result["batch_rows_mean"] >= 20
    assert result["primary_in_time"] == result["requests"]


def test_what_is_learned_decides():
    # From some moment on a batch costs much before its first row (a busy accelerator, a lock). The cost model must
    # learn the new curve by itself, and batches must fit it.
    plan = {"deadline_ms": 20.0, "executors": 1, "requests": 20_000, "rate_per_s": 5_000.0}
    extra = {"fault": "slow", "extra_us": 2000.0, "from_ms": 1_000.0}
    learned = simulate(**plan, batch_base_us=5.0, batch_row_us=120.0, faults=[extra])
    known = simulate(**plan, batch_base_us=2005.0, batch_row_us=120.0)
    # A quarter of the requests comes before that, one by one.
    batches = 0.25 * plan["requests"] + 0.75 * plan["requests"] / known["batch_rows_mean"]
    assert learned["batch_rows_mean"] > 0.9 * plan["requests"] / batches
    assert learned["primary_in_time"] > 0.97 * known["primary_in_time"]
    assert learned["on_time"] == known["on_time"] == 1.0


def test_what_a_swap_measured_wrongly_is_unlearned_after_every_swap():
    # Each calibration beside the traffic measures too high a cost. Sizes that no longer run must follow the sizes that
    # do, after the hundredth swap as after the first.
    plan = {
        "deadline_ms": 10.0,
        "batch_base_us": 100.0,
        "batch_row_us": 400.0,
        "batch_rows_max": 8,
        "load": 1.0,
    }
    swaps = {"fault": "swapping", "every_ms": 1_000.0}
    rightly = simulate(**plan, requests=400_000, faults=[swaps])
    wrongly = simulate(**plan, requests=400_000, faults=[swaps | {"measured": 1.3}])
    assert wrongly["violations_total"] == 0, wrongly["first_violation"]
    assert wrongly["primary_in_time"] > 0.99 * rightly["primary_in_time"]
    assert wrongly["batch_rows_mean"] > 0.87 * rightly["batch_rows_mean"]


def test_a_burst_that_ends_leaves_its_tail_waiting_no_longer_than_a_batch():
    # No request follows, so the last of a burst would wait in vain for a fuller batch.
    result = simulate(
        rate_per_s=1e-3,
        requests=100,
        executors=4,
        deadline_ms=100.0,
        faults=[{"fault": "bursting", "requests": 10, "every_ms": 200.0}],
        **LAUNCH_BOUND,
    )
    assert result["latency_us_p999"] < 3 * 3_280.0
