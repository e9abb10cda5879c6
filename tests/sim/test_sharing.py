"""Many models on the same executors, and classes of requests: their order, their waits, and that none starves."""

import pytest

from engine.simulation.simulate import simulate


def shares(result):
    """Return the share of each model's requests that its primary answered in time."""
    return [fate["primary_in_time"] / max(fate["arrived"], 1) for fate in result["by_model"]]


def run(**arguments):
    result = simulate(**{"requests": 60_000, **arguments})
    assert result["violations_total"] == 0, result["first_violation"]
    assert result["on_time"] >= 0.9999
    return result


@pytest.mark.parametrize("executors", [1, 4])
def test_below_capacity_weights_make_no_difference(executors):
    result = run(load=0.7, executors=executors, models=[{"weight": 10.0}, {"weight": 0.1}])
    assert min(shares(result)) >= 0.995


@pytest.mark.parametrize("executors", [1, 4])
def test_above_capacity_each_gets_by_its_weight(executors):
    result = run(load=3.0, executors=executors, models=[{"weight": 3.0}, {"weight": 1.0}])
    heavy, light = shares(result)
    assert result["primary_goodput"] >= 0.85
    assert 2.0 <= heavy / light <= 4.5


def test_a_model_that_asks_for_too_much_takes_nothing_from_one_that_does_not():
    # The second model needs a tenth of the executors, the first three times their capacity.
    result = run(load=3.1, models=[{"share": 3.0}, {"share": 0.1}])
    assert shares(result)[1] >= 0.95


def test_a_dear_model_beside_a_cheap_one_does_not_starve_either():
    result = run(load=2.0, deadline_ms=50.0, models=[{"share": 9.0}, {"share": 1.0, "cost_factor": 10.0}])
    assert min(shares(result)) >= 0.1


def test_a_thousand_idle_models_cost_a_busy_one_nothing():
    alone = run(load=0.9, requests=5_000)
    among = run(load=0.9, requests=5_000, models=[{}] + [{"share": 0.0}] * 1_000)
    assert among["by_source"] == alone["by_source"]
    assert among["events"] == alone["events"]


CLASSES = {"critical": 1.0, "normal": 2.0, "sheddable": 2.0}


def by_class(result):
    return {name: fate["primary_in_time"] / fate["arrived"] for name, fate in result["by_priority"].items()}


def test_below_capacity_classes_make_no_difference():
    assert min(by_class(run(load=0.7, priorities=CLASSES)).values()) >= 0.995


@pytest.mark.parametrize("load", [1.5, 3.0])
@pytest.mark.parametrize("deadline_ms", [10.0, {2.0: 1.0, 10.0: 1.0, 100.0: 1.0}], ids=["10", "mixed"])
def test_above_capacity_the_lower_class_falls_back_first(load, deadline_ms):
    result = run(load=load, priorities=CLASSES, deadline_ms=deadline_ms)
    served = by_class(result)
    assert served["critical"] > served["normal"] > served["sheddable"]
    assert result["by_reason"]["shed"] > 0
    if deadline_ms == 10.0:
        assert served["critical"] >= 0.95
