"""What people build when they have no engine: each in the form that its authors would tune it to, and no cleverer.

Every rival answers a request on the event loop with a future of a `Reply`, as the engine does, so that the same
generator drives them all. They share one ONNX Runtime session on one thread, like the engine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from engine.loadgen.load import Reply

Score = Callable[[np.ndarray], np.ndarray]


class Threads:
    """A thread pool in front of the bare session: one request, one run of one row; the first thing anyone writes."""

    def __init__(self, score: Score, threads: int) -> None:
        self.score = score
        self.pool = ThreadPoolExecutor(threads)

    def _work(self, row: np.ndarray) -> Reply:
        return Reply(float(self.score(row[None])[0]), "primary")

    def submit(self, row: np.ndarray) -> asyncio.Future[Reply]:
        return asyncio.get_running_loop().run_in_executor(self.pool, self._work, row)

    def close(self) -> None:
        self.pool.shutdown(wait=True, cancel_futures=True)


class MicroBatcher:
    """The asyncio micro-batcher: requests wait in a list; a task takes up to `rows_max` and scores them in a thread.

    A batch leaves as soon as it is full, `window_ms` after its first request, or at once when the window is zero and
    the model is free. One batch runs at a time, on one worker thread, because the session is on one thread.
    """

    def __init__(
        self, score: Score, rows_max: int = 64, window_ms: float = 1.0, in_thread: bool = True
    ) -> None:
        self.score = score
        self.rows_max = rows_max
        self.window_s = window_ms * 1e-3
        self.pool = ThreadPoolExecutor(1) if in_thread else None
        self.waiting: list[tuple[np.ndarray, asyncio.Future[Reply]]] = []
        self.arrived = asyncio.Event()
        self.full = asyncio.Event()
        self.task = asyncio.get_running_loop().create_task(self._serve())

    def submit(self, row: np.ndarray) -> asyncio.Future[Reply]:
        future = self.task.get_loop().create_future()
        self.waiting.append((row, future))
        self.arrived.set()
        if len(self.waiting) >= self.rows_max:
            self.full.set()
        return future

    async def _serve(self) -> None:
        while True:
            await self.arrived.wait()
            if self.window_s and len(self.waiting) < self.rows_max:
                await self._wait_for_more()
            batch, self.waiting = self.waiting[: self.rows_max], self.waiting[self.rows_max :]
            if not self.waiting:
                self.arrived.clear()
            # A caller that gave up has cancelled its future; its row is not worth scoring.
            batch = [(row, future) for row, future in batch if not future.done()]
            if batch:
                await self._answer(batch)

    async def _wait_for_more(self) -> None:
        self.full.clear()
        try:
            await asyncio.wait_for(self.full.wait(), self.window_s)
        except TimeoutError:
            pass

    async def _answer(self, batch: list[tuple[np.ndarray, asyncio.Future[Reply]]]) -> None:
        rows = np.stack([row for row, _ in batch])
        if self.pool is None:
            values = self.score(rows)
        else:
            values = await asyncio.get_running_loop().run_in_executor(self.pool, self.score, rows)
        for (_, future), value in zip(batch, values.tolist(), strict=True):
            if not future.done():
                future.set_result(Reply(value, "primary"))

    def close(self) -> None:
        self.task.cancel()
        if self.pool is not None:
            self.pool.shutdown(wait=True, cancel_futures=True)


class TimeoutThenFallback:
    """A micro-batcher whose callers stop waiting after `timeout_ms` and take the fallback: the usual advice."""

    def __init__(self, batcher: MicroBatcher, fallback: Score, timeout_ms: float) -> None:
        self.batcher = batcher
        self.fallback = fallback
        self.timeout_s = timeout_ms * 1e-3

    async def submit(self, row: np.ndarray) -> Reply:
        try:
            return await asyncio.wait_for(self.batcher.submit(row), self.timeout_s)
        except TimeoutError:
            return Reply(float(self.fallback(row[None])[0]), "fallback", "timeout")

    def close(self) -> None:
        self.batcher.close()


class Stalling:
    """A model that answers nothing during the first `stall_ms` of every `every_ms`, counted from `arm`."""

    def __init__(self, score: Score, stall_ms: float, every_ms: float) -> None:
        self.score = score
        self.stall_ns, self.every_ns = int(stall_ms * 1e6), int(every_ms * 1e6)
        self.start_ns: int | None = None

    def arm(self, start_ns: int) -> None:
        self.start_ns = start_ns

    def disarm(self) -> None:
        self.start_ns = None

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        start_ns, now = self.start_ns, time.monotonic_ns()
        if start_ns is not None and now >= start_ns:
            into_ns = (now - start_ns) % self.every_ns
            if into_ns < self.stall_ns:
                time.sleep((self.stall_ns - into_ns) * 1e-9)
        return self.score(rows)


class Ideal:
    """An engine that answers at once: what even it misses is the machine's doing and the generator's."""

    def __init__(self) -> None:
        self.reply = Reply(0.0, "primary", latency_us=0.0)

    def submit(self, row: Any, deadline_ns: int) -> asyncio.Future[Reply]:
        future = asyncio.get_running_loop().create_future()
        future.set_result(self.reply)
        return future

    def arm(self, start_ns: int) -> None:
        pass

    def close(self) -> None:
        pass
