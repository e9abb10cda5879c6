from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import CapsuleType

class Forest:
    def __init__(
        self,
        *,
        n_features: int,
        n_outputs: int,
        float32_rows: bool,
        root: npt.ArrayLike,
        output: npt.ArrayLike,
        feature: npt.ArrayLike,
        threshold: npt.ArrayLike,
        left: npt.ArrayLike,
        right: npt.ArrayLike,
        rule: npt.ArrayLike,
        leaf: npt.ArrayLike,
        set_begin: npt.ArrayLike,
        set_words: npt.ArrayLike,
        base: npt.ArrayLike,
        scale: float,
        link: int,
        link_parameter: float,
    ) -> None: ...
    @property
    def scorer(self) -> CapsuleType: ...
    @property
    def layouts(self) -> list[str]: ...
    def describe(self) -> dict[str, Any]: ...
    def score_by(self, layout: str, rows: npt.ArrayLike) -> npt.NDArray[np.float64]: ...

def instruction_sets() -> tuple[str, str]: ...
