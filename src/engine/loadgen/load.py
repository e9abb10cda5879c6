"""Open-loop load: a schedule of arrivals drawn beforehand, and the record of a run.

Latency counts from the instant when a request was *due*. A generator that waits for an answer before it sends the next
request hides every stall. Here the schedule is fixed first, the drivers of `engine.loadgen.drive` send each request as
soon as it is due and they get the processor, and a `Run` records when each was due, sent and answered. The generator
measures its own lag too: a run in which it sent late is void and has no figures.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from engine._common import arguments, vocabulary

# The codes of the first three are those of engine.Answers.
SOURCES = (*vocabulary.SOURCES, "unanswered")
PRIMARY, FALLBACK, DEFAULT, UNANSWERED = range(4)

# A run is void beyond this: the generator itself spent a fifth of the budget before it sent.
_LAG_SHARE_OF_DEADLINE = 0.2


class Reply(NamedTuple):
    """An answer for driven functions that have no `engine.Answer`.

    Attributes:
        value: the answer.
        source: one of SOURCES.
        reason: any text; runs count answers by it.
        latency_us: microseconds from the call until the answer existed; NaN if not known.
    """

    value: float
    source: str
    reason: str = ""
    latency_us: float = float("nan")


@dataclass(frozen=True, slots=True)
class Schedule:
    """The instants when requests are due.

    Attributes:
        due_ns: int64 [n], ascending nanoseconds from the start, all below `seconds`.
        seconds: length of the run.
    """

    due_ns: npt.NDArray[np.int64]
    seconds: float

    def __len__(self) -> int:
        return len(self.due_ns)


def poisson(rate_per_s: float, seconds: float, seed: int) -> Schedule:
    """Draw the arrivals of a Poisson process. The same seed gives the same arrivals.

    Args:
        rate_per_s: mean arrivals a second.
        seconds: length of the run.
        seed: of the random numbers.

    Raises:
        InputError: a rate or a length that is not above 0, or above 1e9.
    """
    for name, value in (("rate_per_s", rate_per_s), ("seconds", seconds)):
        arguments.number(name, value, 0.0, 1e9, above=True)
    # Given their number, the points of a Poisson process are independent and uniform over its length.
    random = np.random.default_rng(seed)
    count = random.poisson(rate_per_s * seconds)
    return Schedule(np.sort((random.random(count) * seconds * 1e9).astype(np.int64)), seconds)


def percentile(values: npt.NDArray[Any], percent: float) -> float:
    """Return the smallest value that `percent` % of the values do not exceed; NaN for no values."""
    if len(values) == 0:
        return float("nan")
    return float(np.percentile(values, percent, method="inverted_cdf"))


@dataclass(frozen=True, slots=True)
class Run:
    """The record of one run. Arrays are [n], in order of the schedule; times count from the instant an arrival was due.

    Attributes:
        schedule: the instants, and the length of the run.
        deadline_ms: the budget of each arrival, in milliseconds.
        sent_us: float64, microseconds until the request was sent; infinite if never.
        lag_us: float64, the part of `sent_us` that the generator itself caused.
        latency_us: float64, microseconds until the driver held the answer; infinite if none came.
        ready_us: float64, microseconds until the answer existed, by the engine's own account; `latency_us` without one.
        source: uint8, index into SOURCES.
        value: float64, the answer; NaN if none came.
        reasons: number of answers by reason.
        started_ns: the point of `time.monotonic_ns()` that `due_ns` counts from.
    """

    schedule: Schedule
    deadline_ms: float
    sent_us: npt.NDArray[np.float64]
    lag_us: npt.NDArray[np.float64]
    latency_us: npt.NDArray[np.float64]
    ready_us: npt.NDArray[np.float64]
    source: npt.NDArray[np.uint8]
    value: npt.NDArray[np.float64]
    reasons: Counter[str]
    started_ns: int

    @property
    def on_time(self) -> npt.NDArray[np.bool_]:
        """bool [n]: whether the driver held the answer within the deadline."""
        return (self.source != UNANSWERED) & (self.latency_us <= self.deadline_ms * 1e3)

    @property
    def on_time_ready(self) -> npt.NDArray[np.bool_]:
        """bool [n]: whether the answer existed within the deadline, even if Python got it back later."""
        return (self.source != UNANSWERED) & (self.ready_us <= self.deadline_ms * 1e3)

    @property
    def void(self) -> str | None:
        """Why the run has no figures; None if it has."""
        if len(self.schedule) == 0:
            return "no arrival fell into the run"
        lag_p99, bound = percentile(self.lag_us, 99), self.deadline_ms * 1e3 * _LAG_SHARE_OF_DEADLINE
        if lag_p99 > bound:
            return f"generator could not keep up: p99 of its own lag {lag_p99:.0f} us, bound {bound:.0f} us"
        return None

    @property
    def primary_in_time_per_s(self) -> float:
        """Answers of the primary in time, a second: its goodput."""
        return float((self.on_time & (self.source == PRIMARY)).sum() / self.schedule.seconds)

    def lag(self) -> dict[str, float]:
        """Return the generator's own lag in microseconds: lag_us_p50, lag_us_p99 and lag_us_max."""
        return {
            "lag_us_p50": percentile(self.lag_us, 50),
            "lag_us_p99": percentile(self.lag_us, 99),
            "lag_us_max": float(self.lag_us.max(initial=0.0)),
        }

    def summary(self) -> dict[str, Any]:
        """Return the figures of the run; of a void run only the reason and the generator's lag.

        arrivals, offered_per_s, on_time and on_time_ready (shares), primary_in_time_per_s, sources and reasons (shares
        by name), latency_us_p50, latency_us_p99, latency_us_p99.9, latency_us_max, and the keys of `lag()`. A void run
        has void, arrivals and the keys of `lag()`.
        """
        count = len(self.schedule)
        if self.void is not None:
            return {"void": self.void, "arrivals": count, **self.lag()}
        return {
            "arrivals": count,
            "offered_per_s": count / self.schedule.seconds,
            "on_time": float(self.on_time.mean()),
            "on_time_ready": float(self.on_time_ready.mean()),
            "primary_in_time_per_s": self.primary_in_time_per_s,
            "sources": {name: float((self.source == code).mean()) for code, name in enumerate(SOURCES)},
            "reasons": {name: times / count for name, times in self.reasons.most_common()},
            **{f"latency_us_p{percent}": percentile(self.latency_us, percent) for percent in (50, 99, 99.9)},
            "latency_us_max": float(self.latency_us.max()),
            **self.lag(),
        }
