"""LightGBM's text format, against answers worked out by hand."""

import math

import numpy as np
import pytest
from tests.unit.model.handmade_models import lightgbm_text, lightgbm_tree, stump

from engine.errors import ModelFormatError, UnsupportedModelError

NAN = math.nan
PLAIN, NAN_LEFT, NAN_RIGHT, ZERO_LEFT, ZERO_RIGHT = 0, 2 + 8, 8, 2 + 4, 4


def one_column(values, dtype=np.float64):
    return np.array([[value, 0.0] for value in values], dtype)


@pytest.mark.parametrize(
    ("decision", "values", "expected"),
    [
        (PLAIN, [1.0, 1.5, np.nextafter(1.5, 2), 9.0], [10, 10, 20, 20]),
        (PLAIN, [NAN, math.inf, -math.inf], [10, 20, 10]),  # NaN is read as 0.0, which is left of 1.5
        (NAN_LEFT, [NAN, 0.0, 2.0], [10, 10, 20]),
        (NAN_RIGHT, [NAN, 0.0, 2.0], [20, 10, 20]),
        (ZERO_LEFT, [NAN, 0.0, -0.0, 1e-36, 1.0, 2.0], [10, 10, 10, 10, 10, 20]),
        (ZERO_RIGHT, [NAN, 0.0, -0.0, -1e-36, 1.0, 2.0], [20, 20, 20, 20, 10, 20]),
    ],
)
def test_missing_value_rules(load, decision, values, expected):
    model = load(lightgbm_text([stump("1.5", decision)]))
    assert model.predict(one_column(values)).tolist() == expected


def test_values_in_the_zero_band_are_zero(load):
    # 1e-36 is above the threshold of -1e-36's neighbourhood only if it is not first read as 0.0.
    model = load(lightgbm_text([stump("-1e-36", PLAIN)]))
    assert model.predict(one_column([-5e-36, -1e-37, 0.0, -1e-34])).tolist() == [20, 20, 20, 10]


def test_a_threshold_that_float32_cannot_hold(load):
    threshold = 0.1  # float32(0.1) is 0.100000001490…, above it
    model = load(lightgbm_text([stump(repr(threshold), PLAIN)]))
    above, below = np.float32(0.1), np.nextafter(np.float32(0.1), np.float32(0))
    assert model.predict(one_column([0.1, above, below])).tolist() == [10, 20, 10]
    assert model.predict(one_column([above, below], np.float32)).tolist() == [20, 10]


def test_two_levels_and_two_trees_add_up(load):
    deep = lightgbm_tree(
        feature="0 1", threshold="5 1.5", decision="0 0", left="1 -1", right="-2 -3", leaf="0.25 100 0.5"
    )
    model = load(lightgbm_text([deep, stump("3", PLAIN, leaf="1 2")]))
    # x0 <= 5 asks x1; the second tree adds 1 up to 3 and 2 beyond.
    assert model.predict([[0.0, 1.0], [4.0, 1.0], [4.0, 2.0], [6.0, 0.0]]).tolist() == [
        1.25,
        2.25,
        2.5,
        102.0,
    ]


def test_a_tree_of_one_leaf(load):
    assert load(lightgbm_text([lightgbm_tree(leaf="0.75")])).predict([[0.0, 0.0]]).tolist() == [0.75]


def test_categories(load):
    # Words 5 = categories 0 and 2, then 2 = category 33; members go left.
    tree = stump("0", 1, extra="cat_boundaries=0 2\ncat_threshold=5 2")
    model = load(lightgbm_text([tree]))
    values = [0, 1, 2, 33, 34, 64, -1, -0.5, 2.9, NAN, math.inf, 1e300, 3e9]
    expected = [10, 20, 10, 10, 20, 20, 20, 10, 10, 20, 20, 20, 20]
    assert model.predict(one_column(values)).tolist() == expected


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        ("regression", -2.0),
        (None, -2.0),
        ("regression sqrt", -4.0),
        ("poisson", math.exp(-2)),
        ("binary sigmoid:1", 1 / (1 + math.exp(2))),
        ("binary sigmoid:0.5", 1 / (1 + math.exp(1))),
        ("cross_entropy", 1 / (1 + math.exp(2))),
        ("cross_entropy_lambda", math.log1p(math.exp(-2))),
    ],
)
def test_links(load, objective, expected):
    model = load(lightgbm_text([lightgbm_tree(leaf="-2")], objective=objective))
    assert model.predict([[0.0, 0.0]])[0] == pytest.approx(expected, abs=1e-15)


def test_classes_share_the_trees_in_turn(load):
    trees = [lightgbm_tree(leaf=value) for value in ("0", "1", "2", "3")]
    model = load(lightgbm_text(trees, objective="multiclass num_class:2", per_iteration=2))
    total = math.exp(2) + math.exp(4)
    assert model.n_outputs == 2
    assert model.predict([[0.0, 0.0]])[0] == pytest.approx(
        [math.exp(2) / total, math.exp(4) / total], abs=1e-15
    )


def test_average_output(load):
    model = load(lightgbm_text([lightgbm_tree(leaf="1"), lightgbm_tree(leaf="4")], header="average_output"))
    assert model.predict([[0.0, 0.0]]).tolist() == [2.5]


def test_facts(load):
    content = lightgbm_text([stump("1.5", PLAIN)], objective="binary sigmoid:1")
    model = load(content)
    assert (model.format, model.n_features, model.n_outputs, model.native) == ("lightgbm", 2, 1, True)
    assert model.feature_names == ("f0", "f1")
    facts = model.describe()
    assert (facts["trees"], facts["leaves"], facts["depth"], facts["link"]) == (1, 2, 1, "sigmoid")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"left_child=-1", b"left_child=0", "met twice"),  # a cycle
        (b"left_child=-1", b"left_child=-2", "met twice"),  # a shared leaf
        (b"left_child=-1", b"left_child=7", "out of range"),
        (b"split_feature=0", b"split_feature=9", "feature"),
        (b"threshold=1.5", b"threshold=nan", "NaN"),
        (b"leaf_value=10 20", b"leaf_value=10 xx", "leaf_value"),
        (b"leaf_value=10 20", b"leaf_value=1_ 20", "leaf_value"),
        (b"leaf_value=10 20", b"leaf_value=inf 2", "not finite"),
        (b"num_leaves=2\n", b"num_leaves=9\n", "expected 9 values"),
        (b"version=v4", b"version=v1", "version"),
        (b"max_feature_idx=1", b"max_feature_idx=x", "max_feature_idx"),
        (b"Tree=0", b"Tree=1", "tree 0"),
        (b"decision_type=0", b"decision_type=1", "num_cat=0"),
    ],
)
def test_damage_is_named(load, old, new, message):
    content = lightgbm_text([stump("1.5", PLAIN)])
    assert old in content
    damaged = content.replace(old, new)
    if len(old) != len(new):
        size = content.index(b"end of trees") - content.index(b"Tree=0")
        damaged = damaged.replace(b"tree_sizes=%d" % size, b"tree_sizes=%d" % (size + len(new) - len(old)))
    with pytest.raises(ModelFormatError, match=message):
        load(damaged)


def test_huge_counts_allocate_nothing(load):
    content = lightgbm_text([stump("1.5", PLAIN)]).replace(
        b"max_feature_idx=1", b"max_feature_idx=2147483647"
    )
    with pytest.raises(ModelFormatError, match="max_feature_idx from 0 to"):
        load(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lightgbm_text([stump("1.5", PLAIN)], objective="martian"), "martian"),
        (lightgbm_text([]), "no trees"),
    ],
)
def test_what_is_not_supported_is_refused(load, content, message):
    with pytest.raises(UnsupportedModelError, match=message):
        load(content)


def test_cut_short_at_every_byte(load):
    content = lightgbm_text(
        [stump("1.5", NAN_LEFT), stump("0", 1, extra="cat_boundaries=0 1\ncat_threshold=5")]
    )
    whole = content.index(b"end of parameters") + len(b"end of parameters\n")
    for length in range(whole):
        with pytest.raises(ModelFormatError):
            load(content[:length])
