"""Features of one row and of a table: 30 raw inputs (20 numbers with 8 % missing, 6 categories of few values, 4 ids)
to 84 float32 outputs (20 imputed and standardised, 6 one-hots of 10, 4 hashes).

It measures `FeatureProgram.row` from dicts, `.row_json` from bytes, `.batch` from 64 dicts and from 10,000 Arrow rows,
and a user's function of two numbers in a batch. It also counts the random rows that have the same bits by every path.
No step has a variant by instruction set, so a processor has no other path. There are many rows, so they come from
memory and not from the nearest cache.

Rivals get the same dicts or columns: scikit-learn's ColumnTransformer, Polars lazy, and plain Python with Numba for the
numbers. They compute the 20 + 60 outputs that they can. scikit-learn hashes by another function, so its four hash
columns are ordinal codes instead. Fitting and reading columns from a file are not measured.
"""

from __future__ import annotations

import hashlib
import json
import platform
import random
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from engine import transform as t

SEED = 20240101
NUMBERS = [sys.intern(f"n{i}") for i in range(20)]
FEW = [sys.intern(f"c{i}") for i in range(6)]
IDS = [sys.intern(f"id{i}") for i in range(4)]
LEVELS = [f"level{i}" for i in range(10)]
BUCKETS = 1 << 16

Row = dict[str, Any]


def spec() -> list[t.Feature]:
    return [
        *(t.number(name).impute("median").standardise() for name in NUMBERS),
        *(t.category(name).one_hot(LEVELS) for name in FEW),
        *(t.category(name).hash(buckets=BUCKETS) for name in IDS),
    ]


def make_rows(n_rows: int, seed: int = SEED) -> list[Row]:
    draw = random.Random(seed)
    return [
        {name: None if draw.random() < 0.08 else draw.gauss(0.0, 3.0) for name in NUMBERS}
        | {name: draw.choice(LEVELS) for name in FEW}
        | {name: f"user-{draw.randrange(10**8)}" for name in IDS}
        for _ in range(n_rows)
    ]


def us_each(call: Callable[[Any], Any], arguments: list[Any], repeats: int) -> float:
    """Return the median time of a call over arguments and repeats, less the cost of reading the clock."""
    clock = time.perf_counter_ns
    nothing = np.median([-(clock() - clock()) for _ in range(1000)])
    taken = np.empty((repeats, len(arguments)))
    for repeat in range(repeats):
        for i, argument in enumerate(arguments):
            start = clock()
            call(argument)
            taken[repeat, i] = clock() - start
    return float(np.median(taken) - nothing) / 1000


def bit_identical_rows(program: t.FeatureProgram, n_rows: int) -> int:
    """Count the rows, out of n_rows random ones, that have the same bits by every path: dict, json-loaded dict, JSON
    bytes, sequence, dicts, lists, Arrow, Polars, pandas, a loaded program, and an array of the caller's."""
    loaded = t.FeatureProgram.from_json(program.to_json())
    out = np.empty((10_000, program.n_outputs), np.float32)
    agreed = 0
    for start in range(0, n_rows, 10_000):
        rows = make_rows(min(10_000, n_rows - start), SEED + 1 + start)
        single = np.stack([program.row(row) for row in rows])
        others = [
            np.stack([program.row(row) for row in json.loads(json.dumps(rows))]),
            np.stack([program.row([row[name] for name in program.input_names]) for row in rows]),
            np.stack([program.row_json(json.dumps(row).encode()) for row in rows]),
            program.batch(rows),
            loaded.batch(rows, out=out[: len(rows)]),
            program.batch({name: [row[name] for row in rows] for name in program.input_names}),
        ]
        others += [program.batch(table) for table in _frames(rows)]
        same = np.ones(len(rows), dtype=bool)
        for other in others:
            same &= (single.view(np.uint32) == other.view(np.uint32)).all(axis=1)
        agreed += int(same.sum())
    return agreed


def _frames(rows: list[Row]) -> list[Any]:
    try:
        import pandas as pd
        import polars as pl
        import pyarrow as pa
    except ImportError:
        return []
    return [pa.Table.from_pylist(rows), pd.DataFrame(rows), pl.DataFrame(rows)]


def user_function_ns_row(n_rows: int, repeats: int) -> float:
    """Return the time that a function of two numbers adds to each row of a batch."""

    def relative(a: float, b: float) -> float:
        return (a - b) / (abs(b) + 1.0)

    draw = np.random.default_rng(SEED)
    table = dict(zip("ab", draw.normal(size=(2, n_rows)), strict=True))
    a, b = t.number("a"), t.number("b")
    called = t.FeatureProgram.fit([t.function(relative)(a, b)], table)
    without = t.FeatureProgram.fit([t.difference(a, b)], table)
    taken = [us_each(program.batch, [table], 5 * repeats) for program in (called, without)]
    return (taken[0] - taken[1]) * 1000 / n_rows


def sklearn_rival(rows: list[Row], repeats: int) -> dict[str, float]:
    import pandas as pd
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

    one_hot = OneHotEncoder(categories=[LEVELS] * len(FEW), handle_unknown="ignore", sparse_output=False)
    columns = ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), NUMBERS),
            ("few", one_hot, FEW),
            ("ids", OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), IDS),
        ]
    )
    frame = pd.DataFrame(rows).astype(dict.fromkeys(NUMBERS, "float64"))
    columns.fit(frame)

    def one(row: Row) -> Any:
        return columns.transform(pd.DataFrame([row]).astype(dict.fromkeys(NUMBERS, "float64")))

    return {
        "us_row_b1_p50": us_each(one, rows[: 20 * repeats], 1),
        "us_row_columns_10k": us_each(columns.transform, [frame], max(2, repeats)) / len(rows),
    }


def polars_rival(rows: list[Row], program: t.FeatureProgram, repeats: int) -> dict[str, float]:
    """Time Polars and our own batch in turns, because other load on the machine comes and goes."""
    import polars as pl

    frame = pl.DataFrame(rows)
    constants = [feature.ops for feature in program.features[: len(NUMBERS)]]
    numbers = [
        ((pl.col(name).fill_null(impute.value) - scale.mean) / scale.std).cast(pl.Float32)
        for name, (impute, scale) in zip(NUMBERS, constants, strict=True)
    ]
    one_hot = [
        (pl.col(name) == level).cast(pl.Float32).alias(f"{name}={level}") for name in FEW for level in LEVELS
    ]
    hashes = [(pl.col(name).hash(0) % BUCKETS).cast(pl.Float32) for name in IDS]
    expressions = [*numbers, *one_hot, *hashes]

    def transform(table: Any) -> Any:
        return table.lazy().select(expressions).collect().to_numpy()

    calls = ((transform, frame), (program.batch, _frames(rows)[0]))
    taken = [[us_each(call, [table], 1) / len(rows) for call, table in calls] for _ in range(10 * repeats)]
    theirs, ours = np.median(taken, axis=0).tolist()
    return {
        "us_row_b1_p50": us_each(lambda row: transform(pl.DataFrame([row])), rows[: 20 * repeats], 1),
        "us_row_columns_10k": theirs,
        "ours_us_row_columns_10k": ours,
    }


def numba_rival(rows: list[Row], program: t.FeatureProgram, repeats: int) -> dict[str, float]:
    """Time a row in plain Python: Numba does the numbers, dict look-ups the one-hots and ids."""
    import numba

    constants = [feature.ops for feature in program.features[: len(NUMBERS)]]
    fill, shift, divisor = (
        np.array(values) for values in zip(*((i.value, s.mean, s.std) for i, s in constants), strict=True)
    )

    @numba.njit("void(f8[:], f8[:], f8[:], f8[:], f4[:])")
    def numbers(values: Any, fill: Any, shift: Any, divisor: Any, out: Any) -> None:
        for i in range(len(values)):
            value = fill[i] if np.isnan(values[i]) else values[i]
            out[i] = (value - shift[i]) / divisor[i]

    place = {level: i for i, level in enumerate(LEVELS)}
    ids_at = len(NUMBERS) + len(FEW) * len(LEVELS)

    def one(row: Row) -> Any:
        out = np.zeros(program.n_outputs, dtype=np.float32)
        values = np.array([np.nan if row[name] is None else row[name] for name in NUMBERS])
        numbers(values, fill, shift, divisor, out)
        for i, name in enumerate(FEW):
            code = place.get(row[name])
            if code is not None:
                out[len(NUMBERS) + i * len(LEVELS) + code] = 1.0
        for i, name in enumerate(IDS):
            out[ids_at + i] = hash(row[name]) % BUCKETS
        return out

    ours, theirs = (np.stack([f(row)[:ids_at] for row in rows[:50]]) for f in (program.row, one))
    if not np.array_equal(ours, theirs):
        raise AssertionError("the rival computes something else")
    # In turns and on the same dicts. Otherwise one would read them from memory and the other from the nearest cache.
    taken = [[us_each(call, rows, 1) for call in (one, program.row)] for _ in range(repeats)]
    theirs_us, ours_us = np.median(taken, axis=0).tolist()
    return {"us_row_b1_p50": theirs_us, "ours_us_row_b1_p50": ours_us}


def run(smoke: bool) -> dict[str, Any]:
    n_rows, repeats = (500, 1) if smoke else (10_000, 5)
    rows = make_rows(n_rows)
    program = t.FeatureProgram.fit(spec(), rows)
    metrics = {
        "us_row_b1_p50": us_each(program.row, rows, repeats),
        "us_row_b1_json_p50": us_each(program.row, [json.loads(json.dumps(row)) for row in rows], repeats),
        "us_row_b64": us_each(program.batch, [rows[i : i + 64] for i in range(0, n_rows - 63, 64)], repeats)
        / 64,
        "us_row_columns_10k": us_each(program.batch, _frames(rows)[:1] or [rows], 3 * repeats) / n_rows,
        "us_row_json_bytes": us_each(program.row_json, [json.dumps(row).encode() for row in rows], repeats),
        "bit_identical_rows": bit_identical_rows(program, 2_000 if smoke else 1_000_000),
    }
    rivals: dict[str, dict[str, float]] = {}
    skipped = []
    for name, rival in (
        ("sklearn", lambda: sklearn_rival(rows, repeats)),
        ("polars", lambda: polars_rival(rows, program, repeats)),
        ("numba", lambda: numba_rival(rows, program, repeats)),
    ):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                rivals[name] = rival()
        except ImportError as error:
            skipped.append(f"{name}: {error}")
    for name, figures in rivals.items():
        key = "us_row_columns_10k" if name == "polars" else "us_row_b1_p50"
        # If the two were timed in turns, the ratio is of those figures.
        ours = figures.get(f"ours_{key}", metrics[key])
        metrics[f"vs_{name}"] = figures[key] / ours
    try:
        metrics["user_function_ns_row"] = user_function_ns_row(1_000 if smoke else 100_000, repeats)
    except ImportError as error:
        skipped.append(f"user functions: {error}")
    checksum = hashlib.sha256(program.batch(rows).tobytes()).hexdigest()
    return {
        "metrics": metrics,
        "rivals": rivals,
        "conditions": {
            "rows": n_rows,
            "inputs": len(program.input_names),
            "outputs": program.n_outputs,
            "seed": SEED,
            "repeats": repeats,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "digest": program.digest,
            "checksum": checksum,
            "skipped": skipped,
        },
    }


if __name__ == "__main__":
    print(json.dumps(run("--smoke" in sys.argv), indent=2))
