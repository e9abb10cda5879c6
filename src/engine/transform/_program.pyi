from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

OPS: tuple[str, ...]
KINDS: tuple[str, ...]

class NativeProgram:
    capsule: Any
    def __init__(
        self,
        inputs: Sequence[tuple[str, str, int]],
        n_outputs: int,
        steps: Sequence[tuple[str, dict[str, float]]],
        tables: Sequence[tuple[Sequence[bytes], Sequence[float]]],
        edges: Sequence[Sequence[float]],
        zones: Sequence[tuple[Sequence[float], Sequence[float]]],
        vectors: Sequence[npt.NDArray[np.float32]],
        functions: Sequence[tuple[Any, Sequence[int], int]],
        refuse_missing: bool,
    ) -> None: ...
    def row(self, row: Any) -> npt.NDArray[np.float32]: ...
    def row_json(self, data: Any, parse: Callable[[Any], Any]) -> npt.NDArray[np.float32]: ...
    def rows(self, rows: Sequence[Any], out: Any = None) -> npt.NDArray[np.float32]: ...
    def batch(
        self, columns: Sequence[Any], n_rows: int, as_float64: bool = False, out: Any = None
    ) -> npt.NDArray[Any]: ...

def xxh64(data: bytes, seed: int = 0) -> int: ...
