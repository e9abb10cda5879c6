"""The command line: `engine VERB`, the same as `python -m engine VERB`. A verb imports what it needs, no more."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from engine.errors import EngineError

# verb -> what it is for, and the module that has its add_arguments(parser) and main(chosen) -> exit status
VERBS = {
    "bench": ("a model against the library that trained it, and under load", "engine.loadgen.command"),
    "demo": (
        "the whole loop on real flights: features, training, serving under load, drift, rollback",
        "engine.demo.command",
    ),
    "inspect": ("what a model file is, without running anything it brings along", "engine.model.command"),
    "materialize": ("bring features into the online store", "engine.feature_store.command"),
    "registry": ("versions of models, and the aliases that point at them", "engine.registry.command"),
    "score": ("answers of a registered model to every row of a Parquet file", "engine.scoring.command"),
    "simulate": (
        "the scheduler on a virtual clock, under seeded load and faults",
        "engine.simulation.command",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0, 1 for an error that was explained, 2 for a wrong command line."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="engine",
        description="Every prediction answered before its deadline: model serving in your own process.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, (purpose, module) in VERBS.items():
        verb_parser = verbs.add_parser(verb, help=purpose, description=purpose)
        if given[:1] == [verb]:  # its options are its module's business, and only it is imported
            importlib.import_module(module).add_arguments(verb_parser)
    chosen = parser.parse_args(given)
    try:
        return importlib.import_module(VERBS[chosen.verb][1]).main(chosen)
    except (EngineError, FileNotFoundError) as error:
        print(f"engine {chosen.verb}: {error}", file=sys.stderr)
        return 1
