"""Each fault has its documented effect in a simulation, and an error names a bad one."""

import pytest

from engine.errors import ConfigError, InputError, InputTypeError
from engine.simulation import _simulator
from engine.simulation.fault_plan import FAULTS, ends_ms, parse_fault
from engine.simulation.random_plans import EXACT
from engine.simulation.simulate import native_plan, simulate

# 1,000 requests a second for about a second; a batch of any size takes 1 ms, a fallback 10 us.
QUIET = EXACT | {"batch_base_us": 1000.0, "batch_row_us": 0.0, "rate_per_s": 1000.0, "requests": 1000}


def run(*faults, **arguments):
    result = simulate(**QUIET | arguments, faults=list(faults))
    assert result["violations_total"] == 0, result["first_violation"]
    return result


def test_the_vocabulary_is_the_native_one():
    assert set(FAULTS) == set(_simulator.FAULTS)


def test_without_faults_all_is_the_primary_s():
    assert run()["by_source"]["primary"] == 1000


def test_stalling_once_and_again():
    once = run({"fault": "stalling", "stall_ms": 100.0, "from_ms": 200.0})
    again = run({"fault": "stalling", "stall_ms": 100.0, "every_ms": 200.0})
    assert 60 <= once["by_source"]["fallback"] <= 130
    assert again["by_source"]["fallback"] > 3 * once["by_source"]["fallback"]
    assert once["on_time"] == again["on_time"] == 1.0


def test_slow_by_a_factor_and_by_a_sum():
    by_factor = run(
        {"fault": "slow", "factor": 10.0}, deadline_ms=100.0, load=None, rate_per_s=10.0, requests=100
    )
    by_sum = run(
        {"fault": "slow", "extra_us": 8000.0, "extra_us_per_row": 1000.0},
        deadline_ms=100.0,
        rate_per_s=10.0,
        requests=100,
    )
    assert 10_000.0 <= by_factor["latency_us_p50"] <= 10_625.0
    assert 10_000.0 <= by_sum["latency_us_p50"] <= 10_625.0


def test_slow_ten_times_from_a_second_on_for_good_and_for_a_while():
    for_good = run({"fault": "slow", "factor": 50.0, "from_ms": 500.0})
    for_a_while = run({"fault": "slow", "factor": 50.0, "from_ms": 500.0, "until_ms": 600.0})
    assert for_good["by_source"]["fallback"] > 350
    assert 50 <= for_a_while["by_source"]["fallback"] <= 250
    assert for_good["on_time"] == for_a_while["on_time"] == 1.0


def test_failing_and_corrupting():
    failing = run({"fault": "failing", "until_ms": 100.0})
    assert failing["by_reason"].keys() == {"primary_error", "breaker_open"}
    assert failing["breaker_openings"] == 1
    assert run({"fault": "corrupting", "share": 0.1})["by_reason"]["primary_not_finite"] > 50


def test_poisoning_takes_no_neighbour_along():
    # Every instant has four requests, which are batched; one row in ten makes its call fail.
    burst = {"fault": "bursting", "requests": 4, "every_ms": 10.0}
    plan = {"batch_base_us": 100.0, "rate_per_s": 10.0, "deadline_ms": 50.0, "requests": 2000}
    poisoned = run({"fault": "poisoning", "share": 0.1}, burst, **plan)
    assert poisoned["by_reason"].keys() <= {"ok", "primary_error", "released"}
    assert 1700 <= poisoned["by_source"]["primary"] <= 1900
    assert poisoned["by_reason"]["primary_error"] >= 100
    assert poisoned["breaker_openings"] == 0


def test_hanging_for_a_while():
    result = run({"fault": "hanging", "from_ms": 300.0, "until_ms": 500.0})
    # At most twice as long as the fault, because the breaker doubles its rest.
    assert 150 <= result["by_source"]["fallback"] <= 460
    assert result["on_time"] == 1.0


def test_a_hung_executor_is_replaced_and_what_it_brings_is_dropped():
    hung = {"fault": "hanging", "from_ms": 100.0, "until_ms": 102.0}
    hangs_on = {"fault": "hanging", "from_ms": 100.0, "until_ms": 900.0}
    assert run(hung)["replaced"] == 0
    # Its replacement hangs too: one more for each probe of the breaker.
    result = run(hangs_on)
    assert 1 <= result["replaced"] <= 10
    assert result["breaker_openings"] >= 1
    assert result["by_reason"]["breaker_open"] > 300
    assert result["on_time"] == 1.0
    assert run(hangs_on, replace_hung=False)["replaced"] == 0


def test_a_hang_of_one_executor_alone_is_over_within_two_deadlines():
    # It hangs to the end, but the next batch starts on another thread, one and a half deadlines later.
    once = {"fault": "hanging", "from_ms": 100.0, "until_ms": 101.5}
    stuck = {"fault": "stalling", "stall_ms": 800.0, "from_ms": 100.0, "until_ms": 101.5}
    result = run(once, stuck, deadline_ms=10.0)
    assert result["on_time"] == 1.0


def test_dying_and_coming_back():
    result = run({"fault": "dying", "from_ms": 200.0, "until_ms": 400.0})
    assert 150 <= result["by_source"]["fallback"] <= 260
    assert result["by_reason"]["timeout"] > 0
    assert result["on_time"] == 1.0
    for_good = run({"fault": "dying", "executor": 0, "from_ms": 200.0}, executors=2)
    assert for_good["by_source"]["primary"] > 300


def test_two_faults_may_kill_one_executor():
    result = run(
        {"fault": "dying", "from_ms": 200.0, "until_ms": 400.0},
        {"fault": "dying", "from_ms": 200.0, "until_ms": 600.0},
    )
    assert result["by_source"]["fallback"] > 300


def test_a_jump_of_the_clock_excuses_only_those_it_met():
    jump = {"fault": "jumping", "jump_ms": 50.0, "from_ms": 500.0}
    result = run(jump)
    # Open requests lost their time. Requests due during the jump arrive after it, all at once.
    assert 1 <= 1000 * (1.0 - result["on_time"]) <= 20
    assert run(jump | {"every_ms": 100.0})["on_time"] < result["on_time"]


def test_oversleeping_is_learned_by_the_safety_margin():
    # All waits wake 2 ms late: the first fallbacks are late, then the safety margin allows for it.
    result = run(
        {"fault": "oversleeping", "late_ms": 2.0}, {"fault": "hanging"}, deadline_ms=10.0, requests=3000
    )
    assert result["learned_us"]["timer"] >= 2000.0
    assert result["on_time"] > 0.99


def test_bursting_and_overloading_bring_requests_forward():
    plain = run()["duration_s"]
    assert run({"fault": "bursting", "requests": 500, "from_ms": 100.0})["duration_s"] < 0.6 * plain
    assert run({"fault": "overloading", "factor": 4.0})["duration_s"] < 0.3 * plain
    assert run({"fault": "overloading", "factor": 0.5})["duration_s"] > 1.8 * plain


def test_swapping_under_load_fails_nothing_and_frees_every_version():
    result = run({"fault": "swapping", "every_ms": 1.0})
    assert result["by_source"]["primary"] == 1000
    assert result["versions"] > 800
    assert result["versions_freed"] == result["versions"] - 1


def test_a_dearer_version_costs_what_it_costs():
    result = run({"fault": "swapping", "factor": 5.0}, rate_per_s=10.0, requests=100, deadline_ms=100.0)
    assert 5000.0 <= result["latency_us_p50"] <= 5312.5


def test_cancelling():
    assert run({"fault": "cancelling", "share": 1.0}, deadline_ms=2.0)["by_source"]["cancelled"] > 300


def test_a_deadline_at_or_below_the_fallback_s_own_cost_is_answered_at_once():
    at, below = (
        run(deadline_ms=ms, batch_base_us=5000.0, requests=100, fallback_us=100.0) for ms in (0.1, 0.05)
    )
    assert at["on_time"] == below["on_time"] == 1.0
    assert below["by_reason"] == {"no_time": 100}


def test_a_fault_adds_to_a_plan_and_changes_nothing_else():
    with_fault, without = (
        _simulator.arrivals(native_plan(requests=100, faults=faults))
        for faults in ([{"fault": "failing", "share": 0.5}, {"fault": "cancelling", "share": 0.5}], [])
    )
    assert with_fault == without


@pytest.mark.parametrize(
    ("fault", "error", "text"),
    [
        ("slow", InputTypeError, "faults must be a list of dicts, got str"),
        ({"fault": "slow"}, InputTypeError, "faults must be a list of dicts, got dict"),
        (["slow"], InputTypeError, "faults[0] must be a dict with its name as \"fault\", got 'slow'"),
        ([{"fault": "sleepy"}], ConfigError, "faults[0] must be one of the faults stalling, slow,"),
        ([{"fault": "slow", "share": 1}], ConfigError, "faults[0]: slow takes factor, extra_us, "),
        ([{"fault": "stalling"}], ConfigError, "faults[0]: stalling needs stall_ms"),
        ([{"fault": "slow", "factor": "2"}], InputTypeError, "faults[0].factor must be a number, got str"),
        ([{"fault": "failing", "share": 1.5}], InputError, "faults[0].share must be a number from 0 to 1"),
        ([{"fault": "failing", "from_ms": -1.0}], InputError, "faults[0].from_ms must be a number from 0"),
        (
            [{"fault": "failing", "from_ms": 2.0, "until_ms": 1.0}],
            ConfigError,
            "faults[0] needs from_ms <= until_ms, got 2 and 1",
        ),
        (
            [{"fault": "jumping", "jump_ms": 5.0, "every_ms": 5.0}],
            ConfigError,
            "jumping for 5 ms needs a longer every_ms, got 5; time has to go on",
        ),
        ([{"fault": "hanging", "executor": 64}], InputError, "faults[0].executor must be an int"),
        (
            [{"fault": "sabotaging", "broken": "x"}],
            ConfigError,
            "faults[0].broken must be one of answered_once, ",
        ),
    ],
)
def test_a_bad_fault_is_refused_by_name(fault, error, text):
    with pytest.raises(error) as caught:
        simulate(requests=10, faults=fault)
    assert text in str(caught.value)


def test_faults_on_the_command_line():
    assert parse_fault("slow:factor=10,from_ms=5000,until_ms=null") == {
        "fault": "slow",
        "factor": 10,
        "from_ms": 5000,
        "until_ms": None,
    }
    assert parse_fault("hanging") == {"fault": "hanging"}
    assert parse_fault('{"fault": "failing", "share": 0.5}') == {"fault": "failing", "share": 0.5}
    with pytest.raises(ConfigError, match="must be NAME:key=value"):
        parse_fault("slow:10")


@pytest.mark.parametrize(
    ("fault", "ms"),
    [
        ({"fault": "failing"}, None),
        ({"fault": "failing", "until_ms": 5.0}, 5.0),
        ({"fault": "stalling", "stall_ms": 7.0, "from_ms": 3.0}, 10.0),
        ({"fault": "stalling", "stall_ms": 7.0, "every_ms": 30.0}, None),
        ({"fault": "stalling", "stall_ms": 7.0, "every_ms": 30.0, "until_ms": 100.0}, 107.0),
        ({"fault": "jumping", "jump_ms": 7.0, "from_ms": 3.0}, 10.0),
        ({"fault": "bursting", "requests": 9, "from_ms": 3.0}, 3.0),
        ({"fault": "swapping", "from_ms": 3.0}, 3.0),
    ],
)
def test_when_a_fault_is_over(fault, ms):
    assert ends_ms(fault) == ms
