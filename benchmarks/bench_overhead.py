"""What one prediction costs beside the model: a dict of 30 numbers in, an answer out, the model as good as free.

Measures a caller's own time from `predict(dict)` to the `Answer`, on one thread, one call after the other: once inline
and once handed to the parked executor of the batch lane and back. The features are 30 pass-through numbers and the
model is a native linear one, so that what is left is the engine. Rivals get the same dict: a bare ONNX Runtime call on
a row that is already an array (no deadline, no batching), and an asyncio micro-batcher that scores as soon as it is
free: in a thread, which is the batcher of the `deadline` case and what any model needs that is not free, and on the
event loop itself, which only a free model allows. It does not measure load, deadlines or several callers; `deadline`
does.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Any

import numpy as np

import engine
from benchmarks import conditions, models, rivals, timing

FIELDS = 30


def run(smoke: bool) -> dict[str, Any]:
    calls, repeats = (2_000, 1) if smoke else (200_000, 5)
    names = [f"f{index}" for index in range(FIELDS)]
    values = np.random.default_rng(5).normal(size=FIELDS).astype(np.float32)
    record = dict(zip(names, values.tolist(), strict=True))
    linear, program = models.linear(FIELDS), models.pass_through(names)
    session = models.session(models.perceptron([FIELDS, 1]))
    rounds: dict[str, list[dict[str, float]]] = {}
    answers = []

    def note(who: str, figures: dict[str, float]) -> None:
        rounds.setdefault(who, []).append(figures)

    for _ in range(repeats):
        with engine.Engine(linear, default=0.0, features=program, lane="inline") as inline:
            answers.append(inline.predict(record).value)
            taken = timing.latencies_us(partial(inline.predict, record), calls)
            note(
                "engine",
                timing.percentiles(taken, "predict_us")
                | {"per_s": timing.per_s(partial(inline.predict, record), calls)},
            )
        with engine.Engine(linear, default=0.0, features=program, lane="batch") as batch:
            answers.append(batch.predict(record).value)
            taken = timing.latencies_us(partial(batch.predict, record), calls // 10)
            note("engine", timing.percentiles(taken, "through_batcher_us"))
        note("onnxruntime_call", _bare_session(session, values[None], calls // 10))
        for name, in_thread in (("asyncio_batcher", True), ("asyncio_batcher_on_loop", False)):
            note(name, asyncio.run(_micro_batcher(session, record, calls // 20, in_thread)))

    figures = {who: timing.median_of(runs) for who, runs in rounds.items()}
    metrics = figures.pop("engine")
    for name, rival in figures.items():
        metrics[f"vs_{name}"] = rival["predict_us_p50"] / metrics["predict_us_p50"]
    return {
        "metrics": metrics,
        "rivals": figures,
        "conditions": {
            "arrivals": "closed loop, one caller",
            "threads": 1,
            "calls": calls,
            "repeats": repeats,
            "clock_us": timing.clock_us(),
            "spread": {who: timing.spread_of(runs) for who, runs in rounds.items()},
            "checksum": conditions.checksum(np.array(answers)),
        },
    }


def _bare_session(session: Any, rows: np.ndarray, calls: int) -> dict[str, float]:
    taken = timing.latencies_us(partial(session.run, None, {"x": rows}), calls)
    return timing.percentiles(taken, "predict_us") | {
        "per_s": timing.per_s(partial(session.run, None, {"x": rows}), calls)
    }


async def _micro_batcher(
    session: Any, record: dict[str, float], calls: int, in_thread: bool
) -> dict[str, float]:
    names = list(record)
    batcher = rivals.MicroBatcher(
        lambda rows: session.run(None, {"x": rows})[0][:, 0], window_ms=0, in_thread=in_thread
    )
    clock, taken = time.perf_counter_ns, []
    with timing.no_collections():
        for _ in range(calls):
            before = clock()
            await batcher.submit(np.array([record[name] for name in names], dtype=np.float32))
            taken.append(clock() - before)
    batcher.close()
    return timing.percentiles(np.array(taken) * 1e-3, "predict_us") | {"per_s": calls / (sum(taken) * 1e-9)}
