"""`engine score`: score a Parquet file from the command line."""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `engine score`."""
    parser.add_argument("source", type=Path, metavar="IN.parquet", help="the rows to score")
    parser.add_argument("target", type=Path, metavar="OUT.parquet", help="the file to write")
    parser.add_argument(
        "--model",
        required=True,
        metavar="NAME@ALIAS",
        help="the version to score with; also name@7 or name@sha256:…",
    )
    parser.add_argument(
        "--registry",
        default=os.environ.get("ENGINE_REGISTRY", "registry"),
        metavar="DIR",
        help="folder of the registry; default: $ENGINE_REGISTRY, else 'registry'",
    )
    parser.add_argument("--keep", default="", metavar="A,B", help="columns of the input to copy")
    parser.add_argument(
        "--column", default="prediction", help="name of the column of answers; default: prediction"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="default: one for each core")


def main(chosen: argparse.Namespace) -> int:
    """Run the parsed command: score, and print counts. Return 0. Raises EngineError."""
    from engine.errors import RegistryError
    from engine.registry import ModelRegistry
    from engine.scoring.score import score

    if not Path(chosen.registry, "registry.db").exists():
        raise RegistryError(f"no registry at {chosen.registry!r}; say --registry DIR")
    with ModelRegistry(chosen.registry, code=False) as registry:
        bundle = registry.resolve(chosen.model)
        keep = [name for name in chosen.keep.split(",") if name]
        found = score(
            bundle, chosen.source, chosen.target, keep=keep, column=chosen.column, threads=chosen.threads
        )
    resumed = f", {found.resumed} of {found.parts} parts from an earlier run" if found.resumed else ""
    print(f"{bundle.version}: {found.rows:,} rows in {found.seconds:.2f} s{resumed}")
    if found.not_finite:
        print(f"{found.not_finite:,} answers are NaN or infinite")
    return 0
