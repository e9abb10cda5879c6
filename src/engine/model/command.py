"""`engine inspect PATH`."""

from __future__ import annotations

import argparse
from pathlib import Path

from engine.model import inspect


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("path", type=Path, metavar="PATH", help="model file")


def main(chosen: argparse.Namespace) -> int:
    """Print the facts of the file; return the exit status 0. Errors are raised as `inspect` raises them."""
    print(inspect(chosen.path))
    return 0
