"""Flights: one for each embedding that is being made, whoever wants it. So a stampede computes it once.

A flight belongs to no caller. The first caller of an input begins it, later callers join it, and each waits until its
own deadline. When a caller goes away, the flight goes on for the others, or for the cache.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt


class Flight:
    """The making of one embedding. Its fields change under the lock of `Flights`.

    Attributes:
        digest: bytes, the key in memory.
        input: the input.
        ticket: its number in the engine's row.
        taken_ns: when the encoder was given the input, 0 while it was not.
        left: whether the caller that began it has its answer, so that nobody looks after it any more.
        done: whether it has an end, which never changes.
        value: the embedding, None where it failed.
        origin: "computed" or "second_level".
        reason: why it failed, as `Answer.reason`.
    """

    __slots__ = (
        "digest", "done", "input", "left", "loops", "origin", "reason", "taken_ns", "threads", "ticket", "value",
    )  # fmt: skip

    def __init__(self, digest: bytes, input: Any, ticket: int) -> None:
        self.digest = digest
        self.input = input
        self.ticket = ticket
        self.taken_ns = 0
        self.left = self.done = False
        self.value: npt.NDArray[np.float32] | None = None
        self.origin = "computed"
        self.reason = "timeout"
        self.threads: list[threading.Event] = []
        self.loops: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []


class Flights:
    """All flights of a cache, by digest and by ticket. Thread-safe.

    Args:
        stored: looks a digest up in memory, and returns its array or None.
        stuck_ns: a flight whose encoder call takes longer than this gets no more followers.
    """

    def __init__(self, stored: Callable[[bytes], Any], stuck_ns: int) -> None:
        self._stored = stored
        self._stuck_ns = stuck_ns
        self._lock = threading.Lock()
        self._by_digest: dict[bytes, Flight] = {}
        self._by_ticket: dict[int, Flight] = {}
        self._tickets = 0

    def __len__(self) -> int:
        return len(self._by_digest)

    def joined(self, digest: bytes, input: Any, now_ns: int) -> tuple[Flight | None, bool, Any]:
        """Join the flight of a digest, or begin one.

        Returns:
            The flight and whether the caller began it; or None, False and the array, where one has just ended.
        """
        with self._lock:
            flight = self._by_digest.get(digest)
            if flight is not None and not (flight.taken_ns and now_ns - flight.taken_ns > self._stuck_ns):
                return flight, False, None
            # A flight stores its array first and leaves the table then, so an array is never overlooked.
            value = self._stored(digest)
            if value is not None:
                return None, False, value
            flight = self._by_digest[digest] = Flight(digest, input, self._next_ticket())
            self._by_ticket[flight.ticket] = flight
            return flight, True, None

    def _next_ticket(self) -> int:
        self._tickets += 1
        return self._tickets

    def taken(self, tickets: list[int], now_ns: int) -> list[Flight | None]:
        """The flights of these tickets, for the encoder. None for one that was withdrawn or has ended."""
        with self._lock:
            found = [self._by_ticket.get(ticket) for ticket in tickets]
            for flight in found:
                if flight is not None:
                    flight.taken_ns = now_ns
        return found

    def given_back(self, flights: list[Flight], reason: str) -> list[Flight]:
        """The encoder failed for several inputs, and may get them again one by one.

        Flights that nobody looks after end here, because nobody else would end them. Returns those.
        """
        with self._lock:
            ended = [flight for flight in flights if flight.left]
            for flight in flights:
                flight.taken_ns = 0
        for flight in ended:
            self.fail(flight, reason)
        return ended

    def withdrawn(self, flight: Flight) -> bool:
        """Withdraw a flight from the engine, because the caller that began it goes.

        Returns:
            True where the encoder has not begun: the flight then has a new ticket for another request. False where it
            has ended, or ends with the call of the encoder.
        """
        with self._lock:
            if flight.done:
                return False
            if flight.taken_ns:
                flight.left = True
                return False
            del self._by_ticket[flight.ticket]
            flight.ticket = self._next_ticket()
            self._by_ticket[flight.ticket] = flight
            return True

    def abandon(self, flight: Flight, reason: str) -> None:
        """End a flight that nobody asks the engine for any more, unless the encoder has begun."""
        if self.withdrawn(flight):
            self.fail(flight, reason)

    def succeed(self, flight: Flight, value: npt.NDArray[np.float32], origin: str = "computed") -> None:
        """End a flight with its array, which is in memory already."""
        self._end(flight, value, origin, "ok")

    def fail(self, flight: Flight, reason: str) -> None:
        """End a flight without an array. Does nothing where it has an end."""
        self._end(flight, None, flight.origin, reason)

    def fail_all(self, reason: str) -> None:
        """End every flight without an array."""
        with self._lock:
            open_flights = list(self._by_digest.values())
        for flight in open_flights:
            self.fail(flight, reason)

    def _end(self, flight: Flight, value: Any, origin: str, reason: str) -> None:
        with self._lock:
            if flight.done:
                return
            flight.value, flight.origin, flight.reason = value, origin, reason
            flight.done = True
            self._by_ticket.pop(flight.ticket, None)
            # Another flight has its place where this one was stuck.
            if self._by_digest.get(flight.digest) is flight:
                del self._by_digest[flight.digest]
            threads, flight.threads = flight.threads, []
            loops, flight.loops = flight.loops, []
        for event in threads:
            event.set()
        waiting = defaultdict(list)
        for loop, future in loops:
            waiting[loop].append(future)
        for loop, futures in waiting.items():
            # A loop that has ended has no caller left.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_wake, futures)

    def wait(self, flight: Flight, timeout_s: float) -> None:
        """Wait for the end of a flight, for timeout_s seconds at most. Releases the GIL."""
        event = threading.Event()
        with self._lock:
            if flight.done or timeout_s <= 0:
                return
            flight.threads.append(event)
        if event.wait(timeout_s):
            return
        with self._lock, contextlib.suppress(ValueError):
            flight.threads.remove(event)

    async def wait_async(self, flight: Flight, timeout_s: float) -> None:
        """`wait` that does not block the running event loop."""
        loop = asyncio.get_running_loop()
        place = (loop, loop.create_future())
        with self._lock:
            if flight.done or timeout_s <= 0:
                return
            flight.loops.append(place)
        try:
            await asyncio.wait((place[1],), timeout=timeout_s)
        finally:
            if not place[1].done():
                with self._lock, contextlib.suppress(ValueError):
                    flight.loops.remove(place)


def _wake(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)
