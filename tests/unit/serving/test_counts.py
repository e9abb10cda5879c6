"""What a request costs in allocations, sleeps, wake-ups and system calls: counted, never timed.

A count that depends on how batches happen to form is bounded by the number of batches, which the engine reports.
csrc/tests/test_counts.cpp counts the core's own allocations, and its system calls to the last one.
"""

import asyncio
import resource
import sys
import tracemalloc
from itertools import repeat
from pathlib import Path

import numpy as np
import pytest

import engine
from engine import transform as t
from engine.model import dense

FEATURES = 30
CALLS = 1_000
FAR_MS = 60_000.0
NAMES = [f"f{index}" for index in range(FEATURES)]
ROWS = {
    "array": np.ones(FEATURES, np.float32),
    "list": [1.0] * FEATURES,
    "dict": dict.fromkeys(NAMES, 1.0),
}


@pytest.fixture(scope="module")
def adding():
    return dense([np.ones((FEATURES, 1))], [np.zeros(1)])


@pytest.fixture(params=list(ROWS))
def inline(request, adding):
    """`predict` of one row, warmed up: nothing, to a bound function."""
    program = engine.FeatureProgram.fit([t.number(name) for name in NAMES], {name: [0.0] for name in NAMES})
    features = program if request.param == "dict" else None
    with engine.Engine(adding, default=0.0, features=features, lane="inline", deadline_ms=FAR_MS) as made:
        row = ROWS[request.param]
        assert made.predict(row).value == 30.0

        def call():
            made.predict(row)

        for _ in repeat(None, CALLS):
            call()
        yield call


def nothing():
    pass


def peak_bytes(call):
    """The most Python memory that calls of it held at one time, beyond what there was."""
    for _ in repeat(None, 10):
        call()
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    for _ in repeat(None, CALLS):
        call()
    return tracemalloc.get_traced_memory()[1] - before


def test_an_inline_answer_allocates_nothing_that_a_free_list_does_not_hold(inline):
    tracemalloc.start()
    try:
        assert peak_bytes(inline) == peak_bytes(nothing)
    finally:
        tracemalloc.stop()


def test_an_inline_answer_leaves_nothing_behind(inline):
    def grown(call):
        before = sys.getallocatedblocks()
        for _ in repeat(None, CALLS):
            call()
        return sys.getallocatedblocks() - before

    # The count itself moves by a few blocks; one left behind by each call would be a thousand.
    assert min(grown(inline) for _ in range(3)) < 20


def test_an_inline_answer_never_sleeps(inline):
    def slept():
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
        for _ in repeat(None, CALLS):
            inline()
        return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before

    assert min(slept() for _ in range(3)) == 0  # a page of the test's own may have to be fetched


def test_an_inline_answer_reads_and_writes_nothing(inline):
    def calls(work):
        before = io_calls()
        for _ in repeat(None, CALLS):
            work()
        return io_calls() - before

    assert calls(inline) == calls(nothing)  # looking is itself a read


class CountingLoop(asyncio.SelectorEventLoop):
    """Counts how often the engine's answers woke it."""

    woken = 0

    def add_reader(self, descriptor, callback, *arguments):
        def counted(*values):
            self.woken += 1
            callback(*values)

        super().add_reader(descriptor, counted, *arguments)


@pytest.mark.parametrize("size", [64, 512])
def test_a_burst_wakes_its_loop_once_a_batch_and_not_once_a_request(adding, size):
    loop = CountingLoop()
    bursts = 20
    with engine.Engine(
        adding, default=0.0, lane="batch", batch_rows_max=64, deadline_ms=FAR_MS, spin=False
    ) as served:

        async def burst():
            for future in [served.predict_async(ROWS["array"]) for _ in range(size)]:
                assert (await future).value == 30.0

        loop.run_until_complete(burst())
        before, batches, writes = loop.woken, served.stats()["batches"], io_writes()
        for _ in range(bursts):
            loop.run_until_complete(burst())
        # A batch is counted when its answers are out already; the last one may come a moment later.
        batches = served.stats()["batches"] - batches + 1
        assert bursts <= loop.woken - before <= batches
        # Waking a loop is the one write there is; run_until_complete makes none.
        assert io_writes() - writes <= batches
        # How many rows an executor finds each time is the scheduler's doing; one by one it never is.
        assert loop.woken - before < bursts * size / 2
    loop.close()


def test_a_thousand_rows_wake_the_executor_by_the_batch(adding):
    with engine.Engine(
        adding, default=0.0, lane="batch", batch_rows_max=64, deadline_ms=FAR_MS, spin=False
    ) as served:
        rows = np.ones((1_000, FEATURES), np.float32)
        served.predict_many(rows)
        executor = thread_named("engine-exec-0")
        calls = 20
        before = slept(executor)
        for _ in range(calls):
            assert served.predict_many(rows).values.sum() == 30_000.0
        # 16 batches a call: to be told of each and to wait for a lock are two sleeps; by row it would be 1,000.
        assert slept(executor) - before <= calls * 16 * 2


@pytest.mark.slow
def test_an_idle_engine_wakes_up_for_nothing(adding):
    """Threads that have nothing to do sleep until somebody asks: none of them ticks."""
    # The rescue thread looks a few times more after the last request, at half the deadline's distance.
    with engine.Engine(adding, default=0.0, lane="batch", deadline_ms=1.0, spin=False) as served:
        served.predict(ROWS["array"])
        threads = [thread_named(name) for name in ("engine-exec-0", "engine-rescue")]
        woke = [wait_until_quiet(thread) for thread in threads]
        assert [wait_until_quiet(thread) for thread in threads] == woke


def io_field(name):
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        pytest.skip("this kernel does not count a process's reads and writes")
    return int(dict(line.split(": ") for line in lines)[name])


def io_writes():
    return io_field("syscw")


def io_calls():
    return io_field("syscr") + io_field("syscw")


def thread_named(name):
    """The task's folder in /proc of the newest thread of that name."""
    found = [
        task for task in Path("/proc/self/task").iterdir() if (task / "comm").read_text().strip() == name
    ]
    assert found, f"no thread is called {name}"
    return max(found, key=lambda task: int(task.name))


def slept(task):
    """How often the thread has gone to sleep of its own accord."""
    for line in (task / "status").read_text().splitlines():
        if line.startswith("voluntary_ctxt_switches"):
            return int(line.split(":")[1])
    pytest.skip("this kernel does not count a thread's switches")


def wait_until_quiet(task):
    """The count once it has stood still for a while; a thread that ticks never gets there, and the test times out."""
    count, looks = slept(task), 0
    while looks < 1_000:
        now = slept(task)
        count, looks = (now, looks + 1) if now == count else (now, 0)
    return count
