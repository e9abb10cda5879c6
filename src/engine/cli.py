"""The command line: `engine VERB`, the same as `python -m engine VERB`. Each verb imports only its own module."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Sequence

from engine._common.command_line import arranged, verb_at
from engine._common.progress import interruptible
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
    "features": (
        "list feature views, show one, or verify online rows against their source",
        "engine.feature_store.features_command",
    ),
    "inspect": ("describe a model file, without running code from it", "engine.model.command"),
    "materialize": ("bring features into the online store", "engine.feature_store.command"),
    "monitor": ("write or serve the page of a monitor, or of two tables", "engine.monitor.command"),
    "registry": ("list, promote and roll back registered versions", "engine.registry.command"),
    "score": ("score every row of a Parquet file with a registered version", "engine.scoring.command"),
    "simulate": (
        "run the scheduler on a virtual clock, under seeded load and faults",
        "engine.simulation.command",
    ),
}


INTERRUPTED = 130  # the exit status that shells give a command after Ctrl-C


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Options may stand before or after the verb. Every expected failure is one line on stderr: an explained error, a
    folder that cannot be written, a full disk, Ctrl-C.

    Returns:
        The exit status: 0, 1 for an explained error, 2 for a wrong command line, 130 after Ctrl-C.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="engine",
        description="Every prediction answered before its deadline: model serving in your own process.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    chosen_verb: str | None = None
    try:
        chosen_verb, words = _verb_first(given)
        for verb, (purpose, module) in VERBS.items():
            verb_parser = verbs.add_parser(verb, help=purpose, description=purpose)
            if verb == chosen_verb:  # only the chosen verb's module is imported, and it adds its options
                importlib.import_module(module).add_arguments(verb_parser)
                words = [verb, *arranged(verb_parser, words[1:])]
        chosen = parser.parse_args(words)
        with interruptible():
            return int(importlib.import_module(VERBS[chosen.verb][1]).main(chosen))
    except KeyboardInterrupt:
        return _failed(chosen_verb, "interrupted", INTERRUPTED)
    except BrokenPipeError:  # the reader of a pipe has seen enough
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except EngineError as error:
        return _failed(chosen_verb, str(error), 1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        return _failed(chosen_verb, f"{where}{error.strerror or error}", 1)


def _verb_first(given: list[str]) -> tuple[str | None, list[str]]:
    """Return the verb, and the words with the verb first and the words that stood before it last."""
    for place, word in enumerate(given):
        if word not in VERBS:
            continue
        if place == 0:
            return word, given
        parser = argparse.ArgumentParser(prog=f"engine {word}")
        importlib.import_module(VERBS[word][1]).add_arguments(parser)
        if verb_at(given, place, parser, VERBS):
            return word, [word, *given[place + 1 :], *given[:place]]
    return None, given


def _failed(verb: str | None, message: str, status: int) -> int:
    print(f"engine {verb}: {message}" if verb else f"engine: {message}", file=sys.stderr)
    return status
