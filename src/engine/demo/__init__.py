"""`engine demo`: a real model on real flights under real load, with a 10 ms deadline. See `run`."""

from __future__ import annotations

import time
from pathlib import Path

from engine.demo import flights, loop, phases, report, training

__all__ = ["run"]


def run(folder: Path, *, quick: bool = False, seed: int = 2013) -> None:
    """Train on January to June, serve July onwards at three loads in two lanes, and then run the whole loop.

    The loop goes from a feature store to a bad version that the service rolls back by itself.

    Args:
        folder: made if it is missing. Gets report.json, report.svg, features.json and the model files; from the loop
            loop.json, report.html, and the folders data, online and registry.
        quick: small models and phases of a second. Shows that everything works, and measures nothing.
        seed: of the arrivals.

    Raises:
        MissingDependencyError: a library of the `demo` extra is not installed.
    """
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - started:5.1f} s] {text}", flush=True)

    folder.mkdir(parents=True, exist_ok=True)
    learn, serve = flights.load()
    say(f"{len(learn):,} flights of January to June to learn from, {len(serve):,} of July onwards to serve")
    served = training.train(learn, serve, folder, quick=quick, say=say)
    say(_checked(served))
    say(f"serving with a {phases.DEADLINE_MS:g} ms deadline; latency counts from when a request was due")
    print(report.HEAD, flush=True)

    def show(phase: phases.Phase) -> None:
        print("\n".join(filter(None, (report.line(phase), report.reasons(phase)))), flush=True)

    capacities, done = phases.run_all(served, serve, seconds=1.0 if quick else 7.0, seed=seed, say=show)
    report.save(folder, served, capacities, done, {"quick": quick, "seed": seed})
    rates = ", ".join(f"{lane} {rate:,.0f}/s" for lane, rate in capacities.items())
    say(f"capacity of the primary: {rates}")
    say("the whole loop: materialise, train, register, serve and monitor July, roll back a bad version")
    loop.run(folder, quick=quick, seed=seed, say=say)
    say(f"wrote report.json, report.svg, loop.json and report.html into {folder}")


def _checked(served: training.Served) -> str:
    checks = served.checks
    return (
        f"checked {checks['rows_checked']:,} flights against LightGBM: {checks['primary_differ']} native and "
        f"{checks['onnx_differ']} ONNX answers differ by more than {training.TOLERANCE:g}; AUC of the primary "
        f"{checks['auc_primary']:.3f}, of the fallback {checks['auc_fallback']:.3f}; "
        f"base rate {served.base_rate:.3f}"
    )
