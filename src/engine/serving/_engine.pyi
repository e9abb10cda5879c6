from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import CapsuleType

from engine.serving._answers import Answer, Answers

Row = Mapping[str, Any] | Sequence[float] | npt.NDArray[Any]
Rows = npt.ArrayLike | Sequence[Mapping[str, Any]]
Deadlines = float | Sequence[float] | npt.NDArray[Any] | None
Instants = int | Sequence[int] | npt.NDArray[np.int64] | None

class _Served:
    """One deployment, opaque but for what it is called."""

    number: int
    version: str
    parts: Any
    lookup: Any

class CoreExecutors:
    threads: int
    closed: bool
    @property
    def replaced(self) -> int: ...
    def _make(
        self, threads: int, spin: bool, realtime_priority: int | None, cpus: list[int] | None
    ) -> None: ...
    def close(self) -> None: ...

def remaining_ms() -> float | None: ...

class CoreEngine:
    closed: bool
    n_features: int
    n_outputs: int
    @property
    def lane(self) -> str: ...
    @property
    def version(self) -> str: ...
    def predict(
        self,
        x: Row,
        deadline_ms: float | None = None,
        *,
        deadline_ns: int | None = None,
        priority: str | None = None,
        hedge: bool = False,
        key: object = None,
    ) -> Answer: ...
    def predict_many(
        self,
        rows: Rows,
        deadline_ms: Deadlines = None,
        *,
        deadline_ns: Instants = None,
        priority: str | None = None,
        key: object = None,
    ) -> Answers: ...
    def predict_async(
        self,
        x: Row,
        deadline_ms: float | None = None,
        *,
        deadline_ns: int | None = None,
        priority: str | None = None,
        hedge: bool = False,
        key: object = None,
    ) -> Awaitable[Answer]: ...
    def close(self, timeout_s: float = 1.0) -> None: ...
    def _open(
        self,
        primary: CapsuleType,
        fallback: CapsuleType | None,
        default: float | npt.NDArray[np.float64] | Callable[[], Any],
        version: str,
        features: Any,
        parts: Any,
        warm_rows: npt.ArrayLike,
        budget_ns: int,
        limits: dict[str, Any],
    ) -> None: ...
    def _calibrate(self) -> float: ...
    def _choose_lane(self, inline: bool, auto: bool) -> None: ...
    def _warmed_up(self) -> bool: ...
    def _require_open(self) -> None: ...
    def _prepare(
        self,
        primary: CapsuleType,
        fallback: CapsuleType | None,
        default: float | npt.NDArray[np.float64] | Callable[[], Any],
        version: str,
        features: Any,
        parts: Any,
    ) -> _Served: ...
    def _measure(self, served: _Served, rows: npt.ArrayLike) -> bool: ...
    def _install(self, served: _Served) -> float: ...
    def _roll_back(self) -> _Served: ...
    def _set_canary(self, served: _Served | None, share: float) -> None: ...
    def _set_shadow(self, served: _Served | None, rows_max: int) -> None: ...
    def _serving(self) -> tuple[_Served, _Served | None]: ...
    def _read_rows(self, served: _Served, rows: Sequence[Mapping[str, Any]]) -> npt.NDArray[Any]: ...
    def _looked_up(
        self, served: _Served, rows: Any, deadlines: npt.NDArray[np.int64], started: int
    ) -> tuple[list[Any], list[tuple[str, ...]]]: ...
    async def _many_parts(
        self, rows: Rows, deadline_ms: Deadlines, deadline_ns: Instants, priority: str | None, key: object
    ) -> list[Callable[[], Answers | Awaitable[Answers]]]: ...
    def _versions(self) -> dict[int, str]: ...
    def _statistics(self) -> dict[str, Any]: ...
