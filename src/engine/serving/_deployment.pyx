# cython: annotation_typing=False
"""Deployments (a version loaded and ready to serve), which of them a request comes under, and the answers they give.

`Versions` is the half of CoreEngine that event loops and calls of many rows need; CoreEngine is its subclass.
"""
cimport cython
from cpython.dict cimport PyDict_CheckExact
from cpython.list cimport PyList_CheckExact
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_IsValid
from cpython.ref cimport Py_DECREF
from cpython.tuple cimport PyTuple_CheckExact
from libc.stdint cimport uint8_t

from engine._common._assert cimport ENGINE_ASSERT
from engine.model._scorer cimport engine_scorer, scorer_from_capsule
from engine.serving._answers cimport value_of
from engine.serving._rows cimport (
    column,
    read_deadlines,
    read_list,
    read_mapping,
    read_matrix,
    read_row,
    rounded,
    table,
    vector_of,
)
from engine.serving._scheduler cimport (
    ENGINE_ANSWER_CANARY,
    ENGINE_ANSWER_ROW_FLOAT64,
    ENGINE_FEATURES_ABI,
    ENGINE_FEATURES_CAPSULE,
    ENGINE_OBSERVER_ABI,
    ENGINE_OBSERVER_CAPSULE,
    NEVER_NS,
    PRIORITIES,
    REASONS,
    SOURCES,
    Priority,
    Reason,
    ShadowCounts,
    Source,
    draw,
    engine_answer,
    key_hash,
    now_ns,
    priority_name,
    reason_name,
    source_name,
)

import math
import weakref
from collections.abc import Mapping

import numpy as np

from engine._common import vocabulary
from engine.errors import ClosedError, ConfigError, EngineError, InputError, InputTypeError
from engine.model import _scorer
from engine.model import rows as by_name
from engine.serving import troubles
from engine.serving._answers import Answers
from engine.serving._executors import _looking_up_until, no_thread
from engine.serving._rows import checked_default
from engine.serving.columns import is_series as _is_series
from engine.serving.columns import is_named, plain_structured, records_of, require_all, unreadable
from engine.serving.columns import warn_lost as _warn_lost

cnp.import_array()

cdef tuple REASON_NAMES = vocabulary.REASONS
cdef tuple SOURCE_NAMES = vocabulary.SOURCES
cdef uint8_t DEFAULT_ERROR = REASON_NAMES.index("default_error")
cdef int BREAKER_OPEN = REASON_NAMES.index("breaker_open")
# By reason: whether an answer that has it means that the primary fails or rests, which the log says.
cdef bint[32] TROUBLES
cdef Py_ssize_t _code
for _code in range(32):
    TROUBLES[_code] = _code < len(REASON_NAMES) and REASON_NAMES[_code] in (
        "primary_error", "primary_bad_shape", "primary_not_finite", "fallback_error", "breaker_open")

# Golden rows are no requests: their online features are looked up within a second.
cdef int64_t GOLDEN_LOOKUP_NS = 1_000_000_000
cdef int64_t SHADOW_PATIENCE_NS = 1_000_000_000

# The first rows of a version are all looked at for numbers that float32 does not hold, and after that each 1,000th.
cdef enum:
    LOOKS_MAX = 1_000
    LOOK_EVERY = 999

# Counts the deployments of every engine of the process: engines that share a monitor are told apart by the number.
cdef uint64_t _last_deployment = 0
# Salted, so that the canary's share of the keys is not the same share that another experiment draws by this hash.
cdef uint64_t CANARY_SALT = key_hash(b"canary", 6, 0)


def _native_vocabulary():
    """The words of the native core by name of their tuple in engine._common.vocabulary; a word's place is its code."""
    cdef int code
    return {
        "SOURCES": tuple([source_name(<Source><uint8_t>code).decode() for code in range(SOURCES)]),
        "REASONS": tuple([reason_name(<Reason><uint8_t>code).decode() for code in range(REASONS)]),
        "PRIORITIES": tuple([priority_name(<Priority><uint8_t>code).decode() for code in range(PRIORITIES)]),
    }


def _check_vocabulary(native, words):
    """Raise ImportError, which names the first difference, if two vocabularies are not the same."""
    for name, expected in native.items():
        found = tuple(getattr(words, name))
        if found == expected:
            continue
        code = next((i for i, pair in enumerate(zip(found, expected)) if pair[0] != pair[1]),
                    min(len(found), len(expected)))
        raise ImportError(
            f"engine._common.vocabulary.{name} and the native core differ at code {code}: Python has "
            f"{found[code] if code < len(found) else 'no word'}, C++ has "
            f"{expected[code] if code < len(expected) else 'no word'}; build the bindings again"
        )


# Answers carry codes, so a word at another place would give wrong reasons.
_check_vocabulary(_native_vocabulary(), vocabulary)


@cython.final
cdef class LostNumbers:
    """Whether an engine has warned of a number that float32 does not hold. Not public."""


@cython.final
cdef class Deployment:
    """One version, loaded and ready to serve. Not public: an engine makes it, and requests keep it alive."""

    def __dealloc__(self):
        if self.native is not NULL:
            self.native.release()

    cdef int take_features(self, object features) except -1:
        if features is None:
            return 0
        capsule = features.capsule
        if not PyCapsule_IsValid(capsule, ENGINE_FEATURES_CAPSULE):
            raise ConfigError(f"features must offer a PyCapsule named '{ENGINE_FEATURES_CAPSULE.decode()}'")
        self.features = <const engine_features*>PyCapsule_GetPointer(capsule, ENGINE_FEATURES_CAPSULE)
        self.features_owner = capsule
        if not 1 <= self.features.abi <= ENGINE_FEATURES_ABI:
            raise ConfigError(f"the feature program speaks features ABI {self.features.abi}, this build speaks 1 to "
                              f"{ENGINE_FEATURES_ABI}")
        if self.strict and self.features.abi < 2:
            raise ConfigError("unknown_keys='raise' needs a feature program of ABI 2, which tells its keys; this one "
                              "speaks ABI 1")
        if self.features.n_features != self.n_features:
            raise ConfigError(f"the feature program makes {self.features.n_features} columns and the primary takes "
                              f"{self.n_features}")
        if hasattr(features, "fetch"):
            self.lookup = features
            self.lookup_blocks = bool(getattr(features, "blocking", False))
            self.also_known = frozenset(getattr(features, "known_keys", ()))
        return 0

    cdef int take_columns(self, object columns) except -1:
        self.columns = columns
        self.names = columns.names if columns.known else None
        self.plain_names = columns.known and not columns.categories
        return 0

    cdef int read(self, object x, void* row) except -1:
        if self.features is not NULL:
            if self.strict and self.lookup is None:
                self.check_keys(x)
            if not PyDict_CheckExact(x) and not PyList_CheckExact(x) and _is_series(x):
                x = dict(x.items())
            return self.features.read_row(self.features.ctx, <PyObject*>x, <float*>row)
        if PyList_CheckExact(x) and not self.looks:
            return read_row(x, self.n_features, self.wide, row)
        if self.looks:
            if self.look_in == 0:
                return self.read_and_look(x, row)
            self.look_in -= 1
        return self.read_values(x, self.wide, row)

    cdef int read_values(self, object x, bint wide, void* row) except -1:
        if (PyList_CheckExact(x) or PyTuple_CheckExact(x)
                or (cnp.PyArray_CheckExact(x) and not cnp.PyArray_HASFIELDS(x))):
            return read_row(x, self.n_features, wide, row)
        if PyDict_CheckExact(x) and self.plain_names and read_mapping(x, self.names, self.strict, wide, row):
            return 0
        if isinstance(x, (np.recarray, np.void)):
            x = plain_structured(x)
        if is_named(x):
            x = self.named_row(x)
        return read_row(x, self.n_features, wide, row)

    # Cold: a row as an array, by the names of its values.
    def named_row(self, x):
        if isinstance(x, Mapping) and self.columns.names is None:
            raise InputTypeError("a mapping needs names to become a row, and the model knows none of its features: "
                                 "load it with load_model(…, feature_names=[…]), pass Engine(features=program), or "
                                 "give the values as a sequence")
        if isinstance(x, Mapping) and self.names is not None:
            require_all(x, self.names)
        try:
            return by_name.matched_row(x, self.columns.names, n_features=self.n_features, strict=self.strict,
                                       categories=self.columns.categories)
        except InputError as error:
            raise InputError(str(error).removeprefix("row 0, ")) from None
        except Exception as error:  # of the caller's own type
            raise unreadable(x, error) from error

    def named_rows(self, rows):
        if isinstance(rows, Mapping) and (self.columns.names is None or not rows):
            return self.named_row(rows)  # raises
        try:
            return by_name.matched(rows, self.columns.names, n_features=self.n_features, strict=self.strict,
                                   categories=self.columns.categories)
        except EngineError:
            raise
        except Exception as error:
            raise unreadable(rows, error) from error

    # A row is read as doubles first, and looked at before it is rounded.
    cdef int read_and_look(self, object x, void* row) except -1:
        cdef cnp.ndarray exact = table(1, self.n_features, cnp.NPY_FLOAT64)
        cdef const double* values = <const double*>cnp.PyArray_DATA(exact)
        cdef uint32_t i
        self.read_values(x, True, cnp.PyArray_DATA(exact))
        for i in range(self.n_features):
            if self.wide:
                (<double*>row)[i] = values[i]
            else:
                (<float*>row)[i] = <float>values[i]
        return self.look_at(exact)

    cdef int look_at(self, cnp.ndarray matrix) except -1:
        self.looked += min(matrix.shape[0], LOOKS_MAX)
        self.look_in = 0 if self.looked < LOOKS_MAX else LOOK_EVERY
        if self.lost.told:
            self.looks = False
        elif _scorer.lost(matrix) is not None:
            self.looks, self.lost.told = False, True  # before the warning, which may raise
            _warn_lost(matrix, self.columns.names)
        return 0

    cdef tuple absent(self, tuple missing):
        if self.features.abi < 2:
            return missing
        cdef void* made = self.features.absent(self.features.ctx)
        cdef tuple names = <tuple>made
        Py_DECREF(names)  # the assignment took a reference of its own
        if missing is None:
            return names
        return missing + tuple([name for name in names if name not in missing])

    cdef int check_keys(self, object x) except -1:
        cdef PyObject* also = NULL
        if self.also_known is not None:
            also = <PyObject*>self.also_known
        return self.features.check_keys(self.features.ctx, <PyObject*>x, also)

    def _troubles(self):
        return (self.failures, self.native.breaker().open(), self.native.breaker().openings(),
                self.native.breaker().probes())

    def _unwatched(self):
        self.watched = False

    cdef tuple look_up(self, object x, Request* request):
        if self.strict:
            self.check_keys(x)
        token = _looking_up_until.set(request.deadline_ns)
        try:
            found = self.lookup.fetch(x, look_up_until(request.asked_ns, request.deadline_ns))
        finally:
            _looking_up_until.reset(token)
        request.asked_ns = now_ns()
        return found

    def look_up_many(self, rows, cnp.ndarray deadlines, int64_t started_ns):
        """Fetch the online features of many rows at once: (rows with them, for each row the names of those missing)."""
        cdef int64_t until = min(int(deadlines.min()), NEVER_NS)
        if self.strict:
            for i, row in enumerate(rows):
                try:
                    self.check_keys(row)
                except InputError as error:
                    raise InputError(f"row {i}: {error}") from None
        token = _looking_up_until.set(until)
        try:
            found = self.lookup.fetch_many(list(rows), look_up_until(started_ns, max(until, started_ns)))
        finally:
            _looking_up_until.reset(token)
        return [row for row, _ in found], [missing for _, missing in found]

    def read_rows(self, rows):
        """Turn mappings into the matrix [rows, n_features] that the models see, online features included."""
        rows = self.counted(rows)
        if self.lookup is not None:
            rows = [row for row, _ in self.lookup.fetch_many(list(rows), now_ns() + GOLDEN_LOOKUP_NS)]
        return self.matrix(rows, read_deadlines(math.inf, None, len(rows), 0, 0, False), 0, None)[0]

    cdef object counted(self, object rows):
        if PyList_CheckExact(rows) or (cnp.PyArray_CheckExact(rows) and not cnp.PyArray_HASFIELDS(rows)):
            return rows
        if isinstance(rows, (np.recarray, np.void)):
            rows = plain_structured(rows)
        if not is_named(rows):
            return rows
        return self.named_rows(rows) if self.features is NULL else records_of(rows)

    cdef tuple matrix(self, object rows, cnp.ndarray deadlines, int64_t started_ns, list missing):
        cdef cnp.ndarray matrix
        cdef float* out
        cdef const int64_t* due
        cdef uint32_t i = 0, n
        cdef int n_absent
        if self.features is NULL:
            matrix = self.matrix_of_values(rows)
            return matrix, missing
        if isinstance(rows, np.ndarray) and rows.ndim == 2 and rows.dtype == np.float32:
            return read_matrix(rows, self.n_features, False), missing  # made by program.batch already
        n = len(rows)
        matrix = table(n, self.n_features, cnp.NPY_FLOAT32)
        out = <float*>cnp.PyArray_DATA(matrix)
        due = <const int64_t*>cnp.PyArray_DATA(deadlines)
        for x in rows:
            if i == n:
                raise InputError(f"the rows changed their number while they were read, from {n}")
            if due[i] <= started_ns:  # expired: its answer is the default whatever the row holds
                i += 1
                continue
            try:
                n_absent = self.read(x, out + <size_t>i * self.n_features)
                if n_absent > 0:
                    if missing is None:
                        missing = [()] * n
                    missing[i] = self.absent(missing[i])
            except (ValueError, TypeError) as error:
                error.add_note(f"in row {i} of {n}")
                raise
            i += 1
        if i != n:
            raise InputError(f"the rows changed their number while they were read, from {n} to {i}")
        return matrix, missing

    # Rows without a feature program, as the models take them.
    def matrix_of_values(self, rows):
        if self.looks and self.look_in > 0:
            self.look_in = max(0, self.look_in - <int32_t>min(len(rows), LOOK_EVERY))
        if not self.looks or self.look_in > 0:
            return self.read_rows_of(rows, self.wide)
        if cnp.PyArray_Check(rows) and rows.dtype == np.float32:
            return self.read_rows_of(rows, self.wide)  # rounded by the caller
        cdef cnp.ndarray exact = self.read_rows_of(rows, True)
        whole = cnp.PyArray_Check(rows) and rows.dtype.kind in "iu"  # int64 holds what double does not
        self.look_at((rows if whole else exact)[:LOOKS_MAX])
        return exact if self.wide else rounded(exact, False)

    def read_rows_of(self, rows, bint wide):
        if isinstance(rows, np.ndarray) and rows.dtype.kind == "O" and rows.ndim == 2:
            rows = list(np.where(np.ma.getmaskarray(rows), np.array(None), np.asarray(rows)))
        if not isinstance(rows, (list, tuple)):
            return read_matrix(rows, self.n_features, wide)
        if len(rows) and not by_name.named(rows):
            matrix = read_list(rows, self.n_features, wide)
            if matrix is not None:
                return matrix
        cdef cnp.ndarray values = table(len(rows), self.n_features, cnp.NPY_FLOAT64 if wide else cnp.NPY_FLOAT32)
        cdef char* out = <char*>cnp.PyArray_DATA(values)
        cdef size_t row_bytes = self.n_features * (8 if wide else 4)
        cdef size_t i = 0, n = values.shape[0]
        for row in rows:
            if i == n:
                break
            try:
                self.read_values(row, wide, out + i * row_bytes)
            except (InputError, InputTypeError) as error:
                raise type(error)(f"row {i}: {error}") from None
            i += 1
        if i != n or len(rows) != n:
            raise InputError(f"the rows changed their number while they were read, from {n} to {len(rows)}")
        return values


cdef class Versions:
    """The half of CoreEngine that knows deployments. Not public."""

    def __cinit__(self, *args, **kwargs):
        self.runtime = NULL
        self._observer = NULL
        self._shadow = NULL
        self._deployments = {}
        self._closed = True
        self._lost = LostNumbers.__new__(LostNumbers)

    @property
    def n_features(self):
        """Number of features of a row, as the models take it. The same for all versions of an engine."""
        return self._n_features

    @property
    def n_outputs(self):
        """Number of values of an answer. The same for all versions of an engine."""
        return self._n_outputs

    @property
    def version(self):
        """Name of the version that new requests go to, outside of a canary."""
        return self._serving()[0].version

    cdef int _take_observer(self, object capsule) except -1:
        self._observer_owner = capsule
        if capsule is None:
            return 0
        if not PyCapsule_IsValid(capsule, ENGINE_OBSERVER_CAPSULE):
            raise ConfigError(f"a monitor must offer a PyCapsule named '{ENGINE_OBSERVER_CAPSULE.decode()}' as its "
                              f"observer, got {type(capsule).__name__}")
        self._observer = <const engine_observer*>PyCapsule_GetPointer(capsule, ENGINE_OBSERVER_CAPSULE)
        if self._observer.abi != ENGINE_OBSERVER_ABI:
            raise ConfigError(f"the monitor speaks observer ABI {self._observer.abi}, this build speaks "
                              f"{ENGINE_OBSERVER_ABI}")
        if self._observer.n_features not in (0, self._n_features):
            raise ConfigError(f"the monitor watches rows of {self._observer.n_features} features, the primary takes "
                              f"{self._n_features}")
        return 0

    def _prepare(self, primary, fallback, default, str version, features, parts, columns):
        """Make a deployment that takes no traffic yet.

        Args:
            primary, fallback: capsules of scorers; fallback may be None.
            default: a float, a float64 array [n_outputs], or a function of nothing.
            features: an object with an `engine.features.v1` capsule, or None.
            parts: what Engine wants to remember with it.
            columns: the layout of its rows, an engine.serving.columns.Columns.

        Raises:
            ConfigError: another width than this engine's.
        """
        cdef const engine_scorer* scorer = scorer_from_capsule(primary)
        cdef const engine_scorer* second = NULL
        if fallback is not None:
            second = scorer_from_capsule(fallback)
        if scorer.n_features != self._n_features or scorer.n_outputs != self._n_outputs:
            raise ConfigError(f"the new primary takes {scorer.n_features} features and gives {scorer.n_outputs} "
                              f"outputs; this engine serves {self._n_features} and {self._n_outputs}")
        cdef Deployment deployment = Deployment.__new__(Deployment)
        deployment.n_features, deployment.n_outputs = self._n_features, self._n_outputs
        # A feature program makes float32. Without one, rows are doubles where any model of the version reads doubles,
        # or the shadow does, which is shown the same rows.
        deployment.wide = features is None and (
            self._shadow_wide or scorer.score_f64 is not NULL or (second is not NULL and second.score_f64 is not NULL)
        )
        deployment.looks = features is None and (
            scorer.score_f64 is NULL or (second is not NULL and second.score_f64 is NULL)
        )
        deployment.lost, deployment.strict = self._lost, self._strict
        deployment.row_bytes = self._n_features * (8 if deployment.wide else 4)
        deployment.take_columns(columns)
        deployment.take_features(features)
        global _last_deployment
        _last_deployment += 1
        deployment.number = _last_deployment
        deployment.version, deployment.default, deployment.parts = version, default, parts
        deployment.scorers = primary, fallback
        # The native deployment retains both scorers, so the capsules may go.
        deployment.native = new NativeDeployment(scorer[0], second, deployment.wide, deployment.number, self._breaker)
        if self._observer is not NULL:
            self._observer.deployed(self._observer.ctx, deployment.number, version.encode("utf-8", "backslashreplace"))
        return deployment

    def _measure(self, Deployment deployment, rows):
        """Time the primary on this thread, batch by batch, and the fallback. Return False if the primary fails.

        Blocks for as long as the models take, without the GIL where they do not take it themselves.
        """
        cdef cnp.ndarray matrix = read_matrix(rows, self._n_features, deployment.wide)
        cdef uint32_t n = matrix.shape[0]
        cdef void* data = cnp.PyArray_DATA(matrix)
        with nogil:
            deployment.calibration = self.runtime.calibrate(deployment.native[0], data, n)
            if not deployment.calibration.failed:
                self.runtime.warm_threads(deployment.native[0])
                self.runtime.time_fallback(deployment.native[0], data, n)
        deployment.calibrated = not deployment.calibration.failed
        return deployment.calibrated

    def _install(self, Deployment deployment):
        """Serve new requests from `deployment`. Return the expected microseconds of one row, 0.0 if never measured."""
        cdef int64_t row_ns = 0
        if deployment.calibrated:
            with nogil:
                row_ns = self.runtime.adopt(deployment.calibration)
        with nogil:
            self.runtime.set_primary(deployment.native[0])
        deployment = self._widened(deployment)
        # Entered before it takes traffic: an answer looks its deployment up by number.
        self._deployments[deployment.number] = deployment
        if self._current is not deployment:
            self._previous, self._current = self._current, deployment
        self._forget_unused()
        return row_ns / 1e3

    # A deployment can go once its native half has no reference but ours. A request of an event loop finds its
    # deployment again by the number; it is submitted with the GIL held, so its reference is counted before this can
    # run. Every other call holds the Deployment object itself.
    cdef int _forget_unused(self) except -1:
        cdef Deployment deployment
        for number, held in list(self._deployments.items()):
            deployment = <Deployment>held
            if deployment is self._current or deployment is self._previous or deployment is self._canary:
                continue
            ENGINE_ASSERT(deployment.native.references() >= 1, b"a Deployment holds its native half")
            if deployment.native.references() == 1:
                del self._deployments[number]
        return 0

    def _roll_back(self):
        """Serve new requests from the version before, and return its deployment. Raise ConfigError if there is none."""
        if self._previous is None:
            raise ConfigError(f"there is no version before {self._current.version!r} to go back to")
        self._install(self._previous)
        return self._current

    cdef Deployment _widened(self, Deployment deployment):
        if not self._shadow_wide or deployment.wide or deployment.features is not NULL:
            return deployment
        cdef Deployment wide = self._prepare(
            deployment.scorers[0], deployment.scorers[1], deployment.default, deployment.version,
            deployment.parts[3], deployment.parts, deployment.columns)
        wide.looks, wide.look_in, wide.looked = deployment.looks, deployment.look_in, deployment.looked
        wide.calibration, wide.calibrated = deployment.calibration, deployment.calibrated
        return wide

    def _set_canary(self, Deployment deployment, double share):
        """Serve this share of requests, drawn by their keys, from `deployment`; None ends the canary."""
        cdef const Calibration* measured
        if deployment is not None:
            deployment = self._widened(deployment)
            measured = &deployment.calibration if deployment.calibrated else NULL
            with nogil:
                self.runtime.make_canary(deployment.native[0], share, measured)
            self._deployments[deployment.number] = deployment
            # 2^64 - 2048 is the largest double below 2^64: a share of 1.0 must not wrap around to none.
            self._canary_below = <uint64_t>min(share * 2.0**64, 2.0**64 - 2048)
        self._canary = deployment
        self._forget_unused()

    def _set_shadow(self, Deployment deployment, uint32_t rows_max):
        """Offer the rows of all requests to `deployment` too, through a ring of rows_max rows; None ends the shadow."""
        cdef Shadow* before = self._shadow
        cdef bint ended
        # Requests reach the shadow with the GIL held. Once the pointer is null none of them can, so its thread may be
        # waited for without the GIL.
        self._shadow = NULL
        if before is not NULL:
            with nogil:
                ended = before.close(SHADOW_PATIENCE_NS)
            if ended:
                del before  # else its thread is stuck in a model and keeps what it uses
        self._shadowed = None
        self._shadow_wide = False
        if deployment is None:
            return
        self._shadow_wide = deployment.wide
        if self._shadow_wide:
            self._widen_all()
        try:
            self._shadow = new Shadow(deployment.native, self._observer, rows_max)
        except OSError as error:
            self._shadow_wide = False
            raise no_thread(error) from None
        self._shadowed = deployment

    def _widen_all(self):
        """Have all versions read rows as doubles from now on, because the shadow is shown the same rows."""
        current, canary = self._current, self._canary
        for deployment in (current, canary):
            if deployment is not None:
                wide = self._widened(deployment)
                self._deployments[(<Deployment>wide).number] = wide
                if deployment is current:
                    self._current = wide
                else:
                    self._canary = wide
        self._forget_unused()

    def _serving(self):
        """The deployment that new requests come under, and the one before it or None."""
        if self._current is None:
            raise ClosedError("the engine was never opened")
        return self._current, self._previous

    def _versions(self):
        """Names of the versions that are still held, by number."""
        return {number: deployment.version for number, deployment in self._deployments.items()}

    # Hot only while there is a canary. A key falls on the same side for as long as the share stays.
    cdef Deployment _route(self, object key, int64_t now):
        cdef uint64_t point
        cdef bytes name
        if key is None:
            self._draws += 1
            point = draw(self._draws)
        else:
            name = key if isinstance(key, bytes) else str(key).encode()
            point = key_hash(name, len(name), CANARY_SALT)
        if point >= self._canary_below or self._canary.native.breaker().resting(now):
            return self._current
        return self._canary

    cdef Deployment _deployment_of(self, uint64_t number):
        if self._current.number == number:
            return self._current
        return <Deployment>self._deployments[number]

    # Answers

    cdef Answer _answer(self, Deployment deployment, const Outcome& outcome, const double* values, int64_t returned):
        ENGINE_ASSERT(<int>outcome.reason < REASONS and <int>outcome.source < SOURCES, b"an outcome's codes have names")
        ENGINE_ASSERT(outcome.deployment == deployment.number, b"an answer carries its own request's version")
        cdef Answer answer = Answer.__new__(Answer)
        answer._reason = <str>REASON_NAMES[<Py_ssize_t>outcome.reason]
        if outcome.source != Source.primary and TROUBLES[<int>outcome.reason]:
            self._trouble(deployment, <int>outcome.reason)
        if outcome.source == Source.default_value:
            answer._value = self._default_value(deployment, answer)
        elif self._n_outputs == 1:
            answer._value = value_of(values[0])
        else:
            answer._value = vector_of(values, self._n_outputs)
        answer._source = <str>SOURCE_NAMES[<Py_ssize_t>outcome.source]
        answer._version = deployment.version
        answer._latency_us = (outcome.ready_ns - outcome.started_ns) / 1e3
        answer._on_time_ready = outcome.ready_ns <= outcome.deadline_ns
        answer._on_time = returned <= outcome.deadline_ns
        answer._id = outcome.id
        return answer

    cdef int _trouble(self, Deployment deployment, int reason) except -1:
        deployment.failures += reason != BREAKER_OPEN
        if deployment.watched:
            return 0
        deployment.watched = True
        if deployment.case is None:
            engine = weakref.ref(self)
            deployment.case = troubles.Case(deployment, lambda: engine() is None or engine().closed,
                                            deployment._unwatched)
        troubles.watcher.watch(deployment.case)
        return 0

    cdef object _default_value(self, Deployment deployment, Answer answer):
        value = deployment.default
        if callable(value):
            try:
                value = checked_default(value(), self._n_outputs)
            except Exception:
                # A default that fails is a model that fails, so it never raises into the caller.
                self._default_errors += 1
                if answer is not None:
                    answer._reason = <str>REASON_NAMES[DEFAULT_ERROR]
                value = math.nan if self._n_outputs == 1 else np.full(self._n_outputs, np.nan)
        return value_of(value) if self._n_outputs == 1 else np.array(value, dtype=np.float64)

    cdef object _answers(self, Deployment deployment, const Outcome* outcomes, uint32_t n, cnp.ndarray values,
                         cnp.ndarray matrix, bint queued, bint synchronous, object missing):
        cdef cnp.ndarray sources = column(n, cnp.NPY_UINT8), reasons = column(n, cnp.NPY_UINT8)
        cdef cnp.ndarray latency = column(n, cnp.NPY_FLOAT64), ids = column(n, cnp.NPY_UINT64)
        cdef cnp.ndarray on_time = column(n, cnp.NPY_BOOL), ready = column(n, cnp.NPY_BOOL)
        cdef uint8_t* source_codes = <uint8_t*>cnp.PyArray_DATA(sources)
        cdef uint8_t* reason_codes = <uint8_t*>cnp.PyArray_DATA(reasons)
        cdef uint8_t* on_time_flags = <uint8_t*>cnp.PyArray_DATA(on_time)
        cdef uint8_t* ready_flags = <uint8_t*>cnp.PyArray_DATA(ready)
        cdef double* latency_us = <double*>cnp.PyArray_DATA(latency)
        cdef uint64_t* id_numbers = <uint64_t*>cnp.PyArray_DATA(ids)
        cdef int64_t returned = now_ns()
        cdef bint any_default = False
        cdef int trouble = -1
        cdef uint32_t i
        for i in range(n):
            source_codes[i] = <uint8_t>outcomes[i].source
            reason_codes[i] = <uint8_t>outcomes[i].reason
            latency_us[i] = (outcomes[i].ready_ns - outcomes[i].started_ns) / 1e3
            on_time_flags[i] = returned <= outcomes[i].deadline_ns
            ready_flags[i] = outcomes[i].ready_ns <= outcomes[i].deadline_ns
            id_numbers[i] = outcomes[i].id
            any_default |= outcomes[i].source == Source.default_value
            if TROUBLES[<int>outcomes[i].reason]:
                trouble = <int>outcomes[i].reason
                deployment.failures += trouble != BREAKER_OPEN
            self.runtime.account(outcomes[i], returned, queued, synchronous)
        if trouble >= 0:
            self._trouble(deployment, BREAKER_OPEN)  # the failures are counted above
        if any_default:
            rows = sources == <int>Source.default_value
            before = self._default_errors
            values[rows] = self._default_value(deployment, None)
            if self._default_errors != before:
                reasons[rows] = DEFAULT_ERROR
        if self._observer is not NULL or self._shadow is not NULL:
            self._show_all(outcomes, n, values, matrix)
        shaped = values[:, 0] if self._n_outputs == 1 else values
        return Answers(shaped, sources, reasons, latency, on_time, ready, ids, deployment.version, missing)

    # The monitor and the shadow

    cdef int _show_all(self, const Outcome* outcomes, uint32_t n, cnp.ndarray values, cnp.ndarray matrix) except -1:
        cdef const double* out = <const double*>cnp.PyArray_DATA(values)
        cdef const char* rows = <const char*>cnp.PyArray_DATA(matrix)
        cdef bint wide = cnp.PyArray_TYPE(matrix) == cnp.NPY_FLOAT64
        cdef size_t row_bytes = self._n_features * (8 if wide else 4)
        cdef const void* row
        cdef uint32_t i
        for i in range(n):
            row = rows + i * row_bytes
            if outcomes[i].deadline_ns <= outcomes[i].started_ns:
                row = NULL  # had expired at the call, so it was never read
            self._show(outcomes[i], wide, row, out + <size_t>i * self._n_outputs)
        return 0

    cdef int _show_one(self, const Outcome& outcome, Answer answer, const void* row, const double* values) except -1:
        cdef cnp.ndarray default
        cdef bint wide = self._deployment_of(outcome.deployment).wide
        if outcome.source != Source.default_value:
            self._show(outcome, wide, row, values)
        else:
            default = np.atleast_1d(np.asarray(answer._value, dtype=np.float64))
            self._show(outcome, wide, row, <const double*>cnp.PyArray_DATA(default))
        return 0

    cdef void _show(self, const Outcome& outcome, bint wide, const void* row, const double* values) noexcept:
        cdef engine_answer shown
        shown.id = outcome.id
        shown.deployment = outcome.deployment
        shown.started_ns = outcome.started_ns
        shown.deadline_ns = outcome.deadline_ns
        shown.ready_ns = outcome.ready_ns
        shown.row = row
        shown.values = values
        shown.n_features = self._n_features
        shown.n_outputs = self._n_outputs
        shown.flags = ENGINE_ANSWER_ROW_FLOAT64 if wide else 0
        shown.source = <uint8_t>outcome.source
        shown.reason = <uint8_t>outcome.reason
        if self._canary is not None and outcome.deployment == self._canary.number:
            shown.flags |= ENGINE_ANSWER_CANARY
        if self._observer is not NULL:
            self._observer.observe(self._observer.ctx, &shown)
        if self._shadow is not NULL:
            self._shadow.offer(shown, outcome.source == Source.primary)

    cdef object _shadow_facts(self):
        if self._shadow is NULL:
            return None
        cdef ShadowCounts counts = self._shadow.counts()
        return {"version": self._shadowed.version, "rows": counts.rows, "dropped": counts.dropped,
                "failed": counts.failed, "compared": counts.compared, "difference_mean": counts.difference_mean,
                "difference_max": counts.difference_max}
