"""EmbeddingCache: embeddings by their exact input, each computed once, and every caller answered before its deadline.

`_cache` answers hits. This module answers misses: it looks in the second level, asks the encoder through an engine of
the cache's own, and takes the fallback where neither is in time.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import math
import os
import threading
import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from engine._common import arguments
from engine.cache import metrics
from engine.cache._cache import Embedding, Memory, _made
from engine.cache.encoders import encoder_of
from engine.cache.flights import Flight, Flights
from engine.cache.second_level import SecondLevel, packed, unpacked
from engine.cache.workers import Worker
from engine.errors import ClosedError, ConfigError, EngineError, InputTypeError
from engine.model import load_model
from engine.serving import Engine

# Part of each deadline is kept for a late wake-up, as late as wake-ups were, and for the fallback, which comes on top.
# Late wake-ups may take at most this share.
WAKE_NS_MIN = 200_000
WAKE_SHARE_MAX = 0.3
FALLBACK_TIMES = 2
# A second level that does not answer leaves this share of the time to the encoder.
ENCODER_SHARE = 0.75
STORE_BATCH = 256
# How an input was answered. Each request counts once.
ORIGINS = ("memory", "second_level", "computed", "shared", "fallback", "default")
# After these reasons the encoder is not asked again for later callers.
FINAL = ("primary_error", "primary_bad_shape", "primary_not_finite", "breaker_open", "closing")
_WARM = -1.0


class EmbeddingCache(Memory):
    """Embeds texts before a deadline, each text once, and says where each embedding came from.

    An embedding is found by the digest of its exact input, and by nothing else: two inputs that differ in one byte
    have two embeddings. The encoder runs in an `Engine` of the cache's own, in batches. While an input is being
    embedded, further callers of it wait for that embedding. An embedding that comes too late for its callers is stored
    all the same.

    Args:
        encoder: an `Encoder`, a function of a list of inputs that returns numbers [n, dimensions], or an object with
            such a method `encode`.
        capacity_bytes: the most bytes of all embeddings in memory, about 320 for each included. 4 KiB to 16 TiB.
        second_level: an `LMDBLevel` or `RedisLevel`, read before the encoder is asked and written after it; None for
            none. The encoder needs a digest then.
        fallback: an encoder that is quick, as `StaticEncoder`: it embeds inputs that the encoder does not embed in
            time. Its space is its own. None for none.
        ttl_s: seconds for which an embedding is served, above 0; None for ever.
        deadline_ms: milliseconds from the call to the deadline, for calls that give none. Above 0.
        batch_rows_max: the most inputs that the encoder gets at once. 1 to 1,024.
        fill_ms: after its callers left, an input that the encoder did not come to is embedded within this many
            milliseconds, one input at a time and behind all callers, so that the next caller finds it. Above 0; None
            leaves it to the next caller.

    Attributes:
        encoder, fallback: the Encoders; fallback may be None.
        engine: the Engine that calls the encoder.

    Raises:
        ConfigError: an option out of range; a second level with an encoder that has no digest; an encoder that does not
            return [n, dimensions].
        InputError, InputTypeError: capacity_bytes is out of range, or no int.

    The constructor blocks while the encoder is measured, at most a second. A slower encoder is measured on after that;
    `ready` and `wait_ready` tell when it takes inputs. All methods are thread-safe. Close the cache, or use it as a
    context manager (`async with` on an event loop).

    >>> import numpy as np
    >>> lengths = lambda texts: np.array([[len(text), 1.0] for text in texts])
    >>> with EmbeddingCache(lengths, capacity_bytes=1 << 20, deadline_ms=1000) as cache:
    ...     first, second = cache.embed("hello"), cache.embed("hello")
    >>> first.value.tolist(), first.source, first.origin, second.origin
    ([5.0, 1.0], 'primary', 'computed', 'memory')
    """

    def __init__(
        self,
        encoder: Any,
        capacity_bytes: int,
        second_level: SecondLevel | None = None,
        *,
        fallback: Any = None,
        ttl_s: float | None = None,
        deadline_ms: float = 100.0,
        batch_rows_max: int = 32,
        fill_ms: float | None = 1000.0,
    ) -> None:
        self.encoder = encoder_of(encoder)
        self.fallback = None if fallback is None else encoder_of(fallback)
        if self.fallback is not None and self.fallback.space == self.encoder.space:
            raise ConfigError(
                "fallback: it is the encoder itself, which would be late twice; give a quicker one"
            )
        if second_level is not None and not self.encoder.durable:
            raise ConfigError(
                "a second level outlives this process, so the encoder needs a digest that tells its embeddings from "
                "another's: Encoder(encode, digest=…)"
            )
        ttl_s = None if ttl_s is None else _above_zero("ttl_s", ttl_s, 1e9)
        deadline_ms = _above_zero("deadline_ms", deadline_ms, 3_600_000.0)
        fill_ms = None if fill_ms is None else _above_zero("fill_ms", fill_ms, 3_600_000.0)
        arguments.whole("batch_rows_max", batch_rows_max, 1, 1024, error=ConfigError)
        self._second = second_level
        self._fill_ms = fill_ms
        self._ttl_ms = 0 if ttl_s is None else max(1, int(ttl_s * 1e3))
        self._counts_lock = threading.Lock()
        self._counts = dict.fromkeys(
            (*ORIGINS[1:], "computations", "failed_computations", "filled", "late"), 0
        )
        self._second_counts = dict.fromkeys(("hits", "misses", "failures", "written", "write_failures"), 0)
        self._second_error: str | None = None
        self._fallback_error: str | None = None
        self._nothing = np.frombuffer(
            np.full(self.encoder.dimensions, np.nan, np.float32).tobytes(), np.float32
        )
        ttl_ns = None if ttl_s is None else max(1, int(ttl_s * 1e9))
        self._open_memory(capacity_bytes, ttl_ns, self.encoder.space, int(deadline_ms * 1e6))
        stuck_ns = int(4e6 * max(deadline_ms, fill_ms or 0.0))
        self._flights = Flights(self._stored, stuck_ns)
        self._filler = Worker("engine-fill", self._fill, 1)
        self._writer = Worker("engine-store", self._write, STORE_BATCH)
        self._fallback_ns = self._measured_fallback()
        self._wake_ns = WAKE_NS_MIN
        self._pid = os.getpid()
        self.engine = Engine(
            load_model(self._compute, n_features=1, dtype=np.float64),
            deadline_ms=deadline_ms,
            batch_rows_max=batch_rows_max,
            lane="batch",
            version=self.encoder.space[:12],
            warmup=np.full((batch_rows_max, 1), _WARM),
        )

    def _missed(self, x: Any, digest: bytes, began_ns: int, until_ns: int) -> Embedding:
        """Answer an input that was not in memory at the call. For `embed`."""
        self._require_own_process()
        call = Call(self, began_ns, until_ns)
        call.want(x, digest)
        return self._embedded(call)[0]

    def embed_many(
        self,
        inputs: Sequence[str | bytes],
        deadline_ms: float | None = None,
        *,
        deadline_ns: int | None = None,
    ) -> list[Embedding]:
        """Embed many inputs before one deadline, each distinct input once.

        Args:
            inputs: n str or bytes; n may be 0.
            deadline_ms, deadline_ns: of all inputs, as in `embed`.

        Returns:
            n `Embedding`s in the order of the inputs. They may come from two spaces: see `Embedding.source`.

        Raises:
            InputError, InputTypeError, ClosedError: as `embed`. No input is embedded then.

        Blocks until the deadline at most, without the GIL. Thread-safe.
        """
        return self._embedded(self._call(inputs, deadline_ms, deadline_ns))

    async def embed_async(
        self, x: str | bytes, deadline_ms: float | None = None, *, deadline_ns: int | None = None
    ) -> Embedding:
        """Embed one input before its deadline, without blocking the running event loop.

        Args:
            x, deadline_ms, deadline_ns: as in `embed`. The deadline counts from the first step of the coroutine.

        Returns:
            An `Embedding`. Cancelling the call takes nothing from others: the input is embedded for the callers that
            wait for it, and for later ones.

        Raises:
            InputError, InputTypeError, ClosedError: as `embed`, at the await.

        Callable from any thread that runs a loop, by several loops at once.
        """
        return (await self._embedded_async(self._call([x], deadline_ms, deadline_ns)))[0]

    async def embed_many_async(
        self,
        inputs: Sequence[str | bytes],
        deadline_ms: float | None = None,
        *,
        deadline_ns: int | None = None,
    ) -> list[Embedding]:
        """Embed many inputs before one deadline, without blocking the running event loop; else as `embed_many`."""
        return await self._embedded_async(self._call(inputs, deadline_ms, deadline_ns))

    def _require_own_process(self) -> None:
        """Raise ClosedError in a child, which has neither the engine's threads nor the locks' owners."""
        if os.getpid() != self._pid:
            raise ClosedError(
                "this cache belongs to the process that this one was forked from, and answers only what was in memory "
                "then: make an EmbeddingCache after the fork"
            )

    def _call(self, inputs: Any, deadline_ms: float | None, deadline_ns: int | None) -> Call:
        """Look every input up in memory, and begin or join a flight for each that is not there."""
        if isinstance(inputs, str | bytes) or not isinstance(inputs, Iterable):
            raise InputTypeError(f"inputs are a list of str or bytes, got {arguments.shown(inputs)}")
        began_ns = self._now_ns()
        call = Call(self, began_ns, self._until(began_ns, deadline_ms, deadline_ns))
        self._require_own_process()
        # First all look-ups, because an input of another type raises before anything has begun.
        found = [(x, *self._looked_up(x, began_ns, call.until_ns)) for x in inputs]
        for x, hit, digest in found:
            if hit is not None:
                call.parts.append(hit)
            else:
                call.want(x, digest)
        return call

    def _embedded(self, call: Call) -> list[Embedding]:
        """Answer a call: second level, encoder, fallback."""
        try:
            rest = call.led
            if rest and self._second is not None:
                rest = call.found(self._read(self._second_keys(rest), self._second_limit_ns(call)))
            if rest:
                call.asked(rest, self.engine.predict_many(_rows(rest), deadline_ns=call.limit_ns).reasons)
        except BaseException as error:
            call.gone(error)
            raise
        for flight in call.followed:
            self._flights.wait(flight, (call.limit_ns - self._now_ns()) * 1e-9)
        self._woke(call)
        return call.answers()

    async def _embedded_async(self, call: Call) -> list[Embedding]:
        """`_embedded` for the running event loop."""
        try:
            rest = call.led
            if rest and self._second is not None:
                rest = call.found(
                    await self._read_async(self._second_keys(rest), self._second_limit_ns(call))
                )
            if rest:
                answers = await self.engine.predict_many_async(_rows(rest), deadline_ns=call.limit_ns)
                call.asked(rest, answers.reasons)
        except BaseException as error:
            call.gone(error)
            raise
        for flight in call.followed:
            await self._flights.wait_async(flight, (call.limit_ns - self._now_ns()) * 1e-9)
        self._woke(call)
        return call.answers()

    # --- the encoder, on the engine's threads ---

    def _compute(self, rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The engine's primary: embed the inputs that rows name by their tickets, and end their flights.

        An answer of the engine is 0.0 for an input that was embedded. A caller takes the embedding from its flight.
        """
        tickets = [int(ticket) for ticket in rows[:, 0]]
        results = np.zeros(len(tickets))
        if tickets[0] == _WARM:
            warm = itertools.islice(itertools.cycle(self.encoder.warm_up), len(tickets))
            self.encoder.encode(list(warm))
            return results
        taken = self._flights.taken(tickets, self._now_ns())
        flights = [flight for flight in taken if flight is not None]
        if not flights:
            return results
        try:
            vectors = self.encoder.encode([flight.input for flight in flights])
        except BaseException:
            self._failed(flights)
            raise
        finite = dict(zip(flights, (bool(row.all()) for row in np.isfinite(vectors)), strict=True))
        self._count(computations=len(flights), failed_computations=len(flights) - sum(finite.values()))
        try:
            for flight, vector in zip(flights, vectors, strict=True):
                if finite[flight]:
                    self._flights.succeed(flight, self._store(flight.digest, vector))
                    self._store_second(flight)
                else:
                    self._flights.fail(flight, "primary_not_finite")
        finally:
            # Where there was no memory to store one, those behind it must not wait for ever.
            for flight in flights:
                self._flights.fail(flight, "primary_error")
        return np.array([np.nan if flight and not finite[flight] else 0.0 for flight in taken])

    def _failed(self, flights: list[Flight]) -> None:
        self._count(computations=len(flights), failed_computations=len(flights))
        if len(flights) == 1:
            self._flights.fail(flights[0], "primary_error")
        else:
            # The engine now looks for the input to blame, half of them at a time.
            self._flights.given_back(flights, "primary_error")

    # --- what no caller waits for ---

    def _leave(self, flight: Flight, reason: str) -> None:
        """The caller that began a flight goes. An input that the encoder did not come to is embedded later."""
        if not self._flights.withdrawn(flight):
            return
        if self._fill_ms is None or reason in FINAL:
            self._flights.fail(flight, reason)
            return
        dropped = self._filler.put(flight)
        if dropped is not None:
            self._flights.fail(dropped, reason)

    def _fill(self, flights: list[Flight]) -> None:
        """Embed inputs for later callers."""
        reason = "closing"
        try:
            answers = self.engine.predict_many(
                _rows(flights), deadline_ms=self._fill_ms, priority="sheddable"
            )
            reason = answers[0].reason
            self._count(filled=sum(flight.value is not None for flight in flights))
        except EngineError:
            pass  # closed meanwhile
        finally:
            for flight in flights:
                self._flights.abandon(flight, reason)

    def _store_second(self, flight: Flight) -> None:
        if self._second is not None:
            self._writer.put(flight)

    def _write(self, flights: list[Flight]) -> None:
        """Write embeddings to the second level."""
        assert self._second is not None
        pairs = [
            (key, packed(flight.value, self._ttl_ms))
            for key, flight in zip(self._second_keys(flights), flights, strict=True)
            if flight.value is not None
        ]
        try:
            self._second.write(pairs, self._ttl_ms)
            self._count_second(written=len(pairs))
        except Exception:
            self._count_second(write_failures=len(pairs))

    # --- the second level ---

    def _second_limit_ns(self, call: Call) -> int:
        return call.limit_ns - int(ENCODER_SHARE * max(call.limit_ns - self._now_ns(), 0))

    def _second_keys(self, flights: list[Flight]) -> list[bytes]:
        return [self._second_key(flight.input) for flight in flights]

    def _second_key(self, x: str | bytes) -> bytes:
        """The same in every process: a digest of the space and the exact input."""
        kind, plain = (b"t", x.encode()) if isinstance(x, str) else (b"b", bytes(x))
        return hashlib.blake2b(self.encoder.space.encode() + kind + plain, digest_size=32).digest()

    def _read(self, keys: list[bytes], limit_ns: int) -> Sequence[bytes | None]:
        assert self._second is not None
        try:
            return self._second.read(keys, limit_ns)
        except Exception as error:
            return self._unread(keys, error)

    async def _read_async(self, keys: list[bytes], limit_ns: int) -> Sequence[bytes | None]:
        assert self._second is not None
        try:
            return await self._second.read_async(keys, limit_ns)
        except Exception as error:
            return self._unread(keys, error)

    def _unread(self, keys: list[bytes], error: Exception) -> Sequence[bytes | None]:
        self._count_second(failures=1)
        self._second_error = f"{type(error).__name__}: {error}"
        return [None] * len(keys)

    # --- the fallback ---

    def _limit_ns(self, began_ns: int, until_ns: int) -> int:
        """The latest instant to wait for an embedding: time is left for a late wake-up and for the fallback."""
        wake_ns = min(self._wake_ns, int(WAKE_SHARE_MAX * (until_ns - began_ns)))
        return max(until_ns - wake_ns - FALLBACK_TIMES * self._fallback_ns, 0)

    def _woke(self, call: Call) -> None:
        """Learn how late a caller wakes that has waited in vain: at once where it is later, slowly otherwise."""
        late_ns = self._now_ns() - call.limit_ns
        if call.limit_ns > call.began_ns and late_ns > 0:
            self._wake_ns = max(late_ns, WAKE_NS_MIN, (15 * self._wake_ns + late_ns) // 16)

    def _measured_fallback(self) -> int:
        """Nanoseconds of a call of the fallback, the slower of two."""
        if self.fallback is None:
            return 0
        taken = []
        for _ in range(3):
            began_ns = time.perf_counter_ns()
            self.fallback.encode(self.fallback.warm_up[:1])
            taken.append(time.perf_counter_ns() - began_ns)
        return max(taken[1:])

    def _fallen_back(self, inputs: list[Any]) -> list[npt.NDArray[np.float32] | None]:
        """The fallback's embeddings of distinct inputs, None for each if it fails."""
        if self.fallback is None:
            return [None] * len(inputs)
        digests = [self._spare_digest(x) for x in inputs]
        values = [self._stored(digest) for digest in digests]
        missing = [at for at, value in enumerate(values) if value is None]
        if missing:
            began_ns = time.perf_counter_ns()
            try:
                vectors = self.fallback.encode([inputs[at] for at in missing])
            except Exception as error:
                self._fallback_error = f"{type(error).__name__}: {error}"
                return values
            if len(missing) == 1:
                # Follows slow calls at once, and quick ones slowly.
                taken_ns = time.perf_counter_ns() - began_ns
                self._fallback_ns = max(taken_ns, (15 * self._fallback_ns + taken_ns) // 16)
            for at, vector in zip(missing, vectors, strict=True):
                if np.isfinite(vector).all():
                    values[at] = self._store(digests[at], vector)
        return values

    # --- counts ---

    def _count(self, **more: int) -> None:
        with self._counts_lock:
            for name, number in more.items():
                self._counts[name] += number

    def _count_second(self, **more: int) -> None:
        with self._counts_lock:
            for name, number in more.items():
                self._second_counts[name] += number

    def stats(self) -> dict[str, Any]:
        """Return counters since the start, as a dict of plain values.

        - `requests`: inputs that were answered. It is the sum of `memory`, `second_level`, `computed`, `shared` (by a
          computation of another call), `fallback` and `default`, each the number of inputs that were answered so.
        - `late`: those of them, but for hits in memory, whose answer was there after the deadline.
        - `computations`: inputs that the encoder was given; `failed_computations` of them failed. `filled` were for
          later callers only, and `fill_dropped` were not embedded because the queue of those was full.
        - `open`: inputs that are being embedded now.
        - `first`: `entries` and `bytes` in memory (at most `capacity_bytes`), in `shards`; `entries` is `inserted` less
          `replaced`, `evicted` and `removed`. `expired` look-ups found an embedding whose time was up, `rejected`
          embeddings were too large, `returned` ones came back soon after they were evicted; `ghosts` are remembered for
          that.
        - `second`: None without a second level. Inputs looked up there: `hits` and `misses`; `failures`, look-ups
          without an answer; `written`, `write_failures`, `write_dropped`; `last_error`.
        - `fallback_error`: the last error of the fallback, or None.
        - `engine`: the statistics of the engine that calls the encoder, as `Engine.stats`.

        Thread-safe; does not block.
        """
        with self._counts_lock:
            counts, second = dict(self._counts), dict(self._second_counts)
        answered = {"memory": self._memory_hits(), **{name: counts.pop(name) for name in ORIGINS[1:]}}
        first = self._memory_stats()
        for name in ("hits", "misses"):  # of both spaces, and of looks that are no requests
            del first[name]
        return {
            "requests": sum(answered.values()),
            **answered,
            **counts,
            "fill_dropped": self._filler.dropped,
            "open": len(self._flights),
            "first": first,
            "second": None
            if self._second is None
            else {**second, "write_dropped": self._writer.dropped, "last_error": self._second_error},
            "fallback_error": self._fallback_error,
            "engine": self.engine.stats(),
        }

    def metrics_text(self) -> str:
        """Return the counters in Prometheus' exposition format, for a handler of `/metrics`.

        `engine_cache_requests_total` has a label `origin`, and counts each request once.

        Raises:
            MissingDependencyError: prometheus-client is not installed.
        """
        return metrics.text(self.stats(), ORIGINS)

    # --- the rest ---

    @property
    def ready(self) -> bool:
        """True once the encoder has been measured, so that misses go to it; False after `close()`. Does not block.

        Until then misses get the fallback, reason "stalled".
        """
        return self.engine.ready

    def wait_ready(self, timeout_s: float = math.inf) -> bool:
        """Wait until the cache is `ready`, for timeout_s seconds at most. Returns `ready`.

        Raises ConfigError for a timeout_s out of range. Blocks, without the GIL. On a loop await `wait_ready_async`.
        """
        return self.engine.wait_ready(timeout_s)

    async def wait_ready_async(self, timeout_s: float = math.inf) -> bool:
        """Wait until the cache is `ready`, without blocking the running event loop; else as `wait_ready`."""
        return await self.engine.wait_ready_async(timeout_s)

    def forget(self, x: str | bytes) -> bool:
        """Forget the embeddings of one input in memory, the fallback's too. The second level keeps what it has.

        Returns whether there was one. Raises InputError and InputTypeError as `embed`. Thread-safe.
        """
        found = [self._removed(self._digest(x)), self._removed(self._spare_digest(x))]
        return any(found)

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Wait until everything computed so far is in the second level, and nothing is computed for later callers.

        Args:
            timeout_s: the longest to wait, in seconds, 0 to 3,600.

        Returns:
            False if the time was up. Blocks, without the GIL.
        """
        limit = time.monotonic() + arguments.number("timeout_s", timeout_s, 0.0, 3600.0, error=ConfigError)
        filled = self._filler.wait_idle(max(limit - time.monotonic(), 0.0))
        return self._writer.wait_idle(max(limit - time.monotonic(), 0.0)) and filled

    def close(self, timeout_s: float = 1.0) -> None:
        """Answer waiting callers by the fallback, write new embeddings to the second level, and end the threads.

        Args:
            timeout_s: seconds to wait for a call of the encoder, and again for the second level. 0 to 3,600.

        Raises:
            ConfigError: a timeout_s out of range.

        Blocks, without the GIL; always returns. A second call does nothing. Thread-safe.
        """
        timeout_s = arguments.number("timeout_s", timeout_s, 0.0, 3600.0, error=ConfigError)
        if self.closed:
            return
        for flight in self._filler.close(0.0):
            self._flights.fail(flight, "closing")
        self.engine.close(timeout_s)
        self._flights.fail_all("closing")
        self._writer.wait_idle(timeout_s)
        self._writer.close(timeout_s)
        if self._second is not None:
            self._second.close()
        self._close_memory()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self.close)

    def __repr__(self) -> str:
        return f"EmbeddingCache({self.encoder!r}, second_level={self._second!r}, fallback={self.fallback!r})"


class Call:
    """One call of `embed` and its kin: its inputs, the flights that it began or joined, and its answers.

    Args:
        cache: the cache.
        began_ns, until_ns: the instants of the call and of its deadline.

    Attributes:
        began_ns, until_ns: as given.
        limit_ns: the latest instant to wait for an embedding, which leaves time for the fallback.
        parts: for each input its `Embedding`, or its flight.
        led, followed: the distinct flights that this call began, and that others began.
    """

    def __init__(self, cache: EmbeddingCache, began_ns: int, until_ns: int) -> None:
        self._cache = cache
        self._flights = cache._flights
        self.began_ns = began_ns
        self.until_ns = until_ns
        self.limit_ns = cache._limit_ns(began_ns, until_ns)
        self.parts: list[Embedding | Flight] = []
        self.led: list[Flight] = []
        self.followed: list[Flight] = []
        self._reasons: dict[Flight, str] = {}
        self._mine: dict[bytes, Flight] = {}

    def want(self, x: str | bytes, digest: bytes) -> None:
        """Begin or join the flight of an input."""
        flight = self._mine.get(digest)
        if flight is None:
            flight, leads, value = self._flights.joined(digest, x, self.began_ns)
            if flight is None:
                self.parts.append(self._embedding(value, "primary", "ok", "shared"))
                return
            self._mine[digest] = flight
            (self.led if leads else self.followed).append(flight)
        self.parts.append(flight)

    def found(self, stored: Sequence[bytes | None]) -> list[Flight]:
        """End the flights whose embeddings the second level has. Returns the others."""
        rest = []
        for flight, each in zip(self.led, stored, strict=True):
            value = unpacked(each, self._cache.encoder.dimensions)
            if value is None:
                rest.append(flight)
            else:
                self._flights.succeed(flight, self._cache._store(flight.digest, value), "second_level")
        self._cache._count_second(hits=len(self.led) - len(rest), misses=len(rest))
        return rest

    def asked(self, flights: list[Flight], reasons: Iterable[str]) -> None:
        """The engine has answered for these flights, each with its reason."""
        for flight, reason in zip(flights, reasons, strict=True):
            self._reasons[flight] = str(reason)
            self._cache._leave(flight, str(reason))

    def gone(self, error: BaseException) -> None:
        """The call ends by an error: it was cancelled, or the cache closed."""
        reason = "closing" if isinstance(error, EngineError) else "timeout"
        for flight in self.led:
            self._cache._leave(flight, reason)

    def answers(self) -> list[Embedding]:
        """The answers to all inputs; the fallback's where a flight has no embedding yet."""
        wanting = {part: part.input for part in self.parts if isinstance(part, Flight) and part.value is None}
        spare = dict(zip(wanting, self._cache._fallen_back(list(wanting.values())), strict=True))
        led = set(self.led)
        answers = []
        for part in self.parts:
            answers.append(part if isinstance(part, Embedding) else self._answer(part, part in led, spare))
            # A further place of the same input shares the embedding of the first.
            led.discard(part)
        return answers

    def _answer(self, flight: Flight, leads: bool, spare: dict[Flight, Any]) -> Embedding:
        # A flight that has just ended, after `spare` was made, is taken as it was then.
        if flight not in spare:
            origin = flight.origin if leads else "shared"
            return self._embedding(flight.value, "primary", "ok", origin)
        reason = self._reasons.get(flight, flight.reason)
        reason = "timeout" if reason == "ok" else reason
        if spare[flight] is not None:
            return self._embedding(spare[flight], "fallback", reason, "fallback")
        if self._cache.fallback is not None:
            reason = "fallback_error"
        return self._embedding(self._cache._nothing, "default", reason, "default")

    def _embedding(self, value: Any, source: str, reason: str, origin: str) -> Embedding:
        now_ns = self._cache._now_ns()
        on_time = now_ns < self.until_ns
        self._cache._count(**{origin: 1, "late": int(not on_time)})
        space, shown = self._cache.encoder.space, origin
        if source == "fallback":
            assert self._cache.fallback is not None
            space, shown = self._cache.fallback.space, "computed"
        elif source == "default":
            space = shown = ""
        return _made(value, source, reason, shown, space, (now_ns - self.began_ns) * 1e-3, on_time)


def _rows(flights: list[Flight]) -> npt.NDArray[np.float64]:
    return np.array([[float(flight.ticket)] for flight in flights])


def _above_zero(name: str, value: Any, high: float) -> float:
    return arguments.number(name, value, 0.0, high, above=True, error=ConfigError)
