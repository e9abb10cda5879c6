"""How much the demo does: a quick run that shows that everything works, the usual one, and a full one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Size:
    """The sizes of one run.

    Attributes:
        phase_s: length of a phase under load, in seconds.
        trees, leaves, fallback_trees: of the models that the phases serve.
        loop_trees, loop_leaves: of the model that the loop trains.
        check_every: every how many flights are compared with LightGBM.
        flights: of July that are replayed; None for all.
        deadline_ms: of the replay.
        failures_min: answers of a bad version that must fail before it is rolled back.
        unlearned: share of the flights, the shortest, that the bad version cannot answer.
        note: said on every line; "" for none.
    """

    phase_s: float = 4.0
    trees: int = 500
    leaves: int = 63
    fallback_trees: int = 50
    loop_trees: int = 150
    loop_leaves: int = 63
    check_every: int = 5
    flights: int | None = None
    deadline_ms: float = 10.0
    failures_min: int = 10
    unlearned: float = 0.01
    note: str = ""


USUAL = Size()
FULL = Size(phase_s=10.0, check_every=1)
# A deadline of a second, so that a busy machine does not decide who answers.
QUICK = Size(
    phase_s=1.0,
    trees=60,
    leaves=15,
    fallback_trees=10,
    loop_trees=40,
    loop_leaves=15,
    check_every=20,
    flights=2400,
    deadline_ms=1_000.0,
    failures_min=5,
    unlearned=0.05,
    note="quick: measures little",
)
