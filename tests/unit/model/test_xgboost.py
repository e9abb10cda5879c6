"""XGBoost's JSON and UBJSON, against answers worked out by hand."""

import json
import math
import struct

import numpy as np
import pytest
from tests.unit.model.handmade_models import xgboost_document, xgboost_json, xgboost_tree

from engine.errors import ModelFormatError, UnsupportedModelError
from engine.model.readers import ubjson

NAN = math.nan


def one_column(values, dtype=np.float32):
    return np.array([[value, 0.0] for value in values], dtype)


def test_less_than_goes_left(load):
    model = load(xgboost_json([xgboost_tree()]))
    just_below = np.nextafter(np.float32(1.5), np.float32(0))
    # base 0.5; left -1, right 2; NaN goes left by default.
    assert model.predict(one_column([0, just_below, 1.5, 2, NAN])).tolist() == [-0.5, -0.5, 2.5, 2.5, -0.5]


def test_rows_in_double_are_rounded_to_float32(load):
    model = load(xgboost_json([xgboost_tree()]))
    # The double just below 1.5 rounds to 1.5, as it does when XGBoost stores it.
    assert model.predict(one_column([np.nextafter(1.5, 0)], np.float64)).tolist() == [2.5]


def test_a_threshold_of_zero(load):
    model = load(xgboost_json([xgboost_tree(split_conditions=[0.0, -1.0, 2.0], default_left=[0, 0, 0])]))
    assert model.predict(one_column([-1e-45, 0.0, -0.0, NAN])).tolist() == [-0.5, 2.5, 2.5, 2.5]


def test_categories_go_right(load):
    tree = xgboost_tree(
        split_type=[1, 0, 0],
        categories=[1, 33],
        categories_nodes=[0],
        categories_segments=[0],
        categories_sizes=[2],
    )
    model = load(xgboost_json([tree]))
    values = [0, 1, 33, 34, 1.5, -1, NAN, 1e9]
    assert model.predict(one_column(values)).tolist() == [-0.5, 2.5, 2.5, -0.5, 2.5, -0.5, -0.5, -0.5]


@pytest.mark.parametrize("base_score", ["5E-1", "[5E-1]", "0.5"])
def test_forms_of_base_score(load, base_score):
    assert load(xgboost_json([xgboost_tree()], base_score=base_score)).predict([[9.0, 0.0]]).tolist() == [2.5]


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        ("reg:squarederror", 2.25),
        ("binary:logistic", 1 / (1 + math.exp(-(2 + math.log(0.25 / 0.75))))),
        ("count:poisson", math.exp(2) * 0.25),
        ("binary:hinge", 1.0),
        ("binary:logitraw", 2.25),
    ],
)
def test_links(load, objective, expected):
    model = load(xgboost_json([xgboost_tree()], objective=objective, base_score="2.5E-1"))
    assert model.predict([[9.0, 0.0]])[0] == pytest.approx(expected, abs=1e-15)


def test_dart_weights(load):
    model = load(xgboost_json([xgboost_tree(), xgboost_tree()], weight_drop=[0.5, 0.25], base_score="0"))
    assert model.predict([[9.0, 0.0]]).tolist() == [1.5]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"left_children": [0, -1, -1]}, "met twice"),
        ({"left_children": [3, -1, -1]}, "child"),
        ({"right_children": [1, -1, -1]}, "met twice"),
        ({"split_conditions": [1.5, -1.0]}, "expected 3 values"),
        ({"split_conditions": [NAN, -1.0, 2.0]}, "NaN"),
        ({"split_conditions": [1.5, NAN, 2.0]}, "not finite"),
        ({"split_conditions": [1.5, "x", 2.0]}, "numbers"),
        ({"split_indices": [2, 0, 0]}, "feature"),
        ({"split_indices": [2**40, 0, 0]}, "feature"),
        ({"split_type": [1, 0, 0]}, "categor"),
    ],
)
def test_damage_is_named(load, columns, message):
    with pytest.raises(ModelFormatError, match=message):
        load(xgboost_json([xgboost_tree(**columns)]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objective": {"name": "custom:mine"}}, "custom:mine"),
        ({"gradient_booster": {"name": "gbforest"}}, "gbforest"),
    ],
)
def test_what_is_not_supported_is_refused(load, change, message):
    document = xgboost_document([xgboost_tree()])
    document["learner"].update(change)
    with pytest.raises(UnsupportedModelError, match=message):
        load(json.dumps(document).encode())


def linear_document(version):
    document = xgboost_document([], base_score="[5E-1,1E0]")
    document["version"] = version
    document["learner"]["learner_model_param"]["num_target"] = "2"
    weights = [1.0, 10.0, 2.0, 20.0, 0.25, 0.5]  # of feature 0 for both outputs, of feature 1, biases
    document["learner"]["gradient_booster"] = {"name": "gblinear", "model": {"weights": weights}}
    return document


def test_a_linear_model_skips_what_is_missing(load):
    model = load(json.dumps(linear_document([3, 2, 0])).encode())
    rows = [[1.0, 1.0], [NAN, 1.0], [1.0, NAN], [NAN, NAN]]
    # The first base score goes to both outputs.
    assert model.predict(rows).tolist() == [[3.75, 31.0], [2.75, 21.0], [1.75, 11.0], [0.75, 1.0]]


def test_linear_models_that_are_refused(load):
    with pytest.raises(UnsupportedModelError, match="several base scores"):
        load(json.dumps(linear_document([3, 1, 0])).encode())
    document = linear_document([3, 2, 0])
    document["learner"]["gradient_booster"]["model"]["weights"].pop()
    with pytest.raises(ModelFormatError, match="6 values of 'weights', got 5"):
        load(json.dumps(document).encode())
    document = linear_document([3, 2, 0])
    document["learner"]["objective"]["name"] = "binary:hinge"
    with pytest.raises(UnsupportedModelError, match="gblinear with objective"):
        load(json.dumps(document).encode())


def vector_document():
    """A stump whose leaves hold two values, numbered against the order of the nodes."""
    tree = xgboost_tree(right_children=[2, 1, 0], leaf_weights=[10.0, 20.0, 30.0, 40.0])
    tree["tree_param"]["size_leaf_vector"] = "2"
    document = xgboost_document([tree], base_score="[5E-1,1E0]")
    document["learner"]["learner_model_param"]["num_target"] = "2"
    return document, tree


def test_vector_leaves(load):
    document, _ = vector_document()
    answers = load(json.dumps(document).encode()).predict([[1.0, 0.0], [2.0, 0.0]])
    assert answers.tolist() == [[30.5, 41.0], [10.5, 21.0]]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"right_children": [2, 2, 0]}, ModelFormatError, "outside its 4 leaf_weights"),
        ({"right_children": [2, -1, 0]}, ModelFormatError, "outside its 4 leaf_weights"),
        ({"leaf_weights": [1.0, 2.0, 3.0]}, ModelFormatError, "outside its 3 leaf_weights"),
        ({"tree_param": {"num_nodes": "3", "size_leaf_vector": "3"}}, ModelFormatError, "leaves of 2 values"),
        ({"leaf_weights": None}, ModelFormatError, "leaf_weights"),
    ],
)
def test_damaged_vector_leaves(load, change, error, message):
    document, tree = vector_document()
    tree.update(change)
    with pytest.raises(error, match=message):
        load(json.dumps(document).encode())


def test_vector_leaves_up_to_3_1_lie_with_the_nodes(load):
    document, tree = vector_document()
    del tree["leaf_weights"]
    tree["right_children"] = [2, -1, -1]
    tree["base_weights"] = [-1.0, -2.0, 10.0, 20.0, 30.0, 40.0]
    answers = load(json.dumps(document).encode()).predict([[1.0, 0.0], [2.0, 0.0]])
    assert answers.tolist() == [[10.5, 21.0], [30.5, 41.0]]
    tree["base_weights"] = [-1.0, -2.0, 10.0, 20.0]
    with pytest.raises(ModelFormatError, match="outside its 4 base_weights"):
        load(json.dumps(document).encode())


def test_ubjson_values():
    content = b"{L" + struct.pack(">q", 1) + b"a[$d#L" + struct.pack(">q", 2) + struct.pack(">2f", 1.5, -2.0)
    content += b"i\x01b[TFZSi\x02hiU\xff]}"
    document = ubjson.decode(content, "m")
    assert document["a"].tolist() == [1.5, -2.0]
    assert document["b"] == [True, False, None, "hi", 255]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "truncated"),
        (b"{i\x01ai", "truncated"),
        (b"[$d#L" + struct.pack(">q", 2**62), "a length of"),
        (b"[$d#i\xff", "a length of"),
        (b"[" * 100, "nested deeper"),
        (b"?", "marker"),
        (b"{i\x01aZi\x01aZ}", "given twice"),
        (b"ZZ", "follow the end"),
        (b"Si\x01\xff", "UTF-8"),
    ],
)
def test_ubjson_damage_is_named(content, message):
    with pytest.raises(ModelFormatError, match=message):
        ubjson.decode(content, "m")


def test_a_small_file_that_claims_millions_of_features_takes_little_memory(tmp_path):
    """Loading times layouts on rows of its own; sixty-four rows here would be four gigabytes."""
    import subprocess
    import sys

    document = json.loads(xgboost_json([xgboost_tree()]))
    document["learner"]["learner_model_param"]["num_feature"] = str(2**24)
    path = tmp_path / "wide.json"
    path.write_text(json.dumps(document))
    code = (
        "import resource, sys\nfrom engine.model import load_model\n"
        f"resource.setrlimit(resource.RLIMIT_AS, ({3 << 30}, {3 << 30}))\n"
        f"print(load_model({str(path)!r}).n_features)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == str(2**24), done.stderr
