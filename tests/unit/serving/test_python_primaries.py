"""Python primaries: what they set up per thread, and the GIL that they share with their callers."""

import asyncio
import threading
import time

import numpy as np
import pytest

import engine
from engine.model import dense

FAR_MS = 60_000.0


def small() -> engine.Model:
    """Answers 1000 to everything."""
    return dense([np.zeros((2, 1))], [np.array([1000.0])])


class SetsUp:
    """A model that needs `seconds` on each thread before its first answer, as a session or a connection does."""

    def __init__(self, seconds):
        self.seconds, self.kept, self.threads = seconds, threading.local(), []

    def __call__(self, rows):
        if not hasattr(self.kept, "session"):
            time.sleep(self.seconds)
            self.kept.session = True
            self.threads.append(threading.get_ident())
        return rows[:, 0]


@pytest.mark.parametrize("executors", [1, 3])
def test_every_executor_has_set_its_thread_up_before_it_takes_requests(executors):
    model = SetsUp(0.05)
    with engine.Engine(
        engine.load_model(model, n_features=2),
        fallback=small(),
        deadline_ms=FAR_MS,
        executors=executors,
    ) as eng:
        assert eng.wait_ready(60.0)
        assert len(model.threads) == executors + 1  # and the thread that measures the model
        before = len(model.threads)
        for _ in range(20):
            assert eng.predict([1.0, 2.0]).source == "primary"
        assert len(model.threads) == before


def test_a_new_version_has_set_its_threads_up_before_it_takes_requests():
    with engine.Engine(engine.load_model(lambda rows: rows[:, 1], n_features=2), deadline_ms=FAR_MS) as eng:
        assert eng.wait_ready(60.0)
        for install in (eng.swap, lambda model: eng.canary(model, share=1.0)):
            model = SetsUp(0.02)
            install(engine.load_model(model, n_features=2))
            before = len(model.threads)
            assert before == 2  # the caller's and the executor's
            assert eng.predict([5.0, 2.0]).value == 5.0
            assert len(model.threads) == before


def test_a_canary_has_a_cost_of_its_own():
    def slow(rows):
        time.sleep(0.02)
        return rows[:, 0] + 100.0

    with engine.Engine(engine.load_model(lambda rows: rows[:, 0], n_features=2), deadline_ms=FAR_MS) as eng:
        assert eng.wait_ready(60.0)
        eng.canary(engine.load_model(slow, n_features=2), share=0.5, version="slow")
        answers = [eng.predict([1.0, 2.0], key=str(i)) for i in range(40)]
        assert {answer.value for answer in answers if answer.version == "slow"} == {101.0}
        assert {answer.value for answer in answers if answer.version != "slow"} == {1.0}
        assert eng.stats()["cost"]["row_us"] < 20_000
        eng.canary()
        assert {eng.predict([1.0, 2.0]).value for _ in range(10)} == {1.0}


def test_a_busy_loop_and_a_busy_thread_leave_every_request_its_answer():
    stop = threading.Event()

    def spin():
        count = 0
        while not stop.is_set():
            count += 1

    def model(rows):
        time.sleep(0.0005)  # without the GIL, and then it waits for it
        return rows[:, 0]

    async def main(eng):
        answers = []
        for i in range(300):
            answers.append(eng.predict_async([float(i), 0.0]))
            if i % 10 == 0:
                await asyncio.sleep(0)
        return [answer.value for answer in await asyncio.gather(*answers)]

    with engine.Engine(engine.load_model(model, n_features=2), deadline_ms=FAR_MS) as eng:
        assert eng.wait_ready(60.0)
        assert asyncio.run(main(eng)) == list(range(300))
        thread = threading.Thread(target=spin)
        thread.start()
        try:
            assert asyncio.run(main(eng)) == list(range(300))
            assert eng.predict([7.0, 0.0]).value == 7.0
        finally:
            stop.set()
            thread.join()
        assert [facts["openings"] for facts in eng.stats()["breakers"].values()] == [0]
