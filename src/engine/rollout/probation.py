"""Whether a version that has just taken traffic stays: failures counted since the flip, against the version before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engine.errors import ConfigError

# Reasons of answers that say that the version's own models failed; the others are about time and load.
FAILURES = ("primary_error", "primary_bad_shape", "primary_not_finite", "fallback_error", "breaker_open")


@dataclass(frozen=True, slots=True)
class Probation:
    """When a version that has just taken traffic is taken off again, by itself.

    Attributes:
        share_max: of answers for which the version's models failed or gave no number, since the flip; a version that
            fails at most twice as often as the one before it did stays.
        failures_min: as many failures at least, so that the first request alone decides nothing.
        seconds: after the flip. Later a fault is more likely the data's than the version's, and going back helps less.

    Raises:
        ConfigError: a share outside (0, 1], no failure at all, negative seconds.
    """

    share_max: float = 0.005
    failures_min: int = 10
    seconds: float = 600.0

    def __post_init__(self) -> None:
        if not 0.0 < self.share_max <= 1.0 or self.failures_min < 1 or not self.seconds >= 0.0:
            raise ConfigError(f"expected share_max in (0, 1], failures_min >= 1 and seconds >= 0, got {self}")

    def verdict(self, found: Counted, before: Counted) -> str | None:
        """Why a version must go, given its own counts and those of the version before; None where it stays."""
        if found.failures < self.failures_min or found.share <= max(self.share_max, 2 * before.share):
            return None
        return (
            f"{found.failures} of {found.answers} answers since it took traffic were failures of its models "
            f"({100 * found.share:.2g} %, at most {100 * self.share_max:.2g} % are allowed)"
        )


@dataclass(frozen=True, slots=True)
class Counted:
    """Answers, and failures among them: of an engine so far, or since some moment."""

    answers: int = 0
    failures: int = 0

    @classmethod
    def of(cls, engine: Any) -> Counted:
        found = engine.stats()
        reasons = found["reasons"].values()
        failures = sum(counts.get(reason, 0) for counts in reasons for reason in FAILURES)
        return cls(sum(found["answers"].values()), failures)

    def since(self, before: Counted) -> Counted:
        return Counted(self.answers - before.answers, self.failures - before.failures)

    @property
    def share(self) -> float:
        return self.failures / self.answers if self.answers else 0.0
