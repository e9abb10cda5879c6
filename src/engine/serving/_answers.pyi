from collections.abc import Sequence
from typing import Final, final

import numpy as np
import numpy.typing as npt

SOURCES: Final[tuple[str, ...]]
REASONS: Final[tuple[str, ...]]

@final
class Answer:
    @property
    def value(self) -> float: ...
    @property
    def source(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def latency_us(self) -> float: ...
    @property
    def on_time(self) -> bool: ...
    @property
    def on_time_ready(self) -> bool: ...
    @property
    def id(self) -> int: ...
    @property
    def missing_features(self) -> tuple[str, ...]: ...

class Answers:
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
    def sources(self) -> npt.NDArray[np.str_]: ...
    @property
    def reasons(self) -> npt.NDArray[np.str_]: ...
    @property
    def versions(self) -> list[str]: ...
    @property
    def missing_features(self) -> list[tuple[str, ...]]: ...
    def __len__(self) -> int: ...
    @classmethod
    def joined(cls, parts: Sequence[Answers]) -> Answers: ...
