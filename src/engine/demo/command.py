"""`engine demo`: the demo from the command line."""

from __future__ import annotations

import argparse
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
    parser.add_argument(
        "--quick", action="store_true", help="small models and short phases; measures nothing"
    )
    parser.add_argument("--seed", type=int, default=2013, help="of the arrivals; default 2013")


def main(chosen: argparse.Namespace) -> int:
    """Run the demo. Return 0."""
    demo.run(chosen.out, quick=chosen.quick, seed=chosen.seed)
    return 0
