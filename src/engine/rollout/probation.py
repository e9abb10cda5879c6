"""Automatic rollback: the failures of a new version since it took traffic, against those of the version before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engine.errors import ConfigError

# Reasons that mean a failure of the version's own models. The other reasons are about time and load.
FAILURES = ("primary_error", "primary_bad_shape", "primary_not_finite", "fallback_error", "breaker_open")


@dataclass(frozen=True, slots=True)
class Probation:
    """When a new version is rolled back automatically. Immutable.

    Attributes:
        share_max: share of answers, in (0, 1], whose models failed since the version took traffic. A version with a
            greater share is rolled back, unless it fails at most twice as often as the version before did.
        failures_min: failures that must be counted first, 1 or more, so that one request alone decides nothing.
        seconds: the bake time: seconds after the version took traffic within which it may be rolled back, 0 or more; 0
            switches automatic rollback off. After the bake time a fault is more likely the data's than the version's.

    Raises:
        ConfigError: a value out of range.

    >>> from engine.rollout import Probation
    >>> Probation(share_max=0.01, seconds=60.0).failures_min
    10
    """

    share_max: float = 0.005
    failures_min: int = 10
    seconds: float = 600.0

    def __post_init__(self) -> None:
        if not 0.0 < self.share_max <= 1.0 or self.failures_min < 1 or not self.seconds >= 0.0:
            raise ConfigError(f"expected share_max in (0, 1], failures_min >= 1 and seconds >= 0, got {self}")

    def verdict(self, found: Counted, before: Counted) -> str | None:
        """Return why a version must be rolled back, or None if it stays.

        Args:
            found: answers and failures of the version since it took traffic.
            before: those of the version before, over its own time.
        """
        if found.failures < self.failures_min or found.share <= max(self.share_max, 2 * before.share):
            return None
        return (
            f"{found.failures} of {found.answers} answers since it took traffic were failures of its models "
            f"({100 * found.share:.2g} %, at most {100 * self.share_max:.2g} % are allowed)"
        )


@dataclass(frozen=True, slots=True)
class Counted:
    """Numbers of answers and of failures among them."""

    answers: int = 0
    failures: int = 0

    @classmethod
    def of(cls, engine: Any) -> Counted:
        """Those of an engine since its start."""
        found = engine.stats()
        reasons = found["reasons"].values()
        failures = sum(counts.get(reason, 0) for counts in reasons for reason in FAILURES)
        return cls(sum(found["answers"].values()), failures)

    def since(self, before: Counted) -> Counted:
        """Those that came after `before` was counted."""
        return Counted(self.answers - before.answers, self.failures - before.failures)

    @property
    def share(self) -> float:
        """Failures per answer; 0.0 without answers."""
        return self.failures / self.answers if self.answers else 0.0
