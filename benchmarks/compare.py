"""Compares results with the results of another commit: a ratio for each figure, figures that left their spread first.

A case may store the spread of its repeats in its conditions: under "engine" or another group, [least, greatest] by
figure. A figure has left its spread where today's and the former do not touch. Without a spread nothing can be said of
noise, so those figures come second, the largest change first.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import runner

ROOT = Path(__file__).parent.parent
Interval = tuple[float, float]
# How a figure stands to its spread, in the order in which they are shown.
OUTSIDE, UNKNOWN, INSIDE = "outside", "no spread", "inside"


@dataclass(frozen=True)
class Change:
    """One figure, then and now.

    Attributes:
        case, key: whose figure.
        before, after: its value at the other commit and today.
        spread: of the value before; None where none was stored.
        verdict: OUTSIDE, UNKNOWN or INSIDE.
    """

    case: str
    key: str
    before: float
    after: float
    spread: Interval | None
    verdict: str

    @property
    def ratio(self) -> float | None:
        """Today's value by the former; None where the former is zero."""
        return self.after / self.before if self.before else None

    @property
    def size(self) -> float:
        """How large the change is, up and down alike; infinite from or to zero."""
        if self.before == self.after:
            return 0.0
        return abs(math.log(self.ratio)) if self.ratio is not None and self.ratio > 0 else math.inf


def results_at(rev: str) -> dict[str, dict[str, Any]]:
    """The results that were committed at a revision, by case. Raises ValueError for an unknown one."""
    folder = runner.RESULTS.relative_to(ROOT)
    listed = _git("ls-tree", "--name-only", rev, f"{folder}/")
    paths = [Path(line) for line in listed.splitlines() if line.endswith(".json")]
    return {path.stem: json.loads(_git("show", f"{rev}:{path}")) for path in paths}


def results_in(folder: Path) -> dict[str, dict[str, Any]]:
    """The results in a folder, by case."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[Change]:
    """Return a Change for each figure in both results: those outside their spread first, then by size."""
    made = []
    for key, now in after["metrics"].items():
        if key not in before["metrics"]:
            continue
        then, spread, spread_now = before["metrics"][key], spread_of(before, key), spread_of(after, key)
        if spread is None and spread_now is None:
            verdict = UNKNOWN
        else:
            low, high = spread or (then, then)
            low_now, high_now = spread_now or (now, now)
            apart = min(high, high_now) < max(low, low_now)
            verdict = OUTSIDE if apart else INSIDE
        made.append(Change(after["name"], key, then, now, spread, verdict))
    return sorted(made, key=_order)


def spread_of(result: dict[str, Any], key: str) -> Interval | None:
    """[least, greatest] over the repeats of a figure; None where the case stored none."""
    stored = result["conditions"].get("spread") or {}
    found = stored.get(key)
    for group, figures in stored.items():
        if not isinstance(figures, dict):
            continue
        if group == "engine" and key in figures:
            found = figures[key]
        elif key.startswith(f"{group}_") and key.removeprefix(f"{group}_") in figures:
            # A case that measures two of ours puts the group's name in front.
            found = figures[key.removeprefix(f"{group}_")]
    if not isinstance(found, list) or len(found) != 2:
        return None
    # The value may lie beyond, where it is a median over other groups of repeats.
    value = result["metrics"][key]
    return min(found[0], value), max(found[1], value)


def rivals_ratio(before: dict[str, Any], after: dict[str, Any]) -> float | None:
    """Return the median ratio of the rivals' figures, which tells how much of a change is the machine's."""
    ratios = [
        figures[key] / then[key]
        for name, figures in after["rivals"].items()
        if (then := before["rivals"].get(name))
        for key in figures.keys() & then.keys()
        if then[key]
    ]
    return statistics.median(ratios) if ratios else None


def report(before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]], rev: str) -> str:
    """The comparison as text."""
    both = [case for case in after if case in before]
    found = sorted((change for case in both for change in changes(before[case], after[case])), key=_order)
    lines = [f"{len(found)} figures of {len(both)} cases against {rev}"]
    for verdict in (OUTSIDE, UNKNOWN, INSIDE):
        here = [change for change in found if change.verdict == verdict]
        if here:
            lines += ["", f"{verdict} ({len(here)})", *map(_line, here)]
    lines += ["", "the machine, by the rivals in the same runs"]
    for case in both:
        lines.append(f"  {case:<16} {_machine(before[case], after[case])}")
    missing = [f"{case} is new" for case in after if case not in before]
    missing += [f"{case} is gone" for case in before if case not in after]
    return "\n".join([*lines, *missing])


def _machine(before: dict[str, Any], after: dict[str, Any]) -> str:
    ratio = rivals_ratio(before, after)
    parts = ["no rivals" if ratio is None else f"{ratio:.3f} of then"]
    for key in ("cpu", "cores", "compiler", "kernel"):
        then, now = before["conditions"].get(key), after["conditions"].get(key)
        if then != now:
            parts.append(f"{key}: {then} then, {now} now")
    return "; ".join(parts)


def _line(change: Change) -> str:
    ratio = "" if change.ratio is None else f"{change.ratio:.3f}"
    spread = "" if change.spread is None else f"[{' … '.join(map(runner.figure, change.spread))}]"
    before, after = runner.figure(change.before), runner.figure(change.after)
    return f"  {ratio:>8}  {change.case + ' ' + change.key:<52}{before:>12} -> {after:>12}  {spread}".rstrip()


def _order(change: Change) -> tuple[int, float, str, str]:
    return (OUTSIDE, UNKNOWN, INSIDE).index(change.verdict), -change.size, change.case, change.key


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ValueError(done.stderr.strip() or f"git {arguments[0]} failed")
    return done.stdout
