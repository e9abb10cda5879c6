from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import CapsuleType

class Forest:
    """A forest in native memory, copied from flat arrays.

    The arrays are those of `Spec` in csrc/model/forest/forest.hpp, which describes each. Splits and leaves of all
    trees lie one behind the other; a child c >= 0 is split c, a child c < 0 is leaf ~c.

    Args:
        n_features: values a row, from 1.
        n_outputs: raw sums a row, 1 to 1,024.
        float32_rows: the trainer compares in float32.
        root, output: int32 [trees]: child number of the root, the raw sum that the tree adds to.
        feature, left, right: int32 [splits].
        threshold: float64 [splits]: left where x <= threshold; or the number of a category set.
        rule: uint8 [splits], bits of `engine.model.forest.Rule`.
        leaf: float64 [leaves].
        set_begin: int32 [sets + 1], first word of each category set.
        set_words: uint32, bit c % 32 of word c // 32 stands for category c.
        base: float64 [n_outputs], added to each sum after `scale`.
        scale: multiplies each sum.
        link, link_parameter: number of `engine.model.forest.Link`, and the link's own number.

    Raises:
        ModelFormatError: the arrays do not make a forest; the message names the tree.
    """
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
    def scorer(self) -> CapsuleType:
        """The capsule `engine.scorer.v1` of this forest; the capsule keeps the forest alive by itself."""
    @property
    def layouts(self) -> list[str]:
        """Names of the layouts that hold this forest on this CPU; "reference" is the first."""
    def describe(self) -> dict[str, Any]:
        """Return the forest's facts.

        `trees`, `leaves` and `depth` are counts. `layout_single` is the layout for fewer than `batch_rows_min` rows,
        `layout_batch` the one for more. `instruction_set` is the one in use. `calibration_us_row` has (microseconds for
        one row, microseconds a row of 64) of each layout, measured at load.
        """
    def score_by(self, layout: str, rows: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Score rows through one layout, for tests and benchmarks.

        Args:
            layout: one of `layouts`.
            rows: float64 [n, n_features], or anything else [n, n_features], which is converted to float32.

        Returns:
            float64 [n, n_outputs].

        Raises:
            ConfigError: the forest has no such layout.
            InputError: another shape.
        """

def instruction_sets() -> tuple[str, str]:
    """Return (best of this CPU, in use after ENGINE_CPU), each "scalar", "avx2" or "avx512"."""

def native(capsule: CapsuleType) -> CapsuleType | None:
    """Return the native forest behind a scorer, for another binding of this package.

    Args:
        capsule: PyCapsule `engine.scorer.v1`, which must outlive the result.

    Returns:
        PyCapsule `engine.model.forest`, or None where the scorer is of another kind.
    """
