# cython: annotation_typing=False
"""CoreEngine: what runs once per request. `engine.Engine` is its subclass, which checks parts and chooses a lane.

The GIL: an inline request keeps it, because giving it up risks a whole switch interval on the way back, and an inline
model takes 20 us at most. A request of the batch lane gives it up to submit and to wait, and needs nothing of Python
meanwhile: row and output lie on this thread's stack or in the native slot. A submission of an event loop keeps it,
because it never waits.
"""
cimport cython
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libcpp.memory cimport shared_ptr
from libcpp.vector cimport vector

cimport numpy as cnp

from engine._common._assert cimport ENGINE_ASSERT
from engine._common._gil cimport share_gil
from engine.model._scorer cimport engine_scorer, scorer_from_capsule
from engine.serving._answers cimport Answer
from engine.serving._deployment cimport Deployment, Versions, look_up_until
from engine.serving._executors cimport CoreExecutors, forks, make_executors, start_threads
from engine.serving._futures cimport AnswerFuture, answer_of_task, failed_answer, pending_answer, ready_answer
from engine.serving._loop cimport Bridges, LoopBridge, ManyCall, running_loop, submit_many
from engine.serving._rows cimport count_rows, read_deadline, read_deadlines, read_matrix, table
from engine.serving._scheduler cimport (
    NEVER_NS,
    NO_SLOT,
    Caller,
    BreakerLimits,
    Executors,
    Outcome,
    Priority,
    Request,
    Runtime,
    RuntimeLimits,
    SmallBuffer,
    now_ns,
)
from engine.serving._statistics cimport statistics_of

import asyncio
import functools
import math
import random

from engine._common.arguments import number
from engine._common.vocabulary import PRIORITIES as _priorities
from engine.errors import ClosedError, ConfigError, InputError, InputTypeError, ResourceError
from engine.serving._answers import Answers
from engine.serving._executors import _looking_up_until
from engine.serving.loops import no_loop

cnp.import_array()

cdef extern from "Python.h":
    int PyErr_CheckSignals() except -1

# predict_many keeps the GIL for less work than this, for the reason above.
cdef int64_t GIL_KEEP_NS = 20_000
# Two inline overruns within this time move a lane="auto" engine to the batch lane. After the same time without a stall
# there it moves back.
cdef int64_t OVERRUN_WINDOW_NS = 10_000_000_000
# Calls with absolute deadlines that follow one another this closely mean that a queue has formed in the caller.
cdef int64_t BACK_TO_BACK_NS = 200_000
# An inline predict_many then leaves this part of the engine's deadline unused, as a divisor. Without it each call would
# end just before its deadline, and any hiccup of the machine would make a queue of answers late.
cdef int64_t QUEUE_RESERVE_DIVISOR = 4
# The longest that close() waits for a primary, and what an engine that was never closed waits when it is freed.
cdef double CLOSE_S_MAX = 3600.0
cdef int64_t UNCLOSED_PATIENCE_NS = 1_000_000_000

cdef tuple PRIORITY_NAMES = _priorities
cdef dict PRIORITY_CODES = {name: code for code, name in enumerate(PRIORITY_NAMES)}


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


# A request whose row is still to be read.
cdef inline Request _request_of(Deployment deployment, int64_t started, int64_t deadline, Priority priority,
                                bint hedge) noexcept:
    cdef Request request
    request.deployment = deployment.native
    request.row = NULL
    request.started_ns = request.asked_ns = started
    request.deadline_ns = deadline
    request.priority = priority
    request.hedge = hedge
    return request


@cython.final
cdef class ManyRequest:
    """A Request in a Python object. Not public."""


cdef class CoreEngine(Versions):
    """The compiled half of `engine.Engine`; see its documentation. Not public."""

    def __cinit__(self, *args, **kwargs):
        self._bridges = Bridges.__new__(Bridges)
        self._forked_at = forks

    def _open(self, primary, fallback, default, str version, features, parts, columns, warm_rows, int64_t budget_ns,
              dict limits):
        """Make the native runtime and its first deployment, whose shape all others must have.

        Args:
            primary, fallback, default, version, features, parts, columns: as in `_prepare`.
            warm_rows: [rows, n_features].
            budget_ns: from a call to its deadline, where the call gives none.
            limits: the other options by name, checked.
        """
        if self.runtime is not NULL:
            raise ConfigError("this engine was opened before: make a new Engine")
        cdef const engine_scorer* scorer = scorer_from_capsule(primary)
        self._n_features, self._n_outputs = scorer.n_features, scorer.n_outputs
        self._breaker = _breaker_limits(limits["breaker"])
        self._take_observer(limits["observer"])
        self._strict = limits["unknown_keys"] == "raise"
        cdef Deployment deployment = self._prepare(primary, fallback, default, version, features, parts, columns)
        self._budget_ns = budget_ns
        self._warm_rows = read_matrix(warm_rows, self._n_features, True)
        self._priority = priority_of(limits["priority"])
        self._expired = limits["expired"] == "answer"
        cdef RuntimeLimits native
        native.slots = self._slots_max = limits["queue_rows_max"]
        native.batch_rows_max = limits["batch_rows_max"]
        native.miss_rate = limits["miss_rate"]
        native.weight = limits["weight"]
        native.errors_to_default = limits["on_error"] == "default"
        native.only_finite = not limits["allow_nonfinite"]
        native.budget_ns = budget_ns
        native.n_features = self._n_features
        native.n_outputs = self._n_outputs
        # The upper bits tell processes and engines apart, the lower 40 count.
        native.first_id = (<uint64_t>random.SystemRandom().getrandbits(23) << 40) + 1
        cdef shared_ptr[Executors] executors
        if isinstance(limits["executors"], CoreExecutors):
            self._pool = limits["executors"]
            if self._pool._closed or self._pool.forked_at != forks:
                raise ClosedError("these executors are closed, or belong to the process that this one was forked from")
            executors = self._pool.native
        else:
            executors = make_executors(limits["executors"], limits["spin"], limits["realtime_priority"],
                                       limits["cpus"])
        self.runtime = new Runtime(native, executors, self._pool is None)
        if self._pool is not None:
            self._pool.engines.add(id(self))
        self._closed = False
        self._install(deployment)

    def _calibrate(self):
        """Time the primary on this thread. Return the microseconds of a single row, 0.0 where the primary failed."""
        self._measure(self._current, self._warm_rows)
        return self._install(self._current)

    def _choose_lane(self, bint inline, bint auto):
        """Take requests inline or in the batch lane; with `auto`, change between them later."""
        self._inline = inline
        self._auto = auto
        if inline:
            return
        try:
            self._start_threads(True)
        except BaseException:
            self.close()
            raise

    cdef int _start_threads(self, bint warm) except -1:
        cdef cnp.ndarray rows = read_matrix(self._warm_rows, self._n_features, self._current.wide)
        cdef uint32_t n = rows.shape[0] if warm else 0
        return start_threads(self.runtime, self._current.native, cnp.PyArray_DATA(rows), n)

    def _warmed_up(self):
        """Whether the batch lane has timed the primary."""
        return self.runtime.warmed_up()

    @property
    def lane(self):
        """The lane that single requests take now: "inline" or "batch". A lane="auto" engine may change it."""
        return "inline" if self._inline else "batch"

    @property
    def closed(self):
        """True once `close()` was called."""
        return self._closed

    cdef int _check_open(self) except -1:
        if self._closed:
            raise ClosedError("the engine is closed" if self.runtime is not NULL else "the engine was never opened")
        if self._forked_at != forks:
            raise ClosedError("this engine belongs to the parent process: its threads did not survive fork(); make "
                              "a new Engine in the child")
        return 0

    def _require_open(self):
        """Raise ClosedError if the engine is closed or belongs to the parent process."""
        self._check_open()

    # One request

    def predict(self, x: Row, deadline_ms: float | None = None, *, deadline_ns: int | None = None,
                priority: str | None = None, bint hedge: bool = False, key: object = None) -> Answer:
        """Answer one request before its deadline, on the calling thread.

        Args:
            x: the row. With features: a mapping or Series of the program's inputs, or a sequence in their order.
                Without: a sequence or 1-D array of n_features numbers, by position, where None in a sequence is NaN; or
                a mapping, Series, structured array or table of one row, matched by the model's `feature_names`: in any
                order, extra columns ignored (see Engine(unknown_keys=…)). float32 and float64 arrays are read in place,
                others are converted; nothing is kept.
            deadline_ms: milliseconds from the call to the deadline, 0 or more; `math.inf` for no deadline. The engine's
                deadline_ms unless given.
            deadline_ns: the deadline as an instant of `time.monotonic_ns()`, instead of deadline_ms.
            priority: "critical", "normal" or "sheddable"; the engine's priority unless given.
            hedge: in the batch lane, run the fallback at submission. Its answer is then ready at the deadline, so the
                primary may take a little longer.
            key: bytes, or an object whose str() names the caller. A canary takes the same keys each time; None draws
                at random.

        Returns:
            An `Answer`. A late or failing model gives an answer with a reason, never an exception.

        Raises:
            InputError: wrong number of features, a missing column, an unknown priority, a NaN deadline or a negative
                one (see Engine(expired=…)), a deadline_ns of the wall clock, or both deadlines.
            InputTypeError: text or another type where a number belongs.
            ClosedError: the engine is closed, or was made before this process was forked.

        Blocks until the answer is ready: in the batch lane at most until the deadline, and without the GIL; inline for
        as long as the primary takes. Thread-safe.

        >>> import engine
        >>> model = engine.load_model(lambda rows: rows.sum(axis=1), n_features=2)
        >>> with engine.Engine(model, default=0.5, deadline_ms=1000) as eng:
        ...     eng.predict([1.0, 2.0]).value, eng.predict([1.0, 2.0], deadline_ms=0).reason
        (3.0, 'expired')
        """
        cdef int64_t started = now_ns()
        self._check_open()
        cdef Deployment deployment = self._current if self._canary is None else self._route(key, started)
        cdef int64_t deadline = read_deadline(deadline_ms, deadline_ns, started, self._budget_ns,
                                              self._expired)
        cdef Priority given = self._priority if priority is None else priority_of(priority)
        cdef Request request = _request_of(deployment, started, deadline, given, hedge)
        cdef SmallBuffer buffer
        cdef void* row = buffer.reserve(deployment.row_bytes)
        request.row = row
        cdef tuple missing = None
        if deployment.lookup is not None and request.deadline_ns > started:
            x, missing = deployment.look_up(x, &request)
        if deployment.read(x, row) > 0 and request.deadline_ns > started:
            missing = deployment.absent(missing)
        cdef Answer answer
        if self._inline:
            answer = self._predict_inline(deployment, request)
        else:
            self._reconsider_lane(started)
            answer = self._predict_queued(deployment, request)
        answer.missing = missing
        share_gil()
        return answer

    cdef Answer _predict_inline(self, Deployment deployment, const Request& request):
        cdef SmallBuffer buffer
        cdef double* out = <double*>buffer.reserve(self._n_outputs * sizeof(double))
        cdef Outcome outcome = self.runtime.predict_inline(request, out)
        cdef Answer answer = self._answer(deployment, outcome, out, outcome.ready_ns)
        self.runtime.account(outcome, outcome.ready_ns, False, True)
        if self._observer is not NULL or self._shadow is not NULL:
            self._show_one(outcome, answer, request.row, out)
        if self._auto and outcome.ready_ns > request.deadline_ns:
            self._watch_lane(outcome.ready_ns)
        return answer

    # Nothing can interrupt an inline primary that blocks. One overrun may be the machine's fault. Two within ten
    # seconds are the primary's, and it leaves the inline lane.
    cdef int _watch_lane(self, int64_t now) except -1:
        cdef uint64_t overruns = self.runtime.counters().inline_overruns.load()
        if overruns == self._overruns:
            return 0
        self._overruns = overruns
        if self._overran_ns and now - self._overran_ns < OVERRUN_WINDOW_NS:
            try:
                self._start_threads(False)
            except ResourceError:
                return 0  # it stays inline, and the next overrun tries again
            self._inline = False
            self._demoted_ns = now
            self._stalls = self.runtime.cost().stalls()
        self._overran_ns = now
        return 0

    # Hot: one comparison, except once every ten seconds after a change of lane.
    cdef int _reconsider_lane(self, int64_t now) except -1:
        if self._demoted_ns == 0 or now - self._demoted_ns < OVERRUN_WINDOW_NS:
            return 0
        cdef uint64_t stalls = self.runtime.cost().stalls()
        self._inline = stalls == self._stalls
        self._demoted_ns = 0 if self._inline else now
        self._stalls = stalls
        return 0

    cdef Answer _predict_queued(self, Deployment deployment, const Request& request):
        cdef Runtime* runtime = self.runtime
        cdef SmallBuffer buffer
        cdef double* out = <double*>buffer.reserve(self._n_outputs * sizeof(double))
        cdef Outcome outcome
        cdef Caller caller
        cdef uint32_t index
        cdef bint done
        cdef const double* answered = out
        # The row is copied into the slot, so an executor never reads this stack. Refused at admission, the request is
        # answered into `out` before submit returns.
        with nogil:
            index = runtime.submit(request, caller, &outcome, out)
            done = index == NO_SLOT or runtime.wait(index)
        while not done:
            done = self._wait_again(index)
        if index != NO_SLOT:
            outcome = runtime.outcome(index)
            answered = runtime.values(index)
        cdef int64_t returned = now_ns()
        cdef Answer answer = self._answer(deployment, outcome, answered, returned)
        runtime.account(outcome, returned, index != NO_SLOT, True)
        if self._observer is not NULL or self._shadow is not NULL:
            self._show_one(outcome, answer, request.row, answered)
        if index != NO_SLOT:
            runtime.give_back(index)  # last: `answered` points into the slot
        return answer

    # A signal interrupted the wait. Its Python handler runs here and may raise (KeyboardInterrupt); then the slot is
    # abandoned, because nobody waits for the answer any more.
    cdef bint _wait_again(self, uint32_t index) except -1:
        cdef bint done
        try:
            PyErr_CheckSignals()
        except BaseException:
            self.runtime.abandon(index)
            raise
        with nogil:
            done = self.runtime.wait(index)
        return done

    # Many rows

    def predict_many(self, rows: Rows, deadline_ms: Deadlines = None, *, deadline_ns: Instants = None,
                     priority: str | None = None, key: object = None) -> Answers:
        """Answer many rows, each before its deadline, on the calling thread.

        Args:
            rows: an array [n, n_features] of numbers, by position; a table (a pandas or Polars data frame, a pyarrow
                Table, a structured array, a mapping of columns), by the names of its columns; or a sequence of n rows
                as in `predict`; n may be 0. A C-ordered float32 or float64 array of the model's own dtype is read in
                place, others are copied.
            deadline_ms: milliseconds from the call, as in `predict`: one number for all rows, or n of them.
            deadline_ns: an instant of `time.monotonic_ns()`, or int64 [n] of them, instead of deadline_ms.
            priority: of all rows, as in `predict`.
            key: as in `predict`. One version answers all rows.

        Returns:
            `Answers` in the order of the rows.

        Raises:
            InputError, InputTypeError, ClosedError: as `predict`. No row is then answered.

        Blocks until every row is answered, at most until the latest deadline in the batch lane. Inline, rows go to the
        primary by earliest deadline for as long as the fallback can still answer the rest in time. Gives up the GIL
        for work of over 20 us. Thread-safe.

        >>> import engine, numpy as np
        >>> model = engine.load_model(lambda rows: rows.sum(axis=1), n_features=2)
        >>> with engine.Engine(model, deadline_ms=1000) as eng:
        ...     eng.predict_many(np.ones((3, 2))).values
        array([2., 2., 2.])
        """
        cdef int64_t started = now_ns()
        self._check_open()
        cdef Deployment deployment = self._current if self._canary is None else self._route(key, started)
        cdef Priority given = self._priority if priority is None else priority_of(priority)
        cdef Request request = _request_of(deployment, started, 0, given, False)
        rows = deployment.counted(rows)
        cdef uint32_t n = count_rows(rows)
        cdef cnp.ndarray deadlines = read_deadlines(deadline_ms, deadline_ns, n, started, self._budget_ns,
                                                    self._expired)
        missing = None
        if deployment.lookup is not None and n:
            rows, missing = deployment.look_up_many(rows, deadlines, started)
            request.asked_ns = now_ns()
        cdef cnp.ndarray matrix
        matrix, missing = deployment.matrix(rows, deadlines, started, missing)
        if self._inline:
            answers = self._many_inline(deployment, request, matrix, n, deadlines, deadline_ns is not None, missing)
            share_gil()
            return answers
        self._reconsider_lane(started)
        cdef uint32_t window = self._window()
        return Answers.joined([self._many_queued(deployment, request, matrix[i:i + window], deadlines[i:i + window],
                                                 missing and missing[i:i + window])
                               for i in range(0, max(n, 1), window)])

    # A call takes at most half of the slots at a time, so that it never shuts out all other callers.
    cdef uint32_t _window(self):
        return max(self._slots_max // 2, 1)

    cdef object _many_inline(self, Deployment deployment, const Request& request, cnp.ndarray matrix, uint32_t n,
                             cnp.ndarray deadlines, bint absolute, object missing):
        cdef cnp.ndarray values = table(n, self._n_outputs, cnp.NPY_FLOAT64)
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
        answers = self._answers(deployment, outcomes.data(), n, values, matrix, False, True, missing)
        self._many_ended_ns = now_ns()
        if self._auto:
            self._watch_lane(self._many_ended_ns)
        return answers

    cdef object _many_queued(self, Deployment deployment, const Request& request, cnp.ndarray matrix,
                             cnp.ndarray deadlines, object missing):
        cdef bint complete = False
        cdef ManyCall call = submit_many(self, deployment, request, matrix, deadlines, None, missing, &complete)
        if not complete:
            call.wait()
        return call.collect(True)

    # Event loops

    def predict_async(self, x: Row, deadline_ms: float | None = None, *, deadline_ns: int | None = None,
                      priority: str | None = None, bint hedge: bool = False, key: object = None) -> Awaitable[Answer]:
        """Answer one request before its deadline, for the running event loop.

        Args:
            x, deadline_ms, deadline_ns, priority, hedge, key: as in `predict`. The row is read before this returns.

        Returns:
            A future of an `Answer`; `await` it, or use it as any `asyncio.Future`. It never holds an exception of a
            model. Cancelling it frees its place in the queue. Tasks run it too, as in `asyncio.create_task`. Where no
            loop runs it is a coroutine, for `asyncio.run`. trio and curio cannot await it; run `predict` in a thread
            there, as in `trio.to_thread.run_sync(eng.predict, row)`.

        Raises:
            InputError, InputTypeError, ClosedError, ResourceError: as `predict`, all at the await and none at the call,
                so that `asyncio.gather(…, return_exceptions=True)` returns them.
            ConfigError: awaited outside of asyncio.

        The deadline counts from the call. Does not block, except that an inline primary runs during the call, at most
        20 us a row in lane="auto". Callable from any thread that runs a loop, by several loops at once.

        >>> import asyncio, engine
        >>> model = engine.load_model(lambda rows: rows.sum(axis=1), n_features=2)
        >>> async def main():
        ...     async with engine.Engine(model, deadline_ms=1000) as eng:
        ...         return (await eng.predict_async([1.0, 2.0])).value
        >>> asyncio.run(main())
        3.0
        """
        try:
            loop = running_loop()
        except RuntimeError:
            loop = None
        if loop is None:
            return self._on_a_loop(x, deadline_ms, deadline_ns, priority, hedge, key, now_ns())
        try:
            return self._start(x, deadline_ms, deadline_ns, priority, hedge, key, loop)
        except Exception as error:  # a mistake of the caller, who awaits
            return failed_answer(error, loop)

    cdef object _start(self, object x, object deadline_ms, object deadline_ns, object priority, bint hedge, object key,
                       object loop):
        cdef int64_t started = now_ns()
        self._check_open()
        cdef Deployment deployment = self._current if self._canary is None else self._route(key, started)
        cdef int64_t deadline = read_deadline(deadline_ms, deadline_ns, started, self._budget_ns,
                                              self._expired)
        cdef Priority given = self._priority if priority is None else priority_of(priority)
        cdef Request request = _request_of(deployment, started, deadline, given, hedge)
        cdef tuple missing = None
        if deployment.lookup is not None and request.deadline_ns > started:
            if deployment.lookup_blocks:
                return answer_of_task(loop.create_task(self._after_look_up(
                    deployment, x, started, request.deadline_ns, <int>request.priority, hedge)), loop)
            x, missing = deployment.look_up(x, &request)
        future = self._ask(deployment, x, &request, loop, missing)
        share_gil()
        return future

    async def _on_a_loop(self, x, deadline_ms, deadline_ns, priority, bint hedge, key, int64_t called_ns):
        try:
            loop = running_loop()
        except RuntimeError:
            raise no_loop() from None
        # The deadline counts from the call.
        cdef int64_t deadline = read_deadline(deadline_ms, deadline_ns, called_ns, self._budget_ns, self._expired)
        return await self._start(x, None, deadline, priority, hedge, key, loop)

    async def _after_look_up(self, Deployment deployment, x, int64_t started, int64_t deadline, int priority,
                             bint hedge):
        if deployment.strict:
            deployment.check_keys(x)
        cdef int64_t until = min(deadline, NEVER_NS)
        _looking_up_until.set(until)  # in the context of this task alone
        x, missing = await deployment.lookup.fetch_async(x, look_up_until(started, until))
        return await self._ask_later(deployment, x, started, deadline, priority, hedge, missing)

    def _ask_later(self, Deployment deployment, x, int64_t started, int64_t deadline, int priority, bint hedge,
                   missing):
        self._check_open()
        cdef Request request = _request_of(deployment, started, deadline, <Priority><uint8_t>priority, hedge)
        request.asked_ns = now_ns()
        return self._ask(deployment, x, &request, running_loop(), missing)

    cdef object _ask(self, Deployment deployment, object x, Request* request, object loop, tuple missing):
        cdef SmallBuffer buffer
        cdef void* row = buffer.reserve(deployment.row_bytes)
        request.row = row
        if deployment.read(x, row) > 0 and request.deadline_ns > request.asked_ns:
            missing = deployment.absent(missing)
        if self._inline:
            return self._ready(self._predict_inline(deployment, request[0]), loop, missing)
        self._reconsider_lane(request.asked_ns)
        return self._submit_one(deployment, request[0], loop, missing)

    cdef AnswerFuture _ready(self, Answer answer, object loop, tuple missing):
        answer.missing = missing
        return ready_answer(answer, loop)

    cdef object _submit_one(self, Deployment deployment, const Request& request, object loop, tuple missing):
        cdef LoopBridge bridge = self._bridges.of(self, loop)
        cdef SmallBuffer buffer
        cdef double* out = <double*>buffer.reserve(self._n_outputs * sizeof(double))
        cdef Outcome outcome
        cdef Answer answer
        cdef Caller caller
        cdef AnswerFuture future = pending_answer(loop)
        # The slot's reference, taken before any other thread can see the slot; the drain gives it back.
        Py_INCREF(future)
        caller.completions = bridge.native
        caller.user = <void*><PyObject*>future
        # With other requests of this loop under way, wake the executor once for all that this turn of the loop submits.
        caller.wake = bridge.native.pending == 0
        cdef uint32_t index = self.runtime.submit(request, caller, &outcome, out)
        if not caller.wake:
            bridge.kick_later()
        if index == NO_SLOT:  # answered at admission: no slot points to the future
            Py_DECREF(future)
            answer = self._answer(deployment, outcome, out, outcome.ready_ns)
            self.runtime.account(outcome, outcome.ready_ns, False, False)
            if self._observer is not NULL or self._shadow is not NULL:
                self._show_one(outcome, answer, request.row, out)
            return self._ready(answer, loop, missing)
        ENGINE_ASSERT(index < self._slots_max, b"a slot lies in the table")
        # The answer may be there already, but only a drain of this loop, which runs on this thread, can look at it.
        future.owner, future.request, future.missing = bridge, index, missing
        bridge.native.pending += 1
        if self.runtime.answers_soon():
            bridge.start_polling()
        return future

    async def _many_parts(self, rows, deadline_ms, deadline_ns, priority, key):
        """Cut a predict_many of the running loop into windows, its online features looked up first.

        Returns functions of nothing, to be called one after the other. Each returns Answers or a future of them.
        """
        cdef int64_t started = now_ns()
        try:
            loop = running_loop()
        except RuntimeError:
            raise no_loop() from None
        self._check_open()
        cdef Deployment deployment = self._current if self._canary is None else self._route(key, started)
        rows = deployment.counted(rows)
        cdef uint32_t n = count_rows(rows)
        cdef cnp.ndarray deadlines = read_deadlines(deadline_ms, deadline_ns, n, started, self._budget_ns,
                                                    self._expired)
        missing = None
        if deployment.lookup is not None and n:
            if deployment.lookup_blocks:
                rows, missing = await asyncio.to_thread(deployment.look_up_many, rows, deadlines, started)
            else:
                rows, missing = deployment.look_up_many(rows, deadlines, started)
            self._check_open()
        cdef bint looked_up = missing is not None
        cdef cnp.ndarray matrix
        matrix, missing = deployment.matrix(rows, deadlines, started, missing)
        cdef ManyRequest many = ManyRequest.__new__(ManyRequest)
        cdef Priority given = self._priority if priority is None else priority_of(priority)
        many.native = _request_of(deployment, started, 0, given, False)
        many.native.asked_ns = now_ns() if looked_up else started
        if self._inline:
            return [lambda: self._many_inline(deployment, many.native, matrix, n, deadlines, deadline_ns is not None,
                                              missing)]
        cdef uint32_t window = self._window()

        def part(first):
            last = first + window
            return self._many_async(deployment, many, matrix[first:last], deadlines[first:last],
                                    missing and missing[first:last], loop)

        return [functools.partial(part, first) for first in range(0, max(n, 1), window)]

    cdef object _many_async(self, Deployment deployment, ManyRequest many, cnp.ndarray matrix, cnp.ndarray deadlines,
                            object missing, object loop):
        self._check_open()
        cdef LoopBridge bridge = self._bridges.of(self, loop)
        cdef bint complete = False
        cdef ManyCall call = submit_many(self, deployment, many.native, matrix, deadlines, bridge, missing, &complete)
        if complete:
            return call.collect(False)
        call.future = pending_answer(loop)
        call.future.owner = call
        Py_INCREF(call)  # the slots' reference; the drain, which runs on this thread, gives it back
        bridge.native.pending += 1
        return call.future

    # Looking and closing

    def _statistics(self):
        """Counters and quantiles of the native core as a plain dict."""
        if self.runtime is NULL:
            raise ClosedError("the engine was never opened")
        facts = statistics_of(self.runtime, self._inline)
        facts["executors"]["seats"] = self._current.native.in_flight_max()
        facts["lane"], facts["version"], facts["default_errors"] = self.lane, self.version, self._default_errors
        facts["breakers"] = {
            deployment.version: {"open": (<Deployment>deployment).native.breaker().open(),
                                 "openings": (<Deployment>deployment).native.breaker().openings()}
            for deployment in self._deployments.values()
        }
        facts["canary"] = None if self._canary is None else {
            "version": self._canary.version, "share": self._canary_below / 2.0**64}
        facts["shadow"] = self._shadow_facts()
        return facts

    def __reduce__(self):
        raise InputTypeError("an engine cannot be pickled or copied, because it holds threads: send the model's file, "
                             "and make an Engine in the process that uses it")

    def close(self, timeout_s: float = 1.0) -> None:
        """Answer what is queued by its fallback, and end the threads.

        Args:
            timeout_s: seconds to wait for a primary that is still running, 0 or more, up to 3600. A primary that does
                not come back in time keeps its thread, and the memory that it uses, until the process ends.

        Raises:
            ConfigError: a timeout_s out of range.

        Blocks, without the GIL, for timeout_s at most; always returns. A second call does nothing. Thread-safe. On an
        event loop use `async with`, which closes beside the loop.
        """
        cdef int64_t patience = <int64_t>(
            min(number("timeout_s", timeout_s, 0.0, math.inf, error=ConfigError), CLOSE_S_MAX) * 1e9)
        if self._closed:
            return
        self._closed = True
        if self._forked_at != forks:
            return  # the threads are the parent's
        cdef uint32_t stuck
        with nogil:
            stuck = self.runtime.close(patience)
        self._abandoned = stuck > 0
        self._set_shadow(None, 0)
        if self._pool is not None:
            self._pool.engines.discard(id(self))
        self._bridges.close()

    def __dealloc__(self):
        # Without close() the threads end here. After a fork, or with an executor stuck in a model, the memory stays:
        # another thread may still use it.
        if self.runtime is NULL or self._abandoned or self._forked_at != forks:
            return
        if self._pool is not None:
            self._pool.engines.discard(id(self))
        with nogil:
            stuck = self.runtime.close(UNCLOSED_PATIENCE_NS)
        if not stuck:
            del self.runtime
        if self._shadow is not NULL and self._shadow.close(UNCLOSED_PATIENCE_NS):
            del self._shadow
