"""Open-loop load: arrivals drawn beforehand, latency counted from when a request was *due*, not from when it was sent.

A generator that waits for an answer before it sends the next request hides every stall it should have suffered from.
Here the schedule is fixed first; the drivers of `engine.loadgen.drive` send whatever is due as soon as they get the
processor, and a `Run` holds per arrival when it was due, sent and answered. The generator measures itself too: a run in
which it was late in sending is void and has no figures.
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

# Beyond this the generator itself is what answers late: a fifth of the budget was gone before the request was sent.
_LAG_SHARE_OF_DEADLINE = 0.2


class Reply(NamedTuple):
    """What a driven function answers with where it has no `engine.Answer` of its own."""

    value: float
    source: str
    reason: str = ""
    latency_us: float = float("nan")


@dataclass(frozen=True, slots=True)
class Schedule:
    """When requests are due: `due_ns` int64 [n], ascending nanoseconds from the start, all below `seconds`."""

    due_ns: npt.NDArray[np.int64]
    seconds: float

    def __len__(self) -> int:
        return len(self.due_ns)


def poisson(rate_per_s: float, seconds: float, seed: int) -> Schedule:
    """The arrivals of a Poisson process of `rate_per_s` over `seconds`; the same seed gives the same arrivals.

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
    """The smallest value that `percent` of them do not exceed; infinite ones sort last. NaN where there are none."""
    if len(values) == 0:
        return float("nan")
    return float(np.percentile(values, percent, method="inverted_cdf"))


@dataclass(frozen=True, slots=True)
class Run:
    """What happened to each arrival of one run. All arrays are [n], in order of the schedule.

    Attributes:
        schedule: when each was due, and the length of the run.
        deadline_ms: the budget, counted from when an arrival was due.
        sent_us: float64, how long after it was due it was handed over; infinite where it never was.
        lag_us: float64, the part of `sent_us` that is the generator's own doing.
        latency_us: float64, from when it was due until the driver held the answer; infinite where none came.
        ready_us: float64, from when it was due until the answer existed by the answering side's own account; the same
            as `latency_us` where it gives none.
        source: uint8, index into SOURCES.
        value: float64, the answer; NaN where none came.
        reasons: how many answers gave which reason.
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
        """bool [n]: answered, and in the driver's hands, within the deadline counted from when it was due."""
        return (self.source != UNANSWERED) & (self.latency_us <= self.deadline_ms * 1e3)

    @property
    def on_time_ready(self) -> npt.NDArray[np.bool_]:
        """bool [n]: the answer existed within the deadline, whether or not Python had got it back by then."""
        return (self.source != UNANSWERED) & (self.ready_us <= self.deadline_ms * 1e3)

    @property
    def void(self) -> str | None:
        """Why this run gives no figures, or None where it does."""
        if len(self.schedule) == 0:
            return "no arrival fell into the run"
        lag_p99, bound = percentile(self.lag_us, 99), self.deadline_ms * 1e3 * _LAG_SHARE_OF_DEADLINE
        if lag_p99 > bound:
            return f"generator could not keep up: p99 of its own lag {lag_p99:.0f} us, bound {bound:.0f} us"
        return None

    @property
    def primary_in_time_per_s(self) -> float:
        """Answers per second that were both the primary's own and in time: its goodput."""
        return float((self.on_time & (self.source == PRIMARY)).sum() / self.schedule.seconds)

    def lag(self) -> dict[str, float]:
        """The generator's own lag in microseconds: p50, p99 and max."""
        return {
            "lag_us_p50": percentile(self.lag_us, 50),
            "lag_us_p99": percentile(self.lag_us, 99),
            "lag_us_max": float(self.lag_us.max(initial=0.0)),
        }

    def summary(self) -> dict[str, Any]:
        """The figures of the run, or, where it is void, the reason and the generator's lag alone."""
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
