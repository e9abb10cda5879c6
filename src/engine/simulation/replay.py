"""Repeat a simulation: `python -m engine.simulation.replay SEED`, or with a plan as JSON, or with @FILE.

A seed stands for a plan of `random_plans` and all random choices in it, so one number repeats a failure event for
event. `--liveness` checks recovery instead of safety. `--seeds N` tries N seeds from SEED on, and stops at the first
failure. A failure prints the command that repeats it, and the smallest set of its faults that still fails.
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
    """Run a plan and return its failure in words, "" for none.

    Args:
        plan: arguments of `simulate`.
        liveness: check recovery too.
        within_ms: milliseconds from the end of the last fault to the recovery.
    """
    if not liveness:
        return str(simulate(**plan)["first_violation"])
    result = recovery(plan, within_ms=within_ms)
    return str(result["first_violation"] or result["why"])


def command(plan: Mapping[str, Any] | int, options: Sequence[str] = ()) -> str:
    """Return the command that repeats a run of a plan, or of the plan of a seed."""
    what = str(plan) if isinstance(plan, int) else shlex.quote(json.dumps(plan, separators=(",", ":")))
    return " ".join(["python -m engine.simulation.replay", what, *options])


def message(plan: Mapping[str, Any] | int, wrong: str, options: Sequence[str] = ()) -> str:
    """Return the report of a failed run: the failure, and the command that repeats it."""
    return f"broken: {wrong}\nreplay: {command(plan, options)}"


def fewest_faults(plan: Mapping[str, Any], *, liveness: bool = False) -> dict[str, Any]:
    """Return the plan without the faults that its failure does not need. Takes one run for each fault."""
    faults = list(plan.get("faults", ()))
    at = 0
    while at < len(faults):
        fewer = {**plan, "faults": faults[:at] + faults[at + 1 :]}
        try:
            still = broken(fewer, liveness=liveness)
        except ConfigError:
            still = ""  # without this fault nothing is left to judge
        if still:
            faults = fewer["faults"]
        else:
            at += 1
    return {**plan, "faults": faults}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Return 0 if all invariants held, 1 if one broke, 2 for bad arguments."""
    parser = argparse.ArgumentParser(prog="python -m engine.simulation.replay", description=__doc__)
    parser.add_argument("plan", help="a seed, a plan as JSON (arguments of engine.simulate), or @FILE")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="try N seeds, from SEED on")
    parser.add_argument(
        "--requests", type=int, default=REQUESTS, help=f"requests in a seed's plan; default {REQUESTS}"
    )
    parser.add_argument("--liveness", action="store_true", help="check recovery from the faults too")
    parser.add_argument(
        "--sabotage", choices=INVARIANTS, help="break this invariant on purpose, to see the check fail"
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
    """Return a plan that `json.dumps` wrote. It turned the deadlines of a mix, which are keys, into text."""
    plan = json.loads(text)
    if not isinstance(plan, dict):
        raise ConfigError(f"the plan must be a JSON object of engine.simulate's arguments, got {text[:80]!r}")
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
