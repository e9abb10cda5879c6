"""Engine's options, each once: name, kind, range, default and meaning.

`Engine` checks its arguments by this table, the registry takes from it the options that a version's policy may carry,
and `engine.open` those that it forwards to the engine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from engine._common.arguments import number, one_of, whole
from engine._common.vocabulary import ERROR_RULES, EXPIRED_RULES, LANES, PRIORITIES, UNKNOWN_KEY_RULES
from engine.errors import ConfigError

Kind = Literal["number", "whole", "choice", "flag", "limits", "numbers"]


@dataclass(frozen=True, slots=True)
class Option:
    """One option.

    Attributes:
        name: of the argument.
        kind: "number" (a float), "whole" (an int), "choice" (one of `choices`), "flag" (taken as true or false),
            "limits" (True, False or a mapping of BREAKER_LIMITS), "numbers" (an iterable of ints).
        default: the constructor's. None means off, and None is then accepted.
        meaning: one sentence, in the words of Engine's docstring.
        low, high: the range of a number or int, or of each of several ints; both included.
        above: `low` itself is not in the range.
        choices: accepted words.
        policy: a registered version may carry the option in its policy. False for options of one machine.
    """

    name: str
    kind: Kind
    default: Any
    meaning: str
    low: float = 0
    high: float = float("inf")
    above: bool = False
    choices: tuple[str, ...] = ()
    policy: bool = True

    def checked(self, value: Any, *, name: str | None = None) -> Any:
        """Return `value` as Engine takes it. Raise ConfigError, which names `name`, if the option does not allow it."""
        name = name or self.name
        value = value.item() if isinstance(value, np.generic) else value
        if value is None and self.default is None:
            return None
        match self.kind:
            case "number":
                return number(name, value, self.low, self.high, above=self.above, error=ConfigError)
            case "whole":
                return whole(name, value, int(self.low), int(self.high), error=ConfigError)
            case "choice":
                return one_of(name, value, self.choices, error=ConfigError)
            case "flag":
                return bool(value)
            case "limits":
                return checked_limits(name, value)
            case "numbers":
                if isinstance(value, str | bytes) or not isinstance(value, Iterable):
                    raise ConfigError(
                        f"{name} must be several ints, got {type(value).__name__} {value!r:.60}"
                    )
                each = Option(name, "whole", 0, "", self.low, self.high)
                return sorted({each.checked(one) for one in value})


OPTIONS: Mapping[str, Option] = {
    option.name: option
    for option in (
        Option(
            "deadline_ms",
            "number",
            10.0,
            "milliseconds from the call to the deadline, for calls that give none.",
            above=True,
        ),
        Option(
            "batch_rows_max",
            "whole",
            64,
            "the most rows that the batch lane hands to the primary at once.",
            low=1,
            high=1 << 20,
        ),
        Option(
            "lane", "choice", "auto", 'where the primary runs: "inline", "batch" or "auto".', choices=LANES
        ),
        Option(
            "executors",
            "whole",
            1,
            "threads that run the primary in the batch lane, or `Executors` shared with other engines.",
            low=1,
            high=64,
        ),
        Option(
            "queue_rows_max",
            "whole",
            4096,
            "the most requests in the batch lane at one time.",
            low=1,
            high=1 << 24,
        ),
        Option(
            "spin", "flag", True, "let threads of the batch lane watch for work briefly before they sleep."
        ),
        Option(
            "miss_rate",
            "number",
            1e-4,
            "share of fallbacks that may come late; the learned safety margin aims at it.",
            high=0.5,
            above=True,
        ),
        Option("priority", "choice", "normal", "class of requests that name none.", choices=PRIORITIES),
        Option("weight", "number", 1.0, "this engine's share of shared executors.", high=1e6, above=True),
        Option(
            "on_error",
            "choice",
            "fallback",
            'what answers when the primary fails: "fallback", or "default" at once.',
            choices=ERROR_RULES,
        ),
        Option(
            "expired",
            "choice",
            "raise",
            "what a negative deadline_ms does: it raises, or is answered as expired.",
            choices=EXPIRED_RULES,
        ),
        Option(
            "unknown_keys",
            "choice",
            "ignore",
            "what a key or column that no input has does: it is ignored, or it raises.",
            choices=UNKNOWN_KEY_RULES,
        ),
        Option(
            "allow_nonfinite",
            "flag",
            False,
            "accept NaN and infinity as answers of the primary instead of as failures.",
        ),
        Option(
            "breaker",
            "limits",
            True,
            "rest a primary that keeps failing: True, False, or a mapping of limits.",
        ),
        Option(
            "realtime_priority",
            "whole",
            None,
            "run the engine's own executors under SCHED_FIFO at this priority.",
            low=1,
            high=99,
            policy=False,
        ),
        Option(
            "cpus",
            "numbers",
            None,
            "processors that the engine's own executors may run on.",
            high=1023,
            policy=False,
        ),
    )
}

# Options that a registered version's policy may carry.
POLICY = tuple(option.name for option in OPTIONS.values() if option.policy)

# Limits of the breaker. Each must be above 0; counts are cut to whole numbers.
BREAKER_LIMITS: Mapping[str, Option] = {
    limit.name: limit
    for limit in (
        Option("calls_in_a_row", "number", 10, "failed calls in a row that open it.", above=True),
        Option("rows_share", "number", 0.5, "share of failed rows in a window that opens it.", above=True),
        Option("rows_min", "number", 100, "rows that a window must have for the share to count.", above=True),
        Option("window_ms", "number", 10_000.0, "milliseconds that a window lasts.", above=True),
        Option(
            "rest_ms",
            "number",
            100.0,
            "milliseconds of the first rest; each failed probe doubles it.",
            above=True,
        ),
        Option("rest_ms_max", "number", 5_000.0, "milliseconds of the longest rest.", above=True),
    )
}


def checked_limits(name: str, value: Any) -> bool | dict[str, float]:
    """Return the breaker's limits as given. Raise ConfigError for an unknown limit or one out of range."""
    if isinstance(value, bool):
        return value
    if not isinstance(value, Mapping):
        raise ConfigError(f"{name} must be True, False or a mapping of its limits, got {value!r:.60}")
    if unknown := sorted(map(str, set(value) - set(BREAKER_LIMITS))):
        raise ConfigError(f"{name} has no limit {', '.join(unknown)}; it has {', '.join(BREAKER_LIMITS)}")
    return {key: BREAKER_LIMITS[key].checked(given, name=f"{name}[{key!r}]") for key, given in value.items()}
