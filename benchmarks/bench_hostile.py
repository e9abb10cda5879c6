"""Answers in time on a host that gets in the way: hogs, a spinning thread, long C calls and collections hold it up.

What a process that the engine is embedded in does to it, one thing at a time: two other processes that burn CPU
(`hogs`); a thread of pure Python that never rests (`spinner`); a thread that sorts and serialises something big, in C
calls of tens of milliseconds that keep the GIL (`long_calls`); a thread that collects a big object graph over and over
(`collections`); and none of it (`calm`). Each is met through three doors: `sync`, threads that wait in the batch lane;
`async`, coroutines on one event loop; `inline`, threads in the inline lane. The batch lane's primary is native, burns
200 us a call, and stalls for 12 ms in every 150, so that the rescue has work.

`ready_*` is the share of answers that existed natively within the 10 ms of the call, `returned_*` the share that Python
held by then; a figure without a door is that of the worst door. No engine can do anything about the second when
somebody else has the GIL: `stats()` says so, and the conditions tell which term of the guard grew most against `calm`
(`cause_*`). Callers think for a while and ask again; deadlines count from the call, because a caller that cannot get
the GIL to ask has nothing to expect yet. The rival is the asyncio micro-batcher with the same primary. Shares are of
the requests of all repeats; the full size takes under two minutes. Load is the `deadline` case's matter.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

import engine
from benchmarks import conditions, models, rivals, timing
from engine.testing import faults

FEATURES = 30
DEADLINE_MS = 10.0
PRIMARY_US = 200.0
# Longer than the deadline, and not so long that the executor is taken for stuck and its breaker opened.
STALL_MS, EVERY_MS = 12.0, 150.0
ROWS_MAX = 16
CALLERS = 16
THINK_S = 0.012
ASKED_MIN = 2  # by each caller, however short the phase
DOORS = ("sync", "async", "inline")
# Not all there is to see in a guard: the other terms are the fallback's typical cost and errors of prediction.
TERMS = ("timer", "return", "fallback")

# (existed in time, held by Python in time)
Flags = tuple[bool, bool]


def run(smoke: bool) -> dict[str, Any]:
    seconds, repeats = (0.15, 1) if smoke else (1.4, 3)
    case = Case(seconds)
    for repeat in range(repeats):
        for name, disturb in DISTURBANCES.items():
            with disturb():
                for door in DOORS:
                    case.measure(name, door, repeat)
                case.measure_rival(name, repeat)
    return case.result(repeats)


class Case:
    """The models that all phases share, and the figures as they come in."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.linear = models.linear(FEATURES)
        self.rows = np.random.default_rng(8).normal(size=(256, FEATURES)).astype(np.float32)
        self.shares: list[dict[str, float]] = []
        self.terms: dict[tuple[str, str, int], dict[str, float]] = {}
        self.seen: dict[str, list[Flags]] = {}
        self.sources: dict[str, Counter[str]] = {}

    def measure(self, name: str, door: str, repeat: int) -> None:
        slowed = faults.slow(self.linear, PRIMARY_US)
        stalling = faults.stalling(slowed, stall_ms=STALL_MS, every_ms=EVERY_MS, armed=False)
        inline = door == "inline"
        with engine.Engine(
            self.linear if inline else stalling,
            fallback=self.linear,
            default=0.0,
            deadline_ms=DEADLINE_MS,
            batch_rows_max=ROWS_MAX,
            lane="inline" if inline else "batch",
        ) as served:
            stalling.arm()
            seen = (self._by_loop if door == "async" else self._by_threads)(served, repeat)
            stalling.disarm()
            facts = served.stats()
        self.seen.setdefault(f"{name}_{door}", []).extend(seen)
        self.sources.setdefault(f"{name}_{door}", Counter()).update(facts["answers"])
        if not inline:
            margin = facts["guard_us"][door]
            self.terms[name, door, repeat] = {term: margin[term] for term in TERMS}
        ready, returned = (float(np.mean(flags)) for flags in zip(*seen, strict=True))
        self.shares.append({f"ready_{name}_{door}": ready, f"returned_{name}_{door}": returned})
        print(f"  {name:<12} {door:<7} {len(seen):>6} ready {ready:.4f} returned {returned:.4f}", flush=True)

    def _by_threads(self, served: engine.Engine, seed: int) -> list[Flags]:
        """Several threads, each asking, thinking for a while and asking again."""
        seen: list[Flags] = []
        until = time.monotonic() + self.seconds

        def ask(number: int) -> None:
            think, asked = random.Random(100 * seed + number), 0
            while asked < ASKED_MIN or time.monotonic() < until:
                time.sleep(think.expovariate(1 / THINK_S))
                asked += 1
                answer = served.predict(self.rows[(number + asked) % len(self.rows)])
                seen.append((answer.on_time_ready, answer.on_time))

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(CALLERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return seen

    def _by_loop(self, served: engine.Engine, seed: int) -> list[Flags]:
        async def ask(row: np.ndarray) -> Flags:
            answer = await served.predict_async(row)
            return answer.on_time_ready, answer.on_time

        return asyncio.run(self._on_loop(lambda: ask, seed))

    def measure_rival(self, name: str, repeat: int) -> None:
        """The micro-batcher on the event loop; when its answers were ready nobody can tell."""
        slowed = faults.slow(self.linear, PRIMARY_US)
        score = rivals.Stalling(slowed.predict, STALL_MS, EVERY_MS)

        def make() -> Callable[[np.ndarray], Any]:
            batcher = rivals.MicroBatcher(score, ROWS_MAX)
            score.arm(time.monotonic_ns())

            async def ask(row: np.ndarray) -> Flags:
                asked = time.monotonic()
                await batcher.submit(row)
                in_time = time.monotonic() - asked <= DEADLINE_MS * 1e-3
                return in_time, in_time

            ask.close = batcher.close  # type: ignore[attr-defined]
            return ask

        seen = asyncio.run(self._on_loop(make, repeat))
        returned = float(np.mean([flags[1] for flags in seen]))
        self.seen.setdefault(f"{name}_rival", []).extend(seen)
        print(f"  {name:<12} rival   {len(seen):>6} {'':<12} returned {returned:.4f}", flush=True)

    async def _on_loop(self, make: Callable[[], Callable[[np.ndarray], Any]], seed: int) -> list[Flags]:
        """The same callers as coroutines of one event loop."""
        seen: list[Flags] = []
        ask = make()
        until = time.monotonic() + self.seconds

        async def caller(number: int) -> None:
            think, asked = random.Random(100 * seed + number), 0
            while asked < ASKED_MIN or time.monotonic() < until:
                await asyncio.sleep(think.expovariate(1 / THINK_S))
                asked += 1
                seen.append(await ask(self.rows[(number + asked) % len(self.rows)]))

        await asyncio.gather(*(caller(number) for number in range(CALLERS)))
        if hasattr(ask, "close"):
            ask.close()
        return seen

    def result(self, repeats: int) -> dict[str, Any]:
        metrics: dict[str, float] = {}
        rival: dict[str, float] = {}
        for name in DISTURBANCES:
            for column, kind in enumerate(("ready", "returned")):
                shares = {door: self._share(f"{name}_{door}", column) for door in (*DOORS, "rival")}
                metrics[f"{kind}_{name}"] = min(shares[door] for door in DOORS)
                metrics |= {f"{kind}_{name}_{door}": shares[door] for door in DOORS}
            rival[f"returned_{name}"] = shares["rival"]
        grown = {name: self._grown(name, repeats) for name in DISTURBANCES if name != "calm"}
        return {
            "metrics": metrics,
            "rivals": {"asyncio_batcher": rival},
            "conditions": {
                "arrivals": f"{CALLERS} callers that think for {THINK_S * 1e3:g} ms on average and ask again",
                "deadline_ms": DEADLINE_MS,
                "primary": f"native, {PRIMARY_US:g} us a call, stalled {STALL_MS:g} ms in every {EVERY_MS:g}",
                "phase_s": self.seconds,
                "repeats": repeats,
                "switch_interval_ms": sys.getswitchinterval() * 1e3,
                "requests": {name: len(flags) for name, flags in self.seen.items()},
                **{f"cause_{name}": max(terms, key=terms.__getitem__) for name, terms in grown.items()},
                "guard_grew_us": grown,
                "sources": {name: dict(counts) for name, counts in self.sources.items()},
                "spread": timing.spread_of(self.shares),
                "checksum": conditions.checksum(self.linear.predict(self.rows)),
            },
        }

    def _share(self, phase: str, column: int) -> float:
        return float(np.mean([flags[column] for flags in self.seen[phase]]))

    def _grown(self, name: str, repeats: int) -> dict[str, float]:
        """Microseconds by which each term of the guard was larger than in the calm phase of the same repeat."""
        return {
            term: float(
                np.median(
                    [
                        self.terms[name, door, repeat][term] - self.terms["calm", door, repeat][term]
                        for door in ("sync", "async")
                        for repeat in range(repeats)
                    ]
                )
            )
            for term in TERMS
        }


@contextmanager
def calm() -> Iterator[None]:
    yield


@contextmanager
def hogs() -> Iterator[None]:
    """Two processes that burn CPU."""
    command = [sys.executable, "-S", "-c", "print(flush=True)\nwhile True: pass"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()  # it has begun
        yield
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@contextmanager
def beside(work: Callable[[], object]) -> Iterator[None]:
    """A thread that does `work` over and over."""
    stop = threading.Event()

    def loop() -> None:
        while not stop.is_set():
            work()

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def spinner() -> Iterator[None]:
    def count() -> None:
        for _ in range(10_000):
            pass

    with beside(count):
        yield


@contextmanager
def long_calls() -> Iterator[None]:
    numbers = np.random.default_rng(9).random(50_000).tolist()

    def call() -> None:
        sorted(numbers)
        json.dumps(numbers)

    with beside(call):
        yield


@contextmanager
def collections() -> Iterator[None]:
    graph: list[Any] = [[index] for index in range(100_000)]
    graph.extend([left, right] for left, right in zip(graph[::2], graph[1::2], strict=True))

    def collect() -> None:
        gc.collect()
        time.sleep(0.02)

    with beside(collect):
        yield
    graph.clear()


DISTURBANCES: dict[str, Callable[[], Any]] = {
    "calm": calm,
    "hogs": hogs,
    "spinner": spinner,
    "long_calls": long_calls,
    "collections": collections,
}
