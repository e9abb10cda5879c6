"""The drivers: they send the requests of a schedule when they are due, and return a `Run`.

They drive a function, so an engine, its rivals and an ideal that answers at once meet the same generator. One pair runs
in an event loop and one on a blocking thread; of each pair, one driver makes a call per arrival and one a call for all
arrivals that are due. The garbage collector is off during a run, as under `timeit`: collecting the generator's records
would be charged to the engine.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.loadgen._clock import WakeTimer, exact_sleeps, no_collections, sleep_until
from engine.loadgen.load import SOURCES, UNANSWERED, Run, Schedule

SubmitOne = Callable[[int, int], Any]
SubmitMany = Callable[[int, int, npt.NDArray[np.int64]], Any]
OnStart = Callable[[int], object]

# Between set-up and the first arrival, so that the set-up does not make it late.
_LEAD_NS = 20_000_000
# Arrivals that one wake-up may send before the event loop runs again.
_BURST_MAX = 64


async def drive_async(
    submit: SubmitOne,
    schedule: Schedule,
    *,
    deadline_ms: float,
    grace_s: float = 1.0,
    on_start: OnStart | None = None,
) -> Run:
    """Call `submit` once per arrival from the running event loop.

    An exception of `submit`, or of its awaitable, is recorded as a reason and ends nothing.

    Args:
        submit: (index, deadline_ns) -> a future (cheapest) or any awaitable of an object with `value`, `source`,
            `reason` and `latency_us`. Called in order of arrival; deadline_ns is a point of `time.monotonic_ns()`.
        schedule: of `poisson`, for example.
        deadline_ms: the budget in milliseconds, from the instant when an arrival is due.
        grace_s: seconds to wait after the end of the schedule. Later answers count as unanswered.
        on_start: called just before the first arrival with the point of `time.monotonic_ns()` that the schedule counts
            from, so that a fault can keep step with it.

    Returns:
        The record of the run.
    """

    def send(start: int, stop: int, now: int) -> Any:
        return submit(start, int(driver.deadline_ns[start]))

    driver = _LoopDriver(schedule, deadline_ms, send, rows_max=1)
    return await driver.run(grace_s, on_start)


async def drive_async_many(
    submit: SubmitMany,
    schedule: Schedule,
    *,
    deadline_ms: float,
    grace_s: float = 1.0,
    on_start: OnStart | None = None,
) -> Run:
    """Call `submit` from the running event loop, once for all arrivals that are due.

    Args:
        submit: (start, stop, deadlines_ns) -> awaitable of an `engine.Answers` of stop - start rows. deadlines_ns is
            int64 [stop - start], points of `time.monotonic_ns()`.
        schedule, deadline_ms, grace_s, on_start: as in `drive_async`.
    """

    def send(start: int, stop: int, now: int) -> Any:
        return submit(start, stop, driver.deadline_ns[start:stop])

    driver = _LoopDriver(schedule, deadline_ms, send, rows_max=_BURST_MAX)
    return await driver.run(grace_s, on_start)


def drive_sync(
    submit: SubmitOne, schedule: Schedule, *, deadline_ms: float, on_start: OnStart | None = None
) -> Run:
    """Call `submit` once per arrival on the calling thread, blocking.

    Args:
        submit: (index, deadline_ns) -> an object with `value`, `source`, `reason` and `latency_us`.
        schedule, deadline_ms, on_start: as in `drive_async`.
    """

    def submit_many(start: int, stop: int, deadlines_ns: npt.NDArray[np.int64]) -> Any:
        return submit(start, int(deadlines_ns[0]))

    return drive_sync_many(submit_many, schedule, deadline_ms=deadline_ms, rows_max=1, on_start=on_start)


def drive_sync_many(
    submit: SubmitMany,
    schedule: Schedule,
    *,
    deadline_ms: float,
    rows_max: int = _BURST_MAX,
    on_start: OnStart | None = None,
) -> Run:
    """Call `submit` on the calling thread, blocking, once for all arrivals that are due.

    Arrivals wait while a call runs. That wait is in `sent_us` and in the latency, but not in the generator's own lag.

    Args:
        submit: (start, stop, deadlines_ns) -> `engine.Answers` of stop - start rows, as in `drive_async_many`.
        rows_max: arrivals in one call, at most. The driver gets the first answer of a call together with the last.
        schedule, deadline_ms, on_start: as in `drive_async`.
    """
    records = _Records(schedule, deadline_ms)
    start, count = 0, len(schedule)
    with no_collections(), exact_sleeps():
        due_ns, deadline_ns = records.begin(on_start)
        free_ns = records.started_ns
        while start < count:
            now = sleep_until(int(due_ns[start]))
            stop = min(int(np.searchsorted(due_ns, now, side="right")), start + rows_max)
            sent_ns = time.monotonic_ns()
            answers = _result_or_error(submit, start, stop, deadline_ns[start:stop])
            done_ns = time.monotonic_ns()
            records.calls.append([start, stop, sent_ns, done_ns, answers, free_ns])
            start, free_ns = stop, done_ns
    return records.finish()


class _LoopDriver:
    """Sends from a timerfd's reader, because an event loop's own timers are up to a millisecond off."""

    def __init__(
        self, schedule: Schedule, deadline_ms: float, send: Callable[[int, int, int], Any], rows_max: int
    ) -> None:
        self.records = _Records(schedule, deadline_ms)
        self.send = send
        self.rows_max = rows_max
        self.loop = asyncio.get_running_loop()
        self.next = 0
        self.outstanding = 0
        self.drained = self.loop.create_future()
        self.due: list[int] = []
        self.deadline_ns = np.empty(0, np.int64)

    async def run(self, grace_s: float, on_start: OnStart | None) -> Run:
        self.timer = WakeTimer()
        try:
            with no_collections():
                due_ns, self.deadline_ns = self.records.begin(on_start)
                self.due = due_ns.tolist()
                self.loop.add_reader(self.timer.descriptor, self._wake)
                self.timer.arm(self.due[0] if self.due else self.records.started_ns)
                wait_s = self.records.schedule.seconds + _LEAD_NS * 1e-9 + grace_s
                await asyncio.wait([self.drained], timeout=wait_s)
        finally:
            self.loop.remove_reader(self.timer.descriptor)
            self.timer.close()
        return self.records.finish()

    def _wake(self) -> None:
        self.timer.acknowledge()
        due, count = self.due, len(self.due)
        burst_stop = min(count, self.next + _BURST_MAX)
        now = time.monotonic_ns()
        while self.next < burst_stop and due[self.next] <= now:
            stop = self.next + 1
            while stop < min(burst_stop, self.next + self.rows_max) and due[stop] <= now:
                stop += 1
            self._send(self.next, stop, now)
            self.next = stop
            now = time.monotonic_ns()
        if self.next < count:
            self.timer.arm(due[self.next])
        else:
            self._finish_when_drained()

    def _send(self, start: int, stop: int, now: int) -> None:
        call: list[Any] = [start, stop, now, 0, None, None]
        self.records.calls.append(call)
        answer = _result_or_error(self.send, start, stop, now)
        if isinstance(answer, BaseException):
            call[4] = answer
            return
        future = answer if asyncio.isfuture(answer) else asyncio.ensure_future(answer)
        self.outstanding += 1

        def done(future: asyncio.Future[Any]) -> None:
            call[3] = time.monotonic_ns()
            error = asyncio.CancelledError() if future.cancelled() else future.exception()
            call[4] = future.result() if error is None else error
            self.outstanding -= 1
            self._finish_when_drained()

        future.add_done_callback(done)

    def _finish_when_drained(self) -> None:
        if self.outstanding == 0 and self.next == len(self.due) and not self.drained.done():
            self.drained.set_result(None)


class _Records:
    """Records of a driver's calls: one short list per call, turned into arrays after the run.

    A call is [first index, one past the last, sent_ns, done_ns, answers or the exception or None, free_ns]. free_ns is
    the instant from which the generator was free to send; None for a generator that is always free.
    """

    def __init__(self, schedule: Schedule, deadline_ms: float) -> None:
        self.schedule = schedule
        self.deadline_ms = deadline_ms
        self.started_ns = 0
        self.calls: list[list[Any]] = []

    def begin(self, on_start: OnStart | None) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Set the start. Return due times and deadlines, int64 [n], on `time.monotonic_ns()`."""
        self.started_ns = time.monotonic_ns() + _LEAD_NS
        if on_start is not None:
            on_start(self.started_ns)
        due_ns = self.schedule.due_ns + self.started_ns
        return due_ns, due_ns + int(self.deadline_ms * 1e6)

    def finish(self) -> Run:
        """Return the run that the calls make up."""
        count, due_ns = len(self.schedule), self.schedule.due_ns + self.started_ns
        sent, lag, latency, ready = (np.full(count, np.inf) for _ in range(4))
        source, value = np.full(count, UNANSWERED, np.uint8), np.full(count, np.nan)
        reasons: Counter[str] = Counter()
        if self.calls:
            sizes = [stop - start for start, stop, *_ in self.calls]
            # Calls are in order and without gaps, so the rows of all calls are a prefix of the schedule.
            sent_ns, free_ns = (
                np.repeat(np.array(column, dtype=np.int64), sizes)
                for column in ([call[2] for call in self.calls], [call[5] or 0 for call in self.calls])
            )
            sent[: len(sent_ns)] = (sent_ns - due_ns[: len(sent_ns)]) * 1e-3
            lag[: len(sent_ns)] = (sent_ns - np.maximum(due_ns[: len(sent_ns)], free_ns)) * 1e-3
        rows, done, values, codes, took_us = _answered(self.calls, reasons)
        latency[rows] = (done - due_ns[rows]) * 1e-3
        ready[rows] = np.where(np.isfinite(took_us), sent[rows] + took_us, latency[rows])
        source[rows], value[rows] = codes, values
        return Run(
            self.schedule,
            self.deadline_ms,
            sent,
            lag,
            latency,
            ready,
            source,
            value,
            reasons,
            self.started_ns,
        )


def _answered(calls: list[list[Any]], reasons: Counter[str]) -> tuple[npt.NDArray[Any], ...]:
    """Return row index, done_ns, value, source code and latency_us of every answered row, and count the reasons."""
    single: list[tuple[int, int, float, int, float]] = []
    columns: list[tuple[Any, ...]] = []
    for start, stop, _, done_ns, answers, _ in calls:
        size = stop - start
        if answers is None:
            reasons["unanswered"] += size
        elif isinstance(answers, BaseException):
            reasons[f"raised {type(answers).__name__}"] += size
        elif hasattr(answers, "source_codes"):
            values = np.reshape(answers.values, (size, -1))[:, 0]
            rows = np.arange(start, stop)
            columns.append((rows, np.full(size, done_ns), values, answers.source_codes, answers.latency_us))
            for code, times in enumerate(np.bincount(answers.reason_codes).tolist()):
                if times:
                    reasons[str(answers.REASONS[code])] += times
        else:
            value = float(np.ravel(answers.value)[0])
            single.append((start, done_ns, value, SOURCES.index(answers.source), answers.latency_us))
            reasons[str(answers.reason)] += 1
    if single or not columns:
        columns.append(tuple(zip(*single, strict=True)) if single else ((), (), (), (), ()))
    kinds = (np.int64, np.int64, np.float64, np.uint8, np.float64)
    return tuple(
        np.concatenate([np.asarray(part, dtype=kind) for part in column])
        for column, kind in zip(zip(*columns, strict=True), kinds, strict=True)
    )


def _result_or_error(call: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of the call, or its exception: one failed request must not end the run."""
    try:
        return call(*arguments)
    except Exception as error:
        return error
