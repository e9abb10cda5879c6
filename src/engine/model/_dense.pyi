from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from typing_extensions import CapsuleType

class Dense:
    def __init__(
        self,
        layers: Iterable[tuple[npt.ArrayLike, npt.ArrayLike, int]],
        *,
        float32: bool,
        missing_zero: bool = False,
    ) -> None: ...
    @property
    def scorer(self) -> CapsuleType: ...
    def score_by(self, instruction_set: str, rows: npt.ArrayLike) -> npt.NDArray[np.float64]: ...
