"""The future of predict_async: asyncio's in every respect but when its first waiter runs."""

import asyncio
import contextvars

import pytest

from engine.core._futures import AnswerFuture


def on_loop(body):
    asyncio.run(body())


def test_answer_runs_the_first_callback_at_once_and_the_others_in_the_next_turn():
    async def body():
        seen = []
        future = AnswerFuture(loop=asyncio.get_running_loop())
        future.add_done_callback(lambda f: seen.append(("first", f.result())))
        future.add_done_callback(lambda f: seen.append(("second", f.result())))
        asyncio.get_running_loop().call_soon(future.answer, 7)
        assert seen == []
        await asyncio.sleep(0)
        assert seen == [("first", 7)]
        await asyncio.sleep(0)
        assert seen == [("first", 7), ("second", 7)]

    on_loop(body)


def test_set_result_and_cancel_wake_in_the_next_turn():
    async def body():
        for finish in (
            lambda f: f.set_result(1),
            lambda f: f.cancel("why"),
            lambda f: f.set_exception(ValueError()),
        ):
            seen = []
            future = AnswerFuture(loop=asyncio.get_running_loop())
            future.add_done_callback(seen.append)
            finish(future)
            assert seen == []
            await asyncio.sleep(0)
            assert seen == [future]
            future.cancelled() or future.exception()

    on_loop(body)


def test_callbacks_added_late_or_removed():
    async def body():
        seen = []
        future = AnswerFuture(loop=asyncio.get_running_loop())
        future.add_done_callback(seen.append)
        assert future.remove_done_callback(seen.append) == 1
        assert future.remove_done_callback(seen.append) == 0
        future.answer(1)
        future.add_done_callback(seen.append)
        await asyncio.sleep(0)
        assert seen == [future]

    on_loop(body)


def test_callbacks_run_in_the_context_they_were_added_in():
    name = contextvars.ContextVar("name", default="outside")

    async def body():
        seen = []
        future = AnswerFuture(loop=asyncio.get_running_loop())
        name.set("inside")
        future.add_done_callback(lambda f: seen.append(name.get()))
        name.set("later")
        asyncio.get_running_loop().call_soon(future.answer, 1)
        await asyncio.sleep(0)
        assert seen == ["inside"]

    on_loop(body)


def test_it_serves_the_tools_of_asyncio():
    async def body():
        loop = asyncio.get_running_loop()

        def answered(value):
            future = AnswerFuture(loop=loop)
            loop.call_soon(future.answer, value)
            return future

        assert await answered(1) == 1
        assert await asyncio.gather(*(answered(i) for i in range(5))) == [0, 1, 2, 3, 4]
        assert await asyncio.wait_for(answered(2), 1.0) == 2
        assert await asyncio.shield(answered(3)) == 3
        done, _ = await asyncio.wait([answered(4), answered(5)])
        assert sorted(future.result() for future in done) == [4, 5]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await AnswerFuture(loop=loop)
        async with asyncio.TaskGroup() as group:

            async def ask(value):
                return await answered(value)

            tasks = [group.create_task(ask(i)) for i in range(3)]
        assert [task.result() for task in tasks] == [0, 1, 2]

    on_loop(body)
