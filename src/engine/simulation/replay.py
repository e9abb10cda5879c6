"""Runs a simulation again: `python -m engine.simulation.replay SEED`, or a whole plan as JSON, or @FILE with one.

A seed stands for a plan of `random_plans` and for all that chance does in it, so one number repeats a failure event for
event. `--liveness` asks for recovery instead of safety; `--seeds N` tries N of them from SEED on and stops at the first
that fails. A failure prints the command that repeats it, and the fewest of its faults that still fail.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from engine.errors import ConfigError, EngineError
from engine.simulation.fault_plan import INVARIANTS
from engine.simulation.liveness import recovery
from engine.simulation.random_plans import random_plan, recovering_plan
from engine.simulation.simulate import simulate

REQUESTS = 10_000
WITHIN_MS = 1_000.0


def broken(plan: Mapping[str, Any], *, liveness: bool = False, within_ms: float = WITHIN_MS) -> str:
    """What is wrong with a run of this plan, in words; "" where nothing is.

    Args:
        plan: arguments of `simulate`.
        liveness: also ask that service comes back within_ms after the last fault.
    """
    if not liveness:
        return str(simulate(**plan)["first_violation"])
    result = recovery(plan, within_ms=within_ms)
    return str(result["first_violation"] or result["why"])


def command(plan: Mapping[str, Any] | int, options: Sequence[str] = ()) -> str:
    """The command that repeats a run of a plan, or of the plan that a seed stands for."""
    what = str(plan) if isinstance(plan, int) else shlex.quote(json.dumps(plan, separators=(",", ":")))
    return " ".join(["python -m engine.simulation.replay", what, *options])


def message(plan: Mapping[str, Any] | int, wrong: str, options: Sequence[str] = ()) -> str:
    """How a failed run is reported: what was broken, and the command that breaks it again."""
    return f"broken: {wrong}\nreplay: {command(plan, options)}"


def fewest_faults(plan: Mapping[str, Any], *, liveness: bool = False) -> dict[str, Any]:
    """The plan with every fault left out that its failure does not need. One at a time, so at most n * n runs."""
    faults = list(plan.get("faults", ()))
    at = 0
    while at < len(faults):
        fewer = {**plan, "faults": faults[:at] + faults[at + 1 :]}
        try:
            still = broken(fewer, liveness=liveness)
        except ConfigError:
            still = ""  # without this fault there is nothing to judge
        if still:
            faults = fewer["faults"]
        else:
            at += 1
    return {**plan, "faults": faults}


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 where all held, 1 where something broke, 2 for bad arguments."""
    parser = argparse.ArgumentParser(prog="python -m engine.simulation.replay", description=__doc__)
    parser.add_argument("plan", help="a seed, a plan as JSON (arguments of engine.simulate), or @FILE")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="try N seeds from this one on")
    parser.add_argument(
        "--requests", type=int, default=REQUESTS, help=f"of a seed's plan, default {REQUESTS}"
    )
    parser.add_argument("--liveness", action="store_true", help="ask for recovery from the faults too")
    parser.add_argument(
        "--sabotage", choices=INVARIANTS, help="break this invariant on purpose: a trial of the alarm"
    )
    chosen = parser.parse_args(arguments)
    try:
        return _replay(chosen)
    except (EngineError, json.JSONDecodeError, OSError) as error:
        print(f"replay: {error}", file=sys.stderr)
        return 2


def _replay(chosen: argparse.Namespace) -> int:
    options = ["--liveness"] if chosen.liveness else []
    if not chosen.plan.lstrip("-").isdigit():
        text = chosen.plan
        if text.startswith("@"):
            with open(text[1:]) as file:
                text = file.read()
        return _report(_from_json(text), None, options, chosen)
    if chosen.requests != REQUESTS and not chosen.liveness:
        options += ["--requests", str(chosen.requests)]
    if chosen.sabotage:
        options += ["--sabotage", chosen.sabotage]
    first = int(chosen.plan)
    for seed in range(first, first + chosen.seeds):
        plan = recovering_plan(seed) if chosen.liveness else random_plan(seed, chosen.requests)
        status = _report(plan, seed, options, chosen)
        if status:
            return status
    return 0


def _from_json(text: str) -> dict[str, Any]:
    """A plan as `json.dumps` wrote it: the deadlines of a mix, which are keys, were numbers."""
    plan = json.loads(text)
    if not isinstance(plan, dict):
        raise ConfigError(
            f"expected a plan as a JSON object of engine.simulate's arguments, got {text[:80]!r}"
        )
    if isinstance(plan.get("deadline_ms"), dict):
        plan["deadline_ms"] = {float(ms): share for ms, share in plan["deadline_ms"].items()}
    return plan


def _report(plan: dict[str, Any], seed: int | None, options: list[str], chosen: argparse.Namespace) -> int:
    if chosen.sabotage:
        plan = {
            **plan,
            "faults": [*plan.get("faults", ()), {"fault": "sabotaging", "broken": chosen.sabotage}],
        }
    wrong = broken(plan, liveness=chosen.liveness)
    if not wrong:
        if chosen.seeds == 1:
            print(f"all holds: {json.dumps(plan)}")
        return 0
    print(message(plan if seed is None else seed, wrong, options))
    fewest = fewest_faults(plan, liveness=chosen.liveness)
    kept = ["--liveness"] if chosen.liveness else []
    print(f"fewest faults: {command(fewest, kept)}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
