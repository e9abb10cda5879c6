"""Ten minutes at capacity with everything going wrong: does memory grow, does latency, is an answer wrong?

Poisson arrivals at 1x on event loops that live for six seconds each and are closed with requests still in flight. The
primary burns a known time a row, fails one call in a hundred and stalls for 50 ms in every five seconds; each second
another version of it is swapped in; one request in a hundred is cancelled just after it was asked. Every answer is held
against its row and the version it names.

`rss_drift_share` is how far the median resident memory of the last tenth is from that of the first,
`latency_drift_share` the same of the median latency of the primary's answers, from the scheduled arrival (a median over
all answers would fall between two humps: the fallback's come at once). What the process needs to warm up, three loops,
comes before the first tenth. At 1x the queue feels whatever the host takes from the machine; `stolen_ms_a_loop` among
the conditions tells how much that was in each tenth. `wrong` counts answers of another value than their version gives
for their row, requests that got no answer, and requests that the engine's own counters miss or count twice. It says
nothing of other lanes, of several processes, or of days.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections import Counter
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

import engine
from benchmarks import conditions
from engine.errors import ModelError
from engine.loadgen import drive, load
from engine.model import dense
from engine.testing import faults

FEATURES = 8
DEADLINE_MS = 10.0
ROWS_MAX = 8
CALL_US, ROW_US = 100.0, 400.0
CAPACITY_PER_S = ROWS_MAX / (CALL_US + ROW_US * ROWS_MAX) * 1e6
FAILING_SHARE = 0.01
STALL_MS, EVERY_MS = 50.0, 5_000.0
CANCEL_EVERY = 100
LEFT_BEHIND = 20
SWAP_EVERY_S = 1.0
PER_VERSION, BY_FALLBACK = 1_000.0, 0.5
PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20
TICK_MS = 1e3 / os.sysconf("SC_CLK_TCK")


def run(smoke: bool) -> dict[str, Any]:
    seconds, loops, warm_loops = (0.2, 10, 1) if smoke else (6.0, 100, 3)
    case = Case(seconds)
    try:
        for number in range(-warm_loops, loops):
            asyncio.run(case.live(seed=number + warm_loops))
            case.note(number)
    finally:
        case.close()
    return case.result(loops)


class Case:
    """The engine, the versions that it is given, and what was seen of it loop by loop."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        random = np.random.default_rng(12)
        # Small whole numbers: every sum is exact, whatever the order.
        self.rows = random.integers(-9, 10, size=(1024, FEATURES)).astype(np.float32)
        self.weights = random.integers(1, 5, size=(FEATURES, 1)).astype(float)
        self.sums = (self.rows.astype(float) @ self.weights)[:, 0].tolist()
        self.started_ns = time.monotonic_ns()
        primary, arm = self._primary(0)
        self.engine = engine.Engine(
            primary,
            fallback=self._model(BY_FALLBACK),
            deadline_ms=DEADLINE_MS,
            batch_rows_max=ROWS_MAX,
            lane="batch",
            version="0",
        )
        arm()
        self.seen: Counter[str] = Counter()
        self.sources: Counter[str] = Counter()
        self.latency_us: list[float] = []
        self.latency_us_p99: list[float] = []
        self.rss_mb: list[float] = []
        self.stolen_ms: list[float] = []
        self.stop = threading.Event()
        self.swapper = threading.Thread(target=self._swap)
        self.swapper.start()

    def _model(self, bias: float) -> engine.Model:
        return dense([self.weights], [np.array([bias])])

    def _primary(self, version: int) -> tuple[engine.Model, Any]:
        """A version's primary, healthy until it is armed: its warm-up is not what goes wrong here."""
        slowed = faults.slow(self._model(PER_VERSION * version), CALL_US, extra_us_per_row=ROW_US)
        failing = faults.failing(slowed, FAILING_SHARE, seed=version, armed=False)
        stalling = faults.stalling(failing, stall_ms=STALL_MS, every_ms=EVERY_MS, armed=False)

        def arm() -> None:
            failing.arm()
            stalling.arm(self.started_ns)

        return stalling, arm

    def _swap(self) -> None:
        for version in count(1):
            if self.stop.wait(min(SWAP_EVERY_S, self.seconds)):
                return
            primary, arm = self._primary(version)
            fallback = self._model(PER_VERSION * version + BY_FALLBACK)
            try:
                self.engine.swap(primary, fallback=fallback, version=str(version))
            except ModelError:
                self.seen["swaps_refused"] += 1
                continue
            arm()
            self.seen["swaps"] += 1

    async def live(self, seed: int) -> None:
        """One event loop's life; it ends with requests in flight."""
        loop = asyncio.get_running_loop()
        futures: list[Any] = []

        def submit(index: int, deadline_ns: int) -> Any:
            future = self.engine.predict_async(self.rows[index % len(self.rows)], deadline_ns=deadline_ns)
            futures.append(future)
            if index % CANCEL_EVERY == CANCEL_EVERY - 1:
                loop.call_soon(future.cancel)
            return future

        schedule = load.poisson(CAPACITY_PER_S, self.seconds, seed)
        stolen_before = stolen_ms()
        run = await drive.drive_async(submit, schedule, deadline_ms=DEADLINE_MS)
        self.stolen_ms.append(stolen_ms() - stolen_before)
        answered = run.latency_us[run.source != load.UNANSWERED]
        self.latency_us.append(load.percentile(run.latency_us[run.source == load.PRIMARY], 50))
        self.latency_us_p99.append(load.percentile(answered, 99))
        self.seen["requests"] += len(futures) + LEFT_BEHIND
        self.seen["late"] += int((answered > DEADLINE_MS * 1e3).sum())
        self._judge(futures)
        for index in range(LEFT_BEHIND):
            self.engine.predict_async(self.rows[index], deadline_ms=1_000.0)

    def _judge(self, futures: list[Any]) -> None:
        for index, future in enumerate(futures):
            if future.cancelled():
                self.seen["cancelled"] += 1
                continue
            if not future.done() or future.exception() is not None:
                self.seen["unanswered"] += 1
                continue
            answer = future.result()
            self.sources[answer.source] += 1
            if answer.source != "default":
                due = self.sums[index % len(self.rows)] + PER_VERSION * int(answer.version)
                self.seen["wrong_values"] += bool(
                    answer.value != due + BY_FALLBACK * (answer.source == "fallback")
                )

    def note(self, number: int) -> None:
        """What the process holds between two loops."""
        gc.collect()
        self.rss_mb.append(int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_MB)
        if number < 0:  # warming up
            for noted in (self.rss_mb, self.latency_us, self.latency_us_p99, self.stolen_ms):
                noted.clear()
        elif number % 10 == 9:
            print(
                f"  loop {number + 1}: {self.rss_mb[-1]:.1f} MB, p50 {self.latency_us[-1]:.0f} us, "
                f"p99 {self.latency_us_p99[-1]:.0f} us, {dict(self.seen)}",
                flush=True,
            )

    def close(self) -> None:
        self.stop.set()
        self.swapper.join()
        self.engine.close()
        self.facts = self.engine.stats()

    def result(self, loops: int) -> dict[str, Any]:
        tenth = max(3, loops // 10)
        counted = sum(self.facts["answers"].values()) + self.facts["cancelled"]
        miscounted = abs(counted - self.seen["requests"])
        drifts = {
            "rss_drift_share": drift(self.rss_mb, tenth),
            "latency_drift_share": drift(self.latency_us, tenth),
            "latency_p99_drift_share": drift(self.latency_us_p99, tenth),
        }
        return {
            "metrics": {
                **{key: abs(value) for key, value in drifts.items()},
                "wrong": self.seen["wrong_values"] + self.seen["unanswered"] + miscounted,
                "late_share": self.seen["late"] / self.seen["requests"],
                "requests": self.seen["requests"],
                "swaps": self.seen["swaps"],
                "rss_mb_first": float(np.nanmedian(self.rss_mb[:tenth])),
                "rss_mb_last": float(np.nanmedian(self.rss_mb[-tenth:])),
                "latency_us_p50_first": float(np.nanmedian(self.latency_us[:tenth])),
                "latency_us_p50_last": float(np.nanmedian(self.latency_us[-tenth:])),
            },
            "rivals": {},
            "conditions": {
                "arrivals": f"Poisson at {CAPACITY_PER_S:,.0f}/s, open loop, latency from the scheduled arrival",
                "deadline_ms": DEADLINE_MS,
                "primary": f"native, {CALL_US:g} us a call and {ROW_US:g} a row, up to {ROWS_MAX} rows",
                "faults": f"{FAILING_SHARE:.0%} of calls fail; {STALL_MS:g} ms stall in every {EVERY_MS:g} ms; a swap "
                f"every {SWAP_EVERY_S:g} s; every {CANCEL_EVERY}th cancelled; {LEFT_BEHIND} left in each closed loop",
                "loop_s": self.seconds,
                "loops": loops,
                "drift_with_sign": drifts,
                "seen": dict(self.seen),
                "sources": dict(self.sources),
                "reasons": self.facts["reasons"],
                "executors_replaced": self.facts["executors"]["replaced"],
                "rss_mb": [round(value, 1) for value in self.rss_mb[:: max(1, loops // 20)]],
                "latency_us_p50": [round(value) for value in self.latency_us[:: max(1, loops // 20)]],
                "stolen_ms_a_loop": [
                    round(float(np.mean(self.stolen_ms[at : at + tenth]))) for at in range(0, loops, tenth)
                ],
                "checksum": conditions.checksum(np.array(self.sums)),
            },
        }


def drift(values: list[float], tenth: int) -> float:
    """How far the last tenth's median is from the first's, as a share of that; NaN stands for a loop without one."""
    first = float(np.nanmedian(values[:tenth]))
    return (float(np.nanmedian(values[-tenth:])) - first) / first


def stolen_ms() -> float:
    """Processor time that the host gave to others while this machine wanted it, since the start; of all cores."""
    with open("/proc/stat", encoding="ascii") as stat:
        return int(stat.readline().split()[8]) * TICK_MS
