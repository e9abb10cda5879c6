"""`engine simulate`: the simulator from the command line."""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Mapping
from typing import Any

from engine.errors import ConfigError, InputError, InputTypeError
from engine.simulation.fault_plan import parse_fault
from engine.simulation.simulate import simulate

_HELP = {
    "load": "arrival rate as a multiple of the capacity on full batches (default 1)",
    "rate_per_s": "arrivals a second, instead of --load",
    "deadline_ms": "from arrival: one number, or a mix such as 2:1,10:2,100:1 (ms:share)",
    "faults": "NAME:key=value,... or a JSON object; may be repeated; docs/simulation.md lists the names",
    "bin_ms": "width of the timeline's bins (default: no timeline)",
    "replace_hung": "do not replace executors that are stuck in a batch",
    "models": 'models that share the executors: [{"share": 1, "weight": 1, "cost_factor": 1}, ...]',
    "priorities": 'shares by class: {"critical": 1, "normal": 1, "sheddable": 1}',
    "uncalibrated": "start without knowledge of costs and wake-ups",
    "json": "write the result to FILE ('-' for standard output) instead of the summary",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add an option for each argument of `simulate` (--batch-base-us for batch_base_us) and --json."""
    for name, parameter in inspect.signature(simulate).parameters.items():
        option = "--" + name.replace("_", "-")
        if name == "calibrated":
            parser.add_argument("--uncalibrated", action="store_true", help=_HELP["uncalibrated"])
        elif name == "replace_hung":
            parser.add_argument("--keep-hung", action="store_true", help=_HELP[name])
        elif name in ("models", "priorities"):
            parser.add_argument(
                option, type=json.loads, default=parameter.default, metavar="JSON", help=_HELP[name]
            )
        elif name == "faults":
            parser.add_argument(
                "--fault", dest="faults", action="append", type=_parse_fault, default=[], help=_HELP[name]
            )
        elif name == "deadline_ms":
            parser.add_argument(option, type=_parse_deadlines, default=parameter.default, help=_HELP[name])
        else:
            kind = int if isinstance(parameter.default, int) else float
            shown = "off" if parameter.default is None else f"{parameter.default:g}"
            parser.add_argument(
                option, type=kind, default=parameter.default, help=_HELP.get(name, f"default {shown}")
            )
    parser.add_argument("--json", metavar="FILE", help=_HELP["json"])


def main(args: argparse.Namespace) -> int:
    """Run the parsed command. Return 0, 1 if an invariant broke, 2 for bad arguments."""
    values = {
        name: getattr(args, name)
        for name in inspect.signature(simulate).parameters
        if name not in ("calibrated", "replace_hung")
    }
    try:
        result = simulate(calibrated=not args.uncalibrated, replace_hung=not args.keep_hung, **values)
    except (InputError, InputTypeError, ConfigError) as error:
        print(f"simulate: {error}", file=sys.stderr)
        return 2
    if args.json and args.json != "-":
        with open(args.json, "w") as file:
            json.dump(result, file, indent=1)
    else:
        print(json.dumps(result, indent=1) if args.json else summary(result))
    return 1 if result["violations_total"] else 0


def summary(result: Mapping[str, Any]) -> str:
    """Return a few lines for people about a result of `simulate`, as `engine simulate` prints them."""
    sources = ", ".join(f"{name} {n:,}" for name, n in result["by_source"].items() if n)
    reasons = ", ".join(f"{name} {n:,}" for name, n in result["by_reason"].items()) or "none"
    recovery = (
        "" if result["recovery_ms"] is None else f"\nrecovery    {result['recovery_ms']:.1f} ms after a stall"
    )
    broken = {name: n for name, n in result["violations"].items() if n}
    verdict = f"BROKEN: {broken}, first {result['first_violation']}" if broken else "all hold"
    return (
        f"requests    {result['requests']:,} in {result['duration_s']:.3f} simulated seconds "
        f"({result['rate_per_s']:,.0f}/s on a capacity of {result['capacity_per_s']:,.0f}/s)\n"
        f"on time     {100 * result['on_time']:.4f} %\n"
        f"answered by {sources}\n"
        f"reasons     {reasons}\n"
        f"primary     {100 * result['primary_goodput']:.2f} % of capacity answered in time, "
        f"{result['batches']:,} batches of {result['batch_rows_mean']:.1f} rows, "
        f"{result['late_dropped']:,} rows too late\n"
        f"latency     p50 {result['latency_us_p50']:,.0f} us, p99 {result['latency_us_p99']:,.0f} us, "
        f"p99.9 {result['latency_us_p999']:,.0f} us{recovery}\n"
        f"trace       {result['trace_hash']}, {result['events']:,} events, "
        f"{result['events_per_s'] / 1e6:.1f} million a second\n"
        f"invariants  {verdict}"
    )


def _parse_deadlines(text: str) -> float | dict[float, float]:
    try:
        if ":" not in text:
            return float(text)
        return {float(ms): float(share) for ms, share in (part.split(":") for part in text.split(","))}
    except ValueError:
        expected = "expected milliseconds or a mix such as 2:1,10:2,100:1 (ms:share)"
        raise argparse.ArgumentTypeError(f"{expected}, got {text!r}") from None


def _parse_fault(text: str) -> dict[str, Any]:
    try:
        return parse_fault(text)
    except (ConfigError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None
