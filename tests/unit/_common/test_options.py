"""The table of Engine's options."""

import numpy as np
import pytest

from engine._common.options import BREAKER_LIMITS, OPTIONS, POLICY
from engine.errors import ConfigError


@pytest.mark.parametrize("name", OPTIONS)
def test_every_default_is_allowed(name):
    option = OPTIONS[name]
    assert option.checked(option.default) == option.default


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("deadline_ms", 0.0, "deadline_ms must be a number above 0"),
        ("deadline_ms", float("nan"), "deadline_ms must be a number above 0"),
        ("deadline_ms", "10", "deadline_ms must be a number, got str '10'"),
        ("batch_rows_max", 0, "batch_rows_max must be an int from 1 to 1,048,576, got 0"),
        ("executors", 65, "executors must be an int from 1 to 64, got 65"),
        ("executors", True, "executors must be an int, got bool True"),
        ("miss_rate", 0.6, "miss_rate must be a number above 0 and at most 0.5, got 0.6"),
        ("lane", "queue", "lane must be one of auto, inline, batch, got 'queue'"),
        ("breaker", "on", "breaker must be True, False or a mapping of its limits, got 'on'"),
        ("breaker", {"rest": 1}, "breaker has no limit rest; it has calls_in_a_row, "),
        ("breaker", {"rest_ms": 0}, "breaker\\['rest_ms'\\] must be a number above 0"),
        ("realtime_priority", 100, "realtime_priority must be an int from 1 to 99, got 100"),
        ("cpus", [0, 1024], "cpus must be an int from 0 to 1,023, got 1,024"),
    ],
)
def test_values_that_are_refused(name, value, text):
    with pytest.raises(ConfigError, match=text):
        OPTIONS[name].checked(value)


def test_numpy_scalars_are_numbers():
    assert OPTIONS["executors"].checked(np.int64(3)) == 3
    assert OPTIONS["weight"].checked(np.float32(0.5)) == 0.5
    with pytest.raises(ConfigError, match="got bool"):
        OPTIONS["executors"].checked(np.bool_(True))


def test_numbers_of_processors_come_sorted_and_once():
    assert OPTIONS["cpus"].checked([2, 0, 2]) == [0, 2]


def test_a_policy_carries_what_holds_on_any_machine():
    assert set(OPTIONS) - set(POLICY) == {"realtime_priority", "cpus"}
    assert all(limit.checked(limit.default) == limit.default for limit in BREAKER_LIMITS.values())
