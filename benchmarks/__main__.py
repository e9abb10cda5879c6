"""The command line of the benchmarks."""

import argparse
import sys
from pathlib import Path

from benchmarks import compare, render, runner


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("list", help="the cases and what each one measures")
    run = verbs.add_parser("run", help="run one case, or all of them")
    run.add_argument("name", help="a case, or 'all'")
    run.add_argument(
        "--smoke", action="store_true", help="tiny sizes: proves that the case runs, measures nothing"
    )
    run.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="write the result here; default for a full run "
        "is benchmarks/results/NAME.json, a smoke run writes nowhere else",
    )
    verbs.add_parser(
        "render", help="write the tables of README.md and docs/benchmarks.md from benchmarks/results"
    )
    against = verbs.add_parser("compare", help="today's results against those committed at REV")
    against.add_argument("rev", nargs="?", default="HEAD", help="a commit, branch or tag; HEAD unless given")
    against.add_argument(
        "--results",
        type=Path,
        default=runner.RESULTS,
        metavar="FOLDER",
        help="today's, benchmarks/results unless given",
    )
    chosen = parser.parse_args(arguments)
    if chosen.verb == "list":
        print(runner.listing())
        return 0
    if chosen.verb == "compare":
        try:
            before = compare.results_at(chosen.rev)
        except ValueError as error:
            parser.error(str(error))
        print(compare.report(before, compare.results_in(chosen.results), chosen.rev))
        return 0
    if chosen.verb == "render":
        print("\n".join(f"wrote {path}" for path in render.write_all()))
        return 0
    return runner.run_named(chosen.name, smoke=chosen.smoke, json_path=chosen.json)


if __name__ == "__main__":
    sys.exit(main())
