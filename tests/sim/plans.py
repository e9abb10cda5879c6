"""Random plans from a test's own source of chance, and the checks that each must pass."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from engine.simulation import replay
from engine.simulation.random_plans import drawn_plan


@st.composite
def plans(draw: Any, requests: int) -> dict[str, Any]:
    return drawn_plan(
        lambda values: draw(st.sampled_from(list(values))), requests, draw(st.integers(0, 2**32))
    )


def check(result: dict[str, Any], plan: dict[str, Any]) -> None:
    """Check the invariants: by the simulator's own checker, and by the sums of its counters."""
    assert result["violations_total"] == 0, replay.message(plan, result["first_violation"])
    again = replay.command(plan)
    assert sum(result["by_source"].values()) == plan["requests"], again
    not_primary = result["by_source"]["fallback"] + result["by_source"]["default"]
    assert sum(result["by_reason"].values()) == not_primary, again  # every other answer has a reason
    models = len(plan.get("models", [{}]))
    assert result["queue_depth_max"] <= plan["queue_rows_max"] * models, again
    assert result["batch_rows_mean"] <= plan["batch_rows_max"], again
    fates = (result["by_deadline"], result["by_model"], result["by_priority"].values())
    assert [sum(fate["arrived"] for fate in by) for by in fates] == [plan["requests"]] * 3, again
    assert result["versions_freed"] == result["versions"] - models, again
