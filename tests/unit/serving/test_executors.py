"""Engines that share executors, and where executors may run."""

import asyncio
import os
import threading

import numpy as np
import pytest

import engine
from engine.errors import ClosedError, ConfigError
from engine.model import dense

FAR_MS = 60_000.0


def linear(bias: float = 0.0) -> engine.Model:
    return dense([np.array([[1.0], [10.0]])], [np.array([bias])])


def thread_names() -> list[str]:
    names = []
    for thread in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{thread}/comm") as file:
                names.append(file.read().strip())
        except FileNotFoundError:  # ended meanwhile
            pass
    return names


def test_many_engines_answer_through_two_threads():
    before = len(thread_names())
    with engine.Executors(threads=2) as pool:
        engines = [
            engine.Engine(linear(float(i)), default=-1.0, executors=pool, lane="batch", deadline_ms=FAR_MS)
            for i in range(50)
        ]
        assert len(thread_names()) - before <= 2 + 1  # two executors and one rescue for all of them
        wrong = []

        def ask(offset):
            for i in range(200):
                number = (i * 7 + offset) % len(engines)
                answer = engines[number].predict([1.0, 2.0])
                if (answer.value, answer.source) != (21.0 + number, "primary"):
                    wrong.append(answer)

        threads = [threading.Thread(target=ask, args=(t,)) for t in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []

        async def asked():
            return await asyncio.gather(*(eng.predict_async([1.0, 2.0]) for eng in engines))

        assert [answer.value for answer in asyncio.run(asked())] == [21.0 + i for i in range(50)]
        facts = engines[0].stats()["executors"]
        assert (facts["threads"], facts["engines"]) == (2, 50)
        for eng in engines[::2]:
            eng.close()
        assert engines[1].predict([1.0, 2.0]).value == 22.0
        with pytest.raises(ConfigError, match="25 engines still use"):
            pool.close()
        for eng in engines:
            eng.close()


def test_idle_engines_cost_no_threads_and_little_memory():
    def resident_kb():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024

    with engine.Executors() as pool:
        first = engine.Engine(linear(), default=-1.0, executors=pool, lane="batch")
        first.predict([1.0, 2.0], deadline_ms=FAR_MS)
        threads, memory = len(thread_names()), resident_kb()
        engines = [
            engine.Engine(linear(), default=-1.0, executors=pool, lane="batch", warmup=np.ones((1, 2)))
            for _ in range(200)
        ]
        assert len(thread_names()) == threads
        assert (resident_kb() - memory) / len(engines) < 300
        for eng in [first, *engines]:
            eng.close()


def test_a_hung_engine_gives_its_thread_back_to_the_others():
    go = threading.Event()
    hangs = engine.load_model(lambda rows: (go.wait(60), rows[:, 0])[1], n_features=2)
    with engine.Executors(threads=1) as pool:
        other = engine.Engine(linear(), default=-1.0, executors=pool, lane="batch", deadline_ms=FAR_MS)
        stuck = engine.Engine(hangs, default=-1.0, executors=pool, deadline_ms=50.0, warmup=None)
        answer = stuck.predict([1.0, 2.0])
        assert answer.source == "default"
        assert other.predict([1.0, 2.0]).source == "primary"
        go.set()
        stuck.close()
        other.close()


@pytest.mark.parametrize("lane", ["inline", "batch"])
def test_engines_of_closed_executors_are_refused(lane):
    pool = engine.Executors()
    pool.close()
    pool.close()
    with pytest.raises(ClosedError, match="executors are closed"):
        engine.Engine(linear(), executors=pool, lane=lane)


def test_executors_stay_on_the_cpus_they_are_given():
    cpu = min(os.sched_getaffinity(0))
    with engine.Engine(linear(), default=-1.0, lane="batch", deadline_ms=FAR_MS, cpus=[cpu]) as eng:
        eng.predict([1.0, 2.0])
        pinned = {}
        for thread in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{thread}/comm") as file:
                name = file.read().strip()
            if name.startswith("engine-exec"):
                pinned[name] = os.sched_getaffinity(int(thread))
        assert pinned
        assert set.union(*pinned.values()) == {cpu}


@pytest.mark.parametrize("cpus", [[], [1000], [-1], ["0"]])
def test_cpus_that_are_not_ours_are_refused(cpus):
    with pytest.raises(ConfigError, match="cpus"):
        engine.Engine(linear(), lane="batch", cpus=cpus)


def may_run_in_real_time() -> bool:
    before = os.sched_getscheduler(0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        return False
    os.sched_setscheduler(0, before, os.sched_param(0))
    return True


def test_real_time_priority_is_given_or_refused_loudly():
    if may_run_in_real_time():
        with engine.Engine(
            linear(), default=-1.0, lane="batch", deadline_ms=FAR_MS, realtime_priority=1, spin=False
        ) as eng:
            eng.predict([1.0, 2.0])
            schedulers = set()
            for thread in os.listdir("/proc/self/task"):
                with open(f"/proc/self/task/{thread}/comm") as file:
                    if file.read().startswith("engine-exec"):
                        schedulers.add(os.sched_getscheduler(int(thread)))
            assert schedulers == {os.SCHED_FIFO}
    else:
        with pytest.raises(ConfigError, match="the system refuses realtime_priority=1"):
            engine.Engine(linear(), lane="batch", realtime_priority=1)


@pytest.mark.parametrize(
    ("priority", "text"),
    [
        (0, "an int from 1 to 99, got 0"),
        (100, "an int from 1 to 99, got 100"),
        (1.5, "an int, got float 1.5"),
        (True, "an int, got bool True"),
    ],
)
def test_real_time_priorities_are_1_to_99(priority, text):
    with pytest.raises(ConfigError, match=f"realtime_priority must be {text}"):
        engine.Executors(realtime_priority=priority)


def test_placement_belongs_to_the_shared_executors():
    with engine.Executors() as pool, pytest.raises(ConfigError, match="belong to the shared Executors"):
        engine.Engine(linear(), executors=pool, cpus=[0])


def test_at_overload_each_engine_gets_its_share():
    import time

    def busy(rows):
        until = time.monotonic() + 0.004 * len(rows)
        while time.monotonic() < until:
            time.sleep(0.0005)
        return rows[:, 0]

    with engine.Executors(threads=1) as pool:
        light, heavy = (
            engine.Engine(
                engine.load_model(busy, n_features=2),
                fallback=linear(),
                default=-1.0,
                executors=pool,
                deadline_ms=80.0,
                batch_rows_max=1,
                weight=weight,
            )
            for weight in (1.0, 3.0)
        )

        async def flood(
            eng,
        ):  # 2000 requests, four times what there is time for, whether they are answered or not
            asked = []
            for _ in range(1000):
                asked += [eng.predict_async([1.0, 2.0]) for _ in range(2)]
                await asyncio.sleep(0.002)
            await asyncio.gather(*asked)

        async def both():
            await asyncio.gather(flood(light), flood(heavy))

        asyncio.run(both())
        answered = [eng.stats()["answers"]["primary"] for eng in (light, heavy)]
        assert answered[0] > 20  # neither is starved …
        assert answered[1] > 1.5 * answered[0]  # … and the heavier one gets clearly more
        light.close()
        heavy.close()
