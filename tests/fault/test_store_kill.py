"""Materialisation is killed at random moments, over and over, and raced against itself: every acknowledged row is
there, and the final state is that of one uninterrupted run."""

import multiprocessing
import random
import time

import pytest
from tests.fault import store_worker as worker

ROUNDS = 30
BATCH_ROWS = 60


@pytest.fixture(scope="module")
def processes():
    # A child forked from a process with everything imported and no thread takes 5 ms instead of a second.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["engine.feature_store", "duckdb", "lmdb", "pandas", "pyarrow.compute", "pyarrow.parquet", "redis"]
    )
    return context


@pytest.fixture(params=["lmdb", "redis"])
def where(request, tmp_path):
    return str(tmp_path / "online") if request.param == "lmdb" else request.getfixturevalue("redis_url")


def started(processes, where, *arguments):
    ours, theirs = processes.Pipe(duplex=False)
    process = processes.Process(target=worker.materialize, args=(where, BATCH_ROWS, theirs, *arguments))
    process.start()
    theirs.close()
    assert ours.recv() == 0
    return process, ours


def drained(pipe):
    """Everything that the process sent until it ended."""
    said = []
    try:
        while True:
            said.append(pipe.recv())
    except EOFError:
        return said


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    where = str(tmp_path_factory.mktemp("whole") / "online")
    worker.store(where).materialize(worker.view(worker.source()), worker.START, worker.END)
    rows = worker.rows(where)
    assert None not in rows
    return rows


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_killed_run_loses_nothing_and_goes_on_where_it_was(processes, where, uninterrupted, seed):
    draw = random.Random(seed)
    resumed = 0
    for round_ in range(ROUNDS):
        process, pipe = started(processes, where)
        acknowledged = wait_for_some(pipe, draw)
        process.kill()
        process.join()
        acknowledged = max([acknowledged, *(part for part in drained(pipe) if isinstance(part, int))])
        rows = worker.rows(where)
        assert rows[:acknowledged] == uninterrupted[:acknowledged]
        assert all(row in (None, whole) for row, whole in zip(rows, uninterrupted, strict=True))
        if draw.random() < 0.4 or round_ == ROUNDS - 1:
            process, pipe = started(processes, where)
            report = drained(pipe)[-1]
            process.join()
            assert report.rows == worker.ENTITIES == report.written + report.same + report.resumed
            resumed += report.resumed > 0
            assert worker.rows(where) == uninterrupted
            # Start from nothing again, so that the next rounds have rows to lose.
            forget(where)
    assert resumed, "no round was killed in the middle"


def wait_for_some(pipe, draw):
    """Wait for a moment to kill at: before the first batch, right after a batch, or in one."""
    acknowledged = 0
    if draw.random() < 0.2:
        time.sleep(draw.uniform(0, 0.2))
        return acknowledged
    for _ in range(draw.randrange(worker.ENTITIES // BATCH_ROWS)):
        said = pipe.recv()
        if not isinstance(said, int):
            break
        acknowledged = said
    time.sleep(draw.choice([0, draw.uniform(0, 0.005)]))
    return acknowledged


def forget(where):
    if where.startswith("redis://"):
        worker.store(where).online._client.flushall()
        return
    environment = worker.store(where).online.environment
    with environment.begin(write=True) as transaction:
        transaction.drop(environment.open_db(), delete=False)


@pytest.mark.slow
def test_two_writers_at_once_leave_the_newer_rows(processes, where):
    """One run writes rows of hour 0, the other of hour 5, at the same time and in both orders."""
    for order in ((0, 5), (5, 0)):
        forget(where)
        running = [started(processes, where, hours, 1000.0 * hours) for hours in order]
        reports = [drained(pipe)[-1] for _, pipe in running]
        for process, _ in running:
            process.join()
            assert process.exitcode == 0
        assert all(report.rows == report.written + report.same + report.older for report in reports)
        newest = worker.store(where)
        schema = newest.offline.view(worker.view(worker.source(hours=5))).schema
        kept = newest.online
        keys = [kept.prefix("plane") + b"N%05d" % i for i in range(worker.ENTITIES)]
        wire = kept.wire()
        for i, row in enumerate(wire.read(keys, 2**62)):
            assert schema.layout.unpack(row)[3] == [5000.0 + i, f"text of {i} and of 5"]
        wire.close()
        assert reports[order.index(5)].written == worker.ENTITIES
