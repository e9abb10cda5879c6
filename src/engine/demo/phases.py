"""The demo's phases: the flights served below and above the primary's capacity, and while it stalls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.demo.flights import Flights
from engine.demo.training import Served
from engine.loadgen import drive, load
from engine.model import Model
from engine.serving import Engine
from engine.testing import faults
from engine.training.evaluate import auc

DEADLINE_MS = 10.0
ROWS_MAX = 64
STALL_MS, EVERY_MS = 200.0, 2_000.0
# Name, multiple of the primary's capacity, and whether it stalls.
PHASES = (("0.5x", 0.5, False), ("2x", 2.0, False), ("0.5x, stalled", 0.5, True))
# Flights are served again from the first one when a phase needs more requests than there are.
RECORDS_MAX = 50_000


class Requests:
    """The flights as requests: dicts of raw values, and rows of features. The first flight follows the last."""

    def __init__(self, served: Served, flights: Flights) -> None:
        self.count = min(RECORDS_MAX, len(flights))
        # The first flights are repeated after the end, so that the slice of the longest call never wraps around.
        overlap = ROWS_MAX
        records = flights.records(self.count)
        self._records = records + records[:overlap]
        self._rows = np.concatenate([served.rows[: self.count], served.rows[:overlap]])
        self.late = flights.late[: self.count]

    def records_of(self, start: int, stop: int) -> list[dict[str, Any]]:
        """Return requests start to stop as dicts."""
        first = start % self.count
        return self._records[first : first + stop - start]

    def rows_of(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Return requests start to stop as rows of features."""
        first = start % self.count
        return self._rows[first : first + stop - start]


@dataclass(frozen=True, slots=True)
class Phase:
    """One finished phase.

    Attributes:
        lane: in which the primary ran.
        name: of the load.
        run: the load generator's record.
        figures: computed from it.
    """

    lane: str
    name: str
    run: load.Run
    figures: dict[str, Any]


def run_all(
    served: Served, flights: Flights, *, seconds: float, seed: int, say: Callable[[Phase], None]
) -> tuple[dict[str, float], list[Phase]]:
    """Run every phase, first through the batch lane and then inline. Return the capacities (rows/s) and the phases.

    Inline, requests are dicts of raw values, and the measured time includes the feature program. In the batch lane they
    are rows of ready features, because the generator shares its thread with the event loop and would itself be late at
    twice the capacity.

    Args:
        seconds: length of a phase.
        seed: of the arrivals.
        say: called with each finished phase.
    """
    requests = Requests(served, flights)
    capacities: dict[str, float] = {}
    phases: list[Phase] = []
    for lane, model, drive_phase in (("batch", served.onnx, _batch), ("inline", served.primary, _inline)):
        capacities[lane] = _capacity(served, model, requests, lane)
        for name, factor, stalls in PHASES:
            primary = faults.stalling(model, stall_ms=STALL_MS, every_ms=EVERY_MS, armed=False)
            with _engine(served, primary, lane) as engine:
                schedule = load.poisson(factor * capacities[lane], seconds, seed + len(phases))
                run = drive_phase(engine, requests, schedule, primary.arm if stalls else None)
                primary.disarm()
            phase = Phase(lane, name, run, _figures(run, requests, capacities[lane]))
            phases.append(phase)
            say(phase)
    return capacities, phases


def _engine(served: Served, primary: Model, lane: Any) -> Engine:
    return Engine(
        primary,
        fallback=served.fallback,
        default=served.base_rate,
        features=served.program if lane == "inline" else None,
        deadline_ms=DEADLINE_MS,
        batch_rows_max=ROWS_MAX,
        # Nothing can interrupt an inline primary that stalls, so "auto" lets the engine change lanes by itself.
        lane="auto" if lane == "inline" else lane,
        warmup=served.rows[:4096],
    )


def _inline(
    engine: Engine, requests: Requests, schedule: load.Schedule, on_start: drive.OnStart | None
) -> load.Run:
    def submit(start: int, stop: int, deadlines_ns: Any) -> Any:
        return engine.predict_many(requests.records_of(start, stop), deadline_ns=deadlines_ns)

    return drive.drive_sync_many(
        submit, schedule, deadline_ms=DEADLINE_MS, rows_max=ROWS_MAX, on_start=on_start
    )


def _batch(
    engine: Engine, requests: Requests, schedule: load.Schedule, on_start: drive.OnStart | None
) -> load.Run:
    def submit(start: int, stop: int, deadlines_ns: Any) -> Any:
        return engine.predict_many_async(requests.rows_of(start, stop), deadline_ns=deadlines_ns)

    return asyncio.run(drive.drive_async_many(submit, schedule, deadline_ms=DEADLINE_MS, on_start=on_start))


def _capacity(served: Served, primary: Model, requests: Requests, lane: str, seconds: float = 1.0) -> float:
    """Return the primary's own closed-loop rate, in rows a second.

    Inline: one request after the other through the engine, features and model on the caller's thread. Waiting requests
    can be answered in one call, which costs the forest less a row, so inline goodput may exceed this rate.
    Batch lane: the model called directly with its best number of rows.
    """
    if lane == "inline":
        with _engine(served, primary, lane) as engine:

            def ask(start: int) -> object:
                return engine.predict(requests.records_of(start, start + 1)[0], deadline_ms=1_000)

            return max(_rate(ask, 1, seconds / 3) for _ in range(3))

    def score(start: int, size: int) -> object:
        return primary.predict(requests.rows_of(start, start + size))

    return max(_rate(partial(score, size=size), size, seconds / 4) for size in (8, 16, 32, ROWS_MAX))


def _rate(call: Callable[[int], Any], size: int, seconds: float) -> float:
    done, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        call(done)
        done += size
    return done / elapsed


def _figures(run: load.Run, requests: Requests, capacity_per_s: float) -> dict[str, Any]:
    figures = run.summary()
    if "void" in figures:
        return figures
    served = np.arange(len(run.schedule)) % requests.count
    answered = run.source != load.UNANSWERED
    return figures | {
        "auc": auc(requests.late[served[answered]], run.value[answered]),
        "primary_goodput": run.primary_in_time_per_s / capacity_per_s,
    }
