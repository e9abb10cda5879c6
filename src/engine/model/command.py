"""`engine inspect PATH`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from engine.model import inspect


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("path", type=Path, metavar="PATH", help="model file")
    parser.add_argument(
        "--json", action="store_true", help="print the facts as JSON; null where nothing is known"
    )


def main(chosen: argparse.Namespace) -> int:
    """Print the facts of the file; return the exit status 0. Errors are raised as `inspect` raises them."""
    found = inspect(chosen.path)
    print(json.dumps(asdict(found), default=str) if chosen.json else found)
    return 0
