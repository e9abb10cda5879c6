from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from typing_extensions import CapsuleType

SHADOW: Final[int]
CANARY: Final[int]
LATENCY_UPPER_NS: Final[npt.NDArray[np.int64]]

class Sketch:
    outputs_max: int
    features_max: int
    def __init__(
        self,
        *,
        features_max: int,
        outputs_max: int,
        ring_rows: int = 16384,
        block_rows: int = 50,
        blocks_max: int = 64,
        answers_max: int = 131072,
        sample_rows: int = 0,
        shadow_tolerance: float = 0.01,
        decision_threshold: float = 0.5,
    ) -> None: ...
    @property
    def alive(self) -> bool: ...
    @property
    def n_features(self) -> int: ...
    @property
    def ring_bytes(self) -> int: ...
    @property
    def observer(self) -> CapsuleType: ...
    def set_layout(
        self,
        columns: Iterable[tuple[npt.NDArray[np.float32], npt.NDArray[np.uint16] | None, int]],
        n_features: int,
    ) -> None: ...
    def push(
        self,
        id: int,
        *,
        deployment: int = 0,
        started_ns: int = 0,
        deadline_ns: int = 0,
        ready_ns: int = 0,
        row: npt.NDArray[np.float32] | None = None,
        values: npt.NDArray[np.float64] | None = None,
        source: int = 0,
        reason: int = 0,
        flags: int = 0,
    ) -> bool: ...
    def push_rows(
        self,
        rows: npt.NDArray[np.float32],
        values: npt.NDArray[np.float64],
        first_id: int = 0,
        started_ns: int = 0,
        ready_ns: int = 0,
        deadline_ns: int = 0,
    ) -> int: ...
    def fold_features(self, rows: npt.NDArray[np.float32]) -> None: ...
    def fold_outputs(self, rows: npt.NDArray[np.float64]) -> None: ...
    def drain(self, flush: bool) -> None: ...
    def take(self) -> dict[str, Any] | None: ...
    def wait(self, timeout_s: float) -> None: ...
    def wait_closed(self, timeout_s: float) -> bool: ...
    def totals(self) -> dict[str, Any]: ...
    def deployed(self, deployment: int, version: str) -> None: ...
    def versions(self) -> dict[int, str]: ...
    def find(self, id: int) -> tuple[int, int, int, bool, bool, npt.NDArray[np.float64]] | None: ...
    def label(self, id: int) -> bool: ...
    def sample(self) -> npt.NDArray[np.float32]: ...
    def close(self) -> None: ...
