"""Event loops: those that are never closed, loops of other libraries, and mistakes, which come at the await."""

import asyncio
import gc
import os
import threading
import time
import weakref

import numpy as np
import pytest

import engine
from engine.errors import ClosedError, ConfigError, InputError, InputTypeError
from engine.model import dense

FAR_MS = 60_000.0


def linear():
    return dense([np.array([[1.0], [10.0]])], [np.zeros(1)])


@pytest.fixture(params=["inline", "batch"])
def eng(request):
    with engine.Engine(linear(), default=-1.0, deadline_ms=FAR_MS, lane=request.param) as opened:
        yield opened


def descriptors():
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("lane", ["inline", "batch"])
def test_loops_that_are_never_closed_are_collected(lane):
    with engine.Engine(linear(), deadline_ms=FAR_MS, lane=lane) as eng:

        async def ask():
            one = await eng.predict_async([1.0, 2.0])
            many = await eng.predict_many_async(np.ones((3, 2)))
            return one.value, many.values.tolist()

        def on_a_loop_of_its_own():
            loop = asyncio.new_event_loop()
            assert loop.run_until_complete(ask()) == (21.0, [11.0] * 3)
            return weakref.ref(loop)

        on_a_loop_of_its_own()
        gc.collect()
        before = descriptors()
        gone = [on_a_loop_of_its_own() for _ in range(20)]
        gc.collect()
        assert [ref() for ref in gone] == [None] * 20
        # The executor that answered last may not have signalled yet.
        give_up = time.monotonic() + 60
        while descriptors() > before + 1 and time.monotonic() < give_up:
            time.sleep(0.1)
            on_a_loop_of_its_own()
            gc.collect()
        assert descriptors() <= before + 1
        assert asyncio.run(ask()) == (21.0, [11.0] * 3)


def test_loops_that_are_closed_before_they_are_collected(eng):
    async def ask():
        return (await eng.predict_async([1.0, 2.0])).value

    for _ in range(5):
        loops = [asyncio.new_event_loop() for _ in range(3)]
        for loop in loops:
            assert loop.run_until_complete(ask()) == 21.0
        for loop in loops:
            loop.close()
        assert asyncio.run(ask()) == 21.0  # sweeps the closed ones
        del loops, loop
        gc.collect()


def test_a_loop_that_only_its_requests_keep():
    go_on = threading.Event()

    def slow(rows):
        if rows[0, 0] > 0:
            go_on.wait(60)
        return rows[:, 0]

    async def abandon():
        for _ in range(5):
            eng.predict_async([1.0, 2.0])

    async def ask():
        return (await eng.predict_async([0.0, 0.0])).value

    model = engine.load_model(slow, n_features=2)
    with engine.Engine(model, deadline_ms=FAR_MS, warmup=np.zeros((1, 2))) as eng:
        asyncio.run(abandon())
        gc.collect()
        go_on.set()
        give_up = time.monotonic() + 60
        while eng.stats()["in_flight"]:
            assert asyncio.run(ask()) == 0.0  # sweeps what the closed loop left
            assert time.monotonic() < give_up
            time.sleep(0.01)


def test_each_thread_may_run_a_loop_and_drop_it(eng):
    values = []

    async def ask(i):
        return [(await eng.predict_async([float(i), 0.0])).value for _ in range(20)]

    def run(i):
        for _ in range(3):
            values.append(asyncio.run(ask(i)) == [float(i)] * 20)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert values == [True] * 12


MISTAKES = [
    ({"x": [1.0]}, InputError, "2 features"),
    ({"x": ["a", 1.0]}, InputTypeError, "feature 0"),
    ({"x": None}, InputTypeError, "NoneType"),
    ({"x": [1.0, 2.0], "deadline_ms": -1.0}, InputError, "deadline_ms"),
    ({"x": [1.0, 2.0], "deadline_ms": "soon"}, InputTypeError, "deadline_ms"),
    ({"x": [1.0, 2.0], "deadline_ms": 1.0, "deadline_ns": 5}, InputError, "not both"),
    ({"x": [1.0, 2.0], "priority": "high"}, InputError, "priority"),
]


@pytest.mark.parametrize(("arguments", "error", "text"), MISTAKES)
def test_mistakes_come_at_the_await(eng, arguments, error, text):
    async def main():
        future = eng.predict_async(**arguments)
        assert asyncio.isfuture(future)
        assert future.done()
        with pytest.raises(error, match=text):
            await future
        good, bad = await asyncio.gather(
            eng.predict_async([1.0, 2.0]), eng.predict_async(**arguments), return_exceptions=True
        )
        assert (good.value, type(bad)) == (21.0, error)
        with pytest.raises(error, match=text):
            await asyncio.gather(eng.predict_async([1.0, 2.0]), eng.predict_async(**arguments))
        with pytest.raises(error, match=text):
            await asyncio.wait_for(eng.predict_async(**arguments), 5)
        done, _ = await asyncio.wait([eng.predict_async(**arguments)])
        assert type(done.pop().exception()) is error
        with pytest.raises(ExceptionGroup) as raised:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(eng.predict_async(**arguments))
        assert type(raised.value.exceptions[0]) is error

    asyncio.run(main())
    with pytest.raises(error, match=text):
        asyncio.run(eng.predict_async(**arguments))


def test_a_closed_engine_says_so_at_the_await(eng):
    async def main():
        eng.close()
        with pytest.raises(ClosedError):
            await eng.predict_async([1.0, 2.0])
        (found,) = await asyncio.gather(eng.predict_async([1.0, 2.0]), return_exceptions=True)
        assert type(found) is ClosedError

    asyncio.run(main())


def test_a_mistake_that_nobody_awaits_is_reported(eng):
    async def main():
        said = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
        eng.predict_async([1.0])
        gc.collect()
        assert [(type(each["exception"]), each["message"]) for each in said] == [
            (InputError, "AnswerFuture exception was never retrieved")
        ]
        future = eng.predict_async([1.0])
        assert type(future.exception()) is InputError
        del future
        gc.collect()
        assert len(said) == 1

    asyncio.run(main())


def test_trio_is_told_what_works_there(eng):
    trio = pytest.importorskip("trio")

    async def main():
        for ask in (
            lambda: eng.predict_async([1.0, 2.0]),
            lambda: eng.predict_many_async([[1.0, 2.0]]),
            eng.wait_ready_async,
        ):
            with pytest.raises(ConfigError, match=r"runs on trio: await trio\.to_thread\.run_sync"):
                await ask()
        with pytest.raises(ConfigError, match="runs on trio"):
            async with eng:
                pass
        return (await trio.to_thread.run_sync(eng.predict, [1.0, 2.0])).value

    assert trio.run(main) == 21.0


def test_curio_is_told_what_works_there(eng):
    curio = pytest.importorskip("curio")

    async def main():
        with pytest.raises(ConfigError, match=r"runs on curio: await curio\.run_in_thread"):
            await eng.predict_async([1.0, 2.0])
        return (await curio.run_in_thread(eng.predict, [1.0, 2.0])).value

    assert curio.run(main) == 21.0


def test_anyio_on_asyncio(eng):
    anyio = pytest.importorskip("anyio")

    async def main():
        values = []

        async def ask(i):
            values.append((await eng.predict_async([float(i), 0.0])).value)

        async with anyio.create_task_group() as tasks:
            for i in range(20):
                tasks.start_soon(ask, i)
        with anyio.fail_after(30):
            values.append((await eng.predict_async([50.0, 0.0])).value)
        with anyio.move_on_after(30) as scope:
            await eng.predict_async([1.0, 0.0])
        with pytest.raises(InputError):
            await eng.predict_async([1.0])
        return sorted(values), scope.cancelled_caught

    assert anyio.run(main) == ([*map(float, range(20)), 50.0], False)


def test_anyio_cancels_answers():
    anyio = pytest.importorskip("anyio")
    go_on = threading.Event()

    def slow(rows):
        if rows[0, 0] > 0:
            go_on.wait(30)
        return rows[:, 0]

    async def main(eng):
        with anyio.move_on_after(0.05) as scope:
            await eng.predict_async([1.0, 0.0])
        go_on.set()
        return scope.cancelled_caught

    with engine.Engine(
        engine.load_model(slow, n_features=2), deadline_ms=FAR_MS, warmup=np.zeros((1, 2))
    ) as eng:
        assert anyio.run(main, eng) is True
        assert eng.stats()["cancelled"] == 1
