"""What keeps one bad model, or one impatient caller, from harming anybody else."""

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

import engine
from engine.model import dense
from engine.testing import faults

FAR_MS = 60_000.0


def linear(bias: float = 0.0) -> engine.Model:
    return dense([np.array([[1.0], [10.0]])], [np.array([bias])])


def python(fn) -> engine.Model:
    return engine.load_model(fn, n_features=2)


def until(condition, seconds: float = 30.0) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.005)


@pytest.mark.parametrize("lane", ["inline", "batch"])
def test_a_failing_primary_rests_and_is_tried_again(lane):
    primary = faults.failing(linear(), 1.0)
    with engine.Engine(
        primary,
        fallback=linear(1000.0),
        deadline_ms=FAR_MS,
        lane=lane,
        version="1",
        breaker={"rest_ms": 200.0},
    ) as eng:
        reasons = [eng.predict([1.0, 2.0]).reason for _ in range(30)]
        assert reasons[:10] == ["primary_error"] * 10
        assert reasons[-1] == "breaker_open"
        assert eng.stats()["breakers"]["1"] == {"open": True, "openings": 1}
        calls = primary.calls
        many = eng.predict_many(np.tile([1.0, 2.0], (5, 1)))
        assert set(many.sources) == {"fallback"}
        primary.disarm()
        until(lambda: eng.predict([1.0, 2.0]).source == "primary")
        assert eng.stats()["breakers"]["1"] == {"open": False, "openings": 1}
        assert primary.calls <= calls + 10  # probes, one a rest


def test_a_breaker_can_be_off():
    with engine.Engine(
        faults.failing(linear(), 1.0), fallback=linear(), deadline_ms=FAR_MS, breaker=False
    ) as eng:
        assert {eng.predict([1.0, 2.0]).reason for _ in range(300)} == {"primary_error"}


@pytest.mark.parametrize("given", [{"rest": 1.0}, {"rest_ms": -1.0}, {"rows_share": "half"}, "on"])
def test_limits_of_a_breaker_are_checked(given):
    with pytest.raises(engine.EngineError, match="breaker"):
        engine.Engine(linear(), breaker=given)


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_stuck_executor_is_replaced_and_what_it_brings_is_dropped(reentrant):
    go, left = threading.Event(), []

    def sometimes(rows):
        if rows[0, 0] == 7.0:
            go.wait(60)
        elif rows[0, 0] == 1.0:  # not one of the warm-up
            left.append(engine.remaining_ms())
        return rows @ [1.0, 10.0]

    primary = faults.hanging(linear(), armed=False) if reentrant else python(sometimes)
    with engine.Engine(primary, fallback=linear(1000.0), default=-1.0, deadline_ms=60.0, lane="batch") as eng:
        if reentrant:
            primary.arm()
        stuck = eng.predict([7.0, 2.0])
        assert stuck.source != "primary"
        until(lambda: eng.stats()["executors"]["replaced"] == 1)
        assert eng.stats()["executors"]["threads"] == 1
        answer = eng.predict([1.0, 2.0], deadline_ms=FAR_MS)
        assert answer.source == "fallback"  # given a rest, but nobody waits for it
        assert eng.stats()["breakers"][eng.version]["open"]
        (primary.disarm if reentrant else go.set)()
        until(lambda: eng.predict([1.0, 2.0], deadline_ms=FAR_MS).source == "primary")
        assert eng.predict([1.0, 2.0], deadline_ms=FAR_MS).value == 21.0
        assert eng.stats()["late_dropped"] >= 1
        # The new thread too knows how long its requests have left.
        assert reentrant or (left and all(0 < each <= FAR_MS for each in left))
        until(lambda: eng.stats()["in_flight"] == 0)


def test_a_cancelled_request_frees_its_slot_at_once():
    begun, go = threading.Event(), threading.Event()

    def waits(rows):
        begun.set()
        go.wait(60)
        return rows[:, 0]

    async def main(eng):
        first = asyncio.ensure_future(eng.predict_async([1.0, 2.0]))
        await asyncio.to_thread(begun.wait, 30)
        queued = [eng.predict_async([1.0, 2.0]) for _ in range(5)]
        many = asyncio.ensure_future(eng.predict_many_async(np.ones((10, 2))))
        await asyncio.sleep(0)
        assert eng.stats()["queue_depth"] == 15
        for future in [*queued, many]:
            future.cancel()
        await asyncio.sleep(0.01)
        assert eng.stats()["queue_depth"] == 0
        assert eng.stats()["cancelled"] == 15
        go.set()
        assert (await first).source == "primary"

    with engine.Engine(python(waits), default=-1.0, deadline_ms=FAR_MS, warmup=None) as eng:
        begun.clear()
        # The calibration of a model that waits is over only once it is let go.
        go.set()
        until(lambda: eng.predict([1.0, 2.0]).source == "primary")
        begun.clear()
        go.clear()
        before = eng.stats()["answers"]
        asyncio.run(main(eng))
        until(lambda: eng.stats()["in_flight"] == 0)
        after = eng.stats()["answers"]
        assert sum(after.values()) - sum(before.values()) == 1


def test_a_task_group_that_fails_takes_its_requests_along():
    go = threading.Event()
    go.set()
    waits = python(lambda rows: (go.wait(60), rows[:, 0])[1])

    async def main(eng):
        async def ask():
            await eng.predict_async([1.0, 2.0])

        async def fail():
            await asyncio.sleep(0.01)
            raise LookupError("the other task failed")

        with pytest.raises(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                for _ in range(8):
                    group.create_task(ask())
                group.create_task(fail())
        assert eng.stats()["queue_depth"] == 0
        assert eng.stats()["cancelled"] == 8

    with engine.Engine(waits, default=-1.0, deadline_ms=FAR_MS) as eng:
        until(lambda: eng.predict([1.0, 2.0]).source == "primary")
        go.clear()
        asyncio.run(main(eng))
        go.set()


@pytest.mark.parametrize("tool", ["gather", "wait", "wait_for", "shield", "as_completed", "create_task"])
@pytest.mark.parametrize("lane", ["inline", "batch"])
def test_answers_fit_everything_that_takes_futures(lane, tool):
    async def main(eng):
        ask = lambda: eng.predict_async([1.0, 2.0])  # noqa: E731
        match tool:
            case "gather":
                return await asyncio.gather(ask(), ask())
            case "wait":
                done, _ = await asyncio.wait([ask(), ask()])
                return [future.result() for future in done]
            case "wait_for":
                return [await asyncio.wait_for(ask(), 30)]
            case "shield":
                return [await asyncio.shield(ask())]
            case "as_completed":
                return [await future for future in asyncio.as_completed([ask(), ask()])]

        async def task():
            return await ask()

        return [await asyncio.create_task(task())]

    with engine.Engine(linear(), default=-1.0, deadline_ms=FAR_MS, lane=lane) as eng:
        assert {answer.value for answer in asyncio.run(main(eng))} == {21.0}


def test_several_loops_in_several_threads():
    with engine.Engine(linear(), default=-1.0, deadline_ms=FAR_MS, lane="batch") as eng:
        values = []

        def run(number):
            async def main():
                return await asyncio.gather(*(eng.predict_async([float(number), 0.0]) for _ in range(100)))

            for _ in range(3):  # each run is a loop of its own
                values.append({answer.value for answer in asyncio.run(main())} == {float(number)})

        threads = [threading.Thread(target=run, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert values == [True] * 12


def test_threads_have_names_and_signals_go_to_python():
    code = """
        import os, signal
        import numpy as np, engine
        from engine.model import dense
        before = {number: signal.getsignal(number) for number in range(1, 32) if number not in (9, 19)}
        model = dense([np.array([[1.0], [10.0]])], [np.array([0.0])])
        with engine.Engine(model, default=0.0, lane="batch", deadline_ms=60_000) as eng:
            eng.predict([1.0, 2.0])
            names = sorted(open(f"/proc/self/task/{thread}/comm").read().strip()
                           for thread in os.listdir("/proc/self/task"))
            assert {"engine-exec-0", "engine-rescue"} <= set(names), names
        assert before == {number: signal.getsignal(number) for number in before}
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr


def test_a_sub_interpreter_is_refused_rather_than_served_wrongly():
    # The core keeps state per process; until it does not, importing it a second time is an error that says so.
    code = """
        import engine
        try:
            import _interpreters as interpreters
        except ImportError:
            import _xxsubinterpreters as interpreters
        other = interpreters.create()
        source = "try:\\n    import engine\\nexcept ImportError as error:\\n    open(PATH, 'w').write(str(error))"
        import tempfile
        path = tempfile.mktemp()
        interpreters.run_string(other, source.replace("PATH", repr(path)))
        text = open(path).read()
        assert "interpreter" in text, text
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=100,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
