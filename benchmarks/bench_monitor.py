"""Cost and sharpness of a monitor: 30 features, with and without drift, and the real flights of January and July.

Measured are:

- a push into the ring by a native caller: the row of 30 floats is copied, and the native thread counts beside it;
- counting and testing, per row and feature;
- false alarms in 100,000 rows without drift, over 5 seeds, each with its own reference;
- rows until a shift of 0.25 standard deviations and a spread of 1.3 times are certain: the median of 30 features and 5
  seeds, counted from the row where the change begins;
- alerts that halves of January raise against each other, and July against January;
- false alarms of all 30 columns together in 100,000 rows of streams whose rows depend on each other or whose reference
  is small, thinned or shuffled; and on each of them the rows until a shift of two long-run standard deviations of one
  column is certain;
- rows until a change of one of 30 columns is certain, with a reference of 20,000 rows: medians of 20 seeds; a change
  that is unseen after 20,000 rows counts as missed;
- alerts a change, rows until an alert ends after its change is undone, incidents of two unrelated changes;
- a feed that dies in the flights of March: `temp` missing, times 1,000, frozen; the slowest of them;
- rows until a quarter of a standard deviation is certain where the process starts anew every 200 rows, and where four
  processes share the rows through a folder, over those of one process that sees all;
- the 99th percentile of an engine's answers with the monitor over that without, in turns on the same machine;
- the page of two Parquet files of 1,000,000 rows and 100 columns, in a process of its own: seconds and peak memory; and
  the size of a page of 30 columns.

Rivals test windows of 1,000 rows with their own defaults, corrected for the number of features where they offer it. Not
measured: the rivals' other detectors.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
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
    "nannyml": (["nannyml==0.13.1", "numpy<2"], "nannyml"),
    "adwin": (["river==0.26.1"], "adwin"),
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


# Streams that people have. Each returns reference rows, live rows and the long-run standard deviation of a column.

DAY_ROWS = 5000
WEEKEND = (5, 6)


def autoregressive(rng: np.random.Generator, rows: int, ratio: float) -> Matrix:
    """Return rows of mean 0 and variance 1 whose neighbours correlate by `ratio`, float32 [rows, FEATURES]."""
    from scipy.signal import lfilter

    noise = rng.normal(size=(rows, FEATURES)) * (1.0 - ratio**2) ** 0.5
    noise[0] /= (1.0 - ratio**2) ** 0.5
    return np.asarray(lfilter([1.0], [1.0, -ratio], noise, axis=0), dtype=np.float32)


def cyclic(rng: np.random.Generator, rows: int, weekly: bool) -> Matrix:
    """Return noise around a daily sine of amplitude 1, with `weekly` 0.8 more at weekends, float32 [rows, FEATURES]."""
    time = np.arange(rows)
    phase = np.random.default_rng(SEED).uniform(0.0, 2.0 * np.pi, FEATURES)
    made = rng.normal(size=(rows, FEATURES)) + np.sin(2.0 * np.pi * time[:, None] / DAY_ROWS + phase)
    if weekly:
        made[np.isin(time // DAY_ROWS % 7, WEEKEND)] += 0.8
    return made.astype(np.float32)


def stream(name: str, rng: np.random.Generator, rows: int) -> tuple[Any, Matrix, float]:
    """Return the reference rows and the live rows of a stream, and the long-run standard deviation of a column."""
    if name in ("iid", "small_reference"):
        return normal(rng, 20_000 if name == "iid" else 100), normal(rng, rows), 1.0
    if name == "300_features":
        made = rng.normal(size=(20_000 + rows, 300)).astype(np.float32)
        return made[:20_000], made[20_000:], 1.0
    if name.startswith("ar_"):
        ratio = float(name.removeprefix("ar_"))
        made = autoregressive(rng, 20_000 + rows, ratio)
        return made[:20_000], made[20_000:], ((1.0 + ratio) / (1.0 - ratio)) ** 0.5
    if name == "thinned":
        # One row in twenty of a stream whose rows depend on each other.
        made = autoregressive(rng, 400_000 + rows, 0.9)
        return made[:400_000:20], made[400_000:], 19.0**0.5
    if name == "shuffled_flights":
        january = flights(1)[[*WEATHER, *DELAYS, *OTHERS]]
        names = rng.permutation(len(january))
        half = january.iloc[names[: len(january) // 2]]
        live = january.iloc[names[len(january) // 2 :]].to_numpy(np.float32)
        times = -(-rows // len(live))
        shuffled = np.concatenate([live[rng.permutation(len(live))] for _ in range(times)])[:rows]
        return half, shuffled, float(np.nanstd(live[:, 0]))
    days = 28 * DAY_ROWS
    made = cyclic(rng, days + rows, name == "weekly")
    return made[:days], made[days:], 1.0


STREAMS = (
    "iid", "ar_0.9", "ar_0.999", "daily_28d", "weekly", "small_reference", "thinned", "shuffled_flights",
    "300_features",
)  # fmt: skip


def on_streams(rows: int, seeds: int) -> dict[str, float]:
    """Return false alarms in 100,000 rows, mean of the seeds, and the median delay of a shift of one column."""
    figures = {}
    for name in STREAMS:
        alarms, delays = 0, []
        for seed in range(seeds):
            rng = np.random.default_rng(SEED + seed)
            reference_rows, live, deviation = stream(name, rng, rows)
            reference = Reference.fit(reference_rows)
            alarms += len(watch(reference, live)[0])
            changed = live[: ROWS_MISSED + BEFORE].copy()
            place = seed % 3 * 3
            changed[BEFORE:, place] += 2.0 * deviation * (1 if seed % 2 else -1)
            delays.append(first_seen(reference, changed, reference.names[place], BEFORE))
        figures[f"false_alarms_100k_{name}"] = alarms / seeds * (100_000 / rows)
        figures[f"delay_sd2_{name}"] = float(np.median(delays))
    return figures


BEFORE = 2_000
ROWS_MISSED = 20_000


def first_seen(reference: Reference, rows: Matrix, column: str, before: int) -> float:
    """Return rows from `before` until an alert of the column is certain; all rows where there is none."""
    with ModelMonitor(reference, handlers=[], background=False) as monitor:
        for start in range(0, len(rows), WINDOW_ROWS):
            monitor.input_distribution.update(rows[start : start + WINDOW_ROWS])
            for alert in monitor.alerts:
                if alert.column == column and (alert.detected_row or 0) > before:
                    return float((alert.detected_row or 0) - before)
    return float(len(rows) - before)


def with_gaps(rng: np.random.Generator, values: Matrix, share: float) -> Matrix:
    return np.where(rng.random(len(values)) < share, np.float32(np.nan), values)


def change(name: str, rng: np.random.Generator, live: Matrix, reference: Matrix) -> tuple[str, ...]:
    """Change column 7 of the live rows from row BEFORE on, in place. Return the columns that are codes."""
    before, after, old = live[:BEFORE, 7], live[BEFORE:, 7], reference[:, 7]
    if name.startswith("mean_"):
        after += np.float32(name.removeprefix("mean_"))
    elif name == "sd_1.3":
        after *= np.float32(1.3)
    elif name.startswith("missing_"):
        usual, later = (int(share) / 100 for share in name.split("_")[1:])
        old[:], before[:] = with_gaps(rng, old, usual), with_gaps(rng, before, usual)
        after[:] = with_gaps(rng, after, later)
    elif name == "category_10pp":
        usual = [0.4, 0.3, 0.2, 0.1]
        old[:], before[:] = rng.choice(4, len(old), p=usual), rng.choice(4, len(before), p=usual)
        after[:] = rng.choice(
            4, len(after), p=[[0.3, 0.3, 0.2, 0.2], [0.4, 0.2, 0.3, 0.1]][int(rng.integers(2))]
        )
        return ("f7",)
    elif name == "correlation":
        after[:] = 0.5 * live[BEFORE:, 8] + np.float32(0.75**0.5) * after
    elif name == "outliers_1pct":
        after[rng.random(len(after)) < 0.01] = 50.0
    elif name == "unit_x1000":
        for part in (old, before, after):
            part += 10.0
        after *= np.float32(1000.0)
    elif name == "frozen":
        after[:] = after[0]
    return ()


CHANGES = (
    "mean_0.1", "mean_0.25", "mean_0.5", "sd_1.3", "category_10pp", "missing_2_10", "missing_30_0", "outliers_1pct",
    "unit_x1000", "frozen", "correlation",
)  # fmt: skip


def one_of_30(seeds: int) -> dict[str, float]:
    """Return the median delay of each change of one of 30 columns, and how many were missed."""
    figures, missed = {}, 0
    for name in CHANGES:
        delays = []
        for seed in range(seeds):
            rng = np.random.default_rng(SEED + 1000 + seed)
            reference_rows, live = normal(rng, 20_000), normal(rng, BEFORE + ROWS_MISSED)
            codes = change(name, rng, live, reference_rows)
            reference = Reference.fit(reference_rows, categorical=codes)
            delays.append(first_seen(reference, live, "f7", BEFORE))
        figures[f"delay_one_of_30_{name}"] = float(np.median(delays))
        missed += sum(delay >= ROWS_MISSED for delay in delays)
    return {**figures, "delay_one_of_30_missed": float(missed)}


def episodes(seeds: int) -> dict[str, float]:
    """Return alerts a change, rows until they end after the change is undone, and incidents of two changes."""
    alerts, ends, incidents = [], [], []
    for seed in range(seeds):
        rng = np.random.default_rng(SEED + 2000 + seed)
        reference = Reference.fit(normal(rng, 20_000))
        live = normal(rng, 40_000)
        live[BEFORE:30_000, 7] += np.float32((0.1, 0.25, 0.6)[seed % 3])
        with ModelMonitor(reference, handlers=[], background=False) as monitor:
            end = float(len(live) - 30_000)
            for start in range(0, len(live), 250):
                monitor.input_distribution.update(live[start : start + 250])
                if start >= 30_000 and not monitor.input_distribution.drifted:
                    end = min(end, start + 250 - 30_000.0)
            alerts.append(sum(alert.column == "f7" for alert in monitor.alerts))
            ends.append(end)
        live = normal(rng, 10_000)
        live[BEFORE:, 3] += 1.0
        live[2 * BEFORE :, 12] = with_gaps(rng, live[2 * BEFORE :, 12], 0.3)
        with ModelMonitor(reference, handlers=[], background=False) as monitor:
            monitor.input_distribution.update(live)
            incidents.append(len(monitor.incidents))
    return {
        "alerts_per_change": float(np.mean(alerts)),
        "end_delay_rows": float(np.median(ends)),
        "incidents_of_two_unrelated_changes": float(np.median(incidents)),
    }


def dead_feed() -> dict[str, float]:
    """Return the rows until the death of a feed is certain, in the flights of March: the slowest of three deaths."""
    january, march = flights(1), flights(3)
    columns = [*WEATHER, *DELAYS, *OTHERS]
    reference = Reference.fit(january[columns])
    place, figures = columns.index("temp"), {}
    for name in ("missing", "x1000", "frozen"):
        live = march[columns].to_numpy(np.float32)[: BEFORE + ROWS_MISSED].copy()
        values = live[BEFORE:, place]
        values[:] = {"missing": np.full(len(values), np.nan), "x1000": values * 1000.0,
                     "frozen": np.full(len(values), values[0])}[name]  # fmt: skip
        figures[f"dead_feed_rows_{name}"] = first_seen(reference, live, "temp", BEFORE)
    return {**figures, "dead_feed_rows": max(figures.values())}


RESTART_ROWS = 200
WORKERS = 4


def rows_seen(feed: Any, rows: Matrix) -> float:
    """Return the row at which `feed`, which takes rows and returns a monitor's alerts, has one of column f7."""
    for start in range(0, len(rows), RESTART_ROWS):
        for alert in feed(rows[start : start + RESTART_ROWS]):
            if alert.column == "f7":
                return float(alert.detected_row or 0)
    return float(len(rows))


def over_processes(seeds: int) -> dict[str, float]:
    """Return rows until a quarter sigma is certain with restarts, and with four processes, over those of one."""
    found: dict[str, list[float]] = {"one": [], "restart": [], "merge": []}
    for seed in range(seeds):
        rng = np.random.default_rng(SEED + 3000 + seed)
        reference = Reference.fit(normal(rng, 20_000))
        rows = normal(rng, 6_000)
        rows[:, 7] += np.float32(0.25)
        with (
            tempfile.TemporaryDirectory() as folder,
            ModelMonitor(reference, handlers=[], background=False) as one,
        ):

            def whole(part: Matrix, one: ModelMonitor = one) -> list[Alert]:
                one.input_distribution.update(part)
                return one.alerts

            def restarted(
                part: Matrix, path: str = f"{folder}/state", known: Reference = reference
            ) -> list[Alert]:
                with ModelMonitor(known, handlers=[], background=False, state=path) as monitor:
                    monitor.input_distribution.update(part)
                    return monitor.alerts

            workers = [
                ModelMonitor(reference, handlers=[], background=False, shared=f"{folder}/shared")
                for _ in range(WORKERS)
            ]

            def merged(part: Matrix, workers: list[ModelMonitor] = workers) -> list[Alert]:
                # Row by row in turn, as a balancer deals requests; each process looks when its part is there.
                for place, worker in enumerate(workers):
                    worker.input_distribution.update(np.ascontiguousarray(part[place::WORKERS]))
                    worker.check()
                workers[0].check()
                return workers[0].alerts

            for name, feed in (("one", whole), ("restart", restarted), ("merge", merged)):
                found[name].append(rows_seen(feed, rows))
            for worker in workers:
                worker.close()
    median = {name: float(np.median(rows)) for name, rows in found.items()}
    return {
        "restart_delay_ratio": median["restart"] / median["one"],
        "merge_delay_ratio": median["merge"] / median["one"],
    }


def serving(calls: int, turns: int) -> dict[str, float]:
    """Return the 99th percentile of one caller's answers with a monitor over that without; the median of turns."""
    import engine

    rng = np.random.default_rng(SEED)
    rows = normal(rng, 1000)
    weights = rng.normal(size=FEATURES)
    reference = Reference.fit(normal(rng, REFERENCE_ROWS))

    def primary(batch: Matrix) -> Matrix:
        return np.asarray(batch @ weights, dtype=np.float64)

    ratios = []
    with ModelMonitor(reference, handlers=[]) as monitor:
        options: dict[str, Any] = {"deadline_ms": 50.0, "default": 0.0, "lane": "batch"}
        model = engine.load_model(primary, n_features=FEATURES, n_outputs=1)
        with (
            engine.Engine(model, **options) as plain,
            engine.Engine(model, monitor=monitor, **options) as watched,
        ):
            for _ in range(turns):
                p99 = []
                for served in (plain, watched):
                    taken = np.empty(calls)
                    for call in range(calls):
                        before = time.perf_counter_ns()
                        served.predict(rows[call % len(rows)])
                        taken[call] = time.perf_counter_ns() - before
                    p99.append(float(np.quantile(taken, 0.99)))
                ratios.append(p99[1] / p99[0])
    return {"serving_p99_ratio": float(np.median(ratios))}


REPORT = """
import resource, sys, time
from engine.monitor import compare
before = time.perf_counter()
compare(sys.argv[1], sys.argv[2]).report(sys.argv[3])
print(time.perf_counter() - before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def reports(rows: int, columns: int) -> dict[str, float]:
    """Return the cost of the page of two files, in a process of its own, and the size of one of 30 columns."""
    import pyarrow
    from pyarrow import parquet

    rng = np.random.default_rng(SEED)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("reference", "current"):
            schema = pyarrow.schema([(f"f{place}", pyarrow.float32()) for place in range(columns)])
            with parquet.ParquetWriter(f"{folder}/{name}", schema) as writer:
                for _ in range(0, rows, 50_000):
                    made = rng.normal(size=(columns, min(rows, 50_000))).astype(np.float32)
                    writer.write_table(
                        pyarrow.Table.from_arrays(list(map(pyarrow.array, made)), schema=schema)
                    )
        command = [
            sys.executable,
            "-c",
            REPORT,
            f"{folder}/reference",
            f"{folder}/current",
            f"{folder}/page.html",
        ]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        reference = Reference.fit(normal(rng, REFERENCE_ROWS))
        with ModelMonitor(reference, handlers=[], background=False) as monitor:
            monitor.input_distribution.update(normal(rng, 5_000) + np.float32(0.3))
            size = monitor.report(f"{folder}/30.html").stat().st_size
    return {
        "report_s_1m_x_100": float(said[0]),
        "report_peak_mb": float(said[1]),
        "report_kb_30_columns": size / 1024,
    }


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
    metrics |= one_of_30(1 if smoke else 20) | episodes(1 if smoke else 20)
    metrics |= over_processes(1 if smoke else 20) | serving(500 if smoke else 20_000, 3 if smoke else 11)
    try:
        metrics |= reports(2_000 if smoke else 1_000_000, 5 if smoke else 100)
    except ImportError as error:
        skipped["report"] = str(error)
    try:
        metrics |= on_streams(rows, 1 if smoke else 20)
        metrics |= on_flights() | dead_feed()
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
