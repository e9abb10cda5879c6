"""The second level: what one process computed, another finds, in LMDB and in Redis; and one that fails is a miss."""

import asyncio
import os
import struct
import subprocess
import sys
import time

import numpy as np
import pytest

from engine.cache import EmbeddingCache, Encoder, LMDBLevel, RedisLevel
from engine.cache.second_level import Unavailable, packed, unpacked
from engine.errors import ConfigError, InputError, StoreError

pytest.importorskip("lmdb")
FAR_MS = 60_000.0


class Lengths:
    """An encoder of lengths that records its inputs."""

    def __init__(self):
        self.seen = []

    def __call__(self, texts):
        self.seen += [text for text in texts if text != "warm"]
        return np.array([[len(text), 1.0] for text in texts])

    def encoder(self, **options):
        return Encoder(self, dimensions=2, warm_up=("warm",), **{"digest": "lengths", **options})


@pytest.fixture(params=["lmdb", "redis"])
def level(request, tmp_path):
    if request.param == "lmdb":
        return LMDBLevel(tmp_path / "second")
    return RedisLevel(request.getfixturevalue("redis_url"))


def opened(source, level, **options):
    return EmbeddingCache(source.encoder(), 1 << 20, level, deadline_ms=FAR_MS, **options)


def test_a_cache_finds_what_an_earlier_one_computed(level):
    first, second = Lengths(), Lengths()
    with opened(first, level) as cache:
        cache.embed_many(["hello", "x", b"hello"])
        assert cache.flush(30.0)
        assert cache.stats()["second"]["written"] == 3
    with opened(second, level) as cache:
        answer = cache.embed("hello")
        assert (answer.origin, answer.source, answer.value.tolist()) == (
            "second_level",
            "primary",
            [5.0, 1.0],
        )
        assert cache.embed("hello").origin == "memory"
        many = cache.embed_many(["x", "new", b"hello"])
        assert [each.origin for each in many] == ["second_level", "computed", "second_level"]
        stats = cache.stats()
    assert second.seen == ["new"]
    assert (stats["second"]["hits"], stats["second"]["misses"]) == (3, 1)
    assert (stats["second_level"], stats["computed"], stats["memory"]) == (3, 1, 1)
    assert stats["second"]["failures"] == stats["second"]["write_failures"] == 0


def test_the_verbs_for_loops_read_it_too(level):
    async def main():
        async with opened(Lengths(), level) as cache:
            await cache.embed_async("hello")
            assert await asyncio.to_thread(cache.flush, 30.0)
            cache.clear()
            return [await cache.embed_async("hello"), *(await cache.embed_many_async(["hello", "new"]))]

    answers = asyncio.run(main())
    assert [each.origin for each in answers] == ["second_level", "memory", "computed"]


@pytest.mark.parametrize(
    "other", [{"digest": "other"}, {"tokenizer_digest": "other"}, {"options": {"prompt": "query: "}}]
)
def test_an_encoder_that_differs_in_anything_finds_nothing(level, other):
    source = Lengths()
    with opened(source, level) as cache:
        cache.embed("hello")
        cache.flush(30.0)
    with EmbeddingCache(source.encoder(**other), 1 << 20, level, deadline_ms=FAR_MS) as cache:
        assert cache.embed("hello").origin == "computed"


def test_an_embedding_ends_with_its_time(level):
    with opened(Lengths(), level, ttl_s=0.05) as cache:
        cache.embed("hello")
        cache.flush(30.0)
        time.sleep(0.06)
        cache.clear()
        assert cache.embed("hello").origin == "computed"


def test_an_encoder_without_a_digest_has_no_second_level(tmp_path):
    with pytest.raises(ConfigError, match="the encoder needs a digest"):
        EmbeddingCache(Lengths(), 1 << 20, LMDBLevel(tmp_path))


def test_a_folder_is_bounded_and_the_oldest_make_room(tmp_path):
    level = LMDBLevel(tmp_path / "second", capacity_bytes=1 << 20)
    values = [packed(np.full(1_000, number, np.float32), 0) for number in range(400)]
    for number in range(0, 400, 50):
        level.write(
            [(number.to_bytes(32, "big"), values[number]) for number in range(number, number + 50)], 0
        )
    stored = level.read([number.to_bytes(32, "big") for number in range(400)], time.monotonic_ns() + 10**9)
    there = [number for number, each in enumerate(stored) if each is not None]
    assert there == list(range(400 - len(there), 400))
    assert 200 < len(there) <= (1 << 20) // len(values[0])
    assert unpacked(stored[399], 1_000).tolist() == [399.0] * 1_000
    # The same keys again are the same rows again.
    level.write([(there[0].to_bytes(32, "big"), values[there[0]])], 0)
    again = level.read([number.to_bytes(32, "big") for number in range(400)], time.monotonic_ns() + 10**9)
    assert sum(each is not None for each in again) == len(there)


def test_a_capacity_out_of_range_is_refused(tmp_path):
    with pytest.raises(InputError, match="capacity_bytes must be an int from 1,048,576"):
        LMDBLevel(tmp_path, capacity_bytes=5)


def test_bytes_that_are_no_embedding_are_none():
    whole = packed(np.array([1.5, -2.0], np.float32), 0)
    assert unpacked(whole, 2).tolist() == [1.5, -2.0]
    assert unpacked(None, 2) is None
    assert unpacked(whole, 3) is None
    assert unpacked(whole[:-1], 2) is None
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        assert unpacked(bytes(damaged), 2) is None


def test_a_damaged_row_is_computed_again(tmp_path):
    level, source = LMDBLevel(tmp_path / "second"), Lengths()
    with opened(source, level) as cache:
        key = cache._second_key("hello")
        level.write([(key, packed(np.array([9.0, 9.0], np.float32), 0)[:-1] + b"\x01")], 0)
        # Sealed again on its way in, so spoil it in place.
        with level._writing() as transaction:
            transaction.put(b"d" + key, b"nonsense")
        assert cache.embed("hello").value.tolist() == [5.0, 1.0]
        assert source.seen == ["hello"]


class Broken:
    """A second level that is down."""

    def read(self, keys, deadline_ns):
        raise Unavailable("store_down", "it is down")

    async def read_async(self, keys, deadline_ns):
        raise Unavailable("store_down", "it is down")

    def write(self, pairs, ttl_ms):
        raise StoreError("it is down")

    def close(self):
        pass


def test_a_second_level_that_fails_is_a_miss():
    with opened(Lengths(), Broken()) as cache:
        assert cache.embed("hello").origin == "computed"
        assert cache.embed_many(["a", "b"])[1].origin == "computed"
        assert asyncio.run(cache.embed_async("c")).origin == "computed"
        assert cache.flush(30.0)
        second = cache.stats()["second"]
    assert (second["failures"], second["hits"], second["write_failures"]) == (3, 0, 4)
    assert second["last_error"] == "Unavailable: it is down"


def test_a_redis_that_is_gone_costs_no_deadline(tmp_path):
    with opened(Lengths(), RedisLevel("redis://127.0.0.1:1/0", timeout_s=1.0)) as cache:
        answers = [cache.embed(f"text {number}", deadline_ms=20_000.0) for number in range(8)]
        assert {answer.origin for answer in answers} == {"computed"}
        assert all(answer.on_time for answer in answers)
        assert cache.stats()["second"]["failures"] == 8


class Silent(Broken):
    """A second level that does not answer by the deadline that it is given."""

    def read(self, keys, deadline_ns):
        time.sleep(max(deadline_ns - time.monotonic_ns(), 0) * 1e-9)
        raise Unavailable("timeout", "no answer")

    async def read_async(self, keys, deadline_ns):
        await asyncio.sleep(max(deadline_ns - time.monotonic_ns(), 0) * 1e-9)
        raise Unavailable("timeout", "no answer")


def test_a_second_level_that_does_not_answer_leaves_time_to_the_encoder():
    with opened(Lengths(), Silent()) as cache:
        assert cache.wait_ready(60.0)
        assert cache.embed("hello", deadline_ms=2_000.0).origin == "computed"
        assert asyncio.run(cache.embed_async("other", deadline_ms=2_000.0)).origin == "computed"


WRITER = """
import sys
import numpy as np
from engine.cache import LMDBLevel
from engine.cache.second_level import packed
level = LMDBLevel(sys.argv[1], capacity_bytes=1 << 20)
for number in range(10**9):
    value = packed(np.full(500, number, np.float32), 0)
    level.write([((number % 700 * 10 + at).to_bytes(32, "big"), value) for at in range(10)], 0)
    print(number, flush=True)
"""


@pytest.mark.slow
def test_a_killed_writer_leaves_whole_embeddings_and_right_counts(tmp_path):
    level = LMDBLevel(tmp_path / "second", capacity_bytes=1 << 20)
    keys = [number.to_bytes(32, "big") for number in range(7_000)]
    for lines in (3, 40, 90):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "second")],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        for _ in range(lines):
            assert process.stdout.readline()
        process.kill()
        process.communicate()
        stored = [each for each in level.read(keys, time.monotonic_ns() + 10**10) if each is not None]
        assert stored
        assert all(unpacked(each, 500) is not None for each in stored)
        with level.environment.begin() as transaction:
            total, _ = struct.unpack("<QQ", transaction.get(b"s"))
        assert total == sum(map(len, stored)) <= 1 << 20
