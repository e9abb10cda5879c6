"""The future of predict_async: asyncio's in every respect but when its first waiter runs."""

import asyncio
import contextvars
from functools import partial

import pytest

from engine.serving._futures import AnswerFuture


def on_loop(body):
    asyncio.run(body())


def test_answer_runs_the_first_callback_at_once_and_the_others_in_the_next_turn():
    async def body():
        seen = []
        future = AnswerFuture(asyncio.get_running_loop())
        future.add_done_callback(lambda f: seen.append(("first", f.result())))
        future.add_done_callback(lambda f: seen.append(("second", f.result())))
        asyncio.get_running_loop().call_soon(partial(future.set_result, 7, step=True))
        assert seen == []
        await asyncio.sleep(0)
        assert seen == [("first", 7)]
        await asyncio.sleep(0)
        assert seen == [("first", 7), ("second", 7)]

    on_loop(body)


def test_set_result_and_cancel_wake_in_the_next_turn():
    async def body():
        for finish in (lambda f: f.set_result(1), lambda f: f.cancel("why")):
            seen = []
            future = AnswerFuture(asyncio.get_running_loop())
            future.add_done_callback(seen.append)
            finish(future)
            assert seen == []
            await asyncio.sleep(0)
            assert seen == [future]

    on_loop(body)


def test_callbacks_added_late_or_removed():
    async def body():
        seen = []
        future = AnswerFuture(asyncio.get_running_loop())
        future.add_done_callback(seen.append)
        assert future.remove_done_callback(seen.append) == 1
        assert future.remove_done_callback(seen.append) == 0
        future.set_result(1, step=True)
        future.add_done_callback(seen.append)
        await asyncio.sleep(0)
        assert seen == [future]

    on_loop(body)


def test_callbacks_run_in_the_context_they_were_added_in():
    name = contextvars.ContextVar("name", default="outside")

    async def body():
        seen = []
        future = AnswerFuture(asyncio.get_running_loop())
        name.set("inside")
        future.add_done_callback(lambda f: seen.append(name.get()))
        name.set("later")
        asyncio.get_running_loop().call_soon(partial(future.set_result, 1, step=True))
        await asyncio.sleep(0)
        assert seen == ["inside"]

    on_loop(body)


def test_it_serves_the_tools_of_asyncio():
    async def body():
        loop = asyncio.get_running_loop()

        def answered(value):
            future = AnswerFuture(loop)
            loop.call_soon(partial(future.set_result, value, step=True))
            return future

        assert await answered(1) == 1
        assert await asyncio.gather(*(answered(i) for i in range(5))) == [0, 1, 2, 3, 4]
        assert await asyncio.wait_for(answered(2), 1.0) == 2
        assert await asyncio.shield(answered(3)) == 3
        done, _ = await asyncio.wait([answered(4), answered(5)])
        assert sorted(future.result() for future in done) == [4, 5]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await AnswerFuture(loop)
        async with asyncio.TaskGroup() as group:

            async def ask(value):
                return await answered(value)

            tasks = [group.create_task(ask(i)) for i in range(3)]
        assert [task.result() for task in tasks] == [0, 1, 2]

    on_loop(body)


def test_what_asyncio_asks_of_a_future():
    async def body():
        loop = asyncio.get_running_loop()
        future = AnswerFuture(loop)
        assert asyncio.isfuture(future)
        assert future.get_loop() is loop
        assert not future.done()
        with pytest.raises(asyncio.InvalidStateError, match="not there yet"):
            future.result()
        future.set_result(3)
        assert future.done()
        assert not future.cancelled()
        assert not future.cancel()
        assert (future.result(), future.exception()) == (3, None)
        assert [await future, await future] == [3, 3]

        given_up = AnswerFuture(loop)
        assert given_up.cancel("no longer needed")
        assert given_up.done()
        assert given_up.cancelled()
        assert not given_up.cancel()
        with pytest.raises(asyncio.CancelledError, match="no longer needed"):
            given_up.exception()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.gather(given_up, future)

    on_loop(body)


def test_a_first_callback_that_raises_leaves_the_others_and_its_context_alone():
    async def body():
        seen = []
        future = AnswerFuture(asyncio.get_running_loop())
        for _ in range(2):
            future.add_done_callback(seen.append)
        future.remove_done_callback(seen.append)

        def fail(_):
            raise ValueError("of the callback")

        future.add_done_callback(fail)
        future.add_done_callback(seen.append)
        with pytest.raises(ValueError, match="of the callback"):
            future.set_result(1, step=True)
        await asyncio.sleep(0)
        assert seen == [future]

    on_loop(body)


def test_two_tasks_may_await_one():
    async def body():
        future = AnswerFuture(asyncio.get_running_loop())

        async def wait():
            return await future

        tasks = [asyncio.create_task(wait()) for _ in range(2)]
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(partial(future.set_result, 5, step=True))
        assert await asyncio.gather(*tasks) == [5, 5]

    on_loop(body)
