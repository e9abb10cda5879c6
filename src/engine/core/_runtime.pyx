# The runtime's Python face: requests in, Answers out. The serving room's Engine is a subclass that checks its parts
# and chooses a lane; what runs once per request is here.
cimport cython
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_IsValid
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from libcpp.vector cimport vector

import asyncio
import math
import os
import random

import numpy as np

cimport numpy as cnp

from engine.core._answer cimport Answer
from engine.core._native cimport *
from engine.core._rows cimport column, count_rows, read_deadline, read_deadlines, read_matrix, read_row, table, vector_of
from engine.core._scorer cimport engine_scorer, scorer_from_capsule
from engine.core._statistics cimport statistics_of

from engine.core._answer import REASONS as _reasons
from engine.core._answer import SOURCES as _sources
from engine.core._answer import Answers
from engine.core._futures import AnswerFuture
from engine.core._rows import checked_default
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

cdef tuple REASON_NAMES = _reasons
cdef tuple SOURCE_NAMES = _sources
cdef Py_ssize_t LABELS_MAX = 256
cdef uint64_t _forks = 0


def _after_fork_in_child():
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_after_fork_in_child)
_get_running_loop = asyncio.get_running_loop


@cython.final
cdef class _Label:
    # What an answer needs of the deployment that it came from.
    cdef uint64_t number
    cdef readonly str version
    cdef object default  # value, or a function of nothing


@cython.final
cdef class _Served:
    # One deployment that requests may still be under way in.
    cdef Deployment* native
    cdef readonly object parts  # keeps the models alive

    def __dealloc__(self):
        if self.native is not NULL:
            self.native.release()


@cython.final
cdef class _ManyCall:
    # A predict_many in the batch lane, from submission to collection.
    cdef CoreEngine engine
    cdef Group group
    cdef vector[uint32_t] slots
    cdef vector[Outcome] outcomes
    cdef cnp.ndarray values
    cdef object future
    cdef uint32_t n

    cdef object collect(self, bint synchronous):
        cdef Runtime* runtime = self.engine.runtime
        cdef uint32_t width = self.engine.n_outputs
        cdef double* values = <double*>cnp.PyArray_DATA(self.values)
        cdef uint32_t i
        for i in range(self.n):
            if self.slots[i] == NO_SLOT:
                continue
            self.outcomes[i] = runtime.outcome(self.slots[i])
            memcpy(values + <size_t>i * width, runtime.values(self.slots[i]), width * sizeof(double))
            runtime.give_back(self.slots[i])
        return self.engine._answers(self.outcomes.data(), self.n, self.values, True, synchronous)


@cython.final
cdef class _LoopBridge:
    # One event loop's end of the completions. Lives until its loop is closed and everything it asked is answered.
    cdef CoreEngine engine
    cdef Completions* native
    cdef readonly object loop
    cdef bint reading, kicking, polling
    cdef int64_t poll_until_ns
    cdef object kick, poll  # bound once: submissions pass them to call_soon

    def _kick(self):
        self.kicking = False
        self.engine.runtime.kick()

    # Where sleeping is dear and answers are quick, the loop looks for them every turn instead of being woken for them.
    cdef int start_polling(self) except -1:
        self.poll_until_ns = now_ns() + self.engine.runtime.watch_ns()
        if not self.polling:
            self.polling = True
            self.native.start_polling()
            self.loop.call_soon(self.poll)
        return 0

    def _poll(self):
        try:
            if self.native.has_answers():
                self.drain()
        finally:  # also when a task that was stepped raised KeyboardInterrupt: nobody signals a loop that polls
            if self.native.pending and now_ns() < self.poll_until_ns:
                self.loop.call_soon(self.poll)
            else:
                self.polling = False
                if self.native.stop_polling():
                    self.native.signal()

    def __dealloc__(self):
        # Reached only with nothing pending: CoreEngine keeps every bridge that has.
        if self.native is not NULL and self.native.pending == 0:
            del self.native

    def drain(self, bint direct=True):
        """Answers what is done. The loop calls it when the eventfd is readable; tasks may then be stepped directly."""
        cdef SlotTable* slots = &self.engine.runtime.slots()
        cdef uint32_t index = self.native.take_all(slots[0])
        cdef uint32_t following
        interrupted = None
        while index != NO_SLOT:
            following = slots[0][index].next_done_value()
            self.native.pending -= 1
            try:
                if slots[0][index].group is not NULL:
                    self._finish_many(index)
                else:
                    self._finish_one(index, direct)
            except BaseException as error:  # a task that was stepped raised KeyboardInterrupt or SystemExit
                interrupted = error
            index = following
        if interrupted is not None:
            raise interrupted
        if self.engine.closed and self.native.pending == 0:
            self.stop_reading()

    cdef int _finish_one(self, uint32_t index, bint direct) except -1:
        cdef Runtime* runtime = self.engine.runtime
        cdef object future = <object>runtime.slots()[index].user
        Py_DECREF(future)
        cdef Outcome outcome = runtime.outcome(index)
        cdef int64_t returned = now_ns()
        # A cancelled future wants nothing any more; its answer is counted all the same.
        cdef Answer answer = self.engine._answer(outcome, runtime.values(index), returned)
        runtime.account(outcome, returned, True, False)
        runtime.give_back(index)
        if future.done():
            return 0
        if direct:
            future.answer(answer)
        else:
            future.set_result(answer)
        return 0

    cdef int _finish_many(self, uint32_t index) except -1:
        cdef _ManyCall call = <_ManyCall>self.engine.runtime.slots()[index].user
        Py_DECREF(call)
        answers = call.collect(False)
        if not call.future.done():
            call.future.set_result(answers)
        return 0

    cdef int start_reading(self) except -1:
        if not self.reading:
            self.loop.add_reader(self.native.fd(), self.drain)
            self.reading = True
        return 0

    cpdef stop_reading(self):
        if self.reading and not self.loop.is_closed():
            self.loop.remove_reader(self.native.fd())
        self.reading = False


cdef class CoreEngine:
    """What `engine.Engine` is made of: see its documentation. Not public."""

    cdef Runtime* runtime
    cdef dict _served           # deployment number -> _Served
    cdef dict _labels           # deployment number -> _Label, of those and of the last LABELS_MAX
    cdef _Label _current
    cdef dict _names            # the versions of _labels, made anew by each swap: answers of many rows keep a reference
    cdef const engine_features* _features
    cdef object _features_owner
    cdef object _warm_rows
    cdef dict _bridges          # id(loop) -> _LoopBridge
    cdef _LoopBridge _last_bridge
    cdef readonly bint closed
    cdef readonly uint32_t n_features
    cdef readonly uint32_t n_outputs
    cdef bint _wide, _inline, _auto, _abandoned
    cdef uint32_t _row_bytes
    cdef uint32_t _slots_max
    cdef int64_t _budget_ns, _overran_ns, _demoted_ns, _many_ended_ns
    cdef uint64_t _forked_at, _deployments, _overruns, _stalls
    cdef size_t _default_errors

    def __cinit__(self, *args, **kwargs):
        self.runtime = NULL
        self._served = {}
        self._labels = {}
        self._bridges = {}
        self._forked_at = _forks
        self.closed = True

    def _open(self, primary, fallback, default, str version, features, warm_rows, int64_t budget_ns, dict limits):
        """Makes the native runtime. primary and fallback are scorer capsules (fallback may be None); features an
        `engine.features.v1` capsule or None; warm_rows an array [rows, n_features] or None."""
        cdef const engine_scorer* scorer = scorer_from_capsule(primary)
        self.n_features = scorer.n_features
        self.n_outputs = scorer.n_outputs
        self._take_features(features)
        self._wide = self._features is NULL and scorer.score_f64 is not NULL
        self._row_bytes = self.n_features * (8 if self._wide else 4)
        self._budget_ns = budget_ns
        self._warm_rows = read_matrix(warm_rows, self.n_features, self._wide)
        cdef _Served served = self._serve(primary, fallback, default, version)
        self._current = <_Label>self._labels[self._deployments]
        cdef RuntimeLimits native
        native.slots = self._slots_max = limits["queue_rows_max"]
        native.batch_rows_max = limits["batch_rows_max"]
        native.executors = limits["executors"]
        native.miss_rate = limits["miss_rate"]
        native.budget_ns = budget_ns
        native.may_watch = limits["spin"]
        native.row_bytes = self._row_bytes
        native.n_features = self.n_features
        native.n_outputs = self.n_outputs
        # The upper bits tell processes and engines apart, the lower 40 count.
        native.first_id = (<uint64_t>random.SystemRandom().getrandbits(23) << 40) + 1
        self.runtime = new Runtime(native, served.native)
        self.closed = False

    cdef int _take_features(self, object capsule) except -1:
        self._features = NULL
        self._features_owner = capsule
        if capsule is None:
            return 0
        if not PyCapsule_IsValid(capsule, ENGINE_FEATURES_CAPSULE):
            raise ConfigError(f"features must offer a PyCapsule named '{ENGINE_FEATURES_CAPSULE.decode()}'")
        self._features = <const engine_features*>PyCapsule_GetPointer(capsule, ENGINE_FEATURES_CAPSULE)
        if self._features.abi != ENGINE_FEATURES_ABI:
            raise ConfigError(f"features ABI {self._features.abi} is not the one this build speaks, "
                              f"{ENGINE_FEATURES_ABI}")
        if self._features.n_features != self.n_features:
            raise ConfigError(f"the feature program makes {self._features.n_features} columns and the primary takes "
                              f"{self.n_features}")
        return 0

    cdef _Served _serve(self, object primary, object fallback, object default, str version):
        cdef const engine_scorer* second = NULL
        if fallback is not None:
            second = scorer_from_capsule(fallback)
        cdef _Served served = _Served.__new__(_Served)
        self._deployments += 1
        served.native = new Deployment(scorer_from_capsule(primary)[0], second, self._wide, self._deployments)
        served.parts = (primary, fallback)
        self._served[self._deployments] = served
        cdef _Label label = _Label.__new__(_Label)
        label.number, label.version, label.default = self._deployments, version, default
        self._labels[self._deployments] = label
        self._names = {number: (<_Label>kept).version for number, kept in self._labels.items()}
        return served

    def _calibrate(self):
        """Measures the primary on this thread; microseconds a single row, 0.0 where it failed."""
        cdef cnp.ndarray rows = self._warm_rows
        cdef uint32_t n = rows.shape[0]
        cdef int64_t one
        with nogil:
            one = self.runtime.calibrate(cnp.PyArray_DATA(rows), n)
        return one / 1e3

    def _choose_lane(self, bint inline, bint auto):
        self._inline = inline
        self._auto = auto
        if not inline:
            self._start_threads(True)

    cdef int _start_threads(self, bint warm) except -1:
        cdef cnp.ndarray rows = self._warm_rows
        cdef uint32_t n = rows.shape[0] if warm else 0
        with nogil:
            self.runtime.start_threads(cnp.PyArray_DATA(rows), n)
        return 0

    def _warmed_up(self):
        return self.runtime.warmed_up()

    def _swap(self, primary, fallback, default, str version):
        self._check_open()
        cdef const engine_scorer* scorer = scorer_from_capsule(primary)
        if scorer.n_features != self.n_features or scorer.n_outputs != self.n_outputs:
            raise ConfigError(f"the new primary takes {scorer.n_features} features and gives {scorer.n_outputs} "
                              f"outputs; this engine serves {self.n_features} and {self.n_outputs}")
        cdef _Served served = self._serve(primary, fallback, default, version)
        self.runtime.swap(served.native)
        self._current = <_Label>self._labels[self._deployments]
        # What nobody is being served from any more can go: our own reference is then the only one.
        for number in [n for n, old in self._served.items()
                       if old is not served and (<_Served>old).native.references() == 1]:
            del self._served[number]
        # Labels stay longer. An answer that was settled without the GIL, refused at the door, say, names its deployment
        # only after others may have swapped it away and freed it.
        while len(self._labels) > len(self._served) + LABELS_MAX:
            del self._labels[next(number for number in self._labels if number not in self._served)]

    def _versions(self):
        """The deployments that are still held, by number."""
        return {number: (<_Label>self._labels[number]).version for number in self._served}

    @property
    def lane(self):
        """The lane that single requests take now: "inline" or "batch"."""
        return "inline" if self._inline else "batch"

    @property
    def version(self):
        """Version of the deployment that new requests go to."""
        return self._current.version

    cdef int _check_open(self) except -1:
        if self.closed:
            raise ClosedError("the engine is closed" if self.runtime is not NULL else "the engine was never opened")
        if self._forked_at != _forks:
            raise ClosedError("this engine belongs to the parent process: its threads did not survive fork(); make "
                              "a new Engine in the child")
        return 0

    # Reading and answering

    cdef int _read(self, object x, void* row) except -1:
        if self._features is not NULL:
            return self._features.read_row(self._features.ctx, <PyObject*>x, <float*>row)
        return read_row(x, self.n_features, self._wide, row)

    cdef Answer _answer(self, const Outcome& outcome, const double* values, int64_t returned):
        cdef Answer answer = Answer.__new__(Answer)
        cdef _Label label = self._current
        if label.number != outcome.deployment:
            label = <_Label>self._labels[outcome.deployment]
        answer.reason = <str>REASON_NAMES[<Py_ssize_t>outcome.reason]
        if outcome.source == Source.default_value:
            answer.value = self._default_value(label, answer)
        elif self.n_outputs == 1:
            answer.value = values[0]
        else:
            answer.value = vector_of(values, self.n_outputs)
        answer.source = <str>SOURCE_NAMES[<Py_ssize_t>outcome.source]
        answer.version = label.version
        answer.latency_us = (outcome.ready_ns - outcome.started_ns) / 1e3
        answer.on_time_ready = outcome.ready_ns <= outcome.deadline_ns
        answer.on_time = returned <= outcome.deadline_ns
        answer.id = outcome.id
        return answer

    cdef object _default_value(self, _Label label, Answer answer):
        value = label.default
        if callable(value):
            try:
                value = checked_default(value(), self.n_outputs)
            except Exception:
                # A default that fails is a model that fails: it never raises into the caller.
                self._default_errors += 1
                if answer is not None:
                    answer.reason = <str>REASON_NAMES[13]
                value = math.nan if self.n_outputs == 1 else np.full(self.n_outputs, np.nan)
        return value if self.n_outputs == 1 else np.array(value, dtype=np.float64)

    cdef object _answers(self, const Outcome* outcomes, uint32_t n, cnp.ndarray values, bint queued, bint synchronous):
        cdef cnp.ndarray sources = column(n, cnp.NPY_UINT8), reasons = column(n, cnp.NPY_UINT8)
        cdef cnp.ndarray latency = column(n, cnp.NPY_FLOAT64), ids = column(n, cnp.NPY_UINT64)
        cdef cnp.ndarray on_time = column(n, cnp.NPY_BOOL), ready = column(n, cnp.NPY_BOOL)
        cdef cnp.ndarray numbers = column(n, cnp.NPY_UINT64)
        cdef uint8_t* source_codes = <uint8_t*>cnp.PyArray_DATA(sources)
        cdef uint8_t* reason_codes = <uint8_t*>cnp.PyArray_DATA(reasons)
        cdef uint8_t* on_time_flags = <uint8_t*>cnp.PyArray_DATA(on_time)
        cdef uint8_t* ready_flags = <uint8_t*>cnp.PyArray_DATA(ready)
        cdef double* latency_us = <double*>cnp.PyArray_DATA(latency)
        cdef uint64_t* id_numbers = <uint64_t*>cnp.PyArray_DATA(ids)
        cdef uint64_t* deployments = <uint64_t*>cnp.PyArray_DATA(numbers)
        cdef int64_t returned = now_ns()
        cdef bint any_default = False
        cdef uint32_t i
        for i in range(n):
            source_codes[i] = <uint8_t>outcomes[i].source
            reason_codes[i] = <uint8_t>outcomes[i].reason
            latency_us[i] = (outcomes[i].ready_ns - outcomes[i].started_ns) / 1e3
            on_time_flags[i] = returned <= outcomes[i].deadline_ns
            ready_flags[i] = outcomes[i].ready_ns <= outcomes[i].deadline_ns
            id_numbers[i] = outcomes[i].id
            deployments[i] = outcomes[i].deployment
            any_default |= outcomes[i].source == Source.default_value
            self.runtime.account(outcomes[i], returned, queued, synchronous)
        if any_default:
            self._fill_defaults(values, sources, reasons, numbers)
        names = self._names
        shaped = values[:, 0] if self.n_outputs == 1 else values
        return Answers(shaped, sources, reasons, latency, on_time, ready, ids, numbers, names)

    cdef int _fill_defaults(self, object values, object sources, object reasons, object numbers) except -1:
        for number in np.unique(numbers).tolist():
            rows = (numbers == number) & (sources == <int>Source.default_value)
            before = self._default_errors
            values[rows] = self._default_value(<_Label>self._labels[number], None)
            if self._default_errors != before:
                reasons[rows] = 13
        return 0

    # Predicting

    def predict(self, x, deadline_ms=None, *, deadline_ns=None):
        cdef int64_t started = now_ns()
        self._check_open()
        cdef int64_t deadline = read_deadline(deadline_ms, deadline_ns, started, self._budget_ns)
        cdef SmallBuffer buffer
        cdef void* row = buffer.reserve(self._row_bytes)
        self._read(x, row)
        if self._inline:
            return self._predict_inline(row, started, deadline)
        self._reconsider_lane(started)
        return self._predict_queued(row, started, deadline)

    cdef Answer _predict_inline(self, const void* row, int64_t started, int64_t deadline):
        cdef SmallBuffer buffer
        cdef double* out = <double*>buffer.reserve(self.n_outputs * sizeof(double))
        cdef Outcome outcome = self.runtime.predict_inline(row, started, deadline, out)
        cdef Answer answer = self._answer(outcome, out, outcome.ready_ns)
        self.runtime.account(outcome, outcome.ready_ns, False, True)
        if self._auto and outcome.ready_ns > deadline:
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

    cdef Answer _predict_queued(self, const void* row, int64_t started, int64_t deadline):
        cdef Runtime* runtime = self.runtime
        cdef SmallBuffer buffer
        cdef double* out = <double*>buffer.reserve(self.n_outputs * sizeof(double))
        cdef Outcome outcome
        cdef uint32_t index
        cdef bint done
        cdef const double* answered = out
        with nogil:
            index = runtime.submit(row, started, deadline, NULL, NULL, NULL, True, &outcome, out)
            done = index == NO_SLOT or runtime.wait(index)
        while not done:
            done = self._wait_again(index)
        if index != NO_SLOT:
            outcome = runtime.outcome(index)
            answered = runtime.values(index)
        cdef int64_t returned = now_ns()
        cdef Answer answer = self._answer(outcome, answered, returned)
        runtime.account(outcome, returned, index != NO_SLOT, True)
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

    def predict_many(self, rows, deadline_ms=None, *, deadline_ns=None):
        cdef int64_t started = now_ns()
        self._check_open()
        cdef uint32_t n = count_rows(rows)
        cdef cnp.ndarray deadlines = read_deadlines(deadline_ms, deadline_ns, n, started, self._budget_ns)
        cdef cnp.ndarray matrix = self._matrix(rows, deadlines, started)
        if self._inline:
            return self._many_inline(matrix, n, started, deadlines, deadline_ns is not None)
        self._reconsider_lane(started)
        cdef uint32_t window = self._window()
        return Answers.joined([self._many_queued(matrix[i:i + window], started, deadlines[i:i + window])
                               for i in range(0, max(n, 1), window)])

    # A call takes at most half of the slots at a time, so that it never shuts out everybody else.
    cdef uint32_t _window(self):
        return max(self._slots_max // 2, 1)

    # Mappings whose deadline has passed are not read: their answer is the default whatever they hold.
    cdef cnp.ndarray _matrix(self, object rows, cnp.ndarray deadlines, int64_t started):
        if self._features is NULL:
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
                self._features.read_row(self._features.ctx, <PyObject*>x, out + <size_t>i * self.n_features)
            except (ValueError, TypeError) as error:
                error.add_note(f"in row {i} of {n}")
                raise
            i += 1
        if i != n:
            raise InputError(f"the rows changed their number while they were read, from {n} to {i}")
        return matrix

    cdef object _many_inline(self, cnp.ndarray matrix, uint32_t n, int64_t started, cnp.ndarray deadlines,
                             bint absolute):
        cdef cnp.ndarray values = table(n, self.n_outputs, cnp.NPY_FLOAT64)
        cdef vector[Outcome] outcomes = vector[Outcome](n)
        cdef const int64_t* due = <const int64_t*>cnp.PyArray_DATA(deadlines)
        cdef void* rows = cnp.PyArray_DATA(matrix)
        cdef double* out = <double*>cnp.PyArray_DATA(values)
        cdef bint queue = absolute and started - self._many_ended_ns < BACK_TO_BACK_NS
        cdef int64_t reserve = self._budget_ns // QUEUE_RESERVE_DIVISOR if queue else 0
        if n and self.runtime.inline_cost().expected_ns(n) > GIL_KEEP_NS:
            with nogil:
                self.runtime.predict_many_inline(rows, n, started, due, reserve, outcomes.data(), out)
        elif n:
            self.runtime.predict_many_inline(rows, n, started, due, reserve, outcomes.data(), out)
        answers = self._answers(outcomes.data(), n, values, False, True)
        self._many_ended_ns = now_ns()
        if self._auto:
            self._watch_lane(self._many_ended_ns)
        return answers

    cdef _ManyCall _submit_many(self, cnp.ndarray matrix, int64_t started, cnp.ndarray deadlines, _LoopBridge bridge,
                                bint* complete):
        cdef _ManyCall call = _ManyCall.__new__(_ManyCall)
        cdef uint32_t n = matrix.shape[0]
        call.engine = self
        call.n = n
        call.slots.resize(n)
        call.outcomes.resize(n)
        call.values = table(n, self.n_outputs, cnp.NPY_FLOAT64)
        cdef void* rows = cnp.PyArray_DATA(matrix)
        cdef const int64_t* due = <const int64_t*>cnp.PyArray_DATA(deadlines)
        cdef double* out = <double*>cnp.PyArray_DATA(call.values)
        cdef Completions* completions = bridge.native if bridge is not None else NULL
        cdef void* user = <void*><PyObject*>call
        with nogil:
            complete[0] = self.runtime.submit_many(rows, n, started, due, completions, &call.group, user,
                                                   call.slots.data(), call.outcomes.data(), out)
        return call

    cdef object _many_queued(self, cnp.ndarray matrix, int64_t started, cnp.ndarray deadlines):
        cdef bint done = False
        cdef _ManyCall call = self._submit_many(matrix, started, deadlines, None, &done)
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
                    with nogil:
                        while not self.runtime.wait_group(call.group, queued):
                            pass
                    call.collect(True)
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
                (<_ManyCall>user).collect(False)
            else:
                self.runtime.give_back(index)
            index = following
        return 0

    def predict_async(self, x, deadline_ms=None, *, deadline_ns=None):
        cdef int64_t started = now_ns()
        self._check_open()
        cdef int64_t deadline = read_deadline(deadline_ms, deadline_ns, started, self._budget_ns)
        loop = _get_running_loop()
        cdef SmallBuffer buffer
        cdef void* row = buffer.reserve(self._row_bytes)
        self._read(x, row)
        if self._inline:
            future = loop.create_future()
            future.set_result(self._predict_inline(row, started, deadline))
        else:
            future = AnswerFuture(loop=loop)
            self._reconsider_lane(started)
            self._submit_one(row, started, deadline, loop, future)
        return future

    cdef int _submit_one(self, const void* row, int64_t started, int64_t deadline, object loop, object future) except -1:
        cdef _LoopBridge bridge = self._bridge(loop)
        cdef SmallBuffer buffer
        cdef double* out = <double*>buffer.reserve(self.n_outputs * sizeof(double))
        cdef Outcome outcome
        Py_INCREF(future)
        # With others of this loop under way, wake the executor once for all that this turn of the loop submits.
        cdef bint alone = bridge.native.pending == 0
        cdef uint32_t index = self.runtime.submit(row, started, deadline, bridge.native, NULL,
                                                  <void*><PyObject*>future, alone, &outcome, out)
        if not alone and not bridge.kicking:
            bridge.kicking = True
            loop.call_soon(bridge.kick)
        if index == NO_SLOT:
            Py_DECREF(future)
            future.set_result(self._answer(outcome, out, outcome.ready_ns))
            self.runtime.account(outcome, outcome.ready_ns, False, False)
        else:
            bridge.native.pending += 1
            if self.runtime.answers_soon():
                bridge.start_polling()
        return 0

    def _many_parts(self, rows, deadline_ms, deadline_ns):
        """A predict_many on the running loop, cut into windows: functions of nothing, to be called one after the
        other, each giving Answers or a future of them."""
        cdef int64_t started = now_ns()
        self._check_open()
        cdef uint32_t n = count_rows(rows)
        cdef cnp.ndarray deadlines = read_deadlines(deadline_ms, deadline_ns, n, started, self._budget_ns)
        cdef cnp.ndarray matrix = self._matrix(rows, deadlines, started)
        if self._inline:
            return [lambda: self._many_inline(matrix, n, started, deadlines, deadline_ns is not None)]
        cdef uint32_t window = self._window()
        loop = _get_running_loop()
        return [lambda i=i: self._many_async(matrix[i:i + window], started, deadlines[i:i + window], loop)
                for i in range(0, max(n, 1), window)]

    cdef object _many_async(self, cnp.ndarray matrix, int64_t started, cnp.ndarray deadlines, object loop):
        self._check_open()
        cdef _LoopBridge bridge = self._bridge(loop)
        cdef bint complete = False
        cdef _ManyCall call = self._submit_many(matrix, started, deadlines, bridge, &complete)
        if complete:
            return call.collect(False)
        call.future = loop.create_future()
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
        return facts

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
        with nogil:
            stuck = self.runtime.close(1_000_000_000)
        if not stuck:
            del self.runtime


cdef extern from "Python.h":
    int PyErr_CheckSignals() except -1


cdef int _run_signal_handlers() except -1:
    return PyErr_CheckSignals()
