"""`engine score`: score a Parquet file from the command line."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.registry import ModelRegistry

DEFAULT = "registry"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `engine score`."""
    parser.add_argument("source", type=Path, metavar="IN.parquet", help="the rows to score")
    parser.add_argument("target", type=Path, metavar="OUT.parquet", help="the file to write")
    parser.add_argument(
        "--model",
        required=True,
        metavar="NAME@ALIAS|FILE",
        help="the version to score with, also name@7 or name@sha256:…; or a model file, without a registry",
    )
    parser.add_argument(
        "--registry",
        default=os.environ.get("ENGINE_REGISTRY"),
        metavar="DIR",
        help="folder of the registry; default: $ENGINE_REGISTRY, else 'registry'",
    )
    parser.add_argument("--keep", default="", metavar="A,B", help="columns of the input to copy")
    parser.add_argument(
        "--column", default="prediction", help="name of the column of answers; default: prediction"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="default: one for each core")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace OUT.parquet if an earlier `engine score` wrote it"
    )
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")


def main(chosen: argparse.Namespace) -> int:
    """Run the parsed command: score, and print counts. Return 0. Raises EngineError."""
    from engine._common.progress import Progress
    from engine.errors import RegistryError
    from engine.registry import ModelRegistry
    from engine.scoring.score import score

    def scored(model: Any) -> int:
        with Progress("engine score", "rows") as progress:
            found = score(
                model,
                chosen.source,
                chosen.target,
                keep=[name for name in chosen.keep.split(",") if name],
                column=chosen.column,
                threads=chosen.threads,
                overwrite=chosen.overwrite,
                progress=progress,
            )
        name = str(getattr(model, "version", model))
        if chosen.json:
            print(json.dumps({"model": name, "output": str(chosen.target), **asdict(found)}))
            return 0
        resumed = f", {found.resumed} of {found.parts} parts from an earlier run" if found.resumed else ""
        print(f"{name}: {found.rows:,} rows in {found.seconds:.2f} s{resumed}")
        if found.not_finite:
            print(f"{found.not_finite:,} answers are NaN or infinite")
        return 0

    there = Path(chosen.registry or DEFAULT, "registry.db").exists()
    is_file = Path(chosen.model).is_file()
    if is_file and not there:
        return scored(chosen.model)
    if not there:
        raise RegistryError(
            f"no model file {chosen.model!r}, and no registry at {chosen.registry or DEFAULT!r}; say --model FILE, or "
            f"--registry DIR"
        )
    with ModelRegistry(chosen.registry or DEFAULT, code=False) as registry:
        if is_file and not _has(registry, chosen.model):
            return scored(chosen.model)
        return scored(registry.resolve(chosen.model))


def _has(registry: ModelRegistry, reference: str) -> bool:
    """Return whether the registry has a model of that name: it comes before a file of the same name."""
    from engine.errors import RegistryError
    from engine.registry.versions import parse

    try:
        return parse(reference).name in registry.names()
    except RegistryError:
        return False
