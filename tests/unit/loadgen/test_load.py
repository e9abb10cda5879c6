"""The load generator: schedules, the figures of a run, void runs, and each driver on functions of our own."""

import asyncio
import time
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from engine import Answers
from engine.errors import InputError
from engine.loadgen import drive
from engine.loadgen.load import SOURCES, Reply, Run, Schedule, percentile, poisson


def batch(values, source="primary", reason="ok"):
    """Answers as an engine gives them for several rows."""
    values = np.asarray(values, dtype=np.float64)
    return SimpleNamespace(
        values=values,
        source_codes=np.full(len(values), Answers.SOURCES.index(source), np.uint8),
        reason_codes=np.full(len(values), Answers.REASONS.index(reason), np.uint8),
        REASONS=Answers.REASONS,
        latency_us=np.zeros(len(values)),
    )


def at_us(*due):
    return Schedule(np.array(due, dtype=np.int64) * 1000, seconds=0.01)


def a_run(latency_us, source, lag_us=None, deadline_ms=10.0, seconds=1.0, ready_us=None):
    latency = np.asarray(latency_us, dtype=float)
    n = len(latency)
    lag = np.zeros(n) if lag_us is None else np.asarray(lag_us, dtype=float)
    ready = latency if ready_us is None else np.asarray(ready_us, dtype=float)
    schedule = Schedule(np.arange(n, dtype=np.int64), seconds)
    return Run(
        schedule,
        deadline_ms,
        lag,
        lag,
        latency,
        ready,
        np.asarray(source, np.uint8),
        np.zeros(n),
        Counter(),
        0,
    )


def test_the_same_seed_gives_the_same_arrivals_and_another_seed_others():
    first, again, other = poisson(1000, 1.0, 7), poisson(1000, 1.0, 7), poisson(1000, 1.0, 8)
    assert np.array_equal(first.due_ns, again.due_ns)
    assert not np.array_equal(first.due_ns, other.due_ns)


def test_a_poisson_schedule_is_ascending_within_its_length_and_near_its_rate():
    schedule = poisson(10_000, 2.0, 1)
    assert (np.diff(schedule.due_ns) >= 0).all()
    assert schedule.due_ns[0] >= 0
    assert schedule.due_ns[-1] < 2_000_000_000
    # 20,000 expected, standard deviation 141.
    assert 19_300 < len(schedule) < 20_700
    # The gaps of a Poisson process have a standard deviation equal to their mean.
    gaps = np.diff(schedule.due_ns)
    assert 0.95 < gaps.std() / gaps.mean() < 1.05


@pytest.mark.parametrize(("rate", "seconds"), [(0, 1), (-1, 1), (float("nan"), 1), (1, 0), (1, float("inf"))])
def test_a_rate_or_length_that_is_not_positive_is_refused(rate, seconds):
    with pytest.raises(InputError, match="must be a number above 0 and at most"):
        poisson(rate, seconds, 0)


def test_percentiles_are_values_that_occurred_and_count_the_unanswered_as_last():
    values = np.array([4.0, 1.0, 3.0, 2.0])
    assert [percentile(values, p) for p in (25, 50, 75, 100)] == [1, 2, 3, 4]
    assert percentile(np.array([1.0, np.inf, np.inf]), 50) == np.inf
    assert np.isnan(percentile(np.array([]), 50))


def test_a_run_counts_shares_and_goodput():
    run = a_run(
        [1_000, 9_999, 10_001, np.inf], [0, 1, 0, 3], seconds=2.0, ready_us=[900, 9_000, 9_900, np.inf]
    )
    summary = run.summary()
    assert summary["on_time"] == 0.5
    assert summary["on_time_ready"] == 0.75
    assert summary["sources"] == {"primary": 0.5, "fallback": 0.25, "default": 0.0, "unanswered": 0.25}
    assert summary["primary_in_time_per_s"] == 0.5
    assert summary["offered_per_s"] == 2.0
    assert summary["latency_us_p50"] == 9_999
    assert summary["latency_us_max"] == np.inf


def test_a_run_whose_generator_was_late_says_so_instead_of_giving_figures():
    lag = np.zeros(100)
    lag[:2] = 2_001  # the bound at 10 ms is 2,000 us, at the 99th percentile
    summary = a_run(np.zeros(100), np.zeros(100), lag_us=lag).summary()
    assert "could not keep up" in summary["void"]
    assert "on_time" not in summary
    assert summary["lag_us_max"] == 2_001
    assert a_run(np.zeros(100), np.zeros(100), lag_us=np.full(100, 1_999)).void is None


def test_a_run_without_arrivals_is_void():
    assert a_run([], []).summary()["void"] == "no arrival fell into the run"


def test_the_async_driver_sends_every_arrival_once_in_order_with_its_own_deadline():
    sent = []

    async def main():
        def submit(index, deadline_ns):
            sent.append((index, deadline_ns))
            future = asyncio.get_running_loop().create_future()
            future.set_result(Reply(index * 2.0, "fallback", "admission"))
            return future

        return await drive.drive_async(submit, at_us(0, 100, 100, 900), deadline_ms=5)

    run = asyncio.run(main())
    assert [index for index, _ in sent] == [0, 1, 2, 3]
    assert [deadline - run.started_ns for _, deadline in sent] == [5_000_000, 5_100_000, 5_100_000, 5_900_000]
    assert run.value.tolist() == [0, 2, 4, 6]
    assert run.source.tolist() == [1, 1, 1, 1]
    assert run.reasons == {"admission": 4}
    assert (run.sent_us >= 0).all()
    assert (run.latency_us >= run.sent_us).all()


def test_the_async_driver_counts_what_fails_and_what_never_answers():
    async def main():
        loop = asyncio.get_running_loop()

        async def fails():
            raise RuntimeError("model")

        def submit(index, deadline_ns):
            if index == 0:
                raise ValueError("row")
            return fails() if index == 1 else loop.create_future()

        return await drive.drive_async(submit, at_us(0, 10, 20), deadline_ms=5, grace_s=0.02)

    run = asyncio.run(main())
    assert run.source.tolist() == [3, 3, 3]
    assert run.latency_us.tolist() == [np.inf] * 3
    assert run.reasons == {"raised ValueError": 1, "raised RuntimeError": 1, "unanswered": 1}
    assert not run.on_time.any()


def test_the_async_driver_sends_in_batches_what_is_due_together():
    calls = []

    async def main():
        async def submit(start, stop, deadlines_ns):
            calls.append((start, stop, len(deadlines_ns)))
            return batch(np.arange(start, stop))

        return await drive.drive_async_many(submit, at_us(*[0] * 70, 50_000), deadline_ms=5)

    run = asyncio.run(main())
    # 64 is the bound on one call; the seventy that are due together take two.
    assert calls == [(0, 64, 64), (64, 70, 6), (70, 71, 1)]
    assert run.value.tolist() == list(range(71))


def test_the_sync_driver_batches_what_came_due_during_the_call_before():
    calls = []

    def submit(start, stop, deadlines_ns):
        calls.append((start, stop))
        if start == 0:
            time.sleep(0.06)  # three more come due meanwhile
        return batch(np.arange(start, stop))

    run = drive.drive_sync_many(submit, at_us(0, 50_000, 50_100, 50_200), deadline_ms=10)
    assert calls == [(0, 1), (1, 4)]
    assert run.value.tolist() == [0, 1, 2, 3]
    # The three waited for the call. The engine caused that: it is latency, and no lag of the generator.
    assert (run.sent_us[1:] > 9_000).all()
    assert (run.lag_us[1:] < run.sent_us[1:]).all()


def test_the_sync_driver_takes_rows_max_rows_a_call_and_one_call_per_arrival():
    sizes = []

    def many(start, stop, deadlines_ns):
        sizes.append(stop - start)
        return batch(np.zeros(stop - start))

    drive.drive_sync_many(many, at_us(*[0] * 5), deadline_ms=10, rows_max=2)
    assert sizes == [2, 2, 1]
    run = drive.drive_sync(lambda index, deadline_ns: Reply(index, "primary"), at_us(0, 0, 0), deadline_ms=10)
    assert run.value.tolist() == [0, 1, 2]


def test_the_answering_sides_own_account_of_its_latency_is_kept_apart():
    run = drive.drive_sync(lambda i, d: Reply(0.0, "primary", latency_us=1.5), at_us(0), deadline_ms=10)
    assert run.ready_us[0] == run.sent_us[0] + 1.5
    unknown = drive.drive_sync(lambda i, d: Reply(0.0, "primary"), at_us(0), deadline_ms=10)
    assert unknown.ready_us[0] == unknown.latency_us[0]


def test_on_start_gets_the_point_that_the_schedule_counts_from():
    starts = []
    run = drive.drive_sync(
        lambda i, d: Reply(0.0, "primary"), at_us(0), deadline_ms=10, on_start=starts.append
    )
    assert starts == [run.started_ns]

    async def main():
        async def submit(index, deadline_ns):
            return Reply(0.0, "primary")

        return await drive.drive_async(submit, at_us(0), deadline_ms=10, on_start=starts.append)

    run = asyncio.run(main())
    assert starts[1] == run.started_ns


def test_the_codes_of_the_sources_are_those_of_the_engine():
    assert SOURCES[:3] == Answers.SOURCES


def test_reasons_of_a_batch_are_counted_by_name():
    run = drive.drive_sync_many(
        lambda start, stop, deadlines_ns: batch(np.zeros(stop - start), "fallback", "stalled"),
        at_us(0, 0, 0),
        deadline_ms=10,
    )
    assert run.reasons == {"stalled": 3}
    assert run.source.tolist() == [1, 1, 1]
