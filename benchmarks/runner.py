"""Finds the cases, runs them, and writes what they found.

A case is `bench_NAME.py` with a docstring that says what it measures and what it does not, and

    def run(smoke: bool) -> dict      # {"metrics": {key: number}, "rivals": {name: {key: number}}, "conditions": {...}}

The smoke size proves that a case still runs, in seconds, as part of the test suite; its figures mean nothing, so it
never touches the committed results. The runner adds the conditions that every case shares.
"""

from __future__ import annotations

import importlib
import json
import math
import time
import traceback
from pathlib import Path
from typing import Any

from benchmarks import conditions

HERE = Path(__file__).parent
RESULTS = HERE / "results"


# Cases that `all` leaves out, because they need a machine of their own.
OUTSIDE_ALL = ("gpu",)


class NothingToMeasure(Exception):
    """This machine lacks what a case measures. The runner prints the message, writes nothing, and counts no failure."""


class BadResult(Exception):
    """A case returned something that is not a result; the message says which part."""


def names() -> list[str]:
    """The cases of `all`, alphabetically."""
    return [name for name in every_name() if name not in OUTSIDE_ALL]


def every_name() -> list[str]:
    """All cases, alphabetically."""
    return sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))


def load(name: str) -> Any:
    """The module of a case. Raises KeyError that lists the cases for a name that is none."""
    if name not in every_name():
        raise KeyError(f"no benchmark {name!r}; there are: {', '.join(every_name())}, all")
    return importlib.import_module(f"benchmarks.bench_{name}")


def listing() -> str:
    """One line a case: its name and the first line of its docstring."""
    width = max(map(len, every_name()))
    return "\n".join(
        f"{name:<{width}}  {(load(name).__doc__ or '').strip().splitlines()[0]}" for name in every_name()
    )


def check(result: dict[str, Any]) -> None:
    """Refuses what `render` and a reader could not use: other keys, or metrics that are not finite numbers."""
    if not isinstance(result, dict) or set(result) != {"metrics", "rivals", "conditions"}:
        raise BadResult(
            "expected a dict with exactly metrics, rivals and conditions, got "
            f"{sorted(result) if isinstance(result, dict) else type(result).__name__}"
        )
    groups = {"metrics": result["metrics"], **{f"rivals.{k}": v for k, v in result["rivals"].items()}}
    for group, metrics in groups.items():
        for key, value in metrics.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise BadResult(f"{group}.{key}: expected a finite number, got {value!r}")


def run_one(name: str, smoke: bool) -> dict[str, Any]:
    """Runs a case and returns its whole result, with the shared conditions in it."""
    case = load(name)
    started = time.monotonic()
    result = case.run(smoke)
    check(result)
    shared = conditions.describe() | {
        "smoke": smoke,
        "took_s": round(time.monotonic() - started, 1),
        # A case with another arrival process says so itself.
        "arrivals": "closed loop",
    }
    return {"name": name, **result, "conditions": shared | result["conditions"]}


def write(result: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")


def run_named(name: str, *, smoke: bool, json_path: Path | None) -> int:
    """Runs one case or 'all', prints the figures, and returns the number of cases that failed.

    With 'all' a `json_path` is a folder, and the name of a case names its file in it.
    """
    chosen = names() if name == "all" else [name]
    failed = 0
    for case in chosen:
        print(f"== {case}{' (smoke)' if smoke else ''}", flush=True)
        try:
            result = run_one(case, smoke)
        except KeyError as unknown:
            print(unknown.args[0])
            return 1
        except NothingToMeasure as reason:
            print(f"nothing to measure: {reason}", flush=True)
            continue
        except Exception:
            traceback.print_exc()
            failed += 1
            continue
        print(as_text(result), flush=True)
        target = json_path / f"{case}.json" if json_path and name == "all" else json_path
        if target is None and not smoke:
            target = RESULTS / f"{case}.json"
        if target is not None:
            write(result, target)
            print(f"wrote {target}", flush=True)
    print(f"{len(chosen) - failed} passed, {failed} failed", flush=True)
    return failed


def as_text(result: dict[str, Any]) -> str:
    """The figures of a result, one a line, each rival's beside the one of the same name."""
    rivals = result["rivals"]
    lines = [f"  {'':<34}{'engine':>14}" + "".join(f"{rival:>22}" for rival in rivals)]
    keys = list(result["metrics"])
    keys += [key for figures in rivals.values() for key in figures if key not in keys]
    for key in dict.fromkeys(keys):
        cells = [
            figure(result["metrics"].get(key)),
            *(figure(figures.get(key)) for figures in rivals.values()),
        ]
        lines.append(f"  {key:<34}{cells[0]:>14}" + "".join(f"{cell:>22}" for cell in cells[1:]))
    return "\n".join(lines)


def figure(value: float | None) -> str:
    """A number for a reader: four significant digits, thousands separated; nothing for a figure that is not there."""
    if value is None:
        return ""
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) < 0.001:
        return f"{value:.2g}"
    return f"{value:.{max(0, 3 - math.floor(math.log10(abs(value))))}f}"
