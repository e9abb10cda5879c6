"""`engine demo`: a real model on real flights under real load, with a 10 ms deadline. See `run`."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path

from engine.demo import flights, loop, phases, report, training
from engine.demo.replay import Say
from engine.demo.size import FULL, QUICK, USUAL, Size
from engine.errors import InputError

__all__ = ["run"]


def run(folder: Path, *, quick: bool = False, full: bool = False, seed: int = 2013) -> None:
    """Train on January to June, serve July onwards at three loads in two lanes, and then run the whole loop.

    The loop goes from a feature store to a bad version that the service rolls back by itself.

    Args:
        folder: made if it is missing. Gets report.json, report.svg, features.json and the model files; from the loop
            loop.json, report.html, and the folders data, online and registry; engine.log has what the engine logged.
        quick: small models and phases of a second. It shows that everything works. It measures little, and every line
            says so.
        full: phases of ten seconds, and every flight is compared with LightGBM. Not together with `quick`.
        seed: of the arrivals.

    Raises:
        InputError: both sizes are asked for.
        MissingDependencyError: a library of the `demo` extra is not installed.
    """
    if quick and full:
        raise InputError("quick=True and full=True are two sizes of the demo: pass one")
    size = QUICK if quick else FULL if full else USUAL
    started = time.monotonic()
    note = f"  ({size.note})" if size.note else ""

    def show(text: str) -> None:
        print("\n".join(line + note for line in text.splitlines()), flush=True)

    def say(text: str) -> None:
        show(f"[{time.monotonic() - started:5.1f} s] {text}")

    folder.mkdir(parents=True, exist_ok=True)
    with _logged(folder / "engine.log") as logged:
        _run(folder, size, seed, say, show)
    if logged.lines:
        say(
            f"the engine logged {logged.lines} lines about its breakers, its models and its versions: engine.log"
        )
    say(f"wrote report.json, report.svg, loop.json and report.html into {folder}")


class _Lines(logging.FileHandler):
    """A file of what the engine logs, which would stand in the middle of the demo's tables otherwise."""

    lines = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += 1
        super().emit(record)


@contextlib.contextmanager
def _logged(path: Path) -> Iterator[_Lines]:
    log = logging.getLogger("engine")
    lines = _Lines(path, mode="w", encoding="utf-8")
    lines.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    before = log.propagate
    log.addHandler(lines)
    log.propagate = False
    try:
        yield lines
    finally:
        log.propagate = before
        log.removeHandler(lines)
        lines.close()


def _run(folder: Path, size: Size, seed: int, say: Say, show: Say) -> None:
    learn, serve = flights.load()
    say(f"{len(learn):,} flights of January to June to learn from, {len(serve):,} of July onwards to serve")
    served = training.train(learn, serve, folder, size=size, say=say)
    say(_checked(served))
    say(f"serving with a {phases.DEADLINE_MS:g} ms deadline; latency counts from when a request was due")
    show(report.HEAD)

    def show_phase(phase: phases.Phase) -> None:
        show("\n".join(filter(None, (report.line(phase), report.reasons(phase)))))

    capacities, done = phases.run_all(served, serve, seconds=size.phase_s, seed=seed, say=show_phase)
    report.save(
        folder, served, capacities, done, {"quick": size is QUICK, "full": size is FULL, "seed": seed}
    )
    rates = ", ".join(f"{lane} {rate:,.0f}/s" for lane, rate in capacities.items())
    say(f"capacity of the primary: {rates}")
    say("the whole loop: materialise, train, register, serve and monitor July, roll back a bad version")
    loop.run(folder, size=size, seed=seed, say=say)


def _checked(served: training.Served) -> str:
    checks = served.checks
    return (
        f"checked {checks['rows_checked']:,} flights against LightGBM: {checks['primary_differ']} native and "
        f"{checks['onnx_differ']} ONNX answers differ by more than {training.TOLERANCE:g}; AUC of the primary "
        f"{checks['auc_primary']:.3f}, of the fallback {checks['auc_fallback']:.3f}; "
        f"base rate {served.base_rate:.3f}"
    )
