from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import CapsuleType

from engine.core._answer import Answer, Answers

Row = Mapping[str, Any] | Sequence[float] | npt.NDArray[Any]
Rows = npt.ArrayLike | Sequence[Mapping[str, Any]]
Deadlines = float | Sequence[float] | npt.NDArray[Any] | None
Instants = int | Sequence[int] | npt.NDArray[np.int64] | None

class CoreEngine:
    closed: bool
    n_features: int
    n_outputs: int
    @property
    def lane(self) -> str: ...
    @property
    def version(self) -> str: ...
    def predict(
        self, x: Row, deadline_ms: float | None = None, *, deadline_ns: int | None = None
    ) -> Answer: ...
    def predict_many(
        self, rows: Rows, deadline_ms: Deadlines = None, *, deadline_ns: Instants = None
    ) -> Answers: ...
    def predict_async(
        self, x: Row, deadline_ms: float | None = None, *, deadline_ns: int | None = None
    ) -> Awaitable[Answer]: ...
    def close(self, timeout_s: float = 1.0) -> None: ...
    def _open(
        self,
        primary: CapsuleType,
        fallback: CapsuleType | None,
        default: float | npt.NDArray[np.float64] | Callable[[], Any],
        version: str,
        features: CapsuleType | None,
        warm_rows: npt.ArrayLike,
        budget_ns: int,
        limits: dict[str, Any],
    ) -> None: ...
    def _calibrate(self) -> float: ...
    def _choose_lane(self, inline: bool, auto: bool) -> None: ...
    def _warmed_up(self) -> bool: ...
    def _swap(
        self,
        primary: CapsuleType,
        fallback: CapsuleType | None,
        default: float | npt.NDArray[np.float64] | Callable[[], Any],
        version: str,
    ) -> None: ...
    def _many_parts(
        self, rows: Rows, deadline_ms: Deadlines, deadline_ns: Instants
    ) -> list[Callable[[], Answers | Awaitable[Answers]]]: ...
    def _versions(self) -> dict[int, str]: ...
    def _statistics(self) -> dict[str, Any]: ...
