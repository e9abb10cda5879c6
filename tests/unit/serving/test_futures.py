"""The future of predict_async: asyncio's in every respect but when its first waiter runs."""

import asyncio
import contextvars
import sys
import time
import unittest
from functools import partial

import pytest

import engine
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


def test_asyncio_reads_what_it_reads_of_its_own_futures():
    async def body():
        loop = asyncio.get_running_loop()
        future = AnswerFuture(loop)
        assert (future._state, future._result, future._exception, future._callbacks) == (
            "PENDING",
            None,
            None,
            None,
        )
        assert (future._loop, future._source_traceback, future._cancel_message) == (loop, None, None)
        assert future._log_traceback is False
        future._log_traceback = future._Future__log_traceback = future._log_destroy_pending = False
        with pytest.raises(ValueError, match="can only be set to False"):
            future._log_traceback = True
        future.add_done_callback(print)
        assert [fn for fn, _ in future._callbacks] == [print]
        future.remove_done_callback(print)
        future.cancel("gone")
        assert (future._state, future._cancel_message) == ("CANCELLED", "gone")
        assert future._make_cancelled_error().args == ("gone",)
        assert AnswerFuture[int].__args__ == (int,)
        with pytest.raises(asyncio.InvalidStateError, match="CANCELLED"):
            future.set_result(1)

    on_loop(body)


def test_an_exception_that_somebody_sets_reaches_the_waiters():
    async def body():
        future = AnswerFuture(asyncio.get_running_loop())
        future.set_exception(KeyError("k"))
        assert future.done()
        assert not future.cancelled()
        assert future.exception().args == ("k",)
        for _ in range(2):
            with pytest.raises(KeyError):
                await future
        with pytest.raises(asyncio.InvalidStateError, match="FINISHED"):
            future.set_exception(KeyError)
        with pytest.raises(TypeError, match="StopIteration"):
            AnswerFuture(asyncio.get_running_loop()).set_exception(StopIteration)

    on_loop(body)


@pytest.mark.parametrize("answer", [7, (1, 2), ValueError("a value")])
def test_await_gives_any_result(answer):
    async def body():
        future = AnswerFuture(asyncio.get_running_loop())
        asyncio.get_running_loop().call_soon(future.set_result, answer)
        assert await future is answer

    on_loop(body)


def test_gather_ends_with_cancelled_answers():
    async def body():
        loop = asyncio.get_running_loop()
        futures = [AnswerFuture(loop) for _ in range(3)]
        futures[1].cancel("why")
        loop.call_soon(futures[0].set_result, 1)
        loop.call_soon(futures[2].set_exception, KeyError("k"))
        one, cancelled, failed = await asyncio.gather(*futures, return_exceptions=True)
        assert (one, cancelled.args, failed.args) == (1, ("why",), ("k",))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.gather(*[AnswerFuture(loop) for _ in range(3)], return_exceptions=True)

    asyncio.run(asyncio.wait_for(body(), 10))


def test_tasks_run_answers_and_asyncio_wait_takes_them():
    async def body():
        loop = asyncio.get_running_loop()
        first, second, third = (AnswerFuture(loop) for _ in range(3))
        task = asyncio.create_task(first)
        loop.call_later(0.01, first.set_result, 1)
        assert await task == 1
        async with asyncio.TaskGroup() as group:
            task = group.create_task(second)
            loop.call_soon(second.set_result, 2)
        assert task.result() == 2
        task = asyncio.create_task(third)
        await asyncio.sleep(0)
        task.cancel("enough")
        with pytest.raises(asyncio.CancelledError):
            await task
        assert third.cancelled()
        assert not asyncio.iscoroutine(third)
        done, _ = await asyncio.wait([first, second, third])
        assert len(done) == 3

    on_loop(body)


def test_cpythons_own_tests_of_futures_pass():
    futures = pytest.importorskip("test.test_asyncio.test_futures")

    class Made:
        cls = AnswerFuture

        def _new_future(self, *args, **kwargs):
            return AnswerFuture(*args, **kwargs)

    class Futures(Made, futures.BaseFutureTests, futures.test_utils.TestCase):
        pass

    class Callbacks(Made, futures.BaseFutureDoneCallbackTests, futures.test_utils.TestCase):
        def _new_future(self):
            return AnswerFuture(loop=self.loop)

    # An answer keeps no stack of its calls.
    not_ours = (
        "repr",
        "never_retrieved_debug",
        "source_traceback",
        "uninitialized",
        "positional",
        "test_iter",
    )  # an answer is its own iterator, and counts no turns
    suite = unittest.TestSuite(
        test
        for case in (Futures, Callbacks)
        for test in unittest.defaultTestLoader.loadTestsFromTestCase(case)
        if not any(word in test.id() for word in not_ours)
    )
    result = unittest.TestResult()
    suite.run(result)
    assert result.testsRun > 30
    assert [text for _, text in result.errors + result.failures] == []


def sum_of_rows(deadline_ms=5000.0, **options):
    model = engine.load_model(lambda rows: rows.sum(axis=1), n_features=2)
    return engine.Engine(model, default=-1.0, deadline_ms=deadline_ms, **options)


def run_again(loop, until):
    """Run a loop that runs already, as nest_asyncio and the dialogs of window systems do, until the future is done."""
    task = asyncio.tasks._current_tasks.pop(loop)
    try:
        give_up = time.monotonic() + 10
        while not until.done() and time.monotonic() < give_up:
            loop._run_once()
        assert until.done()
    finally:
        asyncio.tasks._current_tasks[loop] = task


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="tasks are entered and left in C alone")
def test_a_step_may_run_its_loop_again():
    errors = []

    async def body():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: errors.append(context))
        with sum_of_rows() as eng:

            async def ask(i):
                await eng.predict_async([float(i), 0.0])
                return (await eng.predict_async([float(i), 1.0])).value

            for _ in range(20):
                others = [asyncio.create_task(ask(i)) for i in range(8)]
                await eng.predict_async([1.0, 1.0])
                run_again(loop, asyncio.gather(*others))
                assert [task.result() for task in others] == [i + 1.0 for i in range(8)]
                assert (await eng.predict_async([2.0, 2.0])).value == 4.0

    asyncio.run(asyncio.wait_for(body(), 60))
    assert errors == []


def test_a_step_may_run_another_loop():
    with sum_of_rows() as eng:

        async def helper():
            return [(await eng.predict_async([float(i), 0.0])).value for i in range(3)]

        def run_helper():
            running = asyncio.get_running_loop()
            asyncio._set_running_loop(None)
            task = asyncio.tasks._current_tasks.pop(running, None) if sys.version_info < (3, 14) else None
            try:
                other = asyncio.new_event_loop()
                try:
                    return other.run_until_complete(asyncio.wait_for(helper(), 10))
                finally:
                    other.close()
            finally:
                asyncio._set_running_loop(running)
                if task is not None:
                    asyncio.tasks._current_tasks[running] = task

        async def body():
            for _ in range(20):
                await eng.predict_async([1.0, 1.0])
                assert run_helper() == [0.0, 1.0, 2.0]
                assert (await eng.predict_async([2.0, 2.0])).value == 4.0

        asyncio.run(asyncio.wait_for(body(), 60))
