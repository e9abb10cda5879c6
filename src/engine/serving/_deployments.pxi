# What an engine serves from: deployments, their names, and the answers that carry them. Included by _runtime.pyx.

# Counts the deployments of every engine of the process: engines that share a monitor are told apart by the number.
cdef uint64_t _last_deployment = 0
# So that a canary's side of the keys is not the side of somebody else's experiment by the same hash.
cdef uint64_t CANARY_SALT = key_hash(b"canary", 6, 0)


@cython.final
cdef class _Served:
    # One deployment and what Python has to say about it. Requests under way hold on to the one they came under.
    cdef Deployment* native
    cdef readonly uint64_t number
    cdef readonly str version
    cdef readonly object parts               # what the serving room wants to remember; keeps the models alive
    cdef object default                      # value, or a function of nothing
    cdef const engine_features* features     # null for rows of numbers
    cdef object features_owner
    cdef readonly object lookup              # fetches online features, or None
    cdef bint lookup_blocks
    cdef Calibration calibration
    cdef bint calibrated

    def __dealloc__(self):
        if self.native is not NULL:
            self.native.release()


cdef class _Deployments:
    # The half of CoreEngine that knows versions.
    cdef Runtime* runtime
    cdef dict _served           # number -> _Served, of all that requests may be under way in
    cdef _Served _current, _previous, _canary
    cdef uint64_t _canary_below, _draws
    cdef const engine_observer* _observer
    cdef object _observer_owner
    cdef Shadow* _shadow
    cdef _Served _shadowed
    cdef BreakerLimits _breaker
    cdef size_t _default_errors
    cdef readonly uint32_t n_features
    cdef readonly uint32_t n_outputs
    cdef bint _wide
    cdef uint32_t _row_bytes

    cdef int _take_observer(self, object capsule) except -1:
        self._observer_owner = capsule
        if capsule is None:
            return 0
        if not PyCapsule_IsValid(capsule, ENGINE_OBSERVER_CAPSULE):
            raise ConfigError(f"a monitor must offer a PyCapsule named '{ENGINE_OBSERVER_CAPSULE.decode()}' as its "
                              f"observer, got {type(capsule).__name__}")
        self._observer = <const engine_observer*>PyCapsule_GetPointer(capsule, ENGINE_OBSERVER_CAPSULE)
        if self._observer.abi != ENGINE_OBSERVER_ABI:
            raise ConfigError(f"observer ABI {self._observer.abi} is not the one this build speaks, "
                              f"{ENGINE_OBSERVER_ABI}")
        if self._observer.n_features not in (0, self.n_features):
            raise ConfigError(f"the monitor watches rows of {self._observer.n_features} features, the primary takes "
                              f"{self.n_features}")
        return 0

    def _prepare(self, primary, fallback, default, str version, features, parts):
        """A deployment that is not served from yet. primary and fallback are scorer capsules (fallback may be None),
        features an object with an `engine.features.v1` capsule, or None."""
        cdef const engine_scorer* scorer = scorer_from_capsule(primary)
        cdef const engine_scorer* second = NULL
        if fallback is not None:
            second = scorer_from_capsule(fallback)
        if scorer.n_features != self.n_features or scorer.n_outputs != self.n_outputs:
            raise ConfigError(f"the new primary takes {scorer.n_features} features and gives {scorer.n_outputs} "
                              f"outputs; this engine serves {self.n_features} and {self.n_outputs}")
        cdef _Served served = _Served.__new__(_Served)
        self._give_features(served, features)
        global _last_deployment
        _last_deployment += 1
        served.number = _last_deployment
        served.version, served.default, served.parts = version, default, parts
        served.native = new Deployment(scorer[0], second, self._wide, served.number, self._breaker)
        if self._observer is not NULL:
            self._observer.deployed(self._observer.ctx, served.number, version.encode())
        return served

    cdef int _give_features(self, _Served served, object features) except -1:
        if features is None:
            return 0
        if self._wide:
            raise ConfigError("this engine was opened without features and reads float64 rows: open another one")
        capsule = features.capsule
        if not PyCapsule_IsValid(capsule, ENGINE_FEATURES_CAPSULE):
            raise ConfigError(f"features must offer a PyCapsule named '{ENGINE_FEATURES_CAPSULE.decode()}'")
        served.features = <const engine_features*>PyCapsule_GetPointer(capsule, ENGINE_FEATURES_CAPSULE)
        served.features_owner = capsule
        if served.features.abi != ENGINE_FEATURES_ABI:
            raise ConfigError(f"features ABI {served.features.abi} is not the one this build speaks, "
                              f"{ENGINE_FEATURES_ABI}")
        if served.features.n_features != self.n_features:
            raise ConfigError(f"the feature program makes {served.features.n_features} columns and the primary takes "
                              f"{self.n_features}")
        if hasattr(features, "fetch"):
            served.lookup = features
            served.lookup_blocks = bool(getattr(features, "blocking", False))
        return 0

    def _measure(self, _Served served, rows):
        """Measures the deployment's primary on this thread, batch by batch, and its fallback. False where it failed."""
        cdef cnp.ndarray matrix = read_matrix(rows, self.n_features, self._wide)
        cdef uint32_t n = matrix.shape[0]
        cdef void* data = cnp.PyArray_DATA(matrix)
        with nogil:
            served.calibration = self.runtime.calibrate(served.native[0], data, n)
            if not served.calibration.failed:
                self.runtime.time_fallback(served.native[0], data, n)
        served.calibrated = not served.calibration.failed
        return served.calibrated

    def _install(self, _Served served):
        """New requests come under `served` from now on. Returns the expected microseconds of one row, 0.0 where it was
        never measured."""
        cdef int64_t one = 0
        if served.calibrated:
            with nogil:
                one = self.runtime.adopt(served.calibration)
        self.runtime.set_overlaps(served.native.overlaps())
        self._served[served.number] = served
        if self._current is not served:
            self._previous, self._current = self._current, served
        self._forget_unused()
        return one / 1e3

    # What nobody is being served from any more can go: our own reference is then the only one.
    cdef int _forget_unused(self) except -1:
        for number, old in list(self._served.items()):
            if (old is not self._current and old is not self._previous and old is not self._canary
                    and (<_Served>old).native.references() == 1):
                del self._served[number]
        return 0

    def _roll_back(self):
        if self._previous is None:
            raise ConfigError(f"there is no version before {self._current.version!r} to go back to")
        self._install(self._previous)
        return self._current

    def _set_canary(self, _Served served, double share):
        """This share of requests, by key where they have one, comes under `served`; None ends it."""
        if served is not None:
            self._served[served.number] = served
            self._canary_below = <uint64_t>min(share * 2.0**64, 2.0**64 - 2048)
        self._canary = served
        self._forget_unused()

    def _set_shadow(self, _Served served, uint32_t rows_max):
        """Rows of all requests are offered to `served` too; None ends it."""
        cdef Shadow* before = self._shadow
        cdef bint ended
        self._shadow = NULL
        if before is not NULL:
            with nogil:
                ended = before.close(1_000_000_000)
            if ended:
                del before
        self._shadowed = served
        if served is not None:
            self._shadow = new Shadow(served.native, self._observer, rows_max)

    @property
    def version(self):
        """Version of the deployment that new requests go to."""
        return self._current.version

    def _serving(self):
        """The deployment that new requests come under, and the one before it or None."""
        return self._current, self._previous

    def _versions(self):
        """The deployments that are still held, by number."""
        return {number: served.version for number, served in self._served.items()}

    # Hot only while there is a canary. The same key falls on the same side for as long as the share stays.
    cdef _Served _route(self, object key, int64_t now):
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

    cdef _Served _served_of(self, uint64_t number):
        if self._current.number == number:
            return self._current
        return <_Served>self._served[number]

    # Answers

    cdef Answer _answer(self, _Served served, const Outcome& outcome, const double* values, int64_t returned):
        cdef Answer answer = Answer.__new__(Answer)
        answer.reason = <str>REASON_NAMES[<Py_ssize_t>outcome.reason]
        if outcome.source == Source.default_value:
            answer.value = self._default_value(served, answer)
        elif self.n_outputs == 1:
            answer.value = values[0]
        else:
            answer.value = vector_of(values, self.n_outputs)
        answer.source = <str>SOURCE_NAMES[<Py_ssize_t>outcome.source]
        answer.version = served.version
        answer.latency_us = (outcome.ready_ns - outcome.started_ns) / 1e3
        answer.on_time_ready = outcome.ready_ns <= outcome.deadline_ns
        answer.on_time = returned <= outcome.deadline_ns
        answer.id = outcome.id
        return answer

    cdef object _default_value(self, _Served served, Answer answer):
        value = served.default
        if callable(value):
            try:
                value = checked_default(value(), self.n_outputs)
            except Exception:
                # A default that fails is a model that fails: it never raises into the caller.
                self._default_errors += 1
                if answer is not None:
                    answer.reason = DEFAULT_ERROR
                value = math.nan if self.n_outputs == 1 else np.full(self.n_outputs, np.nan)
        return value if self.n_outputs == 1 else np.array(value, dtype=np.float64)

    cdef object _answers(self, _Served served, const Outcome* outcomes, uint32_t n, cnp.ndarray values,
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
        cdef uint32_t i
        for i in range(n):
            source_codes[i] = <uint8_t>outcomes[i].source
            reason_codes[i] = <uint8_t>outcomes[i].reason
            latency_us[i] = (outcomes[i].ready_ns - outcomes[i].started_ns) / 1e3
            on_time_flags[i] = returned <= outcomes[i].deadline_ns
            ready_flags[i] = outcomes[i].ready_ns <= outcomes[i].deadline_ns
            id_numbers[i] = outcomes[i].id
            any_default |= outcomes[i].source == Source.default_value
            self.runtime.account(outcomes[i], returned, queued, synchronous)
        if any_default:
            rows = sources == <int>Source.default_value
            before = self._default_errors
            values[rows] = self._default_value(served, None)
            if self._default_errors != before:
                reasons[rows] = REASON_NAMES.index(DEFAULT_ERROR)
        if self._observer is not NULL or self._shadow is not NULL:
            self._show_all(outcomes, n, values, matrix)
        shaped = values[:, 0] if self.n_outputs == 1 else values
        return Answers(shaped, sources, reasons, latency, on_time, ready, ids, served.version, missing)

    # The monitor and the shadow

    cdef int _show_all(self, const Outcome* outcomes, uint32_t n, cnp.ndarray values, cnp.ndarray matrix) except -1:
        cdef const double* out = <const double*>cnp.PyArray_DATA(values)
        cdef const char* rows = <const char*>cnp.PyArray_DATA(matrix)
        cdef const void* row
        cdef uint32_t i
        for i in range(n):
            row = rows + <size_t>i * self._row_bytes
            if outcomes[i].deadline_ns <= outcomes[i].started_ns:
                row = NULL  # what had expired when the call came was never read
            self._show(outcomes[i], row, out + <size_t>i * self.n_outputs)
        return 0

    cdef int _show_one(self, const Outcome& outcome, Answer answer, const void* row, const double* values) except -1:
        cdef cnp.ndarray default
        if outcome.source != Source.default_value:
            self._show(outcome, row, values)
        else:
            default = np.atleast_1d(np.asarray(answer.value, dtype=np.float64))
            self._show(outcome, row, <const double*>cnp.PyArray_DATA(default))
        return 0

    cdef void _show(self, const Outcome& outcome, const void* row, const double* values) noexcept:
        cdef engine_answer shown
        shown.id = outcome.id
        shown.deployment = outcome.deployment
        shown.started_ns = outcome.started_ns
        shown.deadline_ns = outcome.deadline_ns
        shown.ready_ns = outcome.ready_ns
        shown.row = row
        shown.values = values
        shown.n_features = self.n_features
        shown.n_outputs = self.n_outputs
        shown.flags = ENGINE_ANSWER_ROW_FLOAT64 if self._wide else 0
        shown.source = <uint8_t>outcome.source
        shown.reason = <uint8_t>outcome.reason
        if self._canary is not None and outcome.deployment == self._canary.number:
            shown.flags |= ENGINE_ANSWER_CANARY
        if self._observer is not NULL:
            self._observer.observe(self._observer.ctx, &shown)
        if self._shadow is not NULL:
            self._shadow.offer(shown, outcome.source == Source.primary)
