from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import CapsuleType

class LostNumbers:
    """Whether an engine has warned of a number that float32 does not hold. Not public."""

class Deployment:
    """One version, loaded and ready to serve. Not public: an engine makes it, and requests keep it alive."""

    number: int
    version: str
    parts: Any
    columns: Any
    lookup: Any
    def look_up_many(
        self, rows: Any, deadlines: npt.NDArray[np.int64], started_ns: int
    ) -> tuple[list[Any], list[tuple[str, ...]]]:
        """Fetch the online features of many rows at once: (rows with them, for each row the names of those missing)."""
    def read_rows(self, rows: Any) -> npt.NDArray[Any]:
        """Turn mappings into the matrix [rows, n_features] that the models see, online features included."""

class Versions:
    """The half of CoreEngine that knows deployments. Not public."""

    @property
    def n_features(self) -> int:
        """Number of features of a row, as the models take it. The same for all versions of an engine."""
    @property
    def n_outputs(self) -> int:
        """Number of values of an answer. The same for all versions of an engine."""
    @property
    def version(self) -> str:
        """Name of the version that new requests go to, outside of a canary."""
    def _prepare(
        self,
        primary: CapsuleType,
        fallback: CapsuleType | None,
        default: float | npt.NDArray[np.float64] | Callable[[], Any],
        version: str,
        features: Any,
        parts: Any,
        columns: Any,
    ) -> Deployment:
        """Make a deployment that takes no traffic yet.

        Args:
            primary, fallback: capsules of scorers; fallback may be None.
            default: a float, a float64 array [n_outputs], or a function of nothing.
            features: an object with an `engine.features.v1` capsule, or None.
            parts: what Engine wants to remember with it.
            columns: the layout of its rows, an engine.serving.columns.Columns.

        Raises:
            ConfigError: another width than this engine's.
        """
    def _measure(self, deployment: Deployment, rows: npt.ArrayLike) -> bool:
        """Time the primary on this thread, batch by batch, and the fallback. Return False if the primary fails.

        Blocks for as long as the models take, without the GIL where they do not take it themselves.
        """
    def _install(self, deployment: Deployment) -> float:
        """Serve new requests from `deployment`. Return the expected microseconds of one row, 0.0 if never measured."""
    def _roll_back(self) -> Deployment:
        """Serve new requests from the version before, and return its deployment. Raise ConfigError if there is none."""
    def _set_canary(self, deployment: Deployment | None, share: float) -> None:
        """Serve this share of requests, drawn by their keys, from `deployment`; None ends the canary."""
    def _set_shadow(self, deployment: Deployment | None, rows_max: int) -> None:
        """Offer the rows of all requests to `deployment` too, through a ring of rows_max rows; None ends the shadow."""
    def _serving(self) -> tuple[Deployment, Deployment | None]:
        """The deployment that new requests come under, and the one before it or None."""
    def _versions(self) -> dict[int, str]:
        """Names of the versions that are still held, by number."""
