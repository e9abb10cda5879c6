# Deployments, and the half of an engine that knows them.
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

cimport numpy as cnp

from engine.serving._answers cimport Answer
from engine.serving._scheduler cimport (
    NEVER_NS,
    BreakerLimits,
    Calibration,
    Outcome,
    Request,
    Runtime,
    Shadow,
    engine_features,
    engine_observer,
)
from engine.serving._scheduler cimport Deployment as NativeDeployment

# Looking up online features may take this part of the time that a request has, as a divisor.
cdef enum:
    LOOKUP_DIVISOR = 2


# The instant by which a look-up that begins now must be back.
cdef inline int64_t look_up_until(int64_t now, int64_t deadline_ns) noexcept:
    return min(now + (deadline_ns - now) // LOOKUP_DIVISOR, NEVER_NS)


cdef class Deployment:
    # One version, loaded: immutable once it is made. A request keeps the deployment that it came under.
    cdef NativeDeployment* native            # one reference of it is ours
    cdef readonly uint64_t number            # from 1, unique in the process
    cdef readonly str version
    cdef readonly object parts               # (Model, Model or None, default, features): keeps the models alive
    cdef tuple scorers                       # the capsules of primary and fallback, or None
    cdef object default                      # a float, a float64 array [n_outputs], or a function of nothing
    cdef readonly object columns             # the layout of its rows, an engine.serving.columns.Columns
    cdef tuple names                         # of the layout, where somebody gave them; None for none
    cdef bint plain_names                    # … and no column has categories
    cdef bint strict                         # a key or column that no input has raises
    cdef LostNumbers lost                    # the engine's
    cdef bint looks                          # rows are looked at for numbers that float32 does not hold
    cdef int32_t look_in, looked             # rows until the next look, and looks so far
    cdef uint32_t n_features, n_outputs
    cdef bint wide                           # rows are float64, else float32
    cdef uint32_t row_bytes                  # of one row
    cdef const engine_features* features     # null for rows of numbers; the capsule below owns it
    cdef object features_owner
    cdef readonly object lookup              # fetches online features, or None
    cdef bint lookup_blocks                  # … and waits for a network when it does
    cdef object also_known                   # frozenset of keys that the look-up takes beside the program's inputs
    cdef Calibration calibration
    cdef bint calibrated
    cdef uint64_t failures                   # answers that its models failed to give
    cdef object case                         # for the log, an engine.serving.troubles.Case; None while it never failed
    cdef bint watched                        # … and is with the thread that logs

    # Checks that a feature program fits, and reads rows through it from now on.
    cdef int take_features(self, object features) except -1
    cdef int take_columns(self, object columns) except -1
    # Hot: once per request. Reads one row of the caller's into `row`, which has room for n_features values. Returns how
    # many inputs of a feature program the row has no key for; their names are then absent(missing) at once.
    cdef int read(self, object x, void* row) except -1
    # `missing`, a tuple or None, and the names of the inputs that the row which was just read has no key for.
    cdef tuple absent(self, tuple missing)
    cdef int read_values(self, object x, bint wide, void* row) except -1
    cdef int read_and_look(self, object x, void* row) except -1
    cdef int look_at(self, cnp.ndarray matrix) except -1
    # Raises where the engine refuses unknown keys and the caller's row has some.
    cdef int check_keys(self, object x) except -1
    # Fetches the online features of one request: (the request with them, names of those missing). Moves its asked_ns.
    cdef tuple look_up(self, object x, Request* request)
    # A caller's rows as an object whose length is their number: tables and mappings become arrays or lists of mappings.
    cdef object counted(self, object rows)
    # (rows as a C-contiguous matrix [rows, n_features], and `missing` with the names of absent inputs): a list with one
    # tuple a row, or None. A mapping whose deadline has passed is not read.
    cdef tuple matrix(self, object rows, cnp.ndarray deadlines, int64_t started_ns, list missing)


cdef class LostNumbers:
    # Whether an engine has said that float32 does not hold one of its numbers.
    cdef bint told


cdef class Versions:
    cdef Runtime* runtime                    # null until the engine is opened
    cdef bint _closed
    cdef dict _deployments                   # number -> Deployment, of all that requests may be under way in
    cdef Deployment _current, _previous, _canary
    cdef uint64_t _canary_below              # a point of [0, 2^64) below this goes to the canary
    cdef uint64_t _draws                     # requests without a key so far, while there was a canary
    cdef const engine_observer* _observer    # null without a monitor; the capsule below owns it
    cdef object _observer_owner
    cdef Shadow* _shadow
    cdef Deployment _shadowed
    cdef bint _shadow_wide                   # the shadow reads doubles, so all versions must
    cdef bint _strict                        # unknown keys and columns raise
    cdef LostNumbers _lost
    cdef BreakerLimits _breaker
    cdef size_t _default_errors
    cdef uint32_t _n_features, _n_outputs

    cdef int _take_observer(self, object capsule) except -1
    # The deployment that a request comes under while there is a canary.
    cdef Deployment _route(self, object key, int64_t now)
    cdef Deployment _deployment_of(self, uint64_t number)
    # The Answer to one request, and the Answers to n of them. `returned` is when Python had the outcome.
    # values is read before the call returns, so a slot may be given back after it.
    cdef Answer _answer(self, Deployment deployment, const Outcome& outcome, const double* values, int64_t returned)
    cdef object _answers(self, Deployment deployment, const Outcome* outcomes, uint32_t n, cnp.ndarray values,
                         cnp.ndarray matrix, bint queued, bint synchronous, object missing)
    # Shows one answer to the monitor and offers its row to the shadow. Call it if _observer or _shadow is not null.
    cdef int _show_one(self, const Outcome& outcome, Answer answer, const void* row, const double* values) except -1
    cdef int _show_all(self, const Outcome* outcomes, uint32_t n, cnp.ndarray values, cnp.ndarray matrix) except -1
    cdef void _show(self, const Outcome& outcome, bint wide, const void* row, const double* values) noexcept
    cdef object _default_value(self, Deployment deployment, Answer answer)
    # An answer shows that the primary fails or rests: has it logged, by another thread.
    cdef int _trouble(self, Deployment deployment, int reason) except -1
    cdef int _forget_unused(self) except -1
    # The deployment, or one like it whose rows are doubles, if the shadow reads them.
    cdef Deployment _widened(self, Deployment deployment)
    cdef object _shadow_facts(self)
