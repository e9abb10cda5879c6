from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Any, Final, final, overload

import numpy as np
import numpy.typing as npt

SOURCES: Final[tuple[str, ...]]
REASONS: Final[tuple[str, ...]]

class NotFinite(float, Enum):
    """NaN and the infinities as values of answers: floats in all, and None to encoders that read `Enum.value`.

    JSON has no such numbers. FastAPI's encoder refuses a float that is one, and takes an Enum's value.
    """

    NAN = ...
    INFINITY = ...
    MINUS_INFINITY = ...

@final
class Answer:
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
    @property
    def source(self) -> str:
        """Model that answered: "primary", "fallback" or "default"."""
    @property
    def reason(self) -> str:
        """Why the answer has its source: "ok", or one of the reasons in the documentation of the class."""
    @property
    def version(self) -> str:
        """Name of the version that the request came under."""
    @property
    def latency_us(self) -> float:
        """Microseconds from the call until the answer was ready in native code."""
    @property
    def on_time(self) -> bool:
        """True if the answer was back in Python before the deadline."""
    @property
    def on_time_ready(self) -> bool:
        """True if the answer was ready, in native code, before the deadline."""
    @property
    def id(self) -> int:
        """Number of 64 bits, unique within the process; outcomes are joined to it by a monitor."""
    @property
    def missing_features(self) -> tuple[str, ...]:
        """Names of the inputs that were imputed, because request and online store lacked them; () for none."""

    def as_dict(self) -> dict[str, Any]:
        """Return all attributes as a dict that `json.dumps` takes, in strict JSON too.

        NaN and infinity become None, arrays and tuples lists, and an id beyond 2^53 a str, because many readers of JSON
        would round it.
        """

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

    SOURCES: Final[tuple[str, ...]]
    REASONS: Final[tuple[str, ...]]
    values: npt.NDArray[np.float64]
    source_codes: npt.NDArray[np.uint8]
    reason_codes: npt.NDArray[np.uint8]
    latency_us: npt.NDArray[np.float64]
    on_time: npt.NDArray[np.bool_]
    on_time_ready: npt.NDArray[np.bool_]
    ids: npt.NDArray[np.uint64]
    version: str
    @property
    def sources(self) -> npt.NDArray[np.str_]:
        """Array of n str: "primary", "fallback" or "default"."""
    @property
    def reasons(self) -> npt.NDArray[np.str_]:
        """Array of n str, the reasons of `Answer`."""
    @property
    def versions(self) -> list[str]:
        """List of n times `version`, because one version answers all rows of a call."""
    @property
    def missing_features(self) -> list[tuple[str, ...]]:
        """List of n tuples: names of the inputs that were imputed in each row; () for none."""
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Answer]: ...
    @overload
    def __getitem__(self, key: int) -> Answer: ...
    @overload
    def __getitem__(self, key: slice) -> Answers: ...
    def as_dict(self) -> dict[str, Any]:
        """Return the columns as a dict of lists that `json.dumps` takes, with values and ids as in `Answer.as_dict`."""
    @classmethod
    def joined(cls, parts: Sequence[Answers]) -> Answers:
        """Join the answers to several parts of one call, given in order; at least one."""
