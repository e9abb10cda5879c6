"""The embedding cache: hit ratios beside other caches, nanoseconds of a hit, two native threads, and a stampede.

Three traces of 400,000 requests, whose keys follow Zipf's law with exponent 1 over 100,000 keys; every cache has room
for 1,000 entries. `plain` is that. In `shift` other keys are the popular ones after each 40,000 requests. In `scan`,
2,000 keys that never come again pass by in a row after each 20,000 requests. `hit_vs_wtinylfu_*` is our hit ratio over
theine's, which is a W-TinyLFU. moka-py's policy is TinyLFU, cachetools' LRU, and cachebox has both an LRU and an LFU.

`ns_per_hit` is `cache.embed(text)` from Python for texts of 40 to 60 characters whose embeddings of 384 numbers are in
memory: the call, hashing the text, the look-up, and the answer. The rivals' figure is their bare `get` with a str whose
hash Python has computed before; `ns_per_hit_hashed` adds a digest of the text by blake2b. The figures are processor
time of the calling thread, medians of repeats that alternate among all caches.

`threads2_speedup` is look-ups a second of two native threads over those of one: a key hashed, looked up and its
embedding copied, without an interpreter; keys follow Zipf's law, and the threads share them all. It needs two free
cores. `threads2_speedup_cpu` is the same by the processor time that the threads got, for a machine that others use too:
it shows what the threads cost each other, and not what the machine had left.

`stampede_computations` is how often the encoder gets an input that 1,000 callers ask for at once: the most of five
stampedes, of tasks, of threads, of tasks whose first is cancelled, and of an encoder that fails or is later than all
callers. It measures no encoder and no model.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from engine.cache import EmbeddingCache, Encoder
from engine.cache._cache import Memory, lookups_per_s
from engine.loadgen._clock import no_collections

DIMENSIONS = 384
# One entry counts its numbers, and the bytes that the cache adds to them.
ENTRY_BYTES = 4 * DIMENSIONS + 320
ZIPF = 1.0


def zipf(rng: np.random.Generator, keys: int, count: int) -> np.ndarray:
    """int64 [count]: ranks from 0, drawn by Zipf's law."""
    cumulated = np.cumsum(1.0 / np.arange(1, keys + 1) ** ZIPF)
    return np.searchsorted(cumulated, rng.random(count) * cumulated[-1]).astype(np.int64)


def traces(requests: int, keys: int) -> dict[str, list[str]]:
    """The keys of the three traces, as texts."""
    rng = np.random.default_rng(5)
    plain = zipf(rng, keys, requests)
    ranks, every = zipf(rng, keys, requests), requests // 10
    names = [rng.permutation(keys) for _ in range(10)]
    shift = np.concatenate([names[at][ranks[at * every : (at + 1) * every]] for at in range(10)])
    parts, once, every = [], keys, requests // 20
    for at in range(20):
        parts += [plain[at * every : (at + 1) * every], np.arange(once, once + every // 10)]
        once += every // 10
    found = {"plain": plain, "shift": shift, "scan": np.concatenate(parts)}
    return {name: [f"question {key}" for key in trace.tolist()] for name, trace in found.items()}


# --- caches, each as a function of nothing that makes (get, set) ---

Pair = tuple[Callable[[str], Any], Callable[[str, Any], Any]]


def ours(entries: int) -> Pair:
    """The first level alone: what `embed` does for a hit, and how it stores."""
    memory = Memory()
    memory._open_memory(entries * ENTRY_BYTES, None, "", 10**9)
    digest, stored, store = memory._digest, memory._stored, memory._store
    return lambda key: stored(digest(key)), lambda key, value: store(digest(key), value)


def theine(entries: int) -> Pair:
    cache = importlib.import_module("theine").Cache(entries)
    return lambda key: cache.get(key)[0], cache.set


def moka(entries: int) -> Pair:
    cache = importlib.import_module("moka_py").Moka(entries)
    return cache.get, cache.set


def cachebox_lru(entries: int) -> Pair:
    cache = importlib.import_module("cachebox").LRUCache(entries)
    return cache.get, cache.insert


def cachebox_lfu(entries: int) -> Pair:
    cache = importlib.import_module("cachebox").LFUCache(entries)
    return cache.get, cache.insert


def cachetools(entries: int) -> Pair:
    cache = importlib.import_module("cachetools").LRUCache(entries)
    return cache.get, cache.__setitem__


RIVALS = {
    "theine": theine,
    "moka": moka,
    "cachebox_lru": cachebox_lru,
    "cachebox_lfu": cachebox_lfu,
    "cachetools": cachetools,
}


def hit_ratio(make: Callable[[int], Pair], entries: int, trace: list[str]) -> float:
    """Hits over requests; a miss is stored."""
    get, store = make(entries)
    value = np.zeros(DIMENSIONS, np.float32)
    hits = 0
    for key in trace:
        if get(key) is None:
            store(key, value)
        else:
            hits += 1
    return hits / len(trace)


# --- the time of a hit ---


def texts_of(count: int) -> list[str]:
    rng = np.random.default_rng(3)
    return [f"question {at} " + "x" * int(rng.integers(28, 46)) for at in range(count)]


def encoder(texts: list[str]) -> np.ndarray:
    return np.zeros((len(texts), DIMENSIONS), np.float32)


def ns_of(get: Callable[[str], Any], texts: list[str], rounds: int) -> float:
    """Nanoseconds of the processor a call, the loop included."""
    with no_collections():
        began = time.thread_time_ns()
        for _ in range(rounds):
            for text in texts:
                get(text)
        return (time.thread_time_ns() - began) / (rounds * len(texts))


def hit_times(available: dict[str, Callable[[int], Pair]], smoke: bool) -> dict[str, dict[str, float]]:
    """Figures of each cache; "engine" is ours, "loop" a call of nothing in the same loop."""
    texts = texts_of(1_000)
    rounds, repeats = (1, 1) if smoke else (20, 15)
    value = np.zeros(DIMENSIONS, np.float32)
    gets: dict[str, Callable[[str], Any]] = {}
    for name, make in available.items():
        get, store = make(2_000)
        for text in texts:
            store(text, value)
            store(digest(text), value)
        gets[name] = get
    found: dict[str, list[float]] = {}
    with EmbeddingCache(encoder, 64 << 20, deadline_ms=10_000.0) as cache:
        cache.embed_many(texts)
        assert all(cache.embed(text).origin == "memory" for text in texts)
        for _ in range(repeats):
            found.setdefault("engine", []).append(ns_of(cache.embed, texts, rounds))
            found.setdefault("loop", []).append(ns_of(len, texts, rounds))
            for name, get in gets.items():
                found.setdefault(name, []).append(ns_of(get, texts, rounds))
                hashed = ns_of(lambda text, get=get: get(digest(text)), texts, rounds)
                found.setdefault(f"{name} hashed", []).append(hashed)
    result: dict[str, dict[str, float]] = {}
    for name, times in found.items():
        cache_name, _, hashed = name.partition(" ")
        key = "ns_per_hit_hashed" if hashed else "ns_per_hit"
        result.setdefault(cache_name, {})[key] = statistics.median(times)
    return result


def digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


# --- stampedes ---


class Counting:
    """An encoder that counts what it is given, takes its time, and may fail."""

    def __init__(self, takes_s: float, fails: bool = False) -> None:
        self.seen = 0
        self._takes_s = takes_s
        self._fails = fails
        self._lock = threading.Lock()

    def __call__(self, texts: list[str]) -> np.ndarray:
        with self._lock:
            self.seen += sum(text == "hot" for text in texts)
        if "hot" in texts:
            time.sleep(self._takes_s)
            if self._fails:
                raise RuntimeError("the encoder fails")
        return np.ones((len(texts), 8), np.float32)


async def tasks(cache: EmbeddingCache, callers: int, deadline_ms: float, cancels: bool) -> list[Any]:
    """The origins and sources that callers on one loop see."""
    running = [asyncio.create_task(cache.embed_async("hot", deadline_ms)) for _ in range(callers)]
    if cancels:
        await asyncio.sleep(0.01)
        running[0].cancel()
    return await asyncio.gather(*running, return_exceptions=True)


def in_threads(cache: EmbeddingCache, callers: int, deadline_ms: float) -> list[Any]:
    found: list[Any] = []
    start = threading.Barrier(callers)

    def call() -> None:
        start.wait()
        found.append(cache.embed("hot", deadline_ms))

    threads = [threading.Thread(target=call) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def stampede(kind: str, callers: int) -> tuple[int, int]:
    """How often the encoder got the input, and how many callers had its embedding."""
    source = Counting(0.2, fails=kind == "fails")
    deadline_ms = 60.0 if kind == "late" else 30_000.0
    with EmbeddingCache(
        Encoder(source, dimensions=8), 1 << 20, fallback=Encoder(lambda texts: np.zeros((len(texts), 4)))
    ) as cache:
        if kind == "threads":
            answers = in_threads(cache, callers, deadline_ms)
        else:
            answers = asyncio.run(tasks(cache, callers, deadline_ms, cancels=kind == "cancelled"))
        cache.flush()
        good = sum(getattr(answer, "source", "") == "primary" for answer in answers)
        assert len(answers) == callers
    return source.seen, good


def run(smoke: bool) -> dict[str, Any]:
    """Run the case. A rival that is not installed is left out, and named in the conditions."""
    available, missing = {}, {}
    for name, make in RIVALS.items():
        try:
            make(8)
            available[name] = make
        except ImportError as error:
            missing[name] = str(error)
    requests, keys, entries = (4_000, 1_000, 100) if smoke else (400_000, 100_000, 1_000)
    rivals: dict[str, dict[str, float]] = {name: {} for name in available}
    metrics: dict[str, float] = {}
    for name, trace in traces(requests, keys).items():
        metrics[f"hit_ratio_{name}"] = hit_ratio(ours, entries, trace)
        for rival, make in available.items():
            rivals[rival][f"hit_ratio_{name}"] = hit_ratio(make, entries, trace)
        if "theine" in rivals:
            metrics[f"hit_vs_wtinylfu_{name}"] = (
                metrics[f"hit_ratio_{name}"] / rivals["theine"][f"hit_ratio_{name}"]
            )
    times = hit_times(available, smoke)
    metrics["ns_per_hit"] = times.pop("engine")["ns_per_hit"]
    metrics["ns_per_loop"] = times.pop("loop")["ns_per_hit"]
    for rival, figures in times.items():
        rivals[rival] |= figures
    lookups, pairs = (20_000, 1) if smoke else (1_000_000, 7)
    ones, twos = [], []
    for _ in range(pairs):
        ones.append(lookups_per_s(1, 20_000, lookups))
        twos.append(lookups_per_s(2, 20_000, lookups))
    ratios, cpu_ratios = (
        [two[clock] / one[clock] for one, two in zip(ones, twos, strict=True)] for clock in (0, 1)
    )
    metrics["threads2_speedup"] = statistics.median(ratios)
    metrics["threads2_speedup_cpu"] = statistics.median(cpu_ratios)
    metrics["lookups_per_s_native"] = statistics.median(per_s for per_s, _ in ones)
    callers = 50 if smoke else 1_000
    computed = {kind: stampede(kind, callers) for kind in ("tasks", "threads", "cancelled", "fails", "late")}
    metrics["stampede_computations"] = float(max(count for count, _ in computed.values()))
    metrics["stampede_answered_by_primary"] = float(computed["tasks"][1])
    conditions = {
        "requests": requests,
        "keys": keys,
        "entries": entries,
        "stampede_callers": callers,
        "stampedes": {kind: count for kind, (count, _) in computed.items()},
        "spread": {
            "engine": {
                "threads2_speedup": [min(ratios), max(ratios)],
                "threads2_speedup_cpu": [min(cpu_ratios), max(cpu_ratios)],
            }
        },
        "not_measured": missing,
        "smoke": smoke,
    }
    return {"metrics": metrics, "rivals": rivals, "conditions": conditions}
