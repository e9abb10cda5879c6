"""What models, hosts and callers do to an engine that serves: each fault by name, and what the caller gets.

Deadlines here are generous, because a shared machine has stalls of its own; what is asserted is who answered and why,
never how fast.
"""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref

import numpy as np
import pytest

import engine
from engine.errors import ClosedError
from engine.model import dense
from engine.testing import faults

FALLBACK_TIMER_MS = 150.0
FAR_MS = 60_000.0


def linear(bias: float = 0.0) -> engine.Model:
    return dense([np.array([[1.0], [10.0]])], [np.array([bias])])


def served(primary: engine.Model, **keywords) -> engine.Engine:
    """An engine whose fallback gives 1000 more than 21 for the row [1, 2]; its default is -1."""
    keywords.setdefault("deadline_ms", FAR_MS)
    return engine.Engine(primary, fallback=linear(1000.0), default=-1.0, **keywords)


def python(fn) -> engine.Model:
    return engine.load_model(fn, n_features=2)


@pytest.mark.parametrize(
    ("fn", "reason"),
    [
        (lambda rows: 1 / 0, "primary_error"),
        (lambda rows: np.zeros(len(rows) + 1), "primary_bad_shape"),
        (lambda rows: np.full(len(rows), np.nan), "primary_not_finite"),
        (lambda rows: np.full(len(rows), np.inf), "primary_not_finite"),
        (lambda rows: ["x"] * len(rows), "primary_error"),
    ],
    ids=["raises", "wrong shape", "nan", "inf", "text"],
)
def test_a_model_that_fails_becomes_a_fallback_with_a_reason(fn, reason):
    with served(python(fn)) as eng:
        answer = eng.predict([1.0, 2.0])
        assert (answer.value, answer.source, answer.reason) == (1021.0, "fallback", reason)
        many = eng.predict_many(np.tile([1.0, 2.0], (5, 1)))
        assert set(many.sources) == {"fallback"}
        assert set(many.reasons) == {reason}

        async def main():
            return await eng.predict_async([1.0, 2.0])

        assert asyncio.run(main()).reason == reason


def test_one_bad_row_of_a_batch_falls_back_alone():
    with served(python(lambda rows: np.where(rows[:, 0] < 0, np.nan, rows[:, 0]))) as eng:
        many = eng.predict_many([[1.0, 2.0], [-1.0, 2.0], [3.0, 2.0]])
    assert many.sources.tolist() == ["primary", "fallback", "primary"]
    assert many.values.tolist() == [1.0, 1019.0, 3.0]


def test_a_model_that_hangs_for_ever_costs_no_answer():
    primary = faults.hanging(linear(), armed=False)
    with served(primary, lane="batch") as eng:
        assert eng.predict([1.0, 2.0]).source == "primary"
        primary.arm()
        first = eng.predict([1.0, 2.0], FALLBACK_TIMER_MS)
        assert (first.value, first.source, first.reason) == (1021.0, "fallback", "timeout")
        later = [eng.predict([1.0, 2.0], FALLBACK_TIMER_MS) for _ in range(3)]
        assert {answer.source for answer in later} == {"fallback"}

        async def main():
            return await asyncio.gather(
                *(eng.predict_async([1.0, 2.0], FALLBACK_TIMER_MS) for _ in range(20))
            )

        assert {answer.value for answer in asyncio.run(main())} == {1021.0}
        many = eng.predict_many(np.tile([1.0, 2.0], (20, 1)), FALLBACK_TIMER_MS)
        assert many.values.tolist() == [1021.0] * 20
        primary.disarm()
        deadline = time.monotonic() + 30
        while eng.predict([1.0, 2.0], FALLBACK_TIMER_MS).source != "primary":
            assert time.monotonic() < deadline, "the primary never came back into service"


def test_close_returns_though_the_model_hangs_and_answers_what_is_under_way():
    primary = faults.hanging(linear(), armed=False)
    eng = served(primary, lane="batch")
    primary.arm()
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(eng.predict([1.0, 2.0]))) for _ in range(4)]
    for thread in threads:
        thread.start()
    while eng.stats()["in_flight"] < 4:
        time.sleep(0.001)
    eng.close(timeout_s=0.05)
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert [(answer.value, answer.source, answer.reason) for answer in answers] == [
        (1021.0, "fallback", "closing")
    ] * 4
    primary.disarm()


def test_close_on_the_loop_answers_its_futures():
    primary = faults.hanging(linear(), armed=False)

    async def main():
        async with served(primary, lane="batch") as eng:
            primary.arm()
            waiting = [eng.predict_async([1.0, 2.0]) for _ in range(5)]
            await asyncio.sleep(0.01)
            eng.close(timeout_s=0.05)
            return await asyncio.gather(*waiting)

    assert {(answer.value, answer.reason) for answer in asyncio.run(main())} == {(1021.0, "closing")}
    primary.disarm()


def test_a_crowd_is_refused_at_the_bound_of_the_queue():
    primary = faults.hanging(linear(), armed=False)
    with served(primary, lane="batch", queue_rows_max=8) as eng:
        primary.arm()
        many = eng.predict_many(np.tile([1.0, 2.0], (50, 1)), FALLBACK_TIMER_MS)
        assert many.values.tolist() == [1021.0] * 50

        async def main():
            return await asyncio.gather(
                *(eng.predict_async([1.0, 2.0], FALLBACK_TIMER_MS) for _ in range(50))
            )

        reasons = {answer.reason for answer in asyncio.run(main())}
        assert reasons <= {"timeout", "stalled", "full", "late"}
        assert eng.stats()["queue_depth_max"] <= 8
        primary.disarm()


def test_an_inline_primary_that_blocks_twice_loses_its_lane():
    primary = faults.stalling(linear(), stall_ms=30, every_ms=60, armed=False)
    with served(primary, deadline_ms=5.0) as eng:
        assert eng.lane == "inline"
        primary.arm()
        for _ in range(2):
            late_before = eng.stats()["inline_overruns"]
            while eng.lane == "inline" and eng.stats()["inline_overruns"] == late_before:
                eng.predict([1.0, 2.0])
        assert eng.lane == "batch"
        primary.disarm()
        assert eng.predict([1.0, 2.0], FAR_MS).value in (21.0, 1021.0)


def test_cancelled_tasks_leave_nothing_behind():
    primary = faults.hanging(linear(), armed=False)
    with served(primary, lane="batch") as eng:
        primary.arm()

        async def ask():
            return await eng.predict_async([1.0, 2.0], FALLBACK_TIMER_MS)

        async def main():
            tasks = [asyncio.create_task(ask()) for _ in range(10)]
            await asyncio.sleep(0.01)
            for task in tasks[:5]:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert [isinstance(result, asyncio.CancelledError) for result in results] == [True] * 5 + [
                False
            ] * 5
            await asyncio.sleep(2 * FALLBACK_TIMER_MS / 1000)

        asyncio.run(main())
        primary.disarm()
        deadline = time.monotonic() + 30
        while eng.stats()["in_flight"]:
            assert time.monotonic() < deadline, "a cancelled request kept its slot"
            time.sleep(0.005)


def test_a_loop_that_is_closed_with_requests_under_way_leaks_no_slot():
    primary = faults.hanging(linear(), armed=False)
    with served(primary, lane="batch") as eng:
        primary.arm()

        async def abandon():
            for _ in range(5):
                eng.predict_async([1.0, 2.0], FALLBACK_TIMER_MS)
            await eng.predict_async([1.0, 2.0], 5.0)

        async def ask():
            return (await eng.predict_async([1.0, 2.0], FAR_MS)).value

        asyncio.run(abandon())
        primary.disarm()
        time.sleep(2 * FALLBACK_TIMER_MS / 1000)
        assert asyncio.run(ask()) in (21.0, 1021.0)  # a new loop sweeps the old one's answers out
        deadline = time.monotonic() + 30
        while eng.stats()["in_flight"]:
            assert time.monotonic() < deadline, "the closed loop's requests kept their slots"
            time.sleep(0.005)


def test_keyboard_interrupt_ends_a_wait_and_frees_the_slot():
    primary = faults.hanging(linear(), armed=False)
    with served(primary, lane="batch") as eng:
        primary.arm()
        # A process begun in the background of a shell ignores SIGINT; this test must not depend on who began it.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        killer = threading.Timer(
            0.05, lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        )
        killer.start()
        with pytest.raises(KeyboardInterrupt):
            eng.predict([1.0, 2.0])
        killer.join()
        signal.signal(signal.SIGINT, before)
        primary.disarm()
        deadline = time.monotonic() + 30
        while eng.stats()["in_flight"]:
            assert time.monotonic() < deadline, "the interrupted request kept its slot"
            time.sleep(0.005)
        assert eng.predict([1.0, 2.0]).value in (21.0, 1021.0)


def test_a_signal_handler_that_returns_only_interrupts_the_sleep():
    primary = faults.hanging(linear(), armed=False)
    with served(primary, lane="batch") as eng:
        primary.arm()
        seen = []
        before = signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
        try:
            killer = threading.Timer(
                0.03, lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
            )
            killer.start()
            answer = eng.predict([1.0, 2.0], 2 * FALLBACK_TIMER_MS)
            killer.join()
        finally:
            signal.signal(signal.SIGUSR1, before)
            primary.disarm()
    assert seen == [1]
    assert (answer.source, answer.reason) == ("fallback", "timeout")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fork_after_threads_have_started():
    with served(linear(), lane="batch") as eng:
        assert eng.predict([1.0, 2.0]).source == "primary"
        read, write = os.pipe()
        child = os.fork()
        if child == 0:  # pragma: no cover - another process
            try:
                try:
                    eng.predict([1.0, 2.0])
                    verdict = b"answered"
                except ClosedError as error:
                    with served(linear(), lane="batch") as own:
                        verdict = f"{error} {own.predict([1.0, 2.0]).value}".encode()
                eng.close()
                os.write(write, verdict)
            finally:
                os._exit(0)
        os.close(write)
        said = b""
        while part := os.read(read, 4096):
            said += part
        os.waitpid(child, 0)
        os.close(read)
        assert b"belongs to the parent process" in said
        assert said.endswith(b" 21.0")
        assert eng.predict([1.0, 2.0]).source == "primary"


def test_the_process_ends_though_a_python_model_never_returns():
    script = textwrap.dedent(
        """
        import threading, time, engine
        stop = threading.Event()
        def hang(rows):
            stop.wait()
        eng = engine.Engine(engine.load_model(hang, n_features=2), default=0.5, deadline_ms=20.0)
        print(eng.predict([1.0, 2.0]).source)
        """
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "default", done.stderr
    assert done.returncode == 0, done.stderr


def test_rows_that_change_while_they_are_read():
    class Shrinking:
        def __init__(self, row):
            self.row = row

        def __float__(self):
            self.row.clear()
            return 1.0

    row = []
    row += [Shrinking(row), 2.0]
    with served(linear(), lane="inline") as eng:
        with pytest.raises(ValueError, match="changed its length while it was read"):
            eng.predict(row)
        assert eng.predict([1.0, 2.0]).value == 21.0


def test_models_and_engines_are_freed():
    with served(linear(), lane="batch") as eng:
        old = weakref.ref(eng.primary) if hasattr(eng.primary, "__weakref__") else None
        for number in range(20):
            eng.swap(primary=linear(float(number)), version=str(number))
            assert eng.predict([1.0, 2.0]).version == str(number)
        assert len(eng._versions()) <= 3
    gc.collect()
    assert old is None or old() is None


def asked_while_versions_change(swaps, pause_s, wrong):
    """What `wrong(eng)` returned in four threads while versions were swapped, or raised; None is all right."""
    errors = []

    def ask(eng, stop):
        try:
            while not stop.is_set():
                if (found := wrong(eng)) is not None:
                    errors.append(found)
        except BaseException as error:
            errors.append(error)

    with served(linear(0.0), lane="batch", version="0") as eng:
        stop = threading.Event()
        threads = [threading.Thread(target=ask, args=(eng, stop)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for number in range(1, swaps):
            eng.swap(primary=linear(float(number)), version=str(number))
            time.sleep(pause_s)
        stop.set()
        for thread in threads:
            thread.join()
        assert len(eng._versions()) <= 3
    return errors


def test_many_threads_ask_while_versions_change():
    def wrong(eng):
        answer = eng.predict([1.0, 2.0])
        mixed = answer.source == "primary" and answer.value != 21.0 + float(answer.version)
        return answer if mixed else None

    assert asked_while_versions_change(60, 0.002, wrong) == []


def test_refused_answers_keep_their_version_while_versions_change():
    # Every row is refused at the door, so no slot holds its deployment while the answer is labelled.
    def wrong(eng):
        many = eng.predict_many(np.ones((200, 2)), deadline_ms=1e-4)
        return None if all(version.isdigit() for version in many.versions) else many

    assert asked_while_versions_change(300, 0.001, wrong) == []
