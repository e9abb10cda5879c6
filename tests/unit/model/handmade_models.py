"""Tiny model files written by hand, so that every expected answer can be worked out on paper."""

from __future__ import annotations

import json
from typing import Any


def lightgbm_tree(
    *,
    feature: str = "",
    threshold: str = "",
    decision: str = "",
    left: str = "",
    right: str = "",
    leaf: str = "1",
    extra: str = "",
) -> str:
    """The lines of one tree below `Tree=`.

    `decision` is LightGBM's bit field: 1 category, 2 default left, 4 zero is missing, 8 NaN is missing.
    """
    n_leaves = len(leaf.split(" "))
    lines = [f"num_leaves={n_leaves}", f"num_cat={1 if 'cat_threshold' in extra else 0}"]
    if n_leaves > 1:
        lines += [f"split_feature={feature}", f"threshold={threshold}", f"decision_type={decision}"]
        lines += [f"left_child={left}", f"right_child={right}"]
    return (
        "\n".join([*lines, f"leaf_value={leaf}", *([extra] if extra else []), "is_linear=0", "shrinkage=1"])
        + "\n\n\n"
    )


def stump(threshold: str, decision: int, *, feature: int = 0, leaf: str = "10 20", extra: str = "") -> str:
    """A tree of one split: the first leaf value on the left, the second on the right."""
    return lightgbm_tree(
        feature=str(feature),
        threshold=threshold,
        decision=str(decision),
        left="-1",
        right="-2",
        leaf=leaf,
        extra=extra,
    )


def lightgbm_text(
    trees: list[str],
    *,
    n_features: int = 2,
    objective: str | None = "regression",
    per_iteration: int = 1,
    header: str = "",
) -> bytes:
    """A whole LightGBM file around the trees, with the sizes and end marks that it needs."""
    blocks = [f"Tree={index}\n{tree}" for index, tree in enumerate(trees)]
    lines = ["tree", "version=v4", f"num_class={per_iteration}", f"num_tree_per_iteration={per_iteration}"]
    lines += ["label_index=0", f"max_feature_idx={n_features - 1}"]
    lines += [f"objective={objective}"] if objective else []
    lines += [header] if header else []
    lines += ["feature_names=" + " ".join(f"f{i}" for i in range(n_features))]
    lines += ["tree_sizes=" + " ".join(str(len(block)) for block in blocks)]
    tail = (
        "end of trees\n\nfeature_importances:\nf0=1\n\nparameters:\n[boosting: gbdt]\n\nend of parameters\n"
    )
    return ("\n".join(lines) + "\n\n" + "".join(blocks) + tail).encode()


def xgboost_tree(**columns: Any) -> dict[str, Any]:
    """One tree of XGBoost's JSON; columns as there, by default a stump on feature 0 at 1.5."""
    tree: dict[str, Any] = {
        "left_children": [1, -1, -1],
        "right_children": [2, -1, -1],
        "split_indices": [0, 0, 0],
        "split_conditions": [1.5, -1.0, 2.0],
        "default_left": [1, 0, 0],
        "split_type": [0, 0, 0],
        "categories": [],
        "categories_nodes": [],
        "categories_segments": [],
        "categories_sizes": [],
    }
    tree.update(columns)
    tree["tree_param"] = {"num_nodes": str(len(tree["left_children"])), "size_leaf_vector": "1"}
    return tree


def xgboost_document(
    trees: list[dict[str, Any]],
    *,
    objective: str = "reg:squarederror",
    base_score: str = "[5E-1]",
    weight_drop: list[float] | None = None,
) -> dict[str, Any]:
    """A whole XGBoost document with two features and one output; dart where tree weights are given."""
    forest = {
        "trees": trees,
        "tree_info": [0] * len(trees),
        "gbtree_model_param": {"num_trees": str(len(trees))},
    }
    booster: dict[str, Any] = {"name": "gbtree", "model": forest}
    if weight_drop is not None:
        booster = {"name": "dart", "gbtree": booster, "weight_drop": weight_drop}
    return {
        "version": [3, 2, 0],
        "learner": {
            "learner_model_param": {
                "base_score": base_score,
                "num_class": "0",
                "num_feature": "2",
                "num_target": "1",
            },
            "objective": {"name": objective},
            "gradient_booster": booster,
            "feature_names": [],
        },
    }


def xgboost_json(*args: Any, **options: Any) -> bytes:
    return json.dumps(xgboost_document(*args, **options)).encode()
