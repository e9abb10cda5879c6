"""Which rounds of a boosted model are used: one rule for a fitted object and for its file."""

from __future__ import annotations

from dataclasses import dataclass

from engine._common import arguments
from engine.errors import ConfigError

Range = tuple[int, int] | None


def asked(iteration_range: Range, num_trees: int | None) -> Range:
    """Return the rounds that a caller asked for as (first, end), or None. `num_trees` are the first rounds.

    Raises ConfigError where both are given, or a number is no int or out of range. An end of 0 stands for the last.
    """
    if num_trees is not None:
        if iteration_range is not None:
            raise ConfigError("iteration_range= and num_trees= say the same: give one of them")
        return 0, arguments.whole("num_trees", num_trees, 1, 2**31 - 1, error=ConfigError)
    if iteration_range is None:
        return None
    if not isinstance(iteration_range, tuple | list) or len(iteration_range) != 2:
        raise ConfigError(f"iteration_range must be (first, end), got {iteration_range!r:.60}")
    first, end = (
        arguments.whole(f"iteration_range[{at}]", value, 0, 2**31 - 1, error=ConfigError)
        for at, value in enumerate(iteration_range)
    )
    return first, end


@dataclass(frozen=True)
class Rounds:
    """The rounds in use.

    Attributes:
        first, end: half-open range of rounds.
        total: rounds that the model has.
        best: best round of early stopping, counted from 0; None where the model carries none.
    """

    first: int
    end: int
    total: int
    best: int | None = None


def chosen(total: int, asked_for: Range, best: int | None, name: str) -> Rounds:
    """Choose the rounds: those asked for; else up to the best one; else all.

    Raises ConfigError where the model has fewer rounds than were asked for, or none of them.
    """
    if asked_for is None:
        return Rounds(0, best + 1 if best is not None and best < total else total, total, best)
    first, end = asked_for
    end = end or total
    if not first < end <= total:
        raise ConfigError(f"{name}: expected rounds within 0 to {total}, got {first} to {end}")
    return Rounds(first, end, total, best)
