"""Batch scoring, Parquet to Parquet: `engine score` beside LightGBM on two threads, on the same file.

A million rows of 30 float64 columns, scored by a LightGBM model of 300 trees of 31 leaves. LightGBM runs as its users
run it: pyarrow reads the file on all threads, the columns become one matrix, `predict(num_threads=2)` scores it, and
pyarrow writes the answers. Ours goes through the registry (digest check, loading), streams, and syncs its parts and its
output; LightGBM's side syncs nothing. Both have two threads and three runs, alternating; the best run counts, and the
answers are compared. Not measured: files larger than memory, which only ours streams.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import conditions
from engine.registry import Bundle, ModelRegistry
from engine.scoring import score

HERE = Path(__file__).parent
N_FEATURES, TREES, LEAVES, THREADS, SEED = 30, 300, 31, 2, 5


def prepare(folder: Path, n_rows: int, trees: int) -> tuple[Path, bytes]:
    """The file to score, with rows that no tree was trained on, and the model."""
    import lightgbm
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(SEED)
    learn = rng.normal(size=(20_000, N_FEATURES))
    labels = (learn[:, 0] + learn[:, 1] * learn[:, 2] + rng.normal(size=len(learn)) > 0).astype(float)
    settings = {"objective": "binary", "num_leaves": LEAVES, "num_threads": 1, "verbosity": -1, "seed": SEED}
    booster = lightgbm.train(settings, lightgbm.Dataset(learn, labels), trees)
    rows = rng.normal(size=(n_rows, N_FEATURES))
    path = folder / "in.parquet"
    names = [f"Column_{i}" for i in range(N_FEATURES)]
    table = pa.table({name: rows[:, i] for i, name in enumerate(names)})
    pq.write_table(table, path, row_group_size=min(n_rows, 100_000), use_dictionary=False)
    return path, str(booster.model_to_string()).encode()


def ours(bundle: Bundle, source: Path, target: Path) -> float:
    started = time.perf_counter()
    score(bundle, source, target, threads=THREADS)
    return time.perf_counter() - started


def lightgbms(model: Path, source: Path, target: Path) -> float:
    import lightgbm
    import pyarrow as pa
    import pyarrow.parquet as pq

    started = time.perf_counter()
    booster = lightgbm.Booster(model_file=str(model))
    table = pq.read_table(source)
    rows = np.stack([column.to_numpy() for column in table.columns], axis=1)
    answers = booster.predict(rows, num_threads=THREADS)
    pq.write_table(pa.table({"prediction": answers}), target)
    return time.perf_counter() - started


def run(smoke: bool) -> dict[str, Any]:
    """Run the case."""
    import pyarrow.parquet as pq

    n_rows, trees = (20_000, 20) if smoke else (1_000_000, TREES)
    best = {"ours": float("inf"), "lightgbm": float("inf")}
    with tempfile.TemporaryDirectory(dir=HERE.parent) as made:
        folder = Path(made)
        source, content = prepare(folder, n_rows, trees)
        (folder / "model.txt").write_bytes(content)
        registry = ModelRegistry(folder / "registry", code=False)
        bundle = registry.resolve(registry.register(content))
        for _ in range(1 if smoke else 3):
            best["ours"] = min(best["ours"], ours(bundle, source, folder / "ours.parquet"))
            best["lightgbm"] = min(
                best["lightgbm"], lightgbms(folder / "model.txt", source, folder / "theirs.parquet")
            )
        answers = [
            pq.read_table(folder / name)["prediction"].to_numpy()
            for name in ("ours.parquet", "theirs.parquet")
        ]
    apart = float(np.abs(answers[0] - answers[1]).max())
    if apart > 1e-12:
        raise AssertionError(f"the two sides differ by up to {apart}")
    return {
        "metrics": {
            "rows_s": n_rows / best["ours"],
            "vs_lightgbm_2_threads": best["lightgbm"] / best["ours"],
        },
        "rivals": {"lightgbm_2_threads": {"rows_s": n_rows / best["lightgbm"]}},
        "conditions": {
            "rows": n_rows,
            "columns": N_FEATURES,
            "trees": trees,
            "leaves": LEAVES,
            "threads": THREADS,
            "largest_difference": apart,
            "checksum": conditions.checksum(answers[0]),
            "smoke": smoke,
        },
    }
