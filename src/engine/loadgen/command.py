"""`engine bench`: a model file timed from the command line."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from engine.errors import InputError
from engine.loadgen.bench import bench


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `engine bench`."""
    parser.add_argument(
        "path", type=Path, metavar="PATH", help="a model file, of any format that `engine inspect` reads"
    )
    parser.add_argument(
        "--rows", type=Path, metavar="FILE.npy", help="rows to measure on: numbers [n, n_features]"
    )
    parser.add_argument(
        "--rate", type=float, default=1000.0, metavar="PER_S", help="arrivals a second, default 1000"
    )
    parser.add_argument(
        "--deadline-ms", type=float, default=10.0, help="milliseconds that each answer may take, default 10"
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="length of the load, default 5")
    parser.add_argument("--seed", type=int, default=0, help="of the arrivals, and of the rows without --rows")
    parser.add_argument(
        "--trust", action="store_true", help="read pickles; reading one runs code from the file"
    )
    parser.add_argument(
        "--device",
        default="cpu",
        metavar="DEVICE",
        help="cpu, gpu:0, or auto: each batch where it is answered sooner; default cpu",
    )
    parser.add_argument(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE",
        help="print the figures as JSON; with FILE, write them there, beside the table",
    )


def main(chosen: argparse.Namespace) -> int:
    """Run the parsed command: print a table. Return 0."""
    rows = None
    if chosen.rows is not None:
        try:
            rows = np.load(chosen.rows, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise InputError(f"--rows {chosen.rows}: expected a .npy file of numbers: {error}") from None
    found = bench(
        chosen.path,
        rows=rows,
        rate_per_s=chosen.rate,
        deadline_ms=chosen.deadline_ms,
        seconds=chosen.seconds,
        seed=chosen.seed,
        trust=chosen.trust,
        device=chosen.device,
    )
    body = json.dumps(asdict(found), indent=1)
    print(body if chosen.json == "-" else found)
    if chosen.json not in (None, "-"):
        Path(chosen.json).write_text(body + "\n")
    return 0
