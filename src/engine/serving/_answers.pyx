# The answers that callers get: one object a request, or one object of columns for many.
cimport cython
import numpy as np

from engine._common.vocabulary import REASONS, SOURCES


@cython.final
@cython.freelist(256)
cdef class Answer:
    """One answer to one request. Immutable.

    Attributes:
        value: float for a model of one output, float64 array [n_outputs] otherwise.
        source: who answered: "primary", "fallback" or "default".
        reason: why it came from there. "ok": the primary, in time. Otherwise why it was not the primary:
            "late" (predicted at the door not to finish in time), "stalled" (the primary is overdue with earlier work),
            "full" (the queue is at its bound), "timeout" (queued or running when its time was up),
            "released" (dropped from the queue because it could no longer finish in time),
            "shed" (gave way to more important requests), "breaker_open" (the primary has failed so often that it is
            given a rest),
            "expired" (the deadline had passed at the call), "no_time" (too little time even for the fallback),
            "primary_error", "primary_bad_shape", "primary_not_finite" (what the primary did instead of answering),
            "out_of_time" (the primary stopped itself when its time was up),
            "fallback_error" (the fallback was needed and failed too), "default_error" (the default function raised;
            the value is NaN), "closing" (the engine was being closed).
        version: version of the deployment that the request came in under.
        latency_us: from the call to the answer being ready, in microseconds.
        on_time: the answer was back in Python before the deadline.
        on_time_ready: the answer was ready, in native code, before the deadline.
        id: 64-bit number, unique within the process and, but for chance, between processes.
        missing_features: names of the online features that did not come in time or are not known; imputed. () where
            none are looked up.
    """

    @property
    def missing_features(self):
        return () if self.missing is None else self.missing

    def __repr__(self):
        return (f"Answer(value={self.value!r}, source={self.source!r}, reason={self.reason!r}, "
                f"version={self.version!r}, latency_us={self.latency_us:.1f}, on_time={self.on_time}, id={self.id})")


_SOURCE_NAMES = np.array(SOURCES)
_REASON_NAMES = np.array(REASONS)


class Answers:
    """The answers to the rows of one `predict_many`, in the order of the rows, as columns.

    Attributes:
        values: float64 [n], or [n, n_outputs].
        source_codes, reason_codes: uint8 [n], indices into `Answers.SOURCES` and `Answers.REASONS`.
        sources, reasons: the same as arrays of str.
        version: version of the deployment that the call came in under; versions: the same as a list, one a row.
        latency_us: float64 [n], from the call to each answer being ready.
        on_time, on_time_ready: bool [n], as in `Answer`.
        ids: uint64 [n].
        missing_features: list of tuples, one a row, as in `Answer`.
    """

    SOURCES = SOURCES
    REASONS = REASONS
    __slots__ = ("_missing", "ids", "latency_us", "on_time", "on_time_ready", "reason_codes", "source_codes", "values",
                 "version")

    def __init__(self, values, source_codes, reason_codes, latency_us, on_time, on_time_ready, ids, version, missing=None):
        self.values = values
        self.source_codes = source_codes
        self.reason_codes = reason_codes
        self.latency_us = latency_us
        self.on_time = on_time
        self.on_time_ready = on_time_ready
        self.ids = ids
        self.version = version
        self._missing = missing

    @property
    def sources(self):
        return _SOURCE_NAMES[self.source_codes]

    @property
    def reasons(self):
        return _REASON_NAMES[self.reason_codes]

    @property
    def versions(self):
        return [self.version] * len(self)

    @property
    def missing_features(self):
        return [()] * len(self) if self._missing is None else self._missing

    def __len__(self):
        return len(self.source_codes)

    def __repr__(self):
        shares = ", ".join(f"{name}: {int((self.source_codes == code).sum())}" for code, name in enumerate(SOURCES))
        return f"Answers({len(self)} rows, {shares}, on time {int(self.on_time.sum())})"

    @classmethod
    def joined(cls, parts):
        """The answers of several parts of one call, in order."""
        if len(parts) == 1:
            return parts[0]
        columns = (np.concatenate([getattr(part, name) for part in parts])
                   for name in ("values", "source_codes", "reason_codes", "latency_us", "on_time", "on_time_ready",
                                "ids"))
        missing = None
        if any(part._missing is not None for part in parts):
            missing = [names for part in parts for names in part.missing_features]
        return cls(*columns, parts[0].version, missing)
