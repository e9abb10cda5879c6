# Faults put into a scorer on purpose: the switch and the counters of csrc/fault/fault.hpp.
from libc.stdint cimport INT64_MIN, int64_t, uint64_t

from engine.model._scorer cimport engine_scorer, scorer_from_capsule, scorer_to_capsule

cdef extern from "fault/fault.hpp" namespace "engine::fault" nogil:
    cdef cppclass Handle:
        pass
    cdef cppclass Clock:
        pass
    cdef cppclass Stall:
        int64_t stall_ns
        int64_t every_ns
    cdef cppclass Failing:
        double share
        uint64_t seed
    cdef cppclass Corrupting:
        double share
        uint64_t seed
    cdef cppclass Slow:
        int64_t per_call_ns
        int64_t per_row_ns
    cdef cppclass Hanging:
        pass
    cdef cppclass Counts:
        uint64_t calls
        uint64_t faults

    Clock real_clock()
    Handle* wrap(const engine_scorer& inner, const Stall& fault, int64_t start_ns, const Clock& clock,
                 engine_scorer& scorer) except +
    Handle* wrap(const engine_scorer& inner, const Failing& fault, int64_t start_ns, engine_scorer& scorer) except +
    Handle* wrap(const engine_scorer& inner, const Corrupting& fault, int64_t start_ns, engine_scorer& scorer) except +
    Handle* wrap(const engine_scorer& inner, const Slow& fault, int64_t start_ns, const Clock& clock,
                 engine_scorer& scorer) except +
    Handle* wrap(const engine_scorer& inner, const Hanging& fault, int64_t start_ns, engine_scorer& scorer) except +
    void c_arm "engine::fault::arm"(Handle* handle, int64_t start_ns)
    void c_disarm "engine::fault::disarm"(Handle* handle)
    int64_t c_armed_since "engine::fault::armed_since"(const Handle* handle)
    Counts c_counts "engine::fault::counts"(const Handle* handle)
    void close(Handle* handle)


cdef class Fault:
    """A wrapped scorer: its capsule, its switch and its counters. Made by this module's functions. Thread-safe.

    Attributes:
        scorer: the wrapped scorer's capsule.
    """

    cdef Handle* _handle
    cdef readonly object scorer

    def __dealloc__(self):
        if self._handle is not NULL:
            close(self._handle)

    def arm(self, int64_t start_ns) -> None:
        """Switch the fault on. A stall counts its windows from `start_ns`, a point on the monotonic clock."""
        if start_ns == INT64_MIN:
            raise ValueError("start_ns is out of range")
        c_arm(self._handle, start_ns)

    def disarm(self) -> None:
        """Switch the fault off. Calls that hang go on to the inner scorer."""
        c_disarm(self._handle)

    @property
    def armed(self) -> bool:
        """Whether the fault is switched on."""
        return c_armed_since(self._handle) != INT64_MIN

    @property
    def calls(self) -> int:
        """Calls so far, from any thread."""
        return c_counts(self._handle).calls

    @property
    def faults(self) -> int:
        """Calls so far that met the fault."""
        return c_counts(self._handle).faults


# Fill in the capsule. From here on `fault` owns the handle and the new scorer's reference, also if this raises.
cdef Fault _made(Handle* handle, engine_scorer* scorer):
    cdef Fault fault = Fault.__new__(Fault)
    fault._handle = handle
    fault.scorer = scorer_to_capsule(scorer)
    return fault


cdef int64_t _start(object start_ns) except? -1:
    return INT64_MIN if start_ns is None else <int64_t>start_ns


def stalling(capsule, *, int64_t stall_ns, int64_t every_ns, start_ns) -> Fault:
    """Return a scorer that sleeps through the first `stall_ns` of every `every_ns`, counted from `start_ns`.

    `start_ns` is a point on the monotonic clock; None leaves the fault switched off.
    """
    cdef Stall kind
    cdef engine_scorer scorer
    kind.stall_ns = stall_ns
    kind.every_ns = every_ns
    return _made(wrap(scorer_from_capsule(capsule)[0], kind, _start(start_ns), real_clock(), scorer), &scorer)


def failing(capsule, *, double share, uint64_t seed, start_ns) -> Fault:
    """Return a scorer that fails a share (0 to 1) of its calls. `start_ns` None leaves the fault switched off."""
    cdef Failing kind
    cdef engine_scorer scorer
    kind.share = share
    kind.seed = seed
    return _made(wrap(scorer_from_capsule(capsule)[0], kind, _start(start_ns), scorer), &scorer)


def corrupting(capsule, *, double share, uint64_t seed, start_ns) -> Fault:
    """Return a scorer that answers NaN to a share (0 to 1) of its calls. `start_ns` None leaves it switched off."""
    cdef Corrupting kind
    cdef engine_scorer scorer
    kind.share = share
    kind.seed = seed
    return _made(wrap(scorer_from_capsule(capsule)[0], kind, _start(start_ns), scorer), &scorer)


def slow(capsule, *, int64_t per_call_ns, int64_t per_row_ns, start_ns) -> Fault:
    """Return a scorer that spends CPU time before each call. `start_ns` None leaves the fault switched off."""
    cdef Slow kind
    cdef engine_scorer scorer
    kind.per_call_ns = per_call_ns
    kind.per_row_ns = per_row_ns
    return _made(wrap(scorer_from_capsule(capsule)[0], kind, _start(start_ns), real_clock(), scorer), &scorer)


def hanging(capsule, *, start_ns) -> Fault:
    """Return a scorer that never answers while the fault is on. `start_ns` None leaves it switched off."""
    cdef Hanging kind
    cdef engine_scorer scorer
    return _made(wrap(scorer_from_capsule(capsule)[0], kind, _start(start_ns), scorer), &scorer)
