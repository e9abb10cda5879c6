"""The command line: `engine VERB`, the same as `python -m engine VERB`. Each verb imports only its own module."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from engine.errors import EngineError

# verb -> purpose, and the module with its add_arguments(parser) and main(chosen) -> exit status
VERBS = {
    "bench": (
        "time a model file against the library that trained it, and under load",
        "engine.loadgen.command",
    ),
    "demo": (
        "run the whole loop on real flights: features, training, serving under load, drift, rollback",
        "engine.demo.command",
    ),
    "inspect": ("describe a model file, without running code from it", "engine.model.command"),
    "materialize": ("bring features into the online store", "engine.feature_store.command"),
    "registry": ("list, promote and roll back registered versions", "engine.registry.command"),
    "score": ("score every row of a Parquet file with a registered version", "engine.scoring.command"),
    "simulate": (
        "run the scheduler on a virtual clock, under seeded load and faults",
        "engine.simulation.command",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Return the exit status: 0, 1 for an explained error, 2 for a wrong command line."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="engine",
        description="Every prediction answered before its deadline: model serving in your own process.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, (purpose, module) in VERBS.items():
        verb_parser = verbs.add_parser(verb, help=purpose, description=purpose)
        if given[:1] == [verb]:  # only the chosen verb's module is imported, and it adds its options
            importlib.import_module(module).add_arguments(verb_parser)
    chosen = parser.parse_args(given)
    try:
        return importlib.import_module(VERBS[chosen.verb][1]).main(chosen)
    except (EngineError, FileNotFoundError) as error:
        print(f"engine {chosen.verb}: {error}", file=sys.stderr)
        return 1
