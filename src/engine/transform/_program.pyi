from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np
import numpy.typing as npt

OPS: tuple[str, ...]
OPS_ON_TEXT: frozenset[str]
KINDS: tuple[str, ...]
DATE_PARTS: tuple[str, ...]
ARGUMENTS_MAX: int
RESULTS_MAX: int
CODES_MAX: int

class NativeProgram:
    """Runs a compiled feature program. Immutable; any thread may use it.

    Args:
        inputs: one (name, kind, size) for each input, in order, as `RowReader` takes them.
        n_outputs: float32 values a row.
        steps: one (op, fields) for each step, in order: a name of OPS, and fields of engine::transform::Step by name.
        tables: (UTF-8 keys, values) of each look-up table.
        edges: the rising edges of each bucket step.
        zones: (edges, offsets) of each time zone, in seconds.
        vectors: float32 [rows, width] arrays.
        functions: one (function, argument registers, number of results) for each call. `function.address` is native
            code that lives as long as `function`.
        refuse_missing: True makes an absent key an InputError; False makes it a missing value.
        matches: (keys, values) of each step that matches numbers; the keys rise.

    Raises:
        ProgramError: the steps do not make a program; says why.
    """

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
        matches: Sequence[tuple[Sequence[float], Sequence[float]]] = ...,
    ) -> None: ...
    @property
    def capsule(self) -> Any:
        """The PyCapsule `engine.features.v1` of this program (csrc/include/engine/features.h). Keeps it alive."""
    def row(self, row: Any) -> npt.NDArray[np.float32]:
        """Return the features of one mapping, or of one sequence in input order: a new float32 [n_outputs]."""
    def absent(self, row: Any) -> tuple[str, ...]:
        """Return the names of the inputs that a mapping has no key for, in input order; () for a sequence."""
    def check_keys(self, row: Any, also_known: AbstractSet[Any] | None = None) -> None:
        """Raise InputError unless every key of a mapping names an input, or is in the set `also_known`."""
    def row_json(self, data: Any, parse: Callable[[Any], Any]) -> npt.NDArray[np.float32]:
        """Return the features of one row of JSON: a new float32 [n_outputs].

        `parse` turns the JSON that the quick reader does not take into a row.
        """
    def rows(self, rows: Sequence[Any], out: Any = None) -> npt.NDArray[np.float32]:
        """Return the features of many mappings, or sequences in input order: float32 [n, n_outputs], new or `out`."""
    def batch(
        self, columns: Sequence[Any], n_rows: int, as_float64: bool = False, out: Any = None
    ) -> npt.NDArray[Any]:
        """Return the features of columns: [n_rows, n_outputs], new or `out`.

        Args:
            columns: one Column for each input, in order, all of n_rows rows.
            as_float64: True gives float64, not rounded to float32.
            out: a writable, C-contiguous array of that shape and type; None makes one.
        """

def xxh64(data: bytes, seed: int = 0) -> int:
    """Return the XXH64 of bytes: the hash that `hash`, `cross` and `tokens` are defined by."""
