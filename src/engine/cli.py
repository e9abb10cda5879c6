"""The command line: `engine VERB`, the same as `python -m engine VERB`. A verb imports what it needs, no more."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from engine.errors import EngineError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0, 1 for an error that was explained, 2 for a wrong command line."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="engine",
        description="Every prediction answered before its deadline: model serving in your own process.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    demo = verbs.add_parser(
        "demo", help="train on real flights, serve them under load, and show what happened"
    )
    demo.add_argument("--out", type=Path, default=Path("demo-out"), metavar="DIR", help="default: demo-out")
    demo.add_argument("--quick", action="store_true", help="small models and short phases; measures nothing")
    demo.add_argument("--seed", type=int, default=2013, help="of the arrivals, default 2013")
    inspect = verbs.add_parser(
        "inspect", help="what a model file is, without running anything it brings along"
    )
    inspect.add_argument("path", type=Path, metavar="PATH")
    bench = verbs.add_parser("bench", help="a model against the library that trained it, and under load")
    if given[:1] == ["bench"]:
        from engine.planning.bench import add_arguments as add_bench_arguments

        add_bench_arguments(bench)
    simulate = verbs.add_parser(
        "simulate", help="the scheduler on a virtual clock, under seeded load and faults"
    )
    if given[:1] == ["simulate"]:
        # It has an option for each parameter of engine.simulate, which only its own module knows.
        from engine.planning.simulate import add_arguments

        add_arguments(simulate)
    registry = verbs.add_parser("registry", help="versions of models, and the aliases that point at them")
    if given[:1] == ["registry"]:
        from engine.registry import commands

        commands.add_arguments(registry)
    score = verbs.add_parser("score", help="answers of a registered model to every row of a Parquet file")
    if given[:1] == ["score"]:
        from engine.batch import commands as batch

        batch.add_arguments(score)
    chosen = parser.parse_args(given)
    try:
        return VERBS[chosen.verb](chosen)
    except (EngineError, FileNotFoundError) as error:
        print(f"engine {chosen.verb}: {error}", file=sys.stderr)
        return 1


def _demo(chosen: argparse.Namespace) -> int:
    from engine import demo

    demo.run(chosen.out, quick=chosen.quick, seed=chosen.seed)
    return 0


def _simulate(chosen: argparse.Namespace) -> int:
    from engine.planning.simulate import main as simulate

    return simulate(chosen)


def _registry(chosen: argparse.Namespace) -> int:
    from engine.registry import commands

    return commands.main(chosen)


def _score(chosen: argparse.Namespace) -> int:
    from engine.batch import commands

    return commands.main(chosen)


def _inspect(chosen: argparse.Namespace) -> int:
    from engine.model import inspect

    print(inspect(chosen.path))
    return 0


def _bench(chosen: argparse.Namespace) -> int:
    from engine.planning.bench import main as bench

    return bench(chosen)


VERBS = {
    "bench": _bench,
    "demo": _demo,
    "inspect": _inspect,
    "registry": _registry,
    "score": _score,
    "simulate": _simulate,
}
