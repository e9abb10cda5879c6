# cython: annotation_typing=False
"""The answers that callers get: one object for one request, one object of columns for many."""
cimport cython
from libc.math cimport isfinite, isnan

import math
from enum import Enum

import numpy as np

from engine._common.vocabulary import REASONS, SOURCES


cdef int64_t EXACT_IN_JSON = 2**53  # JavaScript, and much that reads JSON, rounds integers beyond it


class NotFinite(float, Enum):
    """NaN and the infinities as values of answers: floats in all, and None to encoders that read `Enum.value`.

    JSON has no such numbers. FastAPI's encoder refuses a float that is one, and takes an Enum's value.
    """

    NAN = math.nan
    INFINITY = math.inf
    MINUS_INFINITY = -math.inf

    def __reduce_ex__(self, protocol):
        return float, (str(self),)

    __repr__, __str__, __format__, __hash__ = float.__repr__, float.__repr__, float.__format__, float.__hash__


for _each in NotFinite:  # afterwards, because members of one value would be one member
    _each._value_ = None
cdef object NO_NUMBER = NotFinite.__members__["NAN"]
cdef object ABOVE_ALL = NotFinite.__members__["INFINITY"]
cdef object BELOW_ALL = NotFinite.__members__["MINUS_INFINITY"]


cdef object value_of(double number):
    if isfinite(number):
        return number
    return NO_NUMBER if isnan(number) else ABOVE_ALL if number > 0 else BELOW_ALL


def _plain(value):
    """A number or an array as JSON takes it: None for NaN and infinity, lists for arrays."""
    if isinstance(value, np.ndarray):
        return [_plain(each) for each in value.tolist()]
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return float(value) if math.isfinite(value) else None


def _plain_id(number):
    return number if number <= EXACT_IN_JSON else str(number)


def _schema(cls):
    from pydantic_core import core_schema

    return core_schema.is_instance_schema(
        cls, serialization=core_schema.plain_serializer_function_ser_schema(lambda answer: answer.as_dict()))


def _restored(value, source, reason, version, latency_us, on_time, on_time_ready, id, missing):
    cdef Answer answer = Answer.__new__(Answer)
    answer._value = value if isinstance(value, np.ndarray) else value_of(value)
    answer._source, answer._reason, answer._version = source, reason, version
    answer._latency_us, answer._on_time, answer._on_time_ready = latency_us, on_time, on_time_ready
    answer._id, answer.missing = id, missing or None
    return answer


@cython.final
@cython.freelist(256)
cdef class Answer:
    """One answer to one request. Immutable, and made by an engine only.

    Attributes:
        value: float for a model of one output, float64 array [n_outputs] otherwise.
        source: "primary", "fallback" or "default".
        reason: "ok" if the primary answered in time. Any other reason says why it did not:

            - "late": at admission, the primary was expected to finish after the deadline.
            - "stalled": the primary is overdue with earlier work.
            - "full": queue_rows_max requests are in the batch lane already.
            - "timeout": the request was queued or running when its time was up.
            - "released": dropped from the queue, because it could no longer finish in time.
            - "shed": dropped from the queue, because more important requests needed its place.
            - "breaker_open": the primary failed so often that it gets no requests for a while.
            - "expired": the deadline had passed at the call.
            - "no_time": too little time was left even for the fallback.
            - "primary_error": the primary raised an exception or returned an error.
            - "primary_bad_shape": the primary returned an array of another shape.
            - "primary_not_finite": the primary returned NaN or infinity.
            - "out_of_time": the primary stopped itself when its time was up.
            - "fallback_error": the fallback was needed and failed too.
            - "default_error": the default is a function and raised; the value is NaN.
            - "closing": the engine was being closed.
        version: name of the version that the request came under.
        latency_us: microseconds from the call until the answer was ready.
        on_time: the answer was back in Python before the deadline.
        on_time_ready: the answer was ready, in native code, before the deadline.
        id: number of 64 bits. Unique within the process; equal numbers from two processes are all but impossible.
        missing_features: names of a feature program's inputs that were imputed, because the request had no key for
            them, or because the online store did not know them or was too late; () for none. A key whose value is None
            or NaN is there.
    """

    @property
    def value(self) -> float:
        """The prediction: a float for a model of one output, a float64 array [n_outputs] otherwise."""
        return self._value

    @property
    def source(self) -> str:
        """Model that answered: "primary", "fallback" or "default"."""
        return self._source

    @property
    def reason(self) -> str:
        """Why the answer has its source: "ok", or one of the reasons in the documentation of the class."""
        return self._reason

    @property
    def version(self) -> str:
        """Name of the version that the request came under."""
        return self._version

    @property
    def latency_us(self) -> float:
        """Microseconds from the call until the answer was ready in native code."""
        return self._latency_us

    @property
    def on_time(self) -> bool:
        """True if the answer was back in Python before the deadline."""
        return self._on_time

    @property
    def on_time_ready(self) -> bool:
        """True if the answer was ready, in native code, before the deadline."""
        return self._on_time_ready

    @property
    def id(self) -> int:
        """Number of 64 bits, unique within the process; outcomes are joined to it by a monitor."""
        return self._id

    @property
    def missing_features(self) -> tuple[str, ...]:
        """Names of the inputs that were imputed, because request and online store lacked them; () for none."""
        return () if self.missing is None else self.missing

    def as_dict(self) -> dict[str, object]:
        """Return all attributes as a dict that `json.dumps` takes, in strict JSON too.

        NaN and infinity become None, arrays and tuples lists, and an id beyond 2^53 a str, because many readers of JSON
        would round it.
        """
        return {
            "value": _plain(self._value),
            "source": self._source,
            "reason": self._reason,
            "version": self._version,
            "latency_us": self._latency_us,
            "on_time": self._on_time,
            "on_time_ready": self._on_time_ready,
            "id": _plain_id(self._id),
            "missing_features": list(self.missing_features),
        }

    # FastAPI takes an object that it does not know as its __dict__.
    def __getattr__(self, name):
        if name == "__dict__":
            return self.as_dict()
        raise AttributeError(f"'Answer' object has no attribute {name!r}")

    @classmethod
    def __get_pydantic_core_schema__(cls, source, handler):
        return _schema(cls)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema, handler):
        one = {"anyOf": [{"type": "number"}, {"type": "null"}]}
        text, yes = {"type": "string"}, {"type": "boolean"}
        return {
            "title": "Answer",
            "type": "object",
            "properties": {
                "value": {"anyOf": [*one["anyOf"], {"type": "array", "items": one}]},
                "source": {"enum": list(SOURCES)},
                "reason": {"enum": list(REASONS)},
                "version": text,
                "latency_us": {"type": "number"},
                "on_time": yes,
                "on_time_ready": yes,
                "id": {"anyOf": [{"type": "integer"}, text]},
                "missing_features": {"type": "array", "items": text},
            },
        }

    def __reduce__(self):
        return _restored, (self._value, self._source, self._reason, self._version, self._latency_us, self._on_time,
                           self._on_time_ready, self._id, self.missing)

    def __repr__(self) -> str:
        missing = f", missing_features={self.missing!r}" if self.missing else ""
        return (f"Answer(value={self.value!r}, source={self.source!r}, reason={self.reason!r}, "
                f"version={self.version!r}, latency_us={self.latency_us:.1f}, on_time={self.on_time}, id={self.id}"
                f"{missing})")


cdef tuple COLUMNS = ("values", "source_codes", "reason_codes", "latency_us", "on_time", "on_time_ready", "ids")
_SOURCE_NAMES = np.array(SOURCES)
_REASON_NAMES = np.array(REASONS)


class Answers:
    """The answers to the n rows of one `predict_many`, in the order of the rows, as columns.

    `len(answers)` is n, `answers[i]` an `Answer`, `answers[i:j]` Answers, and a loop over it gives Answers one by one.
    Made by an engine only; the arrays belong to the caller.

    Attributes:
        values: float64 [n], or [n, n_outputs] for a model of several outputs.
        source_codes, reason_codes: uint8 [n], indices into `Answers.SOURCES` and `Answers.REASONS`.
        sources, reasons: the same as arrays of str.
        version: name of the version that the call came under.
        versions: the same as a list of n names.
        latency_us: float64 [n], microseconds from the call until each answer was ready.
        on_time, on_time_ready: bool [n], as in `Answer`.
        ids: uint64 [n], as in `Answer`.
        missing_features: list of n tuples of names, as in `Answer`.
    """

    SOURCES = SOURCES
    REASONS = REASONS
    __slots__ = {
        "values": "float64 [n], or [n, n_outputs] for a model of several outputs.",
        "source_codes": "uint8 [n], indices into `Answers.SOURCES`.",
        "reason_codes": "uint8 [n], indices into `Answers.REASONS`.",
        "latency_us": "float64 [n], microseconds from the call until each answer was ready in native code.",
        "on_time": "bool [n], True where the answer was back in Python before its deadline.",
        "on_time_ready": "bool [n], True where the answer was ready, in native code, before its deadline.",
        "ids": "uint64 [n], unique within the process.",
        "version": "Name of the version that the call came under.",
        "_missing": "List of n tuples of names, or None.",
    }

    def __init__(self, values, source_codes, reason_codes, latency_us, on_time, on_time_ready, ids, version,
                 missing=None):
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
        """Array of n str: "primary", "fallback" or "default"."""
        return _SOURCE_NAMES[self.source_codes]

    @property
    def reasons(self):
        """Array of n str, the reasons of `Answer`."""
        return _REASON_NAMES[self.reason_codes]

    @property
    def versions(self):
        """List of n times `version`, because one version answers all rows of a call."""
        return [self.version] * len(self)

    @property
    def missing_features(self):
        """List of n tuples: names of the inputs that were imputed in each row; () for none."""
        return [()] * len(self) if self._missing is None else self._missing

    def __len__(self):
        return len(self.source_codes)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key):
        if isinstance(key, slice):
            columns = (getattr(self, name)[key] for name in COLUMNS)
            return Answers(*columns, self.version, self._missing and self._missing[key])
        at = range(len(self))[key]  # IndexError, and what counts from the end
        value = self.values[at]
        return _restored(
            value.copy() if self.values.ndim > 1 else float(value), SOURCES[self.source_codes[at]],
            REASONS[self.reason_codes[at]], self.version, float(self.latency_us[at]), bool(self.on_time[at]),
            bool(self.on_time_ready[at]), int(self.ids[at]), self._missing and self._missing[at])

    def as_dict(self):
        """Return the columns as a dict of lists that `json.dumps` takes, with values and ids as in `Answer.as_dict`."""
        return {
            "values": _plain(self.values),
            "sources": self.sources.tolist(),
            "reasons": self.reasons.tolist(),
            "version": self.version,
            "latency_us": self.latency_us.tolist(),
            "on_time": self.on_time.tolist(),
            "on_time_ready": self.on_time_ready.tolist(),
            "ids": [_plain_id(number) for number in self.ids.tolist()],
            "missing_features": [list(names) for names in self.missing_features],
        }

    def __getattr__(self, name):
        if name == "__dict__":
            return self.as_dict()
        raise AttributeError(f"'Answers' object has no attribute {name!r}")

    @classmethod
    def __get_pydantic_core_schema__(cls, source, handler):
        return _schema(cls)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema, handler):
        return {"title": "Answers", "type": "object"}

    def __reduce__(self):
        return Answers, (*(getattr(self, name) for name in COLUMNS), self.version, self._missing)

    def __repr__(self):
        shares = ", ".join(f"{name}: {int((self.source_codes == code).sum())}" for code, name in enumerate(SOURCES))
        return f"Answers({len(self)} rows, {shares}, on time {int(self.on_time.sum())})"

    @classmethod
    def joined(cls, parts):
        """Join the answers to several parts of one call, given in order; at least one."""
        if len(parts) == 1:
            return parts[0]
        columns = (np.concatenate([getattr(part, name) for part in parts]) for name in COLUMNS)
        missing = None
        if any(part._missing is not None for part in parts):
            missing = [names for part in parts for names in part.missing_features]
        return cls(*columns, parts[0].version, missing)
