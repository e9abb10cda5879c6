from collections.abc import Callable
from typing import Any

import numpy.typing as npt
from typing_extensions import CapsuleType

class Gpu:
    """One GPU of this process: its primary context, which it shares with CuPy, PyTorch and TensorRT, and our kernels.

    Args:
        ordinal: the GPU's number, as the driver counts.
        driver: the driver's library, "libcuda.so.1" as a rule.

    Raises:
        MissingDependencyError: there is no driver, or one older than CUDA 12's.
        ConfigError: the driver shows no such GPU.
    """
    def __init__(self, ordinal: int, driver: str) -> None: ...
    @property
    def ordinal(self) -> int:
        """The GPU's number, as the driver counts."""
    @property
    def name(self) -> str:
        """The name that the driver gives."""
    @property
    def capability(self) -> int:
        """Compute capability as 10 * major + minor: 90 for an H100."""
    @property
    def free_bytes(self) -> int:
        """Free bytes of device memory; 0 where the driver does not say."""
    @property
    def claimed_bytes(self) -> int:
        """Bytes of device memory that the models of this process hold."""
    @property
    def lost(self) -> bool:
        """Whether the device failed in a way that CUDA does not get over: it stays lost to this process."""
    @property
    def loaded(self) -> bool:
        """Whether the kernels are there."""
    def wait_until_lost(self) -> str:
        """Block until the device is lost, without the GIL, and return the driver's word for the reason."""
    def set_budget(self, n_bytes: int) -> None:
        """Set the most device memory that models of this process may hold together."""
    def load(self, image: bytes) -> None:
        """Load the kernels. Raise ConfigError where the driver refuses the image."""
    def widen(self, stream: int, narrow: int, wide: int, count: int) -> None:
        """Put on a stream: `count` numbers in float32 at one address become float64 at another.

        Raises:
            ConfigError: the kernels are not loaded.
            ResourceError: the driver refused.
        """

class DeviceBuffer:
    """Device memory of a body, given back when this object goes.

    Args:
        gpu: whose memory.
        n_bytes: from 1.
        what: the claimant, for errors.

    Raises:
        ResourceError: the device has too little memory.
    """
    def __init__(self, gpu: Gpu, n_bytes: int, what: str) -> None: ...
    @property
    def address(self) -> int:
        """Where it lies on the device."""

class DeviceModel:
    """A model on a GPU, as a scorer capsule.

    Args:
        gpu: with kernels loaded.
        source: PyCapsule `engine.model.forest` or `engine.model.dense`; or a function of (stream, rows, answers, n)
            that puts the model's work for n rows on a stream, addresses as int. It is called while the model is made,
            and never again.
        kind: "forest", "dense" or "body".
        n_features, n_outputs: of a body.
        rows_max: rows of a batch at most, from 1.
        lanes: batches in flight, 1 to 64.
        repeats: how often each graph does the work of a forest or net; a benchmark's means to time the kernels alone.
        cpu: scorer capsule of the same model on the CPU, which answers where the device does not; or None.

    Raises:
        ResourceError: the device has too little memory, or the driver refused a call.
        ConfigError: the kernels are not loaded, or lanes is beyond its range.
        Exception: the body raised it.
    """
    def __init__(
        self,
        gpu: Gpu,
        source: CapsuleType | Callable[[int, int, int, int], None],
        *,
        kind: str,
        rows_max: int,
        lanes: int,
        cpu: CapsuleType | None = None,
        n_features: int = 0,
        n_outputs: int = 1,
        repeats: int = 1,
    ) -> None: ...
    @property
    def scorer(self) -> CapsuleType:
        """The capsule `engine.scorer.v1` of this model; the capsule keeps the model alive by itself."""
    def set_rows_min(self, rows: int) -> None:
        """Send batches of fewer rows to the CPU. Before anybody else scores."""
    def describe(self) -> dict[str, Any]:
        """Return facts of now.

        Keys: device, device_name, device_layout ("codes", "symmetric", "wide", "dense" or "body"), device_bytes,
        device_lost, device_batches (launched so far), device_rescued (calls that the CPU answered for the device).
        """
    def time_us(self, rows: npt.ArrayLike, repeats: int) -> float:
        """Return the microseconds of one call on the device, the fastest of `repeats`.

        Args:
            rows: float32 [n, n_features].

        Raises:
            ModelError: the device failed.
        """
    def submit_us(self, rows: npt.ArrayLike, repeats: int) -> float:
        """Return the microseconds of one submission on this thread, the median of `repeats`; no other may score.

        Args:
            rows: float32 [n, n_features], at most a batch.

        Raises:
            ModelError: the device failed.
        """
