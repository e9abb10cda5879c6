"""The demo's phases: the flights served under load, below and above what the primary can do, and while it stalls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.demo.flights import Flights
from engine.demo.training import Served, auc
from engine.model import Model
from engine.planning import drive, faults, load
from engine.serving import Engine

DEADLINE_MS = 10.0
ROWS_MAX = 64
STALL_MS, EVERY_MS = 200.0, 2_000.0
# Name, multiple of the primary's capacity, and whether it stalls.
PHASES = (("0.5x", 0.5, False), ("2x", 2.0, False), ("0.5x, stalled", 0.5, True))
# Flights are served again from the first one when a phase needs more requests than there are.
RECORDS_MAX = 50_000


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase that was run: where the primary ran, the load, what the generator recorded and what it adds up to."""

    lane: str
    name: str
    run: load.Run
    figures: dict[str, Any]


def run_all(
    served: Served, flights: Flights, *, seconds: float, seed: int, say: Callable[[Phase], None]
) -> tuple[dict[str, float], list[Phase]]:
    """Runs every phase, first inline and then through the batch lane; returns the capacities (rows/s) and the phases.

    Requests are dicts of raw values: the feature program is part of what is timed.
    """
    records = flights.records(min(RECORDS_MAX, len(flights)))
    capacities: dict[str, float] = {}
    phases: list[Phase] = []
    for lane, model, drive_phase in (("inline", served.primary, _inline), ("batch", served.onnx, _batch)):
        capacities[lane] = _capacity(served, model, records, lane)
        for name, factor, stalls in PHASES:
            primary = faults.stalling(model, stall_ms=STALL_MS, every_ms=EVERY_MS, armed=False)
            with _engine(served, primary, lane) as engine:
                schedule = load.poisson(factor * capacities[lane], seconds, seed + len(phases))
                run = drive_phase(engine, records, schedule, primary.arm if stalls else None)
                primary.disarm()
            phase = Phase(lane, name, run, _figures(run, flights, len(records), capacities[lane]))
            phases.append(phase)
            say(phase)
    return capacities, phases


def _engine(served: Served, primary: Model, lane: Any) -> Engine:
    return Engine(
        primary,
        fallback=served.fallback,
        default=served.base_rate,
        features=served.program,
        deadline_ms=DEADLINE_MS,
        batch_rows_max=ROWS_MAX,
        lane=lane,
        warmup=served.rows[:4096],
    )


def _inline(
    engine: Engine, records: list[dict[str, Any]], schedule: load.Schedule, on_start: Any
) -> load.Run:
    count = len(records)

    def submit(start: int, stop: int, deadlines_ns: Any) -> Any:
        return engine.predict_many(_slice(records, start % count, stop - start), deadline_ns=deadlines_ns)

    # A call of few rows, for its first answer is held only when its last is.
    return drive.drive_sync_many(
        submit, schedule, deadline_ms=DEADLINE_MS, rows_max=ROWS_MAX, on_start=on_start
    )


def _batch(engine: Engine, records: list[dict[str, Any]], schedule: load.Schedule, on_start: Any) -> load.Run:
    count = len(records)

    def submit(start: int, stop: int, deadlines_ns: Any) -> Any:
        return engine.predict_many_async(
            _slice(records, start % count, stop - start), deadline_ns=deadlines_ns
        )

    return asyncio.run(drive.drive_async_many(submit, schedule, deadline_ms=DEADLINE_MS, on_start=on_start))


def _slice(records: list[dict[str, Any]], start: int, count: int) -> list[dict[str, Any]]:
    rows = records[start : start + count]
    return rows if len(rows) == count else rows + records[: count - len(rows)]


def _capacity(
    served: Served, primary: Model, records: list[dict[str, Any]], lane: str, seconds: float = 1.0
) -> float:
    """The primary's own best closed-loop rate, rows a second.

    Inline that is through the engine on full calls, one after the other, with time enough for every row: features and
    model share the caller's thread. In the batch lane it is the model called directly with its best number of rows.
    """
    best = 0.0
    if lane == "inline":
        with _engine(served, primary, lane) as engine:
            for _ in range(3):
                done, started = 0, time.perf_counter()
                while (elapsed := time.perf_counter() - started) < seconds / 3:
                    engine.predict_many(_slice(records, done % len(records), ROWS_MAX), deadline_ms=1_000)
                    done += ROWS_MAX
                best = max(best, done / elapsed)
        return best
    for size in (8, 16, 32, ROWS_MAX):
        done, started = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - started) < seconds / 4:
            first = done % (len(served.rows) - size)
            primary.predict(served.rows[first : first + size])
            done += size
        best = max(best, done / elapsed)
    return best


def _figures(run: load.Run, flights: Flights, n_records: int, capacity_per_s: float) -> dict[str, Any]:
    figures = run.summary()
    if "void" in figures:
        return figures
    served = np.arange(len(run.schedule)) % n_records
    answered = run.source != load.UNANSWERED
    return figures | {
        "auc": auc(flights.late[served[answered]], run.value[answered]),
        "primary_goodput": run.primary_in_time_per_s / capacity_per_s,
    }
