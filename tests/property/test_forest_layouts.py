"""Every layout, on every instruction set that this CPU runs, gives the bits of the scalar reference."""

import lightgbm as lgb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ConfigError
from engine.model import _forest, load_model
from engine.model.forest import ForestBuilder, Link

BATCHES = [1, 2, 15, 16, 17, 63, 64, 65, 130]


def random_forest(rng, *, trees, splits, features, cuts, outputs=1, rules=(0, 1, 2, 3, 4, 5), sets=False):
    """Random trees without a trainer: any shape, any rule, from chains to bushes."""
    builder = ForestBuilder(
        n_features=features, n_outputs=outputs, float32_rows=False, base=[0.25] * outputs, link=Link.IDENTITY
    )
    pool = np.concatenate([rng.normal(size=cuts), [0.0, -0.0, 1e-35, 1e300, -1e300]])
    for tree in range(trees):
        n_splits = int(rng.integers(0, splits + 1))
        left, right = np.zeros(n_splits, np.int64), np.zeros(n_splits, np.int64)
        # Each new split takes the place of a random leaf; the free ends then become leaves.
        ends = [(left, 0), (right, 0)] if n_splits else []
        for split in range(1, n_splits):
            side, at = ends.pop(int(rng.integers(len(ends))))
            side[at] = split
            ends += [(left, split), (right, split)]
        for leaf, (side, at) in enumerate(ends):
            side[at] = ~leaf
        rule = rng.choice(rules, n_splits)
        threshold = rng.choice(pool, n_splits)
        if sets:
            for at in np.flatnonzero(rng.random(n_splits) < 0.3):
                rule[at] = 8 | int(rng.choice([0, 1, 16, 17, 48]))
                threshold[at] = builder.add_set(
                    rng.integers(0, 2**32, int(rng.integers(1, 3))).astype(np.uint32)
                )
        builder.add_tree(
            tree % outputs,
            feature=rng.integers(0, features, n_splits),
            threshold=threshold,
            left=left,
            right=right,
            rule=rule,
            leaf=rng.normal(size=n_splits + 1),
        )
    return builder.model(format="lightgbm", digest="0" * 64, feature_names=None, details={}).forest, pool


def random_rows(rng, pool, features):
    special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-36, 3.0, 33.5, -0.5, -1.0, 70.0])
    values = np.concatenate([pool, np.nextafter(pool, np.inf), np.nextafter(pool, -np.inf), special])
    return rng.choice(values, (max(BATCHES), features))


def assert_all_layouts_agree(forest, rows):
    with np.errstate(over="ignore"):  # 1e300 becomes inf
        single = rows.astype(np.float32)
    for typed in (rows, single):
        expected = forest.score_by("reference", typed)
        for layout in forest.layouts:
            for n in BATCHES:
                got = forest.score_by(layout, typed[:n])
                assert got.tobytes() == expected[:n].tobytes(), (layout, n, typed.dtype)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    trees=st.integers(1, 70),
    splits=st.integers(0, 40),
    features=st.integers(1, 30),
    cuts=st.integers(1, 300),
    outputs=st.integers(1, 3),
    sets=st.booleans(),
)
def test_random_forests(seed, trees, splits, features, cuts, outputs, sets):
    rng = np.random.default_rng(seed)
    forest, pool = random_forest(
        rng, trees=trees, splits=splits, features=features, cuts=cuts, outputs=outputs, sets=sets
    )
    assert_all_layouts_agree(forest, random_rows(rng, pool, features))


@pytest.mark.parametrize(
    ("name", "shape", "families"),
    [
        ("over 64 columns", {"trees": 30, "splits": 30, "features": 100, "rules": (0,)}, {"lanes", "rows"}),
        ("over 128 columns", {"trees": 40, "splits": 30, "features": 200, "rules": (0,)}, {"lanes", "rows"}),
        ("over 256 columns", {"trees": 60, "splits": 30, "features": 400, "rules": (0,)}, {"wide"}),
        (
            "over 254 cuts",
            {"trees": 40, "splits": 60, "features": 1, "cuts": 2000, "rules": (0, 3)},
            {"lanes", "rows"},
        ),
        (
            "over 65,024 cuts of a feature",
            {"trees": 60, "splits": 4000, "features": 1, "cuts": 10**6, "rules": (3,)},
            {"wide"},
        ),
        ("over 256 leaves", {"trees": 6, "splits": 700, "features": 5, "rules": (2,)}, {"lanes"}),
        ("over 32,767 leaves", {"trees": 2, "splits": 60_000, "features": 3, "rules": (2,)}, {"wide"}),
        (
            "many category sets",
            {"trees": 20, "splits": 30, "features": 6, "sets": True},
            {"lanes", "wide", "rows"},
        ),
        ("sets beyond bytes", {"trees": 90, "splits": 40, "features": 3, "sets": True}, {"wide"}),
        ("over 32,704 columns", {"trees": 40, "splits": 4500, "features": 40_000, "rules": (0,)}, set()),
        ("single leaves", {"trees": 17, "splits": 0, "features": 1}, {"lanes", "rows", "symmetric"}),
    ],
)
def test_edges_of_the_layouts(name, shape, families):
    rng = np.random.default_rng(1)
    forest, pool = random_forest(rng, **{"cuts": 50, **shape})
    found = {layout.split("-")[0] for layout in forest.layouts} - {"reference"}
    assert found == families - ({"rows"} if _forest.instruction_sets()[1] == "scalar" else set()), name
    many = shape["features"] > 1000
    rows = (
        rng.choice(pool, (max(BATCHES), shape["features"]))
        if many
        else random_rows(rng, pool, shape["features"])
    )
    assert_all_layouts_agree(forest, rows)


def symmetric_forest(rng, *, trees, depths, features, cuts, outputs=1):
    """Symmetric trees: each level asks one question. Some are a leaf alone."""
    builder = ForestBuilder(
        n_features=features, n_outputs=outputs, float32_rows=True, base=[0.0] * outputs, link=Link.IDENTITY
    )
    pool = rng.normal(size=cuts).astype(np.float32).astype(np.float64)
    for tree in range(trees):
        depth = int(rng.choice(depths))
        level = np.array([int(np.log2(split + 1)) for split in range(2**depth - 1)], np.int64)
        split = np.arange(2**depth - 1)
        leaf = 2**depth - 1  # the first of them in breadth-first order
        feature, threshold = rng.integers(0, features, depth + 1), rng.choice(pool, depth + 1)
        rule = rng.choice([0, 2, 3], depth + 1)
        builder.add_tree(
            tree % outputs,
            feature=feature[level],
            threshold=threshold[level],
            left=np.where(2 * split + 1 < leaf, 2 * split + 1, ~(2 * split + 1 - leaf)),
            right=np.where(2 * split + 2 < leaf, 2 * split + 2, ~(2 * split + 2 - leaf)),
            rule=rule[level],
            leaf=rng.normal(size=2**depth),
        )
    return builder.model(format="catboost", digest="0" * 64, feature_names=None, details={}).forest, pool


@pytest.mark.parametrize("features", [3, 40, 70])  # one, two and four registers of codes
@pytest.mark.parametrize(("depths", "outputs"), [((6,), 1), ((0, 1, 3, 8), 1), ((2, 5), 3)])
def test_symmetric_trees(features, depths, outputs):
    rng = np.random.default_rng(features)
    forest, pool = symmetric_forest(
        rng, trees=150, depths=depths, features=features, cuts=40, outputs=outputs
    )
    assert "symmetric-scalar" in forest.layouts
    assert_all_layouts_agree(forest, random_rows(rng, pool, features))


def test_nearly_symmetric_trees_are_not_taken_for_such():
    rng = np.random.default_rng(5)
    for depths in ((9,), (6, 9)):  # a leaf's number must fit a byte
        forest, _ = symmetric_forest(rng, trees=4, depths=depths, features=3, cuts=9)
        assert not any("symmetric" in layout for layout in forest.layouts)
    forest, _ = random_forest(rng, trees=40, splits=7, features=2, cuts=3)
    assert not any("symmetric" in layout for layout in forest.layouts)


def test_the_instruction_sets_of_this_cpu_are_all_there():
    detected, active = _forest.instruction_sets()
    forest, _ = random_forest(np.random.default_rng(2), trees=20, splits=10, features=3, cuts=9)
    order = ["scalar", "avx2", "avx512"]
    expected = {f"lanes-{name}" for name in order[: order.index(active) + 1]}
    assert expected <= set(forest.layouts)
    assert order.index(active) <= order.index(detected)


def test_an_unknown_layout_lists_those_that_are():
    forest, _ = random_forest(np.random.default_rng(3), trees=2, splits=3, features=2, cuts=3)
    with pytest.raises(ConfigError, match="reference"):
        forest.score_by("fastest", np.zeros((1, 2)))


@pytest.mark.parametrize("active", ["scalar", "avx2", "avx512"])
def test_engine_cpu_forces_an_instruction_set(active, tmp_path):
    """Load and predict under ENGINE_CPU in a process of its own: the same bits as here."""
    import os
    import subprocess
    import sys

    rng = np.random.default_rng(7)
    rows = rng.normal(size=(500, 5))
    booster = lgb.train({"verbose": -1, "num_threads": 1}, lgb.Dataset(rows, rows[:, 0] * rows[:, 1]), 20)
    booster.save_model(tmp_path / "model.txt")
    code = (
        "import numpy as np\nfrom engine.model import load_model\n"
        f"model = load_model({str(tmp_path / 'model.txt')!r})\n"
        "rows = np.random.default_rng(8).normal(size=(100, 5))\n"
        "print(model.describe()['instruction_set'], model.predict(rows).tobytes().hex())"
    )
    environment = {**os.environ, "ENGINE_CPU": active}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    used, bits = run.stdout.split()
    order = ["scalar", "avx2", "avx512"]
    assert order.index(used) <= order.index(active)
    here = load_model(booster).predict(np.random.default_rng(8).normal(size=(100, 5)))
    assert bits == here.tobytes().hex()
