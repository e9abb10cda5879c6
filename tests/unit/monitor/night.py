"""A night of a model that goes wrong, for tests of pages and metrics: six hours of answers, a swap, a broken feed."""

import time

import numpy as np

from engine._common.vocabulary import REASONS
from engine.monitor import ModelMonitor, Reference

HOURS = 6
ROWS = 3000
SWAP, CHANGE = 2280, 2400


def rows(rng, n, broken=False):
    """30 columns of every kind: numbers, few distinct numbers, mostly zeros, heavy tails, texts."""
    found = {
        "temp": rng.normal(12, 6, n) + 19 * broken,
        "pressure": np.where(rng.random(n) < (0.4 if broken else 0.02), np.nan, rng.normal(1017, 7, n)),
        "precip": np.where(rng.random(n) < 0.93, 0.0, rng.exponential(0.05, n)),
        "minute": rng.integers(0, 12, n) * 5.0,
        "month": rng.integers(1, 13, n) * 1.0,
        "wind_dir": rng.integers(0, 36, n) * 10.0,
        "seats": rng.choice([20.0, 55.0, 149.0, 379.0], n),
        "delay": rng.standard_t(2, n) * 12,
        "constant": np.full(n, 3.0),
        "origin": rng.choice(["EWR", "JFK", "SWF" if broken else "<LGA>"], n),
        "carrier": rng.choice([f"carrier {k}" for k in range(12)], n),
    }
    return found | {f"score_{k:02}": rng.normal(k, 1 + k, n) for k in range(19)}


def night(broken=True, name="flights"):
    """Return an open monitor, without a thread, that has seen the night."""
    rng = np.random.default_rng(3)
    made = Reference.fit(rows(rng, 4000), outputs=rng.beta(2, 6, 4000), ordered=False)
    monitor = ModelMonitor(made, handlers=[], background=False, name=name)
    monitor._sketch.deployed(1, "flights@41")
    monitor._sketch.deployed(2, "flights@42")
    good, bad = made.matrix(rows(rng, ROWS)), made.matrix(rows(rng, ROWS, broken=True))
    now = time.monotonic_ns()
    length = int(HOURS * 3600e9)
    for place in range(ROWS):
        at = now - length + length * place // ROWS
        falls_back = rng.random() < (0.3 if broken and place >= SWAP else 0.004)
        took = int(rng.normal(9.4e6, 0.1e6)) if falls_back else int(rng.gamma(5, 0.35e6))
        monitor._sketch.push(
            place,
            row=(bad if broken and place >= CHANGE else good)[place],
            deployment=1 + (broken and place >= SWAP),
            source=int(falls_back),
            reason=REASONS.index("timeout" if falls_back else "ok"),
            started_ns=at,
            ready_ns=at + took,
            deadline_ns=at + 10_000_000,
            values=np.array([rng.beta(2, 6)]),
        )
        if place % 100 == 0:
            monitor._test()
    monitor._test()
    for place in range(0, ROWS, 3):
        monitor.outcome(place, int(rng.random() < 0.25), value=10.0)
    monitor.counter("bookings", "Bookings made").inc(482, version="flights@41")
    return monitor
