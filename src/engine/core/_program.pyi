from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

OPS: tuple[str, ...]

class TextColumn:
    def __len__(self) -> int: ...

class NativeProgram:
    capsule: Any
    def __init__(
        self,
        inputs: Sequence[tuple[str, bool]],
        n_outputs: int,
        steps: Sequence[tuple[str, dict[str, float]]],
        tables: Sequence[tuple[Sequence[bytes], Sequence[float]]],
        edges: Sequence[Sequence[float]],
        refuse_missing: bool,
    ) -> None: ...
    def row(self, row: Any) -> npt.NDArray[np.float32]: ...
    def batch(self, columns: Sequence[Any], n_rows: int, as_float64: bool = False) -> npt.NDArray[Any]: ...

def number_column(values: Sequence[Any], name: str) -> npt.NDArray[np.float64]: ...
def text_column(values: Sequence[Any], name: str) -> TextColumn: ...
def text_values(values: Sequence[Any], name: str) -> list[str | None]: ...
def xxh64(data: bytes, seed: int = 0) -> int: ...
