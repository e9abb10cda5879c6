"""Threads that make the blocking calls of a vendor's client, while a request waits until its deadline at most.

Such a client has one timeout for all calls, and each request has a deadline of its own. So the call runs on, bounded by
the client's timeout, and the request leaves without it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from engine.feature_store.online.base import Unavailable

T = TypeVar("T")


class Calls:
    """A bounded pool of threads. Thread-safe, and safe across forks: a child has a pool of its own.

    Args:
        name: of the threads.
        threads_max: how many calls may be under way.
        queued_max: how many more may wait for a thread. A call beyond that is refused at once.
    """

    def __init__(self, name: str, threads_max: int, queued_max: int) -> None:
        self._name = name
        self._threads_max = threads_max
        self._calls_max = threads_max + queued_max
        self._pool: ThreadPoolExecutor | None = None
        self._pid = 0
        # One element for each call that has not ended: append and pop are atomic, and len needs no lock.
        self._under_way: list[None] = []

    # Hot: once per call.
    def start(self, call: Callable[..., T], deadline_ns: int, *arguments: Any) -> Future[T]:
        """Begin `call(*arguments)`. A call that no thread begins by `deadline_ns` of `time.monotonic_ns` is not made.

        Raises:
            Unavailable: too many calls are under way.
        """
        if self._pool is None or self._pid != os.getpid():
            self._pool = ThreadPoolExecutor(self._threads_max, thread_name_prefix=self._name)
            self._pid, self._under_way = os.getpid(), []
        under_way = self._under_way
        if len(under_way) >= self._calls_max:
            raise Unavailable("timeout", f"{len(under_way)} calls to the store are under way: it is too slow")
        try:
            future = self._pool.submit(_made, call, deadline_ns, arguments)
        except (RuntimeError, AttributeError) as error:
            # The interpreter ends, or another thread has closed the pool.
            raise Unavailable("store_down", f"no thread to call the store: {error}") from None
        under_way.append(None)
        # A call that is cancelled before it begins ends so too.
        future.add_done_callback(lambda _: under_way.pop())
        return future

    def close(self) -> None:
        """End the threads once their calls have returned. A later call starts new ones."""
        pool, self._pool = self._pool, None
        if pool is not None and self._pid == os.getpid():
            pool.shutdown(wait=False, cancel_futures=True)


def _made(call: Callable[..., T], deadline_ns: int, arguments: tuple[Any, ...]) -> T:
    if time.monotonic_ns() >= deadline_ns:
        raise TimeoutError("the deadline passed before a thread was free")
    return call(*arguments)


def results(futures: Sequence[Future[T]], deadline_ns: int) -> list[T]:
    """The results, in order. Raises TimeoutError at the deadline, or what a call raised."""
    return [future.result(max(deadline_ns - time.monotonic_ns(), 0) * 1e-9) for future in futures]


async def results_async(futures: Sequence[Future[T]], deadline_ns: int) -> list[T]:
    """`results` that does not block the running event loop."""
    left_s = max(deadline_ns - time.monotonic_ns(), 0) * 1e-9
    async with asyncio.timeout(left_s):
        return list(await asyncio.gather(*map(asyncio.wrap_future, futures)))
