from typing_extensions import CapsuleType

class Fault:
    """A wrapped scorer: its capsule, its switch and its counters. Made by this module's functions. Thread-safe.

    Attributes:
        scorer: the wrapped scorer's capsule.
    """

    scorer: CapsuleType
    def arm(self, start_ns: int) -> None:
        """Switch the fault on. A stall counts its windows from `start_ns`, a point on the monotonic clock."""

    def disarm(self) -> None:
        """Switch the fault off. Calls that hang go on to the inner scorer."""

    @property
    def armed(self) -> bool:
        """Whether the fault is switched on."""

    @property
    def calls(self) -> int:
        """Calls so far, from any thread."""

    @property
    def faults(self) -> int:
        """Calls so far that met the fault."""

def stalling(capsule: CapsuleType, *, stall_ns: int, every_ns: int, start_ns: int | None) -> Fault:
    """Return a scorer that sleeps through the first `stall_ns` of every `every_ns`, counted from `start_ns`.

    `start_ns` is a point on the monotonic clock; None leaves the fault switched off.
    """

def failing(capsule: CapsuleType, *, share: float, seed: int, start_ns: int | None) -> Fault:
    """Return a scorer that fails a share (0 to 1) of its calls. `start_ns` None leaves the fault switched off."""

def corrupting(capsule: CapsuleType, *, share: float, seed: int, start_ns: int | None) -> Fault:
    """Return a scorer that answers NaN to a share (0 to 1) of its calls. `start_ns` None leaves it switched off."""

def slow(capsule: CapsuleType, *, per_call_ns: int, per_row_ns: int, start_ns: int | None) -> Fault:
    """Return a scorer that spends CPU time before each call. `start_ns` None leaves the fault switched off."""

def hanging(capsule: CapsuleType, *, start_ns: int | None) -> Fault:
    """Return a scorer that never answers while the fault is on. `start_ns` None leaves it switched off."""
