"""`engine demo`: the demo from the command line."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path

from engine import demo


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `engine demo`."""
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("demo-out"),
        metavar="DIR",
        help="folder to write into; default: demo-out",
    )
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument(
        "--quick", action="store_true", help="small models and short phases; measures little, and says so"
    )
    sizes.add_argument("--full", action="store_true", help="phases of ten seconds, every flight checked")
    parser.add_argument("--seed", type=int, default=2013, help="of the arrivals; default 2013")
    parser.add_argument(
        "--json", action="store_true", help="print the figures as JSON, and everything else on standard error"
    )


def main(chosen: argparse.Namespace) -> int:
    """Run the demo. Return 0."""
    if not chosen.json:
        demo.run(chosen.out, quick=chosen.quick, full=chosen.full, seed=chosen.seed)
        return 0
    with contextlib.redirect_stdout(sys.stderr):
        demo.run(chosen.out, quick=chosen.quick, full=chosen.full, seed=chosen.seed)
    print(
        json.dumps(
            {name: json.loads((chosen.out / f"{name}.json").read_text()) for name in ("report", "loop")}
        )
    )
    return 0
