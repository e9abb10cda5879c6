"""Cost and sharpness of a monitor: 30 features, with and without drift, and the real flights of January and July.

Measured are:

- a push into the ring by a native caller: the row of 30 floats is copied, and the native thread counts beside it;
- counting and testing, per row and feature;
- false alarms in 100,000 rows without drift, over 5 seeds, each with its own reference;
- rows until a shift of 0.25 standard deviations and a spread of 1.3 times are certain: the median of 30 features and 5
  seeds, counted from the row where the change begins;
- alerts that halves of January raise against each other, and July against January.

Rivals test windows of 1,000 rows with their own defaults, corrected for the number of features where they offer it. Not
measured: an engine around the monitor, and the rivals' other detectors.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import conditions
from benchmarks.own_environment import RivalMissing, measured_in
from engine.demo.flights import data_folder
from engine.monitor import Alert, ModelMonitor, Reference
from engine.monitor._sketch import Sketch

SEED = 100
FEATURES = 30
REFERENCE_ROWS = 10_000
WINDOW_ROWS = 1000
WEATHER = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")
DELAYS = ("dep_delay", "arr_delay")
OTHERS = ("distance", "hour", "air_time")
# Columns that differ in July: warm and damp air, and later aeroplanes.
CHANGED = ("temp", "dewp", *DELAYS)
RIVALS = {
    "alibi-detect": (["alibi-detect==0.12.0", "numpy<2"], "alibi"),
    "evidently": (["evidently==0.7.11", "pandas<3"], "evidently"),
}

Matrix = npt.NDArray[np.float32]


def push_ns(repeats: int) -> dict[str, float]:
    """Return nanoseconds of a push, best and median of native loops; the ring has room and is drained meanwhile."""
    rng = np.random.default_rng(SEED)
    reference = Reference.fit(rng.normal(size=(1000, FEATURES)))
    rows, values = rng.normal(size=(4096, FEATURES)).astype(np.float32), rng.random(4096)
    sketch = Sketch(features_max=FEATURES, outputs_max=1)
    sketch.set_layout([(c.bins.cuts, c.bins.bin_of, c.bins.n_bins) for c in reference.features], FEATURES)
    taken = []
    for _ in range(repeats):
        before = time.perf_counter_ns()
        pushed = sketch.push_rows(rows, values)
        taken.append((time.perf_counter_ns() - before) / len(rows))
        if pushed != len(rows):
            raise AssertionError("the ring was full")
        drained = False
        while not drained:
            drained = sketch.drain(True)
            while sketch.take() is not None:
                pass
    sketch.close()
    return {"push_ns": min(taken), "push_ns_p50": float(np.median(taken))}


def watch(reference: Reference, rows: Matrix) -> tuple[list[Alert], float]:
    """Return the alerts of rows that come a window at a time, and the median seconds to count and test a window."""
    taken = []
    with ModelMonitor(reference, handlers=[], background=False) as monitor:
        for start in range(0, len(rows), WINDOW_ROWS):
            before = time.perf_counter()
            monitor.input_distribution.update(rows[start : start + WINDOW_ROWS])
            taken.append(time.perf_counter() - before)
        return monitor.alerts, float(np.median(taken))


def normal(rng: np.random.Generator, rows: int) -> Matrix:
    return rng.normal(size=(rows, FEATURES)).astype(np.float32)


def without_drift(rows: int, seeds: int) -> dict[str, float]:
    """Return false alarms and cost over rows of the reference's own law."""
    found, taken = [], []
    for seed in range(seeds):
        rng = np.random.default_rng(SEED + seed)
        alerts, seconds = watch(Reference.fit(normal(rng, REFERENCE_ROWS)), normal(rng, rows))
        found.append(len(alerts))
        taken.append(seconds / (WINDOW_ROWS * FEATURES) * 1e6)
    return {
        "false_alarms_100k": sum(found) / seeds * (100_000 / rows),
        "false_alarms_100k_worst_seed": max(found) * (100_000 / rows),
        "us_per_row_feature": min(taken),
        "us_per_row_feature_p50": float(np.median(taken)),
    }


def delay(shift: float, scale: float, rows_before: int, rows_after: int, seeds: int) -> dict[str, float]:
    """Return rows from the change of all features until each is certain. One that is never seen counts as all rows."""
    delays = []
    for seed in range(seeds):
        rng = np.random.default_rng(SEED + 50 + seed)
        reference = Reference.fit(normal(rng, REFERENCE_ROWS))
        rows = np.concatenate([normal(rng, rows_before), normal(rng, rows_after) * scale + np.float32(shift)])
        alerts, _ = watch(reference, rows)
        seen = {alert.column: alert.detected_row for alert in reversed(alerts)}
        delays += [(seen.get(f"f{i}") or len(rows)) - rows_before for i in range(FEATURES)]
    return {"median": float(np.median(delays)), "worst": float(max(delays))}


def flights(month: int) -> Any:
    """Return the flights of a month in the order they were due, with the weather of their hour."""
    import pandas

    folder = data_folder()
    hour = ["origin", "year", "month", "day", "hour"]
    table = pandas.read_csv(folder / "flights.csv.zip")
    weather = pandas.read_csv(folder / "weather.csv", usecols=[*hour, *WEATHER]).drop_duplicates(hour)
    table = table[(table["month"] == month) & table["arr_delay"].notna()]
    table = table.merge(weather, on=hour, how="left", validate="many_to_one")
    return table.sort_values(["day", "hour", "minute"], kind="stable", ignore_index=True)


def on_flights() -> dict[str, float]:
    """Return alerts of January's halves against each other, and of July against January."""
    january, july = flights(1), flights(7)
    columns = [*WEATHER, *DELAYS, *OTHERS]
    names = np.random.default_rng(SEED).permutation(len(january))
    half = len(january) // 2
    halves = {
        "first_second": (january[:half], january[half:]),
        "second_first": (january[half:], january[:half]),
        "even_odd": (january[::2], january[1::2]),
        "random": (january.iloc[np.sort(names[:half])], january.iloc[np.sort(names[half:])]),
        "shuffled": (january.iloc[names[:half]], january.iloc[names[half:]]),
    }
    figures = {}
    for name, (reference, live) in halves.items():
        alerts, _ = watch(Reference.fit(reference[columns]), live[columns].to_numpy(np.float32))
        figures[f"january_{name}_alerts"] = float(len(alerts))
    figures["january_halves_alerts"] = sum(figures.values())
    alerts, _ = watch(Reference.fit(january[columns]), july[columns].to_numpy(np.float32))
    seen = [alert.column for alert in alerts]
    figures["july_flagged_share"] = sum(name in seen for name in CHANGED) / len(CHANGED)
    figures["july_alerts_a_flagged_column"] = max((seen.count(name) for name in set(seen)), default=0)
    figures["july_other_columns_flagged"] = len(set(seen) - set(CHANGED))
    for alert in alerts:
        if alert.column in CHANGED:
            figures.setdefault(f"july_rows_until_{alert.column}", float(alert.detected_row or 0))
    return figures


def rivals(smoke: bool) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    script = Path(__file__).parent / "rivals_monitor.py"
    found, missing = {}, {}
    for name, (requirements, which) in RIVALS.items():
        if smoke:
            missing[name] = "not run at smoke size"
            continue
        try:
            found[name] = measured_in(requirements, script, which, str(SEED), limit_s=400)
        except RivalMissing as error:
            missing[name] = str(error)
    return found, missing


def run(smoke: bool) -> dict[str, Any]:
    rows, seeds = (2_000, 1) if smoke else (100_000, 5)
    mean = delay(0.25, 1.0, 1000 if smoke else 5000, 3000, seeds)
    spread = delay(0.0, 1.3, 1000 if smoke else 5000, 3000, seeds)
    metrics = {
        **push_ns(20 if smoke else 300),
        **without_drift(rows, seeds),
        "delay_mean_0.25": mean["median"],
        "delay_mean_0.25_worst": mean["worst"],
        "delay_sd_1.3": spread["median"],
        "delay_sd_1.3_worst": spread["worst"],
    }
    skipped = {}
    try:
        metrics |= on_flights()
    except ImportError as error:
        skipped["flights"] = str(error)
    others, missing = rivals(smoke)
    rng = np.random.default_rng(SEED)
    return {
        "metrics": metrics,
        "rivals": others,
        "conditions": {
            "features": FEATURES,
            "reference_rows": REFERENCE_ROWS,
            "rows": rows,
            "seeds": seeds,
            "window_rows": WINDOW_ROWS,
            "block_rows": 50,
            "changed_in_july": list(CHANGED),
            "checksum": conditions.checksum(normal(rng, 1000)),
            "skipped": {**skipped, **missing},
        },
    }
