from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

@final
class Embedding:
    """One embedding, or what stands in its place. Immutable, and made by a cache only.

    Attributes:
        value: float32 array [dimensions], read-only and shared with other callers; NaN where source is "default".
        source: "primary" for the encoder's own embedding, "fallback" for the fallback's, "default" for none. A fallback
            has a space of its own: give its embeddings to a model that was trained on them.
        reason: "ok" if the encoder's embedding was there in time. Any other reason says why it was not, in the words
            of `engine.Answer.reason`.
        origin: "memory" or "second_level" for a stored embedding, "computed" for one that this call computed, "shared"
            for one that another call, or an earlier place of this one, had asked for; "" where source is "default".
        space: digest of encoder, tokenizer and options, 64 hex digits; "" where source is "default". Embeddings of two
            spaces have nothing to do with each other.
        latency_us: microseconds from the call until the embedding was there.
        on_time: it was there before the deadline.
    """

    value: Final[npt.NDArray[np.float32]]
    source: Final[str]
    reason: Final[str]
    origin: Final[str]
    space: Final[str]
    latency_us: Final[float]
    on_time: Final[bool]
    def as_dict(self) -> dict[str, Any]:
        """Return all attributes as a dict that `json.dumps` takes; the value as a list, None for NaN."""

def _made(
    value: Any, source: str, reason: str, origin: str, space: str, latency_us: float, on_time: bool
) -> Embedding: ...

class Memory:
    """The first level: embeddings in this process, by the digest of their input.

    Args:
        capacity_bytes: the most bytes of all embeddings with what belongs to them.
        ttl_ns: how long an embedding is served; None for ever.
        space: the encoder's space, as answers name it.
        budget_ns: from a call to its deadline, where the call gives none.
    """

    def embed(
        self, x: str | bytes, deadline_ms: float | None = None, *, deadline_ns: int | None = None
    ) -> Embedding:
        """Embed one input before its deadline.

        Args:
            x: str or bytes. Two inputs are the same if all their bytes are; a str and bytes never are.
            deadline_ms: milliseconds from the call, 0 or more; the cache's own unless given.
            deadline_ns: an instant of `time.monotonic_ns()` instead.

        Returns:
            An `Embedding`. One in memory is returned at once, whatever the deadline. Else it comes from the second
            level or the encoder if they are in time, else from the fallback, else it is NaN.

        Raises:
            InputError: text that UTF-8 cannot encode, or a deadline that is negative or NaN.
            InputTypeError: an input of another type.
            ClosedError: the cache was closed; or a miss in a process that was forked from the cache's own.

        A failing encoder never raises here. Blocks until the deadline at most, without the GIL. Thread-safe. On an
        event loop await `embed_async`.
        """
    def clear(self) -> None:
        """Forget every embedding in memory, the fallback's too. The second level keeps what it has. Thread-safe."""
    @property
    def closed(self) -> bool:
        """True once `close` was called."""
    def _open_memory(self, capacity_bytes: int, ttl_ns: int | None, space: str, budget_ns: int) -> None: ...
    def _now_ns(self) -> int: ...
    def _until(self, began_ns: int, deadline_ms: float | None, deadline_ns: int | None) -> int: ...
    def _looked_up(self, x: Any, began_ns: int, until_ns: int) -> tuple[Embedding | None, bytes]: ...
    def _digest(self, x: Any) -> bytes: ...
    def _spare_digest(self, x: Any) -> bytes: ...
    def _stored(self, digest: bytes) -> npt.NDArray[np.float32] | None: ...
    def _store(self, digest: bytes, value: npt.ArrayLike) -> npt.NDArray[np.float32]: ...
    def _removed(self, digest: bytes) -> bool: ...
    def _close_memory(self) -> None: ...
    def _memory_hits(self) -> int: ...
    def _memory_stats(self) -> dict[str, int]: ...

def lookups_per_s(threads: int, entries: int, lookups: int) -> tuple[float, float]:
    """Look-ups a second of native threads on a cache of their own, without the GIL; for the benchmark.

    Args:
        threads: how many, together.
        entries: keys in the cache, which are drawn by Zipf's law.
        lookups: of each thread.

    Returns:
        Look-ups a second of all threads together, by the clock; and as if each had a processor for itself.
    """
