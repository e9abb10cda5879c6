"""The contents of a monitor's state file: nested plain values and arrays, from the parts of a monitor and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from engine.errors import MonitorError
from engine.monitor._sketch import ANSWERS, Sketch
from engine.monitor._state import digest
from engine.monitor.counters import BusinessCounter
from engine.monitor.performance import KIND as PERFORMANCE
from engine.monitor.reference import Reference
from engine.monitor.report.summary import Facts

# Errors that a damaged state raises.
DAMAGE = (MonitorError, ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError)


def knowledge(
    facts: Facts,
    reference: Reference | None,
    learned: Reference | None,
    names_of: Callable[[list[int]], Mapping[int, str]],
) -> dict[str, Any]:
    """Return what `take_over` takes. Call it under the monitor's lock.

    Args:
        facts: parts of the monitor.
        reference: that rows are compared with.
        learned: the same where the monitor learned it or a version brought it; it is then kept whole.
        names_of: returns versions by deployment number.
    """
    answers, outputs = facts.sketch.answers()
    numbers = sorted(set(answers["deployment"].tolist()) - {0})
    names = names_of(numbers)
    return {
        "reference": None if learned is None else learned.to_json(),
        "digest": None if reference is None else digest(reference),
        "inputs": facts.inputs.saved(),
        "outputs": facts.outputs.saved(),
        "budgets": facts.budgets.saved(),
        "alerts": facts.alerts.saved(),
        "tallies": facts.tallies.saved(),
        "outcomes": facts.outcomes.saved(),
        "performance": facts.performance.saved(),
        "counters": [
            [counter.name, counter.description, counter.values] for counter in facts.counters.values()
        ],
        "versions": [[number, names.get(number, str(number))] for number in numbers],
        "answers": [answers.view(np.uint8), outputs],
    }


def take_over(
    found: Mapping[str, Any],
    facts: Facts,
    reference: Reference | None,
    counter: Callable[[str, str], BusinessCounter],
    deployment: Callable[[str], int],
) -> None:
    """Make a new monitor go on from what another one knew.

    Evidence is taken over where the reference is the same. Alerts of columns that nothing watches any more end.

    Args:
        found: of `knowledge`.
        facts: parts of the new monitor.
        reference: that rows are compared with.
        counter: makes a counter of a name and a description.
        deployment: returns the deployment number of a version.

    Raises:
        DAMAGE: the state is damaged. The parts taken over before stay.
    """
    same = reference is not None and found["digest"] == digest(reference)
    facts.inputs.restore(found["inputs"], same)
    facts.outputs.restore(found["outputs"], same)
    facts.budgets.restore(found["budgets"])
    facts.alerts.restore(found["alerts"])
    facts.open_alerts.restore()
    if (performance := found.get("performance")) is not None:
        facts.performance.restore(performance)
    watched = {(side.kind, column) for side in (facts.inputs, facts.outputs) for column in side.drifted}
    others = {(kind, "") for kind in facts.budgets.open}
    if facts.performance.open is not None:
        others.add((PERFORMANCE, ""))
    facts.open_alerts.keep(watched | others)
    facts.tallies.restore(found["tallies"])
    facts.outcomes.restore(found["outcomes"])
    for name, description, values in found["counters"]:
        counter(name, description).restore(values)
    deployments = {number: deployment(name) for number, name in found["versions"]}
    answers, outputs = found["answers"]
    remember(facts.sketch, answers, outputs, deployments)


def remember(sketch: Sketch, raw: np.ndarray, outputs: np.ndarray, deployments: Mapping[int, int]) -> None:
    """Remember answers of another process.

    Args:
        raw: uint8, ANSWERS as bytes.
        outputs: float64 [n, outputs of that process].
        deployments: that process' deployment number -> this one's.
    """
    answers = raw.copy().view(ANSWERS)
    answers["foreign"] = 1
    answers["deployment"] = [deployments.get(number, 0) for number in answers["deployment"].tolist()]
    padded = np.full((len(answers), sketch.outputs_max), np.nan)
    width = min(outputs.shape[1], sketch.outputs_max)
    padded[:, :width] = outputs[:, :width]
    fits = answers["n_outputs"] <= sketch.outputs_max
    sketch.remember(answers[fits], np.ascontiguousarray(padded[fits]))
