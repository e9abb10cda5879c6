"""Where the time of a forest's row goes: the nodes to visit, the cost of a visit, the floor, and the rest.

The three models of the `forest` case. `visits_row` counts the nodes on a row's paths to its leaves, by LightGBM's
`pred_leaf`. The kernel walks one row through sixteen trees a register, four registers at a time, until the deepest of
the sixty-four paths has ended: `steps_row` counts the moves of registers, `lanes_busy` the share of their lanes that
had not ended. `floor_ns_visit` is the time per visited node of the same kernel on a forest of sixty-four complete
trees, which lies in the first-level cache and keeps all lanes busy to the end. So `floor_us` is the least time for a
row's visits, `idle_us` the time of lanes that wait for the deepest, and `rest_us` everything else: nodes and leaves
from beyond the first-level cache, coding the row, adding up. In blocks of 64 rows every split of the forest is asked
once for all rows: `block_ns_split` is the time of one split, leaf included.

Rows are flights, forty a call through one layout by name, so that the Python call hardly counts. Figures are the best
of many calls, because a median shows no ceiling.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import bench_forest, conditions
from engine.model import _forest, load_model
from engine.model.forest import ForestBuilder, ForestModel, Rule

TOGETHER = 64  # trees that a walk holds until the deepest has ended
FLOOR_DEPTH = 5


def run(smoke: bool) -> dict[str, Any]:
    paths, rows = bench_forest.prepare(smoke)
    seconds = 0.02 if smoke else 0.5
    lanes = f"lanes-{_forest.instruction_sets()[1]}"
    floor_ns = floor_ns_visit(lanes, seconds)
    metrics: dict[str, float] = {"floor_ns_visit": floor_ns}
    checksum = 0.0
    for size, path in paths.items():
        model = load_model(path)
        assert isinstance(model, ForestModel)
        visits, steps = ways(path, rows[:256])
        us_row = best_us_row(model.forest, lanes, rows, 40, seconds)
        found = {
            "visits_row": visits,
            "steps_row": steps,
            "lanes_busy": visits / (16 * steps),
            "us_row": us_row,
            "ns_visit": us_row * 1e3 / visits,
            "floor_us": visits * floor_ns / 1e3,
            "idle_us": (16 * steps - visits) * floor_ns / 1e3,
        }
        found["rest_us"] = us_row - found["floor_us"] - found["idle_us"]
        blocks = lanes.replace("lanes", "rows")
        if blocks in model.forest.layouts:
            block_us = best_us_row(model.forest, blocks, rows, 64, seconds)
            facts = model.describe()
            found["block_us_row"] = block_us
            found["block_ns_split"] = block_us * 64e3 / (facts["leaves"] - facts["trees"])
        metrics |= {f"{size}_{key}": value for key, value in found.items()}
        checksum += float(model.predict(rows[:256]).sum())
    return {
        "metrics": metrics,
        "rivals": {},
        "conditions": {
            "threads": 1,
            "layout": lanes,
            "instruction_set": _forest.instruction_sets()[1],
            "checksum": conditions.checksum(np.array([checksum])),
        },
    }


def ways(path: Path, rows: npt.NDArray[np.float32]) -> tuple[float, float]:
    """Nodes that a row visits, and moves of registers, with the kernel's groups of trees."""
    import lightgbm as lgb

    booster = lgb.Booster(model_file=path)
    leaves = booster.predict(rows, pred_leaf=True)
    lengths, depths = [], []
    for tree, info in enumerate(booster.dump_model()["tree_info"]):
        depth = leaf_depths(info["tree_structure"])
        lengths.append([depth[leaf] for leaf in leaves[:, tree]])
        depths.append(max(depth.values()))
    # Groups are of like depth. A path of n splits visits n nodes and then its leaf, where it waits for the last path.
    length = np.array(lengths)[np.argsort(depths, kind="stable")]
    steps = 0.0
    for first in range(0, len(length), TOGETHER):
        together = length[first : first + TOGETHER]
        steps += float((together.max(axis=0) + 1).mean()) * -(-len(together) // 16)
    return float((length + 1).sum(axis=0).mean()), steps


def leaf_depths(root: dict[str, Any]) -> dict[int, int]:
    """Splits above each leaf."""
    found, open_nodes = {}, [(root, 0)]
    while open_nodes:
        node, depth = open_nodes.pop()
        if "split_feature" in node:
            open_nodes += [(node["left_child"], depth + 1), (node["right_child"], depth + 1)]
        else:
            found[node.get("leaf_index", 0)] = depth
    return found


def floor_ns_visit(layout: str, seconds: float) -> float:
    """Nanoseconds a visit at best. The time of a forest with almost no walk is subtracted, as the row's own cost."""
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(512, bench_forest.N_FEATURES)).astype(np.float32)
    deep, flat = (complete_forest(rng, depth) for depth in (FLOOR_DEPTH, 1))
    taken = [best_us_row(model.forest, layout, rows, 40, seconds) for model in (deep, flat)]
    return (taken[0] - taken[1]) * 1e3 / (TOGETHER * (FLOOR_DEPTH - 1))


def complete_forest(rng: np.random.Generator, depth: int) -> ForestModel:
    """Sixty-four complete trees whose splits all differ."""
    builder = ForestBuilder(n_features=bench_forest.N_FEATURES, n_outputs=1, float32_rows=True, base=[0.0])
    n_splits = 2**depth - 1
    child = np.arange(n_splits)
    for _ in range(TOGETHER):
        left, right = 2 * child + 1, 2 * child + 2
        builder.add_tree(
            0,
            feature=rng.integers(0, bench_forest.N_FEATURES, n_splits),
            threshold=rng.choice(np.linspace(-1, 1, 99), n_splits),
            left=np.where(left < n_splits, left, ~(left - n_splits)),
            right=np.where(right < n_splits, right, ~(right - n_splits)),
            rule=np.full(n_splits, int(Rule.MISSING_NAN)),
            leaf=rng.normal(size=n_splits + 1),
        )
    model = builder.model(format="arrays", digest="0" * 64, feature_names=None, details={})
    assert isinstance(model, ForestModel)
    return model


def best_us_row(
    forest: _forest.Forest, layout: str, rows: npt.NDArray[np.float32], size: int, seconds: float
) -> float:
    return bench_forest.us_row(lambda block: forest.score_by(layout, block), rows, size, seconds)
