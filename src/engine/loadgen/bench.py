"""`bench`: a model file timed against the library that trained it, and under a load with deadlines.

Our own reader reads the file first, so that the library's parser only meets files known to be sound. Times are
closed-loop, of one thread, and include the Python call. The load is open-loop: latency counts from the instant when a
request was due. The library runs as it does for its own users; pickles are read only with `trust`.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import InputError
from engine.loadgen import drive, load
from engine.loadgen.rivals import Predict, Rows, rival_of
from engine.model import Model, load_model
from engine.serving import Engine

BATCHES = (1, 4, 16, 64, 256, 1024)


@dataclass(frozen=True)
class Bench:
    """The result of `bench`; `str()` of it is a table for people.

    Attributes:
        path, format, n_features: of the model.
        device: where it is scored: "cpu", or "gpu:0" with the batch from which on the GPU is sooner.
        rows: the rows it was measured on, in words.
        us_row: median microseconds a row of `Model.predict`, by rows a call.
        rival: the library that trained the model, or why it was not measured.
        rival_us_row: median microseconds a row of the library's own predict on one thread; empty if not measured.
        largest_difference: between the two answers to the same rows, relative to the larger of 1 and our answer; None
            if not measured.
        load: `Run.summary()` of the load, with rate_per_s and deadline_ms.
    """

    path: str
    format: str
    n_features: int
    rows: str
    us_row: dict[int, float]
    rival: str
    rival_us_row: dict[int, float] = field(default_factory=dict)
    largest_difference: float | None = None
    load: dict[str, Any] = field(default_factory=dict)
    device: str = "cpu"

    def __str__(self) -> str:
        where = "" if self.device == "cpu" else f", {self.device}"
        lines = [f"{self.path}: {self.format}, {self.n_features} features{where}; rows: {self.rows}"]
        lines.append(f"{'rows a call':>12}{'us a row':>12}{self.rival:>24}{'times':>8}")
        for size, mine in self.us_row.items():
            other = self.rival_us_row.get(size)
            beside = f"{other:>24.3f}{other / mine:>8.1f}" if other is not None else ""
            lines.append(f"{size:>12,}{mine:>12.3f}{beside}")
        if self.largest_difference is not None:
            lines.append(f"largest relative difference of answers: {self.largest_difference:.2g}")
        about = f"{self.load['rate_per_s']:,.0f} a second, due within {self.load['deadline_ms']:g} ms"
        lines.append(f"under {about}:")
        shown = ("void", "on_time", "latency_us_p50", "latency_us_p99", "latency_us_p99.9", "lag_us_p99")
        lines += [f"  {name:<18}{_text(self.load[name])}" for name in shown if name in self.load]
        lines += [f"  from {name:<13}{share:.2%}" for name, share in self.load.get("sources", {}).items()]
        return "\n".join(lines)


def bench(
    path: str | Path,
    *,
    rows: Rows | None = None,
    batches: tuple[int, ...] = BATCHES,
    rate_per_s: float = 1000.0,
    deadline_ms: float = 10.0,
    seconds: float = 5.0,
    seed: int = 0,
    batch_s: float = 0.3,
    trust: bool = False,
    device: str = "cpu",
) -> Bench:
    """Time a model file against the library that trained it, and under a load. Blocks for the whole measurement.

    Args:
        path: of a file that `load_model` reads.
        rows: numbers [n, n_features] to measure on; standard normal values by default. A forest's time depends on the
            paths of its rows, so your own rows tell more.
        batches: rows a call, one measurement each.
        rate_per_s: mean arrivals a second of the load: Poisson, one row each.
        deadline_ms: milliseconds from an arrival to its deadline.
        seconds: length of the load.
        seed: of arrivals and default rows.
        batch_s: seconds spent on each size and library.
        trust: read pickles, which run code.
        device: where the model is scored, as in `load_model`.

    Raises:
        InputError: `rows` has another width, or no row.
        ModelFormatError, UnsupportedModelError: raised by `load_model`.
    """
    path = Path(path)
    model = load_model(path, trust=trust, device=device)
    about = "yours" if rows is not None else "standard normal (your own, by --rows, would tell more)"
    if rows is None:
        rows = np.random.default_rng(seed).normal(size=(4096, model.n_features)).astype(np.float32)
    if rows.ndim != 2 or rows.shape[1] != model.n_features or not len(rows):
        raise InputError(f"expected rows of shape [n, {model.n_features}], got {list(rows.shape)}")
    rows = np.ascontiguousarray(np.resize(rows, (max(len(rows), 2 * max(batches)), rows.shape[1])))
    rival, predict = rival_of(path, model, trust=trust)
    mine = {size: _us_row(model.predict, rows, size, batch_s) for size in batches}
    theirs = {size: _us_row(predict, rows, size, batch_s) for size in batches} if predict else {}
    return Bench(
        path=str(path),
        format=model.format,
        n_features=model.n_features,
        rows=about,
        us_row=mine,
        rival=rival,
        rival_us_row=theirs,
        largest_difference=_difference(model, predict, rows[:1024]) if predict else None,
        load=_under_load(model, rows, rate_per_s, deadline_ms, seconds, seed),
        device=_device(model),
    )


def _device(model: Model) -> str:
    facts = model.describe()
    where = str(facts.get("device", "cpu"))
    return where if where == "cpu" else f"{where} from {facts['break_even_rows']} rows on"


def _us_row(predict: Predict, rows: Rows, size: int, seconds: float) -> float:
    """Return the median microseconds a row. Each call takes other rows."""
    taken: list[int] = []
    at = 0
    predict(rows[:size])
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(taken) < 3:
        block = rows[at : at + size]
        start = time.perf_counter_ns()
        predict(block)
        taken.append(time.perf_counter_ns() - start)
        at = (at + size) % (len(rows) - size + 1)
    return statistics.median(taken) / 1e3 / size


def _difference(model: Model, predict: Predict, rows: Rows) -> float:
    mine = np.ravel(model.predict(rows))
    other = np.ravel(np.asarray(predict(rows), np.float64))
    if mine.shape != other.shape:
        return float("nan")
    return float(np.max(np.abs(mine - other) / np.maximum(1.0, np.abs(other))))


def _under_load(
    model: Model, rows: Rows, rate_per_s: float, deadline_ms: float, seconds: float, seed: int
) -> dict[str, Any]:
    schedule = load.poisson(rate_per_s, seconds, seed)

    async def run() -> load.Run:
        default = 0.0 if model.n_outputs == 1 else [0.0] * model.n_outputs
        with Engine(model, default=default, deadline_ms=deadline_ms, warmup=rows[:64]) as served:

            def submit(index: int, deadline_ns: int) -> Any:
                return served.predict_async(rows[index % len(rows)], deadline_ns=deadline_ns)

            return await drive.drive_async(submit, schedule, deadline_ms=deadline_ms)

    return {"rate_per_s": rate_per_s, "deadline_ms": deadline_ms, **asyncio.run(run()).summary()}


def _text(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)
