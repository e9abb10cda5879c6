"""Native code reads every key of a plan, and every parameter of a fault has an effect."""

import pytest

from engine.simulation import FAULTS, _simulator
from engine.simulation.fault_plan import _PARAMETERS
from engine.simulation.simulate import native_plan, simulate

PLAN = native_plan(requests=10)
# For each fault, parameters that differ from the defaults one by one: (fault, name, value).
EFFECTS = [
    ("stalling", "stall_ms", 40.0),
    ("stalling", "every_ms", 60.0),
    ("stalling", "executor", 1),
    ("slow", "factor", 5.0),
    ("slow", "extra_us", 900.0),
    ("slow", "extra_us_per_row", 90.0),
    ("slow", "executor", 1),
    ("failing", "share", 0.4),
    ("corrupting", "share", 0.4),
    ("poisoning", "share", 0.4),
    ("hanging", "executor", 1),
    ("dying", "executor", 1),
    ("jumping", "jump_ms", 40.0),
    ("jumping", "every_ms", 60.0),
    ("oversleeping", "late_ms", 0.5),
    ("oversleeping", "share", 0.5),
    ("bursting", "requests", 90),
    ("bursting", "every_ms", 30.0),
    ("overloading", "factor", 4.0),
    ("swapping", "factor", 3.0),
    ("swapping", "measured", 2.0),
    ("swapping", "every_ms", 20.0),
    ("cancelling", "share", 0.7),
]
GIVEN = {
    "stalling": {"stall_ms": 20.0},
    "slow": {"factor": 2.0},
    "failing": {"share": 0.2},
    "corrupting": {"share": 0.2},
    "poisoning": {"share": 0.2},
    "jumping": {"jump_ms": 20.0},
    "oversleeping": {"late_ms": 5.0, "share": 1.0},
    "bursting": {"requests": 50},
    "overloading": {"factor": 2.0},
    "cancelling": {"share": 0.3},
}


@pytest.mark.parametrize("key", PLAN)
def test_native_code_reads_every_key_of_a_plan(key):
    without = {name: value for name, value in PLAN.items() if name != key}
    with pytest.raises(KeyError, match=key):
        _simulator.run(without)


@pytest.mark.parametrize(("fault", "name", "value"), EFFECTS)
def test_every_parameter_of_a_fault_reaches_native_code(fault, name, value):
    def trace(**parameters):
        given = {"fault": fault, "from_ms": 10.0, "until_ms": 100.0, **GIVEN.get(fault, {}), **parameters}
        plan = {"requests": 3_000, "executors": 2, "load": 1.2, "batch_noise": 0.5, "replace_hung": False}
        return simulate(**plan, faults=[given])["trace_hash"]

    assert trace(**{name: value}) != trace()


def test_the_list_of_effects_is_whole():
    tried = {(fault, name) for fault, name, _ in EFFECTS}
    assert tried == {
        (fault, name) for fault in FAULTS for name in _PARAMETERS[fault] if fault != "sabotaging"
    }
