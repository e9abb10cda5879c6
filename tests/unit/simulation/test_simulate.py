import argparse
import json
import math

import pytest

from engine.errors import ConfigError, InputError, InputTypeError
from engine.simulation.command import add_arguments, main
from engine.simulation.simulate import simulate

# A batch of any size takes 1 ms, wake-ups are exact, a fallback takes 10 us.
QUIET = {
    "batch_base_us": 1000.0,
    "batch_row_us": 0.0,
    "batch_noise": 0.0,
    "fallback_noise": 0.0,
    "overshoot_us": 0.0,
    "overshoot_tail_share": 0.0,
}


def run_main(*words: str) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return main(parser.parse_args(words))


def test_an_idle_primary_answers_all():
    result = simulate(rate_per_s=10.0, requests=500, **QUIET)
    assert result["by_source"] == {"primary": 500, "fallback": 0, "default": 0, "cancelled": 0}
    assert result["by_reason"] == {}
    assert result["on_time"] == 1.0
    assert 1000.0 <= result["latency_us_p50"] <= 1062.5
    assert result["capacity_per_s"] == 64_000.0
    assert result["recovery_ms"] is None


def test_no_requests_at_all():
    result = simulate(requests=0)
    assert result["requests"] == result["events"] == 0
    assert result["on_time"] == 1.0
    assert result["primary_goodput"] == 0.0


def test_load_is_a_multiple_of_the_capacity_on_full_batches():
    result = simulate(
        load=0.5, requests=10, executors=4, batch_rows_max=10, batch_base_us=100.0, batch_row_us=90.0
    )
    assert result["capacity_per_s"] == 40_000.0
    assert result["rate_per_s"] == 20_000.0


def test_deadline_zero_is_answered_with_the_default():
    result = simulate(deadline_ms=0.0, requests=100)
    assert result["by_reason"] == {"expired": 100}
    assert result["by_source"]["default"] == 100
    assert result["on_time"] == 1.0


def test_a_mix_of_deadlines_keeps_its_shares():
    result = simulate(deadline_ms={0.0: 1.0, 10.0: 3.0}, requests=20_000, load=0.1)
    assert 0.23 < result["by_reason"]["expired"] / 20_000 < 0.27


def test_nan_answers_go_to_the_fallback():
    result = simulate(rate_per_s=10.0, requests=300, nan_share=1.0, **QUIET)
    assert set(result["by_reason"]) == {"primary_not_finite", "breaker_open"}
    assert result["by_source"]["fallback"] == 300


def test_a_stalled_primary_is_covered():
    result = simulate(rate_per_s=1000.0, requests=4000, stall_ms=200.0, stall_every_ms=1000.0, **QUIET)
    # It answers nothing for a fifth of the time, and the breaker rests it a little longer.
    assert 0.15 < result["by_source"]["fallback"] / 4000 < 0.4
    assert result["on_time"] == 1.0
    assert result["recovery_ms"] < 200.0


def test_a_result_is_plain_json():
    result = simulate(requests=1000)
    assert json.loads(json.dumps(result)) == result


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"load": math.nan}, InputError, "load must be a number from 1e-09 to 1e+06, got nan"),
        ({"load": "2"}, InputTypeError, "load must be a number, got str '2'"),
        ({"deadline_ms": -1.0}, InputError, "deadline_ms must be a number from 0"),
        ({"deadline_ms": {}}, InputError, "at least one deadline with a share above 0"),
        ({"deadline_ms": {10.0: 0.0}}, InputError, "at least one deadline with a share above 0"),
        ({"requests": -1}, InputError, "requests must be an int from 0 to 1,000,000,000, got -1"),
        ({"requests": 1.5}, InputTypeError, "requests must be an int, got float 1.5"),
        ({"executors": 65}, InputError, "executors must be an int from 1 to 64, got 65"),
        ({"executors": True}, InputTypeError, "executors must be an int, got bool True"),
        ({"crash_share": 1.01}, InputError, "crash_share must be a number from 0 to 1, got 1.01"),
        ({"batch_row_us": math.inf}, InputError, "batch_row_us must be a number from 0"),
        ({"load": 1.0, "rate_per_s": 5.0}, ConfigError, "load or rate_per_s, not both"),
        ({"batch_base_us": 0.0, "batch_row_us": 0.0}, ConfigError, "a full batch must cost more than 0"),
        ({"stall_ms": 5.0}, ConfigError, "stall_ms=5 needs a longer stall_every_ms, got 0"),
        (
            {"stall_ms": 5.0, "stall_every_ms": 5.0},
            ConfigError,
            "stall_ms=5 needs a longer stall_every_ms, got 5",
        ),
        (
            {"burst_requests": 5},
            ConfigError,
            "burst_requests and burst_every_ms belong together, got 5 and 0",
        ),
        ({"requests": 10**9, "rate_per_s": 1.0}, ConfigError, "give a higher rate or fewer requests"),
    ],
)
def test_bad_arguments_name_themselves(arguments, error, text):
    with pytest.raises(error) as caught:
        simulate(**arguments)
    assert text in str(caught.value)


def test_main_prints_a_summary(capsys):
    assert run_main("--load", "0.5", "--requests", "1000") == 0
    out = capsys.readouterr().out
    assert "on time     100.0000 %" in out
    assert "invariants  all hold" in out


def test_main_writes_json(tmp_path, capsys):
    path = tmp_path / "result.json"
    assert run_main("--requests", "100", "--deadline-ms", "2:1,10:2", "--seed", "7", "--json", str(path)) == 0
    written = json.loads(path.read_text())
    expected = simulate(requests=100, deadline_ms={2.0: 1.0, 10.0: 2.0}, seed=7)
    del written["events_per_s"], expected["events_per_s"]
    assert written == expected
    assert run_main("--requests", "100", "--json", "-") == 0
    assert json.loads(capsys.readouterr().out)["requests"] == 100


def test_main_says_what_is_wrong(capsys):
    assert run_main("--crash-share", "2") == 2
    assert capsys.readouterr().err == "simulate: crash_share must be a number from 0 to 1, got 2.0\n"
    with pytest.raises(SystemExit):
        run_main("--deadline-ms", "2:x")
    assert "expected milliseconds or a mix such as 2:1,10:2,100:1" in capsys.readouterr().err
