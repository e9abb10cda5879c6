from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
from typing_extensions import CapsuleType

class ScorerInfo(TypedDict):
    n_features: int
    n_outputs: int
    takes_gil: bool
    reentrant: bool
    native: bool
    float64_rows: bool
    stops: bool

def describe(capsule: CapsuleType) -> ScorerInfo: ...
def score(
    capsule: CapsuleType, rows: Any, threads: int = 1, deadline_ns: int | None = None
) -> npt.NDArray[np.float64]: ...
