"""`engine inspect PATH`."""

from __future__ import annotations

import argparse
from pathlib import Path

from engine.model import inspect


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=Path, metavar="PATH")


def main(chosen: argparse.Namespace) -> int:
    print(inspect(chosen.path))
    return 0
