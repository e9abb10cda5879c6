# cython: annotation_typing=False
"""The hits of the embedding cache: an input hashed, looked up and answered in one call; all else is Python's.

Values are read-only arrays. The core (csrc/cache) holds one reference to each and counts another for each hit,
which is safe because everything here runs with the GIL. References that it gives up are dropped after the call.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_Check, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from cpython.unicode cimport PyUnicode_Check
from libc.stdint cimport INT64_MAX, int64_t, uint64_t
from libc.string cimport memcpy
from libcpp cimport bool as cbool
from libcpp.vector cimport vector

import os

import numpy as np

from engine._common.arguments import number, shown, whole
from engine.errors import ClosedError, InputError, InputTypeError

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL
    void Py_IncRef(PyObject* counted) noexcept nogil

cdef extern from "base/clock.hpp" namespace "engine" nogil:
    int64_t now_ns() noexcept

cdef extern from "cache/siphash.hpp" namespace "engine::cache" nogil:
    cdef struct Digest:
        uint64_t low
        uint64_t high
    Digest siphash(const Digest& key, const void* data, size_t length) noexcept

cdef extern from "cache/shard.hpp" namespace "engine::cache" nogil:
    uint64_t ENTRY_BYTES
    int64_t NEVER_EXPIRES
    ctypedef void (*Retain)(void*, void*) noexcept
    cdef struct Counts:
        uint64_t hits
        uint64_t misses
        uint64_t expired
        uint64_t inserted
        uint64_t replaced
        uint64_t rejected
        uint64_t evicted
        uint64_t removed
        uint64_t returned
        uint64_t entries
        uint64_t bytes
        uint64_t ghosts

cdef extern from "cache/cache.hpp" namespace "engine::cache" nogil:
    uint64_t CAPACITY_BYTES_MIN
    uint64_t CAPACITY_BYTES_MAX
    cdef cppclass Cache:
        Cache(uint64_t capacity_bytes, uint64_t shards) except +
        void* get(const Digest& digest, int64_t now_ns, Retain retain, void* context) noexcept
        cbool put(const Digest& digest, void* value, uint64_t size, int64_t expires_ns, vector[void*]& dropped) except +
        cbool remove(const Digest& digest, vector[void*]& dropped) except +
        void clear(vector[void*]& dropped) except +
        Counts counts() except +
        void check() except +
        uint64_t capacity_bytes() noexcept
        uint64_t shards() noexcept
        uint64_t value_bytes_max() noexcept

cdef extern from "cache/load.hpp" namespace "engine::cache" nogil:
    cdef struct Rate:
        double per_s
        double per_cpu_s
    Rate c_lookups_per_s "engine::cache::lookups_per_s"(
        uint64_t threads, uint64_t entries, uint64_t lookups) except +

# The headers of an array and of the bytes under it, as sys.getsizeof tells.
cdef uint64_t OBJECT_BYTES = 176
cdef int64_t FAR_NS = 3600 * 1_000_000_000 * 24 * 365  # a year: farther deadlines are no deadlines
cdef int64_t FOREVER_NS = INT64_MAX // 4


cdef void _keep(void* value, void* context) noexcept nogil:
    # With the GIL, which every caller of `Cache.get` below holds.
    Py_IncRef(<PyObject*>value)


cdef void _release(vector[void*]& dropped) noexcept:
    for value in dropped:
        Py_DECREF(<object>value)


def _restored(value, source, reason, origin, space, latency_us, on_time):
    return _made(value, source, reason, origin, space, latency_us, on_time)


def _made(value, str source, str reason, str origin, str space, double latency_us, bint on_time):
    """An `Embedding` of these parts."""
    cdef Embedding embedding = Embedding.__new__(Embedding)
    embedding.value, embedding.source, embedding.reason = value, source, reason
    embedding.origin, embedding.space = origin, space
    embedding.latency_us, embedding.on_time = latency_us, on_time
    return embedding


@cython.final
@cython.freelist(256)
cdef class Embedding:
    """One embedding, or what stands in its place. Immutable, and made by a cache only.

    Attributes:
        value: float32 array [dimensions], read-only and shared with other callers; NaN where source is "default".
        source: "primary" for the encoder's own embedding, "fallback" for the fallback's, "default" for none. A fallback
            has a space of its own: give its embeddings to a model that was trained on them.
        reason: "ok" if the encoder's embedding was there in time. Any other reason says why it was not, in the words
            of `engine.Answer.reason`.
        origin: "memory" or "second_level" for a stored embedding, "computed" for one that this call computed, "shared"
            for one that another call, or an earlier place of this one, had asked for; "" where source is "default".
        space: digest of encoder, tokenizer and options, 64 hex digits; "" where source is "default". Embeddings of two
            spaces have nothing to do with each other.
        latency_us: microseconds from the call until the embedding was there.
        on_time: it was there before the deadline.
    """

    cdef readonly object value
    cdef readonly str source
    cdef readonly str reason
    cdef readonly str origin
    cdef readonly str space
    cdef readonly double latency_us
    cdef readonly bint on_time

    def __init__(self):
        raise InputTypeError("an Embedding is made by a cache")

    def __repr__(self):
        return (f"Embedding(source={self.source!r}, reason={self.reason!r}, origin={self.origin!r}, "
                f"dimensions={len(self.value)}, latency_us={self.latency_us:.1f}, on_time={self.on_time})")

    def __reduce__(self):
        return _restored, (self.value, self.source, self.reason, self.origin, self.space, self.latency_us,
                           self.on_time)

    def as_dict(self):
        """Return all attributes as a dict that `json.dumps` takes; the value as a list, None for NaN."""
        value = [None if number != number else number for number in self.value.tolist()]
        return {"value": value, "source": self.source, "reason": self.reason, "origin": self.origin,
                "space": self.space, "latency_us": self.latency_us, "on_time": self.on_time}


cdef class Memory:
    """The first level: embeddings in this process, by the digest of their input.

    Args:
        capacity_bytes: the most bytes of all embeddings with what belongs to them.
        ttl_ns: how long an embedding is served; None for ever.
        space: the encoder's space, as answers name it.
        budget_ns: from a call to its deadline, where the call gives none.
    """

    cdef Cache* cache
    cdef Digest text_key
    cdef Digest bytes_key
    cdef Digest spare_text_key
    cdef Digest spare_bytes_key
    cdef int64_t ttl_ns
    cdef int64_t budget_ns
    cdef str space
    cdef bint closed_
    cdef uint64_t hits

    def __cinit__(self, *arguments, **options):
        self.cache = NULL

    def _open_memory(self, capacity_bytes, ttl_ns, space, budget_ns):
        """Make the first level; arguments as of the class."""
        cdef uint64_t capacity = whole("capacity_bytes", capacity_bytes, CAPACITY_BYTES_MIN, CAPACITY_BYTES_MAX)
        self.ttl_ns = 0 if ttl_ns is None else ttl_ns
        self.budget_ns = budget_ns
        self.space = space
        # Secret, so that nobody can make two inputs of one digest.
        cdef bytes secret = os.urandom(4 * sizeof(Digest))
        cdef const char* at = PyBytes_AS_STRING(secret)
        memcpy(&self.text_key, at, sizeof(Digest))
        memcpy(&self.bytes_key, at + sizeof(Digest), sizeof(Digest))
        memcpy(&self.spare_text_key, at + 2 * sizeof(Digest), sizeof(Digest))
        memcpy(&self.spare_bytes_key, at + 3 * sizeof(Digest), sizeof(Digest))
        self.cache = new Cache(capacity, 0)

    def __dealloc__(self):
        cdef vector[void*] dropped
        if self.cache is not NULL:
            self.cache.clear(dropped)
            _release(dropped)
            del self.cache

    # Hot: once per request.
    cdef inline Digest digest_of(self, x, bint spare) except *:
        cdef Py_ssize_t size
        cdef const char* data
        if PyUnicode_Check(x):
            try:
                data = PyUnicode_AsUTF8AndSize(x, &size)
            except UnicodeEncodeError:
                raise InputError(f"an input is text that UTF-8 can encode, got {shown(x)}") from None
            return siphash(self.spare_text_key if spare else self.text_key, data, <size_t>size)
        if PyBytes_Check(x):
            return siphash(self.spare_bytes_key if spare else self.bytes_key, PyBytes_AS_STRING(x),
                           <size_t>PyBytes_GET_SIZE(x))
        raise InputTypeError(f"an input is a str or bytes, got {shown(x)}")

    cdef inline void* found(self, const Digest& digest, int64_t at_ns) noexcept:
        return self.cache.get(digest, at_ns, _keep, NULL)

    # Hot: once per request. A hit is answered here, and everything else by `_missed`.
    def embed(self, x, deadline_ms=None, *, deadline_ns=None):
        """Embed one input before its deadline.

        Args:
            x: str or bytes. Two inputs are the same if all their bytes are; a str and bytes never are.
            deadline_ms: milliseconds from the call, 0 or more; the cache's own unless given.
            deadline_ns: an instant of `time.monotonic_ns()` instead.

        Returns:
            An `Embedding`. One in memory is returned at once, whatever the deadline. Else it comes from the second
            level or the encoder if they are in time, else from the fallback, else it is NaN.

        Raises:
            InputError: text that UTF-8 cannot encode, or a deadline that is negative or NaN.
            InputTypeError: an input of another type.
            ClosedError: the cache was closed; or a miss in a process that was forked from the cache's own.

        A failing encoder never raises here. Blocks until the deadline at most, without the GIL. Thread-safe. On an
        event loop await `embed_async`.
        """
        cdef int64_t began = now_ns()
        if self.closed_:
            self._refuse()
        cdef int64_t until = began + self.budget_ns
        if deadline_ms is not None or deadline_ns is not None:
            until = self.until(began, deadline_ms, deadline_ns)
        cdef Digest digest = self.digest_of(x, False)
        cdef void* there = self.found(digest, began)
        if there is NULL:
            return self._missed(x, _plain(digest), began, until)
        return self.hit(there, began, until)

    cdef inline Embedding hit(self, void* there, int64_t began, int64_t until):
        cdef Embedding embedding = Embedding.__new__(Embedding)
        embedding.value = <object>there
        Py_DECREF(<object>there)  # `found` took a reference, and the attribute has its own
        embedding.source, embedding.reason, embedding.origin = "primary", "ok", "memory"
        embedding.space = self.space
        cdef int64_t ended = now_ns()
        embedding.latency_us = (ended - began) * 1e-3
        embedding.on_time = ended < until
        self.hits += 1
        return embedding

    cdef int64_t until(self, int64_t began, deadline_ms, deadline_ns) except? -1:
        if deadline_ns is not None:
            if deadline_ms is not None:
                raise InputError("give deadline_ms or deadline_ns, not both")
            at = whole("deadline_ns", deadline_ns, 0, INT64_MAX, type_error=InputTypeError)
            if at > began + FAR_NS:
                raise InputError(
                    f"deadline_ns must be an instant of time.monotonic_ns() less than a year ahead, got {at}")
            return at
        left = number("deadline_ms", deadline_ms, 0.0, float("inf"), type_error=InputTypeError)
        return FOREVER_NS if left * 1e6 > FAR_NS else began + <int64_t>(left * 1e6)

    def _now_ns(self):
        """The instant of `time.monotonic_ns`."""
        return now_ns()

    def _until(self, began_ns, deadline_ms, deadline_ns):
        """The instant of the deadline of a call that began then. Raises as `embed`."""
        if self.closed_:
            self._refuse()
        if deadline_ms is None and deadline_ns is None:
            return began_ns + self.budget_ns
        return self.until(began_ns, deadline_ms, deadline_ns)

    def _looked_up(self, x, int64_t began_ns, int64_t until_ns):
        """The `Embedding` of a hit, or None; and the digest of the input."""
        cdef Digest digest = self.digest_of(x, False)
        cdef void* there = self.found(digest, began_ns)
        if there is NULL:
            return None, _plain(digest)
        return self.hit(there, began_ns, until_ns), _plain(digest)

    def _digest(self, x):
        """The digest of an input: a hash under a secret key of this cache."""
        return _plain(self.digest_of(x, False))

    def _spare_digest(self, x):
        """The digest of an input in the fallback's space: a hash under another secret key."""
        return _plain(self.digest_of(x, True))

    def _stored(self, bytes digest):
        """The array stored under a digest, or None."""
        cdef void* there = self.found(_native(digest), now_ns())
        if there is NULL:
            return None
        value = <object>there
        Py_DECREF(value)
        return value

    def _store(self, bytes digest, value):
        """Keep an array, as a read-only float32 copy, and return the copy. One that is too large is not kept."""
        array = np.ascontiguousarray(value, dtype=np.float32)
        # Bytes never change, so no caller can make the array writable.
        cdef object kept = np.frombuffer(array.tobytes(), dtype=np.float32)
        cdef vector[void*] dropped
        cdef int64_t expires = NEVER_EXPIRES if self.ttl_ns == 0 else now_ns() + self.ttl_ns
        if self.closed_:
            return kept
        Py_INCREF(kept)
        try:
            self.cache.put(_native(digest), <void*>kept, OBJECT_BYTES + <uint64_t>array.nbytes, expires, dropped)
        except BaseException:
            Py_DECREF(kept)
            raise
        _release(dropped)
        return kept

    def _removed(self, bytes digest):
        """Take an array out; whether there was one."""
        cdef vector[void*] dropped
        cdef bint there = self.cache.remove(_native(digest), dropped)
        _release(dropped)
        return there

    def clear(self):
        """Forget every embedding in memory, the fallback's too. The second level keeps what it has. Thread-safe."""
        cdef vector[void*] dropped
        self.cache.clear(dropped)
        _release(dropped)

    @property
    def closed(self):
        """True once `close` was called."""
        return self.closed_

    def _close_memory(self):
        self.closed_ = True
        self.clear()

    def _refuse(self):
        raise ClosedError("the cache was closed: make a new one")

    def _memory_hits(self):
        return self.hits

    def _memory_stats(self):
        """The counters of the first level as a dict."""
        self.cache.check()
        cdef Counts counts = self.cache.counts()
        return {**counts, "capacity_bytes": self.cache.capacity_bytes(), "shards": self.cache.shards()}


cdef inline bytes _plain(const Digest& digest):
    return PyBytes_FromStringAndSize(<const char*>&digest, sizeof(Digest))


cdef inline Digest _native(bytes digest) except *:
    cdef Digest native
    memcpy(&native, PyBytes_AS_STRING(digest), sizeof(Digest))
    return native


def lookups_per_s(threads, entries, lookups):
    """Look-ups a second of native threads on a cache of their own, without the GIL; for the benchmark.

    Args:
        threads: how many, together.
        entries: keys in the cache, which are drawn by Zipf's law.
        lookups: of each thread.

    Returns:
        Look-ups a second of all threads together, by the clock; and as if each had a processor for itself.
    """
    cdef uint64_t n_threads = threads, n_entries = entries, n_lookups = lookups
    cdef Rate rate
    with nogil:
        rate = c_lookups_per_s(n_threads, n_entries, n_lookups)
    return rate.per_s, rate.per_cpu_s
