from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from typing_extensions import CapsuleType

class Dense:
    """A dense net in native memory, copied from arrays.

    Args:
        layers: (weights float64 [n_in, n_out], bias float64 [n_out], activation number) of each layer, in order. The
            numbers are those of `engine.model.dense.ACTIVATIONS`.
        float32: compute in float32; False: in double.
        missing_zero: read rows in float32, and NaN as 0; for a net in double alone.

    Raises:
        ModelFormatError: the shapes or values make no net; the message names the layer.
    """
    def __init__(
        self,
        layers: Iterable[tuple[npt.ArrayLike, npt.ArrayLike, int]],
        *,
        float32: bool,
        missing_zero: bool = False,
    ) -> None: ...
    @property
    def scorer(self) -> CapsuleType:
        """The capsule `engine.scorer.v1` of this net; the capsule keeps the net alive by itself."""
    def score_by(self, instruction_set: str, rows: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Score rows with the kernels of one instruction set, for tests.

        Args:
            instruction_set: "scalar", "avx2" or "avx512".
            rows: [n, n_features], converted to float32.

        Returns:
            float64 [n, n_outputs].

        Raises:
            ConfigError: another shape, or an instruction set that this CPU lacks.
        """

def native(capsule: CapsuleType) -> CapsuleType | None:
    """Return the native net behind a scorer, for another binding of this package.

    Args:
        capsule: PyCapsule `engine.scorer.v1`, which must outlive the result.

    Returns:
        PyCapsule `engine.model.dense`, or None where the scorer is of another kind.
    """
