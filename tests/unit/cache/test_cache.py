"""EmbeddingCache: exact keys, one computation for each input, every caller answered before its deadline."""

import asyncio
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from engine.cache import Embedding, EmbeddingCache, Encoder
from engine.errors import ClosedError, ConfigError, InputError, InputTypeError

FAR_MS = 60_000.0
# Why an encoder is late. On a busy machine it may be expected to be.
LATE = ("timeout", "late", "released", "stalled")


class Recorder:
    """An encoder of (length, first byte) that records its inputs. A gate holds its calls, and it may fail."""

    def __init__(self):
        self.seen = []
        self.batches = []
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Event()
        self.error = None
        self.bad = ()

    def __call__(self, texts):
        if texts == list(self.warm_up):
            return np.ones((1, 2))
        self.begun.set()
        self.gate.wait(60.0)
        self.seen += texts
        self.batches.append(list(texts))
        if self.error is not None or set(texts) & set(self.bad):
            raise self.error or RuntimeError("a bad text")
        return np.array([[len(text), text[0] if isinstance(text, bytes) else ord(text[0])] for text in texts])

    warm_up = ("warm",)

    def encoder(self, **options):
        return Encoder(self._warm_or_seen, dimensions=2, warm_up=self.warm_up, **options)

    def _warm_or_seen(self, texts):
        if set(texts) == set(self.warm_up):
            return np.ones((len(texts), 2))
        return self(texts)


@pytest.fixture
def recorder():
    return Recorder()


def spare(texts):
    return np.array([[len(text) * 0.5, 1.0, 2.0] for text in texts])


def opened(recorder, **options):
    options = {"capacity_bytes": 1 << 20, "deadline_ms": FAR_MS, "fill_ms": FAR_MS, **options}
    cache = EmbeddingCache(recorder.encoder(digest="recorder"), **options)
    assert cache.wait_ready(60.0)
    return cache


def total(stats):
    return sum(
        stats[name] for name in ("memory", "second_level", "computed", "shared", "fallback", "default")
    )


# --- one input ---


def test_an_input_is_computed_once_and_then_found_in_memory(recorder):
    with opened(recorder) as cache:
        first, second = cache.embed("hello"), cache.embed("hello")
        assert first.value.tolist() == second.value.tolist() == [5.0, 104.0]
        assert (first.source, first.reason, first.origin) == ("primary", "ok", "computed")
        assert (second.source, second.reason, second.origin) == ("primary", "ok", "memory")
        assert first.space == second.space == cache.encoder.space
        assert first.on_time
        assert second.on_time
        assert second.latency_us > 0.0
        assert recorder.seen == ["hello"]
        stats = cache.stats()
    assert (stats["requests"], stats["memory"], stats["computed"], stats["computations"]) == (2, 1, 1, 1)
    assert stats["first"]["entries"] == 1


def test_values_are_read_only_and_stay_so(recorder):
    with opened(recorder) as cache:
        value = cache.embed("hello").value
        assert value.dtype == np.float32
        with pytest.raises(ValueError, match="read-only"):
            value[0] = 1.0
        with pytest.raises(ValueError):
            value.flags.writeable = True


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a", "a "),
        ("a", "A"),
        ("e\u0301", "\u00e9"),
        ("abc", b"abc"),
        ("", b""),
        ("a\0", "a"),
        ("enable 2FA", "disable 2FA"),
        ("x" * 10_000, "x" * 9_999 + "y"),
    ],
)
def test_inputs_that_differ_in_a_byte_have_answers_of_their_own(recorder, one, other):
    with EmbeddingCache(
        Encoder(lambda texts: np.array([[float(text == one), 1.0] for text in texts]), dimensions=2),
        1 << 20,
        deadline_ms=FAR_MS,
    ) as cache:
        assert cache.embed(one).value.tolist() == [1.0, 1.0]
        assert cache.embed(other).value.tolist() == [0.0, 1.0]
        assert cache.embed(one).origin == cache.embed(other).origin == "memory"


def test_two_caches_have_secret_keys_of_their_own(recorder):
    with opened(recorder) as one, opened(recorder) as other:
        assert one._digest("a") != other._digest("a")
        assert one._digest("a") != one._spare_digest("a")
        assert one._digest("a") != one._digest(b"a")


@pytest.mark.parametrize("x", [None, 1, 1.5, ["a"], ("a",), np.zeros(3), bytearray(b"a")])
def test_an_input_of_another_type_is_refused(recorder, x):
    with opened(recorder) as cache:
        with pytest.raises(InputTypeError, match="an input is a str or bytes, got "):
            cache.embed(x)
        with pytest.raises(InputTypeError, match="an input is a str or bytes, got "):
            cache.embed_many(["fine", x])
        assert recorder.seen == []


def test_text_that_utf8_cannot_encode_is_refused(recorder):
    with opened(recorder) as cache:
        with pytest.raises(InputError, match="text that UTF-8 can encode, got str"):
            cache.embed("\ud800")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"deadline_ms": -1.0}, InputError, "deadline_ms must be a number"),
        ({"deadline_ms": float("nan")}, InputError, "deadline_ms must be a number"),
        ({"deadline_ms": "soon"}, InputTypeError, "deadline_ms must be a number"),
        ({"deadline_ns": -5}, InputError, "deadline_ns must be an int"),
        ({"deadline_ns": time.time_ns() * 2}, InputError, "less than a year ahead"),
        ({"deadline_ns": 1, "deadline_ms": 1.0}, InputError, "not both"),
    ],
)
def test_a_deadline_that_is_none_is_refused(recorder, options, error, message):
    with opened(recorder) as cache:
        cache.embed("there")
        for x in ("there", "new"):
            with pytest.raises(error, match=message):
                cache.embed(x, **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"capacity_bytes": 100}, InputError, "capacity_bytes must be an int from 4,096"),
        ({"capacity_bytes": 1e6}, InputError, "capacity_bytes must be an int"),
        ({"ttl_s": 0}, ConfigError, "ttl_s must be a number above 0"),
        ({"deadline_ms": 0}, ConfigError, "deadline_ms must be a number above 0"),
        ({"fill_ms": -1}, ConfigError, "fill_ms must be a number above 0"),
        ({"batch_rows_max": 0}, ConfigError, "batch_rows_max must be an int from 1"),
        ({"fallback": 7}, InputTypeError, "expected an Encoder, a function of a list of inputs"),
    ],
)
def test_an_option_out_of_range_is_refused(recorder, options, error, message):
    with pytest.raises(error, match=message):
        opened(recorder, **options)


def test_the_encoder_is_not_its_own_fallback(recorder):
    encoder = recorder.encoder(digest="same")
    with pytest.raises(ConfigError, match="it is the encoder itself"):
        EmbeddingCache(encoder, 1 << 20, fallback=recorder.encoder(digest="same"))


def test_a_closed_cache_refuses(recorder):
    cache = opened(recorder)
    cache.embed("a")
    cache.close()
    cache.close()
    assert cache.closed
    for call in (cache.embed, lambda x: cache.embed_many([x]), lambda x: asyncio.run(cache.embed_async(x))):
        with pytest.raises(ClosedError, match="the cache was closed"):
            call("a")


def test_an_embedding_is_pickled_and_shown(recorder):
    with opened(recorder) as cache:
        made = cache.embed("hello")
    copy = pickle.loads(pickle.dumps(made))
    assert copy.value.tolist() == [5.0, 104.0]
    assert (copy.source, copy.reason, copy.origin, copy.space, copy.latency_us, copy.on_time) == (
        made.source,
        made.reason,
        made.origin,
        made.space,
        made.latency_us,
        made.on_time,
    )
    assert made.as_dict()["value"] == [5.0, 104.0]
    assert repr(made).startswith("Embedding(source='primary', reason='ok', origin='computed', dimensions=2")
    with pytest.raises(InputTypeError, match="made by a cache"):
        Embedding()


# --- memory ---


def test_memory_is_bounded_and_what_was_evicted_is_computed_again(recorder):
    with opened(recorder, capacity_bytes=20_000) as cache:
        texts = [f"text {number}" for number in range(300)]
        cache.embed_many(texts)
        first = cache.stats()["first"]
        assert first["bytes"] <= first["capacity_bytes"] == 20_000
        assert 0 < first["entries"] < 100
        assert first["entries"] == first["inserted"] - first["replaced"] - first["evicted"] - first["removed"]
        cache.embed_many(texts)
        assert len(recorder.seen) > 500


def test_an_evicted_array_is_freed_and_one_in_use_is_not(recorder):
    with opened(recorder, capacity_bytes=8_192) as cache:
        kept = cache.embed("kept")
        digest = cache._digest("kept")
        count = sys.getrefcount(kept.value)
        cache.embed_many([f"text {number}" for number in range(200)])
        assert cache._stored(digest) is None
        # The cache's own reference is gone.
        after = sys.getrefcount(kept.value)
        assert after == count - 1
        assert kept.value.tolist() == [4.0, 107.0]


def test_an_embedding_is_served_for_its_time_only(recorder):
    with opened(recorder, ttl_s=0.05) as cache:
        cache.embed("a")
        assert cache.embed("a").origin in ("memory", "computed")
        time.sleep(0.06)
        assert cache.embed("a").origin == "computed"
        assert cache.stats()["first"]["expired"] >= 1


def test_an_embedding_larger_than_the_memory_is_answered_all_the_same():
    with EmbeddingCache(
        Encoder(lambda texts: np.ones((len(texts), 5_000)), dimensions=5_000), 4_096, deadline_ms=FAR_MS
    ) as cache:
        assert cache.embed("a").origin == "computed"
        assert cache.embed("a").origin == "computed"
        assert cache.stats()["first"]["rejected"] == 2


def test_an_input_can_be_forgotten(recorder):
    with opened(recorder) as cache:
        cache.embed("a")
        assert cache.forget("a")
        assert not cache.forget("a")
        assert cache.embed("a").origin == "computed"
        cache.clear()
        assert cache.embed("a").origin == "computed"
        assert recorder.seen == ["a", "a", "a"]


# --- many ---


def test_many_inputs_are_answered_in_their_order_each_distinct_one_once(recorder):
    with opened(recorder) as cache:
        cache.embed("bb")
        answers = cache.embed_many(["a", "bb", "ccc", "a", b"a"])
        assert [answer.value[0] for answer in answers] == [1.0, 2.0, 3.0, 1.0, 1.0]
        assert [answer.origin for answer in answers] == [
            "computed",
            "memory",
            "computed",
            "shared",
            "computed",
        ]
        assert sorted(map(str, recorder.seen)) == sorted(map(str, ["bb", "a", "ccc", b"a"]))
        assert cache.embed_many([]) == []
        stats = cache.stats()
    assert stats["requests"] == total(stats) == 6


@pytest.mark.parametrize("inputs", ["text", b"text", 7, None])
def test_many_inputs_are_a_list(recorder, inputs):
    with opened(recorder) as cache:
        with pytest.raises(InputTypeError, match="inputs are a list of str or bytes, got "):
            cache.embed_many(inputs)


def test_misses_are_batched(recorder):
    with opened(recorder, batch_rows_max=16) as cache:
        cache.embed_many([f"text {number}" for number in range(200)])
        assert max(map(len, recorder.batches)) > 1
        assert max(map(len, recorder.batches)) <= 16


def test_all_verbs_give_the_same(recorder):
    async def main():
        async with opened(recorder) as cache:
            one = await cache.embed_async("hello")
            again = await cache.embed_async("hello")
            many = await cache.embed_many_async(["hello", "x"])
            return one, again, many

    one, again, many = asyncio.run(main())
    assert (one.origin, again.origin) == ("computed", "memory")
    assert [each.origin for each in many] == ["memory", "computed"]
    assert one.value.tolist() == again.value.tolist() == many[0].value.tolist() == [5.0, 104.0]


# --- stampedes ---


def test_a_stampede_of_threads_computes_once(recorder):
    recorder.gate.clear()
    answers = []
    with opened(recorder) as cache:
        threads = [threading.Thread(target=lambda: answers.append(cache.embed("hot"))) for _ in range(50)]
        for thread in threads:
            thread.start()
        recorder.begun.wait(30.0)
        recorder.gate.set()
        for thread in threads:
            thread.join()
        stats = cache.stats()
    assert recorder.seen == ["hot"]
    assert {answer.value.tolist()[0] for answer in answers} == {3.0}
    assert {answer.source for answer in answers} == {"primary"}
    assert {answer.origin for answer in answers} <= {"computed", "shared", "memory"}
    assert stats["computed"] == 1
    assert stats["requests"] == total(stats) == 50
    assert stats["computations"] == 1


def test_a_stampede_of_a_thousand_tasks_computes_once(recorder):
    async def main():
        recorder.gate.clear()
        async with opened(recorder) as cache:
            tasks = [asyncio.create_task(cache.embed_async("hot")) for _ in range(1_000)]
            await asyncio.to_thread(recorder.begun.wait, 30.0)
            recorder.gate.set()
            return await asyncio.gather(*tasks), cache.stats()

    answers, stats = asyncio.run(main())
    assert recorder.seen == ["hot"]
    assert {answer.source for answer in answers} == {"primary"}
    assert (stats["computed"], stats["shared"], stats["computations"]) == (1, 999, 1)


def test_a_stampede_on_a_failing_encoder_asks_it_once(recorder):
    recorder.error = RuntimeError("it fails")

    async def main():
        recorder.gate.clear()
        async with opened(recorder, fallback=spare) as cache:
            tasks = [asyncio.create_task(cache.embed_async("hot")) for _ in range(200)]
            await asyncio.to_thread(recorder.begun.wait, 30.0)
            recorder.gate.set()
            return await asyncio.gather(*tasks), cache.stats()

    answers, stats = asyncio.run(main())
    assert recorder.seen == ["hot"]
    assert {(answer.source, answer.reason) for answer in answers} == {("fallback", "primary_error")}
    assert (stats["fallback"], stats["computations"], stats["failed_computations"]) == (200, 1, 1)
    # The next caller asks again.
    assert stats["open"] == 0


@pytest.mark.parametrize("cancelled", [0, 5])
def test_a_cancelled_caller_takes_nothing_from_the_others(recorder, cancelled):
    async def main():
        recorder.gate.clear()
        async with opened(recorder) as cache:
            tasks = [asyncio.create_task(cache.embed_async("hot")) for _ in range(20)]
            await asyncio.to_thread(recorder.begun.wait, 30.0)
            tasks[cancelled].cancel()
            await asyncio.sleep(0)
            recorder.gate.set()
            return await asyncio.gather(*tasks, return_exceptions=True)

    answers = asyncio.run(main())
    assert recorder.seen == ["hot"]
    assert isinstance(answers[cancelled], asyncio.CancelledError)
    assert sum(getattr(answer, "source", "") == "primary" for answer in answers) == 19


def test_an_input_whose_only_caller_was_cancelled_in_the_queue_is_embedded_for_the_next(recorder):
    async def main():
        recorder.gate.clear()
        async with opened(recorder) as cache:
            running = asyncio.create_task(cache.embed_async("running"))
            await asyncio.to_thread(recorder.begun.wait, 30.0)
            queued = asyncio.create_task(cache.embed_async("queued"))
            await asyncio.sleep(0.01)
            queued.cancel()
            await asyncio.gather(queued, return_exceptions=True)
            recorder.gate.set()
            await running
            assert await asyncio.to_thread(cache.flush, 30.0)
            return await cache.embed_async("queued"), cache.stats()

    answer, stats = asyncio.run(main())
    assert answer.origin == "memory"
    assert recorder.seen == ["running", "queued"]
    assert stats["filled"] == 1


# --- deadlines and fallbacks ---


def test_a_cache_says_when_it_is_ready(recorder):
    cache = opened(recorder)
    assert cache.wait_ready(60.0)
    assert asyncio.run(cache.wait_ready_async(60.0))
    assert cache.ready
    cache.close()
    assert not cache.ready


def test_the_fallback_answers_what_the_encoder_does_not_embed_in_time(recorder):
    recorder.gate.clear()
    with opened(recorder, fallback=spare) as cache:
        answer = cache.embed("hello", deadline_ms=50.0)
        assert (answer.source, answer.origin) == ("fallback", "computed")
        assert answer.reason in LATE
        assert answer.value.tolist() == [2.5, 1.0, 2.0]
        assert answer.space == cache.fallback.space != cache.encoder.space
        recorder.gate.set()
        # The late embedding is stored all the same, and computed once.
        late = cache.embed("hello")
        assert late.source == "primary"
        assert recorder.seen == ["hello"]
        assert cache.stats()["fallback"] == 1


def test_followers_with_a_longer_deadline_get_the_embedding(recorder):
    recorder.gate.clear()
    answers = []
    with opened(recorder, fallback=spare) as cache:
        hasty = threading.Thread(target=lambda: answers.append(cache.embed("hello", deadline_ms=100.0)))
        hasty.start()
        recorder.begun.wait(30.0)
        patient = threading.Thread(target=lambda: answers.append(cache.embed("hello")))
        patient.start()
        hasty.join()
        recorder.gate.set()
        patient.join()
    assert [answer.source for answer in answers] == ["fallback", "primary"]
    assert answers[1].origin in ("shared", "memory")
    assert recorder.seen == ["hello"]


def test_without_a_fallback_the_answer_is_nan(recorder):
    recorder.gate.clear()
    with opened(recorder) as cache:
        answer = cache.embed("hello", deadline_ms=20.0)
        recorder.gate.set()
    assert (answer.source, answer.origin, answer.space) == ("default", "", "")
    assert np.isnan(answer.value).tolist() == [True, True]
    assert answer.as_dict()["value"] == [None, None]


def test_a_deadline_that_has_passed_takes_what_is_in_memory(recorder):
    with opened(recorder, fallback=spare) as cache:
        cache.embed("there")
        there = cache.embed("there", deadline_ms=0)
        assert (there.source, there.origin, there.on_time) == ("primary", "memory", False)
        gone = cache.embed("new", deadline_ms=0)
        assert (gone.source, gone.reason, gone.on_time) == ("fallback", "expired", False)
        assert cache.stats()["late"] == 1


def test_a_fallback_that_fails_is_no_error(recorder):
    def failing(texts):
        if texts == ["hello"]:
            raise RuntimeError("it fails too")
        return np.ones((len(texts), 3))

    recorder.gate.clear()
    with opened(recorder, fallback=Encoder(failing, dimensions=3)) as cache:
        answer = cache.embed("hello", deadline_ms=20.0)
        recorder.gate.set()
        assert (answer.source, answer.reason) == ("default", "fallback_error")
        assert "it fails too" in cache.stats()["fallback_error"]


def test_fallbacks_are_kept_under_a_key_of_their_own(recorder):
    asked = []

    def counting(texts):
        asked.extend(text for text in texts if text == "hello")
        return spare(texts)

    recorder.gate.clear()
    with opened(recorder, fallback=Encoder(counting, dimensions=3), fill_ms=None) as cache:
        for _ in range(3):
            assert cache.embed("hello", deadline_ms=20.0).value.tolist() == [2.5, 1.0, 2.0]
        recorder.gate.set()
    assert asked == ["hello"]


def test_one_bad_input_of_a_batch_fails_alone(recorder):
    recorder.bad = ("bad",)
    with opened(recorder, fallback=spare) as cache:
        answers = cache.embed_many([f"text {number}" for number in range(20)] + ["bad"])
        stats = cache.stats()
    assert [answer.source for answer in answers] == ["primary"] * 20 + ["fallback"]
    assert answers[-1].reason == "primary_error"
    assert stats["open"] == 0


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        ([[np.nan, 1.0]], "primary_not_finite"),
        ([[1.0, np.inf]], "primary_not_finite"),
        ([[1.0]], "primary_error"),
        ([["text", "text"]], "primary_error"),
    ],
)
def test_an_embedding_that_is_none_is_a_failure(made, reason):
    def encode(texts):
        return made if texts == ["hello"] else np.ones((len(texts), 2))

    with EmbeddingCache(Encoder(encode, dimensions=2), 1 << 20, fallback=spare, deadline_ms=FAR_MS) as cache:
        answer = cache.embed("hello")
        assert (answer.source, answer.reason) == ("fallback", reason)
        assert cache.stats()["failed_computations"] == 1
        assert cache.stats()["first"]["entries"] == 1  # the fallback's


def test_a_child_has_what_was_in_memory_and_says_why_it_has_no_more(recorder):
    with opened(recorder) as cache:
        cache.embed("there")
        child = os.fork()
        if child == 0:
            # Without pytest's own end, which belongs to the parent.
            status = 1
            try:
                assert cache.embed("there").origin == "memory"
                for call in (cache.embed, lambda x: cache.embed_many([x])):
                    with pytest.raises(ClosedError, match="make an EmbeddingCache after the fork"):
                        call("new")
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert cache.embed("new").origin == "computed"


def test_an_encoder_that_hangs_costs_no_deadline(recorder):
    with opened(recorder, fallback=spare, fill_ms=50.0) as cache:
        recorder.gate.clear()
        answers = [cache.embed(f"text {number % 3}", deadline_ms=30.0) for number in range(12)]
        assert {answer.source for answer in answers} == {"fallback"}
        assert {answer.reason for answer in answers} <= {*LATE, "breaker_open"}
        recorder.gate.set()


def test_no_caller_waits_for_an_embedding_that_there_is_no_memory_to_store(recorder, monkeypatch):
    with opened(recorder, fallback=spare) as cache:
        store = EmbeddingCache._store

        def full(self, digest, value):
            if len(value) == 2:
                raise MemoryError
            return store(self, digest, value)

        monkeypatch.setattr(EmbeddingCache, "_store", full)
        assert {answer.source for answer in cache.embed_many(["a", "b", "c"])} == {"fallback"}
        assert cache.stats()["open"] == 0


def test_a_close_answers_those_who_wait(recorder):
    recorder.gate.clear()
    cache = opened(recorder, fallback=spare)
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(cache.embed("hot"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    recorder.begun.wait(30.0)
    cache.close(timeout_s=0.05)
    for thread in threads:
        thread.join(30.0)
    recorder.gate.set()
    assert len(answers) == 3
    assert {answer.source for answer in answers} <= {"fallback", "default"}


def test_counts_add_up_under_threads(recorder):
    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(200):
            number = rng.integers(60)
            if number < 5:
                cache.embed_many([f"text {number}", f"text {number + 1}"])
            else:
                cache.embed(f"text {number}", deadline_ms=0.0 if number % 7 == 0 else None)

    with opened(recorder, capacity_bytes=12_000, fallback=spare) as cache:
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert cache.flush(30.0)
        stats = cache.stats()
    assert stats["requests"] == total(stats)
    assert stats["computations"] == len(recorder.seen)
    assert stats["failed_computations"] == stats["open"] == 0
    first = stats["first"]
    assert first["entries"] == first["inserted"] - first["replaced"] - first["evicted"] - first["removed"]


def test_metrics_are_prometheus_text_and_add_up(recorder):
    parser = pytest.importorskip("prometheus_client.parser")
    with opened(recorder, fallback=spare, capacity_bytes=6_000) as cache:
        cache.embed_many([f"text {number}" for number in range(29)])
        cache.embed("again")
        cache.embed("again")
        cache.embed("late", deadline_ms=0)
        text = cache.metrics_text()
        stats = cache.stats()
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }
    requests = {key[1]: value for key, value in found.items() if key[0] == "engine_cache_requests_total"}
    assert requests == {
        "memory": 1, "second_level": 0, "computed": 30, "shared": 0, "fallback": 1, "default": 0,
    }  # fmt: skip
    assert found["engine_cache_late_total",] == 1
    assert found["engine_cache_computations_total", "failed"] == 0
    removed = sum(value for key, value in found.items() if key[0] == "engine_cache_removals_total")
    assert found["engine_cache_insertions_total",] - removed == found["engine_cache_entries",]
    assert found["engine_cache_capacity_bytes",] == 6_000 == stats["first"]["capacity_bytes"]
    if shutil.which("promtool"):
        checked = subprocess.run(["promtool", "check", "metrics"], input=text, text=True, capture_output=True)
        assert checked.returncode == 0, checked.stderr
