# The runtime's Python face: requests in, Answers out. The serving room's Engine is a subclass that checks its parts
# and chooses a lane; what runs once per request is here.
cimport cython
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_IsValid
from cpython.pystate cimport PyThreadState, PyThreadState_Get
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from libcpp.memory cimport shared_ptr
from libcpp.vector cimport vector

import asyncio
import contextvars
import math
import os
import random

import numpy as np

cimport numpy as cnp

from engine.serving._answers cimport Answer
from engine.serving._futures cimport PENDING, AnswerFuture, pending_answer, ready_answer
from engine.serving._scheduler cimport *
from engine.serving._rows cimport column, count_rows, read_deadline, read_deadlines, read_matrix, read_row, table, vector_of
from engine.model._scorer cimport engine_scorer, scorer_from_capsule
from engine.serving._statistics cimport statistics_of

from engine._common.vocabulary import PRIORITIES as _priorities
from engine._common.vocabulary import REASONS as _reasons
from engine._common.vocabulary import SOURCES as _sources
from engine.serving._answers import Answers
from engine.serving._rows import checked_default
from engine.errors import ClosedError, ConfigError, InputError

cnp.import_array()

# Under this much work predict_many keeps the GIL: giving it up risks a whole switch interval on the way back.
cdef int64_t GIL_KEEP_NS = 20_000
# Two inline overruns within this time move a lane="auto" engine to the batch lane; as long without a stall there moves
# it back.
cdef int64_t OVERRUN_WINDOW_NS = 10_000_000_000
# Calls this close behind one another, with absolute deadlines, mean that a queue has formed at the caller's.
cdef int64_t BACK_TO_BACK_NS = 200_000
# What an inline predict_many then leaves of the engine's deadline, as a divisor: without it each call would ride on the
# deadline, and any hiccup of the machine would make a queue of answers late.
cdef int64_t QUEUE_RESERVE_DIVISOR = 4
# Looking up features may take this part of the time that a request has, as a divisor.
cdef int64_t LOOKUP_DIVISOR = 2

cdef tuple REASON_NAMES = _reasons
cdef tuple SOURCE_NAMES = _sources
cdef str DEFAULT_ERROR = _reasons[len(_reasons) - 1]
cdef tuple PRIORITY_NAMES = _priorities
cdef dict PRIORITY_CODES = {name: code for code, name in enumerate(PRIORITY_NAMES)}
cdef uint64_t _forks = 0


def _after_fork_in_child():
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_after_fork_in_child)
_get_running_loop = asyncio.get_running_loop
_looking_up_until = contextvars.ContextVar("engine.looking_up_until", default=0)


def remaining_ms():
    """Milliseconds that the request under way here still has: inside a Python model, until the most urgent row of its
    batch must be answered; inside a look-up of online features, until the request must be. Negative when it is too
    late, infinite without a deadline, None outside of both."""
    cdef int64_t until = Runtime.working_until_ns()
    if until == 0:
        until = _looking_up_until.get()
    if until == 0:
        return None
    return math.inf if until >= NEVER_NS else (until - now_ns()) / 1e6


cdef Priority priority_of(object name) except *:
    code = PRIORITY_CODES.get(name) if isinstance(name, str) else None
    if code is None:
        raise InputError(f"priority must be one of {', '.join(PRIORITY_NAMES)}, got {name!r:.60}")
    return <Priority><uint8_t>code


cdef BreakerLimits _breaker_limits(dict given) except *:
    cdef BreakerLimits limits
    limits.enabled = given["enabled"]
    limits.calls_in_a_row = given["calls_in_a_row"]
    limits.rows_share = given["rows_share"]
    limits.rows_min = given["rows_min"]
    limits.window_ns = given["window_ns"]
    limits.rest_ns = given["rest_ns"]
    limits.rest_ns_max = given["rest_ns_max"]
    return limits


include "_executors.pxi"
include "_deployments.pxi"
include "_loops.pxi"


# A request whose row is still to be read: under what, asked when, due when and how much it matters.
cdef inline Request _request_of(_Served served, int64_t started, int64_t deadline, Priority priority, bint hedge) noexcept:
    cdef Request request
    request.deployment = served.native
    request.row = NULL
    request.started_ns = request.asked_ns = started
    request.deadline_ns = deadline
    request.priority = priority
    request.hedge = hedge
    return request


cdef class CoreEngine(_Deployments):
    """What `engine.Engine` is made of: see its documentation. Not public."""

    cdef CoreExecutors _pool    # shared executors, or None
    cdef object _warm_rows
    cdef dict _bridges          # id(loop) -> _LoopBridge
    cdef _LoopBridge _last_bridge
    cdef readonly bint closed
    cdef bint _inline, _auto, _abandoned
    cdef Priority _priority
    cdef uint32_t _slots_max
    cdef int64_t _budget_ns, _overran_ns, _demoted_ns, _many_ended_ns
    cdef uint64_t _forked_at, _overruns, _stalls

    def __cinit__(self, *args, **kwargs):
        self.runtime = NULL
        self._observer = NULL
        self._shadow = NULL
        self._served = {}
        self._bridges = {}
        self._forked_at = _forks
        self.closed = True

    def _open(self, primary, fallback, default, str version, features, parts, warm_rows, int64_t budget_ns, dict limits):
        """Makes the native runtime and its first deployment, of the shape that all others must have."""
        cdef const engine_scorer* scorer = scorer_from_capsule(primary)
        self.n_features, self.n_outputs = scorer.n_features, scorer.n_outputs
        self._wide = features is None and scorer.score_f64 is not NULL
        self._row_bytes = self.n_features * (8 if self._wide else 4)
        self._breaker = _breaker_limits(limits["breaker"])
        self._take_observer(limits["observer"])
        cdef _Served served = self._prepare(primary, fallback, default, version, features, parts)
        self._budget_ns = budget_ns
        self._warm_rows = read_matrix(warm_rows, self.n_features, self._wide)
        self._priority = priority_of(limits["priority"])
        cdef RuntimeLimits native
        native.slots = self._slots_max = limits["queue_rows_max"]
        native.batch_rows_max = limits["batch_rows_max"]
        native.miss_rate = limits["miss_rate"]
        native.weight = limits["weight"]
        native.errors_to_default = limits["on_error"] == "default"
        native.only_finite = not limits["allow_nonfinite"]
        native.budget_ns = budget_ns
        native.row_bytes = self._row_bytes
        native.n_features = self.n_features
        native.n_outputs = self.n_outputs
        # The upper bits tell processes and engines apart, the lower 40 count.
        native.first_id = (<uint64_t>random.SystemRandom().getrandbits(23) << 40) + 1
        cdef shared_ptr[Executors] executors
        if isinstance(limits["executors"], CoreExecutors):
            self._pool = limits["executors"]
            if self._pool.closed or self._pool._forked_at != _forks:
                raise ClosedError("these executors are closed, or belong to the process that this one was forked from")
            executors = self._pool.native
        else:
            executors = _make_executors(limits["executors"], limits["spin"], limits["realtime_priority"],
                                        limits["cpus"])
        self.runtime = new Runtime(native, executors, self._pool is None)
        if self._pool is not None:
            self._pool._engines.add(id(self))
        self.closed = False
        self._install(served)

    def _calibrate(self):
        """Measures the primary on this thread; microseconds a single row, 0.0 where it failed."""
        self._measure(self._current, self._warm_rows)
        return self._install(self._current)

    def _choose_lane(self, bint inline, bint auto):
        self._inline = inline
        self._auto = auto
        if not inline:
            self._start_threads(True)

    cdef int _start_threads(self, bint warm) except -1:
        cdef cnp.ndarray rows = self._warm_rows
        cdef uint32_t n = rows.shape[0] if warm else 0
        with nogil:
            self.runtime.start_threads(self._current.native, cnp.PyArray_DATA(rows), n)
        return 0

    def _warmed_up(self):
        return self.runtime.warmed_up()

    @property
    def lane(self):
        """The lane that single requests take now: "inline" or "batch"."""
        return "inline" if self._inline else "batch"

    cdef int _check_open(self) except -1:
        if self.closed:
            raise ClosedError("the engine is closed" if self.runtime is not NULL else "the engine was never opened")
        if self._forked_at != _forks:
            raise ClosedError("this engine belongs to the parent process: its threads did not survive fork(); make "
                              "a new Engine in the child")
        return 0

    def _require_open(self):
        self._check_open()

    # Asking

    cdef int _read(self, _Served served, object x, void* row) except -1:
        if served.features is not NULL:
            return served.features.read_row(served.features.ctx, <PyObject*>x, <float*>row)
        return read_row(x, self.n_features, self._wide, row)

    # Fetches the online features of one request; (the request with them, names of those that are missing).
    cdef tuple _look_up(self, _Served served, object x, Request* request):
        cdef int64_t until = request.asked_ns + (request.deadline_ns - request.asked_ns) // LOOKUP_DIVISOR
        token = _looking_up_until.set(request.deadline_ns)
        try:
            found = served.lookup.fetch(x, min(until, NEVER_NS))
        finally:
            _looking_up_until.reset(token)
        request.asked_ns = now_ns()
        return found

    def predict(self, x, deadline_ms=None, *, deadline_ns=None, priority=None, bint hedge=False, key=None):
        cdef int64_t started = now_ns()
        self._check_open()
        cdef _Served served = self._current if self._canary is None else self._route(key, started)
        cdef int64_t deadline = read_deadline(deadline_ms, deadline_ns, started, self._budget_ns)
        cdef Priority asked = self._priority if priority is None else priority_of(priority)
        cdef Request request = _request_of(served, started, deadline, asked, hedge)
        cdef SmallBuffer buffer
        cdef void* row = buffer.reserve(self._row_bytes)
        request.row = row
        cdef tuple missing = None
        if served.lookup is not None and request.deadline_ns > started:
            x, missing = self._look_up(served, x, &request)
        self._read(served, x, row)
        cdef Answer answer
        if self._inline:
            answer = self._predict_inline(served, request)
        else:
            self._reconsider_lane(started)
            answer = self._predict_queued(served, request)
        answer.missing = missing
        return answer

    cdef Answer _predict_inline(self, _Served served, const Request& request):
        cdef SmallBuffer buffer
        cdef double* out = <double*>buffer.reserve(self.n_outputs * sizeof(double))
        cdef Outcome outcome = self.runtime.predict_inline(request, out)
        cdef Answer answer = self._answer(served, outcome, out, outcome.ready_ns)
        self.runtime.account(outcome, outcome.ready_ns, False, True)
        if self._observer is not NULL or self._shadow is not NULL:
            self._show_one(outcome, answer, request.row, out)
        if self._auto and outcome.ready_ns > request.deadline_ns:
            self._watch_lane(outcome.ready_ns)
        return answer

    # A primary that blocks cannot be rescued on the caller's own thread. Once may be the machine's doing; twice within
    # ten seconds is the primary's, and it is no longer trusted inline.
    cdef int _watch_lane(self, int64_t now) except -1:
        cdef uint64_t overruns = self.runtime.counters().inline_overruns.load()
        if overruns == self._overruns:
            return 0
        self._overruns = overruns
        if self._overran_ns and now - self._overran_ns < OVERRUN_WINDOW_NS:
            self._start_threads(False)
            self._inline = False
            self._demoted_ns = now
            self._stalls = self.runtime.cost().stalls()
        self._overran_ns = now
        return 0

    # Hot: a comparison, but once every ten seconds after a change of lane.
    cdef int _reconsider_lane(self, int64_t now) except -1:
        if self._demoted_ns == 0 or now - self._demoted_ns < OVERRUN_WINDOW_NS:
            return 0
        cdef uint64_t stalls = self.runtime.cost().stalls()
        self._inline = stalls == self._stalls
        self._demoted_ns = 0 if self._inline else now
        self._stalls = stalls
        return 0

    cdef Answer _predict_queued(self, _Served served, const Request& request):
        cdef Runtime* runtime = self.runtime
        cdef SmallBuffer buffer
        cdef double* out = <double*>buffer.reserve(self.n_outputs * sizeof(double))
        cdef Outcome outcome
        cdef Asker asker
        cdef uint32_t index
        cdef bint done
        cdef const double* answered = out
        with nogil:
            index = runtime.submit(request, asker, &outcome, out)
            done = index == NO_SLOT or runtime.wait(index)
        while not done:
            done = self._wait_again(index)
        if index != NO_SLOT:
            outcome = runtime.outcome(index)
            answered = runtime.values(index)
        cdef int64_t returned = now_ns()
        cdef Answer answer = self._answer(served, outcome, answered, returned)
        runtime.account(outcome, returned, index != NO_SLOT, True)
        if self._observer is not NULL or self._shadow is not NULL:
            self._show_one(outcome, answer, request.row, answered)
        if index != NO_SLOT:
            runtime.give_back(index)
        return answer

    # After a signal: its Python handler runs here and may raise (KeyboardInterrupt). Then nobody wants the answer.
    cdef bint _wait_again(self, uint32_t index) except -1:
        cdef bint done
        try:
            _run_signal_handlers()
        except BaseException:
            self.runtime.abandon(index)
            raise
        with nogil:
            done = self.runtime.wait(index)
        return done

    # Many rows

    def predict_many(self, rows, deadline_ms=None, *, deadline_ns=None, priority=None, key=None):
        cdef int64_t started = now_ns()
        self._check_open()
        cdef _Served served = self._current if self._canary is None else self._route(key, started)
        cdef Priority asked = self._priority if priority is None else priority_of(priority)
        cdef Request request = _request_of(served, started, 0, asked, False)
        cdef uint32_t n = count_rows(rows)
        cdef cnp.ndarray deadlines = read_deadlines(deadline_ms, deadline_ns, n, started, self._budget_ns)
        missing = None
        if served.lookup is not None and n:
            rows, missing = self._looked_up(served, rows, deadlines, started)
            request.asked_ns = now_ns()
        cdef cnp.ndarray matrix = self._matrix(served, rows, deadlines, started)
        if self._inline:
            return self._many_inline(served, request, matrix, n, deadlines, deadline_ns is not None, missing)
        self._reconsider_lane(started)
        cdef uint32_t window = self._window()
        return Answers.joined([self._many_queued(served, request, matrix[i:i + window], deadlines[i:i + window],
                                                 missing and missing[i:i + window])
                               for i in range(0, max(n, 1), window)])

    # A call takes at most half of the slots at a time, so that it never shuts out everybody else.
    cdef uint32_t _window(self):
        return max(self._slots_max // 2, 1)

    def _looked_up(self, _Served served, rows, cnp.ndarray deadlines, int64_t started):
        """The rows with their online features, and the names of those missing from each."""
        cdef int64_t until = min(int(deadlines.min()), NEVER_NS)
        token = _looking_up_until.set(until)
        try:
            found = served.lookup.fetch_many(list(rows), started + max(until - started, 0) // LOOKUP_DIVISOR)
        finally:
            _looking_up_until.reset(token)
        return [row for row, _ in found], [missing for _, missing in found]

    def _read_rows(self, _Served served, rows):
        """Mappings as the matrix that this deployment's models see, online features looked up without hurry."""
        if served.features is NULL:
            raise InputError("rows can be mappings only where the engine has features")
        if served.lookup is not None:
            rows = [row for row, _ in served.lookup.fetch_many(list(rows), now_ns() + 1_000_000_000)]
        return self._matrix(served, rows, read_deadlines(math.inf, None, len(rows), 0, 0), 0)

    # Mappings whose deadline has passed are not read: their answer is the default whatever they hold.
    cdef cnp.ndarray _matrix(self, _Served served, object rows, cnp.ndarray deadlines, int64_t started):
        if served.features is NULL:
            return read_matrix(rows, self.n_features, self._wide)
        if isinstance(rows, np.ndarray) and rows.ndim == 2 and rows.dtype == np.float32:
            return read_matrix(rows, self.n_features, False)  # made by program.batch already
        cdef uint32_t n = len(rows)
        cdef cnp.ndarray matrix = table(n, self.n_features, cnp.NPY_FLOAT32)
        cdef float* out = <float*>cnp.PyArray_DATA(matrix)
        cdef const int64_t* due = <const int64_t*>cnp.PyArray_DATA(deadlines)
        cdef uint32_t i = 0
        for x in rows:
            if i == n:
                raise InputError(f"the rows changed their number while they were read, from {n}")
            if due[i] <= started:
                i += 1
                continue
            try:
                self._read(served, x, out + <size_t>i * self.n_features)
            except (ValueError, TypeError) as error:
                error.add_note(f"in row {i} of {n}")
                raise
            i += 1
        if i != n:
            raise InputError(f"the rows changed their number while they were read, from {n} to {i}")
        return matrix

    cdef object _many_inline(self, _Served served, const Request& request, cnp.ndarray matrix, uint32_t n,
                             cnp.ndarray deadlines, bint absolute, object missing):
        cdef cnp.ndarray values = table(n, self.n_outputs, cnp.NPY_FLOAT64)
        cdef vector[Outcome] outcomes = vector[Outcome](n)
        cdef const int64_t* due = <const int64_t*>cnp.PyArray_DATA(deadlines)
        cdef void* rows = cnp.PyArray_DATA(matrix)
        cdef double* out = <double*>cnp.PyArray_DATA(values)
        cdef bint queue = absolute and request.started_ns - self._many_ended_ns < BACK_TO_BACK_NS
        cdef int64_t reserve = self._budget_ns // QUEUE_RESERVE_DIVISOR if queue else 0
        if n and self.runtime.inline_cost().expected_ns(n) > GIL_KEEP_NS:
            with nogil:
                self.runtime.predict_many_inline(request, rows, n, due, reserve, outcomes.data(), out)
        elif n:
            self.runtime.predict_many_inline(request, rows, n, due, reserve, outcomes.data(), out)
        answers = self._answers(served, outcomes.data(), n, values, matrix, False, True, missing)
        self._many_ended_ns = now_ns()
        if self._auto:
            self._watch_lane(self._many_ended_ns)
        return answers

    cdef _ManyCall _submit_many(self, _Served served, const Request& request, cnp.ndarray matrix, cnp.ndarray deadlines,
                                _LoopBridge bridge, object missing, bint* complete):
        cdef _ManyCall call = _ManyCall.__new__(_ManyCall)
        cdef uint32_t n = matrix.shape[0]
        call.engine = self
        call.served = served
        call.n = n
        call.slots.resize(n)
        call.outcomes.resize(n)
        call.values = table(n, self.n_outputs, cnp.NPY_FLOAT64)
        call.matrix = matrix
        call.missing = missing
        cdef void* rows = cnp.PyArray_DATA(matrix)
        cdef const int64_t* due = <const int64_t*>cnp.PyArray_DATA(deadlines)
        cdef double* out = <double*>cnp.PyArray_DATA(call.values)
        cdef Asker asker
        asker.completions = bridge.native if bridge is not None else NULL
        asker.group = &call.group
        asker.user = <void*><PyObject*>call
        with nogil:
            complete[0] = self.runtime.submit_many(request, rows, n, due, asker, call.slots.data(),
                                                   call.outcomes.data(), out)
        return call

    cdef object _many_queued(self, _Served served, const Request& request, cnp.ndarray matrix, cnp.ndarray deadlines,
                             object missing):
        cdef bint done = False
        cdef _ManyCall call = self._submit_many(served, request, matrix, deadlines, None, missing, &done)
        cdef vector[uint32_t] queued
        cdef uint32_t i
        for i in range(call.n):
            if call.slots[i] != NO_SLOT:
                queued.push_back(call.slots[i])
        while not done:
            with nogil:
                done = self.runtime.wait_group(call.group, queued)
            if not done:
                # A handler that raises must not leave rows behind that point to this call: they are finished first.
                try:
                    _run_signal_handlers()
                except BaseException:
                    call.cancelled()
                    with nogil:
                        while not self.runtime.wait_group(call.group, queued):
                            pass
                    call.drop()
                    raise
        return call.collect(True)

    # Event loops

    cdef _LoopBridge _bridge(self, object loop):
        if self._last_bridge is not None and self._last_bridge.loop is loop:
            return self._last_bridge
        cdef _LoopBridge bridge = self._bridges.get(id(loop))
        if bridge is None or bridge.loop is not loop:
            self._sweep_bridges()
            bridge = _LoopBridge.__new__(_LoopBridge)
            bridge.engine = self
            bridge.loop = loop
            bridge.native = new Completions()
            bridge.kick, bridge.poll = bridge._kick, bridge._poll
            bridge.start_reading()
            self._bridges[id(loop)] = bridge
        self._last_bridge = bridge
        return bridge

    # Loops that were closed take their bridges along, once the requests that they left behind are answered.
    cdef int _sweep_bridges(self) except -1:
        cdef _LoopBridge bridge
        self._last_bridge = None
        for key, found in list(self._bridges.items()):
            bridge = <_LoopBridge>found
            if not bridge.loop.is_closed():
                continue
            self._drop_answers(bridge)
            if bridge.native.pending == 0:
                del self._bridges[key]
        return 0

    # Collects what a closed loop will never ask for: its futures cannot be set, their callbacks have nowhere to run.
    cdef int _drop_answers(self, _LoopBridge bridge) except -1:
        cdef SlotTable* slots = &self.runtime.slots()
        cdef uint32_t index = bridge.native.take_all(slots[0])
        cdef uint32_t following
        cdef object user
        while index != NO_SLOT:
            following = slots[0][index].next_done_value()
            bridge.native.pending -= 1
            user = <object>slots[0][index].user
            Py_DECREF(user)
            if slots[0][index].group is not NULL:
                (<_ManyCall>user).drop()
            else:
                self.runtime.give_back(index)
                self.runtime.counters().cancelled.fetch_add(1)
            index = following
        return 0

    def predict_async(self, x, deadline_ms=None, *, deadline_ns=None, priority=None, bint hedge=False, key=None):
        cdef int64_t started = now_ns()
        self._check_open()
        cdef _Served served = self._current if self._canary is None else self._route(key, started)
        cdef int64_t deadline = read_deadline(deadline_ms, deadline_ns, started, self._budget_ns)
        cdef Priority asked = self._priority if priority is None else priority_of(priority)
        cdef Request request = _request_of(served, started, deadline, asked, hedge)
        loop = _running_loop()
        cdef tuple missing = None
        if served.lookup is not None and request.deadline_ns > started:
            if served.lookup_blocks:
                return loop.create_task(self._after_look_up(served, x, started, request.deadline_ns,
                                                            <int>request.priority, hedge))
            x, missing = self._look_up(served, x, &request)
        return self._ask(served, x, &request, loop, missing)

    async def _after_look_up(self, _Served served, x, int64_t started, int64_t deadline, int priority, bint hedge):
        cdef int64_t until = min(deadline, NEVER_NS)
        _looking_up_until.set(until)  # in the context of this task alone
        x, missing = await served.lookup.fetch_async(x, started + (until - started) // LOOKUP_DIVISOR)
        return await self._ask_later(served, x, started, deadline, priority, hedge, missing)

    def _ask_later(self, _Served served, x, int64_t started, int64_t deadline, int priority, bint hedge, missing):
        self._check_open()
        cdef Request request = _request_of(served, started, deadline, <Priority><uint8_t>priority, hedge)
        request.asked_ns = now_ns()
        return self._ask(served, x, &request, _running_loop(), missing)

    cdef object _ask(self, _Served served, object x, Request* request, object loop, tuple missing):
        cdef SmallBuffer buffer
        cdef void* row = buffer.reserve(self._row_bytes)
        request.row = row
        self._read(served, x, row)
        if self._inline:
            return self._ready(self._predict_inline(served, request[0]), loop, missing)
        self._reconsider_lane(request.asked_ns)
        return self._submit_one(served, request[0], loop, missing)

    cdef AnswerFuture _ready(self, Answer answer, object loop, tuple missing):
        answer.missing = missing
        return ready_answer(answer, loop)

    cdef object _submit_one(self, _Served served, const Request& request, object loop, tuple missing):
        cdef _LoopBridge bridge = self._bridge(loop)
        cdef SmallBuffer buffer
        cdef double* out = <double*>buffer.reserve(self.n_outputs * sizeof(double))
        cdef Outcome outcome
        cdef Answer answer
        cdef Asker asker
        cdef AnswerFuture future = pending_answer(loop)
        Py_INCREF(future)
        asker.completions = bridge.native
        asker.user = <void*><PyObject*>future
        # With others of this loop under way, wake the executor once for all that this turn of the loop submits.
        asker.wake = bridge.native.pending == 0
        cdef uint32_t index = self.runtime.submit(request, asker, &outcome, out)
        if not asker.wake and not bridge.kicking:
            bridge.kicking = True
            loop.call_soon(bridge.kick)
        if index == NO_SLOT:
            Py_DECREF(future)
            answer = self._answer(served, outcome, out, outcome.ready_ns)
            self.runtime.account(outcome, outcome.ready_ns, False, False)
            if self._observer is not NULL or self._shadow is not NULL:
                self._show_one(outcome, answer, request.row, out)
            return self._ready(answer, loop, missing)
        future.asked_of, future.request, future.missing = bridge, index, missing
        bridge.native.pending += 1
        if self.runtime.answers_soon():
            bridge.start_polling()
        return future

    async def _many_parts(self, rows, deadline_ms, deadline_ns, priority, key):
        """A predict_many on the running loop, its features looked up, cut into windows: functions of nothing, to be
        called one after the other, each giving Answers or a future of them."""
        cdef int64_t started = now_ns()
        self._check_open()
        cdef _Served served = self._current if self._canary is None else self._route(key, started)
        cdef uint32_t n = count_rows(rows)
        cdef cnp.ndarray deadlines = read_deadlines(deadline_ms, deadline_ns, n, started, self._budget_ns)
        missing = None
        if served.lookup is not None and n:
            if served.lookup_blocks:
                rows, missing = await asyncio.to_thread(self._looked_up, served, rows, deadlines, started)
            else:
                rows, missing = self._looked_up(served, rows, deadlines, started)
            self._check_open()
        cdef cnp.ndarray matrix = self._matrix(served, rows, deadlines, started)
        cdef _ManyRequest many = _ManyRequest.__new__(_ManyRequest)
        cdef Priority asked = self._priority if priority is None else priority_of(priority)
        many.native = _request_of(served, started, 0, asked, False)
        many.native.asked_ns = now_ns() if missing is not None else started
        if self._inline:
            return [lambda: self._many_inline(served, many.native, matrix, n, deadlines, deadline_ns is not None,
                                              missing)]
        cdef uint32_t window = self._window()
        loop = _running_loop()
        return [lambda i=i: self._many_async(served, many, matrix[i:i + window], deadlines[i:i + window],
                                             missing and missing[i:i + window], loop)
                for i in range(0, max(n, 1), window)]

    cdef object _many_async(self, _Served served, _ManyRequest many, cnp.ndarray matrix, cnp.ndarray deadlines,
                            object missing, object loop):
        self._check_open()
        cdef _LoopBridge bridge = self._bridge(loop)
        cdef bint complete = False
        cdef _ManyCall call = self._submit_many(served, many.native, matrix, deadlines, bridge, missing, &complete)
        if complete:
            return call.collect(False)
        call.future = pending_answer(loop)
        call.future.asked_of = call
        Py_INCREF(call)  # the slots' reference, given back by the drain
        bridge.native.pending += 1
        return call.future

    # Looking and closing

    def _statistics(self):
        """Counters and quantiles of the native core as a plain dict."""
        if self.runtime is NULL:
            raise ClosedError("the engine was never opened")
        facts = statistics_of(self.runtime, self._inline)
        facts["lane"], facts["version"], facts["default_errors"] = self.lane, self.version, self._default_errors
        facts["breakers"] = {
            served.version: {"open": (<_Served>served).native.breaker().open(),
                             "openings": (<_Served>served).native.breaker().openings()}
            for served in self._served.values()
        }
        facts["canary"] = None if self._canary is None else {
            "version": self._canary.version, "share": self._canary_below / 2.0**64}
        facts["shadow"] = self._shadow_facts()
        return facts

    cdef object _shadow_facts(self):
        if self._shadow is NULL:
            return None
        cdef ShadowCounts counts = self._shadow.counts()
        return {"version": self._shadowed.version, "rows": counts.rows, "dropped": counts.dropped,
                "failed": counts.failed, "compared": counts.compared, "difference_mean": counts.difference_mean,
                "difference_max": counts.difference_max}

    def close(self, timeout_s=1.0):
        """Answers what is queued by its fallback and ends the threads. Always returns; a second call does nothing.

        timeout_s: how long to wait for a primary that is still running. One that does not come back in time keeps its
        thread (and its memory) until the process ends.
        """
        if self.closed:
            return
        self.closed = True
        if self._forked_at != _forks:
            return  # the threads are the parent's
        cdef int64_t patience = <int64_t>(min(float(timeout_s), 3600.0) * 1e9)
        cdef uint32_t stuck
        with nogil:
            stuck = self.runtime.close(patience)
        self._abandoned = stuck > 0  # never destroyed then: a thread of its own may come back to it
        self._set_shadow(None, 0)
        if self._pool is not None:
            self._pool._engines.discard(id(self))
        for bridge in list(self._bridges.values()):
            self._close_bridge(<_LoopBridge>bridge)

    cdef int _close_bridge(self, _LoopBridge bridge) except -1:
        if bridge.loop.is_closed():
            return self._drop_answers(bridge)
        running = asyncio._get_running_loop()
        if running is bridge.loop or not bridge.loop.is_running():
            bridge.drain(False)  # close() may have been called by a task, and a loop steps one at a time
            return 0
        try:
            bridge.loop.call_soon_threadsafe(bridge.drain)
        except RuntimeError:  # closed this moment
            self._drop_answers(bridge)
        return 0

    def __dealloc__(self):
        # Without close() the threads end here. After a fork, or with an executor stuck in a model, memory that
        # another thread may still use is left alone.
        if self.runtime is NULL or self._abandoned or self._forked_at != _forks:
            return
        if self._pool is not None:
            self._pool._engines.discard(id(self))
        with nogil:
            stuck = self.runtime.close(1_000_000_000)
        if not stuck:
            del self.runtime
        if self._shadow is not NULL and self._shadow.close(1_000_000_000):
            del self._shadow


cdef extern from "Python.h":
    int PyErr_CheckSignals() except -1


cdef int _run_signal_handlers() except -1:
    return PyErr_CheckSignals()
