"""The system gives no more threads or descriptors: an error of ours that names the limit, and the process lives."""

import os
import subprocess
import sys
import textwrap

import pytest

# RLIMIT_NPROC does not bind root, so the child becomes a user without other processes once everything is imported.
PREPARE = """
import asyncio, os, resource, threading, time
import numpy as np
import engine
from engine.errors import ResourceError
from engine.model import dense

small = dense([np.ones((2, 1))], [np.zeros(1)])
slow = engine.load_model(lambda rows: rows.sum(axis=1), n_features=2)

with engine.Engine(slow, fallback=small, deadline_ms=1000):
    pass  # imports what a first engine imports, while the files can be read

HARD = resource.getrlimit(resource.RLIMIT_NPROC)[1]

def threads_now():
    return len(os.listdir("/proc/self/task"))

def no_more_threads(more=0):
    if os.getuid() == 0:
        uid = 100_000 + os.getpid()
        os.setresuid(uid, uid, uid)
    resource.setrlimit(resource.RLIMIT_NPROC, (threads_now() + more, HARD))

def threads_again():
    resource.setrlimit(resource.RLIMIT_NPROC, (HARD, HARD))
"""


def run(body: str) -> str:
    source = PREPARE + textwrap.dedent(body) + "\nprint('alive')\n"
    child = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=120)
    assert child.returncode == 0, child.stderr
    assert child.stdout.endswith("alive\n")
    return child.stdout


@pytest.mark.skipif(os.getuid() != 0, reason="counts the threads of a user without other processes")
@pytest.mark.parametrize("more", [0, 1, 2])
def test_an_engine_without_threads_raises_and_may_be_made_later(more):
    run(f"""
    no_more_threads({more})
    try:
        engine.Engine(slow, fallback=small, deadline_ms=1000)
    except ResourceError as error:
        text = str(error)
        assert "RLIMIT_NPROC" in text and "pids.max" in text and "another thread" in text, text
    else:
        raise SystemExit("no error")
    threads_again()
    with engine.Engine(slow, fallback=small, deadline_ms=1000) as eng:
        assert eng.predict([1.0, 2.0]).value == 3.0
    """)


@pytest.mark.skipif(os.getuid() != 0, reason="counts the threads of a user without other processes")
def test_a_stuck_primary_that_cannot_be_replaced_leaves_the_fallback():
    run("""
    stuck = threading.Event()
    go_on = threading.Event()

    def model(rows):
        if stuck.is_set():
            go_on.wait()
        return rows.sum(axis=1)

    eng = engine.Engine(engine.load_model(model, n_features=2), fallback=small, deadline_ms=50)
    no_more_threads()
    stuck.set()
    until = time.monotonic() + 60
    while not eng.stats()["executors"]["missing"]:
        assert eng.predict([1.0, 2.0]).source != "primary"
        assert time.monotonic() < until
    answer = eng.predict([1.0, 2.0])
    assert answer.source != "primary" and answer.reason in ("stalled", "breaker_open"), answer
    facts = eng.stats()["executors"]
    assert facts["replaced"] == 1 and facts["refused"] >= 1, facts
    assert [b["openings"] for b in eng.stats()["breakers"].values()] == [1]
    stuck.clear()
    go_on.set()
    threads_again()
    while eng.predict([1.0, 2.0]).source != "primary":
        assert time.monotonic() < until
        time.sleep(0.01)
    assert eng.stats()["executors"]["missing"] == 0
    eng.close()
    """)


def test_a_loop_without_descriptors_raises_at_the_call():
    run("""
    async def main():
        async with engine.Engine(slow, fallback=small, deadline_ms=1000) as eng:
            limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1, limits[1]))
            try:
                await eng.predict_async([1.0, 2.0])
            except ResourceError as error:
                assert "RLIMIT_NOFILE" in str(error) and "ulimit -n" in str(error)
            else:
                raise SystemExit("no error")
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            assert (await eng.predict_async([1.0, 2.0])).value == 3.0

    asyncio.run(main())
    """)
