"""A dataset made ready for a run: its split, its fitted program, its feature rows, and the digest of the run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from engine.errors import TrainingError
from engine.registry import lineage
from engine.training import dataset, leaks
from engine.training.index_columns import index_columns
from engine.training.signals import Stop
from engine.transform import FeatureProgram

if TYPE_CHECKING:
    import pyarrow as pa

FEW_LABELS = 20  # so few whole labels may be classes


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A dataset made ready.

    Attributes:
        split: the labelled rows before and after an instant.
        program: fitted on the rows before it.
        learn, judge: float32 [rows, n_features], the features of both parts.
        settings: everything that decides the model besides rows and libraries, as plain JSON.
        facts: about the dataset, for the lineage.
        views: versions of the feature views, by name.
        warnings: sentences about features that may leak the label, and about labels and rows that need a look.
        run: digest of everything that decides the model, 64 hex digits.
        spec: the features that the program was fitted to.
        instants, groups: int64 [rows to learn from], ascending and codes from 0; None without such a column.
        learn_shares: float64 [rows to learn from], the weights of the rows without those of their classes; None for
            equal ones.
    """

    split: dataset.Split
    program: FeatureProgram
    learn: npt.NDArray[np.float32]
    judge: npt.NDArray[np.float32]
    settings: dict[str, Any]
    facts: dict[str, Any]
    views: dict[str, str]
    warnings: list[str]
    run: str
    spec: Sequence[Any] = ()
    instants: npt.NDArray[np.int64] | None = None
    groups: npt.NDArray[np.int64] | None = None
    learn_shares: npt.NDArray[np.float64] | None = None


def prepare(
    table: pa.Table,
    config: Any,
    *,
    spec: Sequence[Any] | None,
    label: str | None,
    time: str | None,
    holdout: float,
    split: str = dataset.TIME,
    weight: str | None = None,
    group: str | None = None,
    class_weights: Any = None,
    task: str | None = None,
    n_classes: int | None = None,
    settings: Mapping[str, Any],
    stop: Stop,
) -> Prepared:
    """Split a training table, fit the feature program on its earlier part, and compute the features of both parts.

    Args:
        table: of the feature store.
        config: the dataset config, for the label, the time, the keys of its views and its digest.
        spec, label, time, holdout, split, weight, group, class_weights: as `TrainingPipeline` takes them.
        task, n_classes: of the pipeline or of its learner, as `labels.encoded` takes them.
        settings: all other settings that decide the model, for the run digest.
        stop: called between the steps.

    Raises:
        TrainingError: the label or time column is not known, or the table cannot be split.
    """
    facts = dataset.about(table, config)
    label, time = _columns(config, label, time, split)
    cut = dataset.split(
        table,
        label,
        time,
        holdout,
        how=split,
        weight=weight,
        group=group,
        class_weights=class_weights,
        task=task,
        n_classes=n_classes,
    )
    stop()
    if spec is None:
        others = [name for name in (label, time, weight, group) if name is not None]
        spec = dataset.features_of(table, _not_features(table, config, others))
    program, learn = FeatureProgram.fit_batch(spec, cut.learn)
    judge = program.batch(cut.judge)
    decided: dict[str, Any] = {
        "dataset": facts["digest"],
        "program": program.digest,
        "label": label,
        "time": time,
        "holdout": holdout,
        "split_at": cut.at,
        **settings,
    }
    # Settings that are left out keep the digests of runs that were made before these existed.
    named = {"split": split if split != dataset.TIME else None, "weight": weight, "group": group}
    decided |= {key: value for key, value in named.items() if value is not None}
    if class_weights is not None:
        decided["class_weights"] = _plain_weights(class_weights)
    if cut.classes not in (None, (0, 1)):
        decided["classes"] = list(cut.classes or ())
    weights = [each for each in (cut.learn_weights, cut.judge_weights) if each is not None]
    run = _digest_of(decided, learn, cut.learn_labels, judge, cut.judge_labels, *weights)
    facts |= {"without_label": cut.dropped, "learned_from": len(learn), "judged_by": len(judge)}
    if group is not None:
        facts["left_out"] = cut.left_out
    found = leaks.warnings(
        cut.learn,
        cut.judge,
        program.input_names,
        cut.learn_labels,
        cut.judge_labels,
        classes=cut.classes is not None,
        positions=cut.positions,
        stop=stop,
    )
    return Prepared(
        cut,
        program,
        learn,
        judge,
        decided,
        facts,
        _views(facts, config),
        [*_about_labels(cut, label), *found],
        run,
        spec,
        dataset.codes_in_order(cut.learn[time]) if time is not None and split == dataset.TIME else None,
        dataset.codes(cut.learn[group]) if group is not None else None,
        dataset.weights(cut.learn[weight], weight) if weight is not None else None,
    )


def _columns(config: Any, label: str | None, time: str | None, split: str) -> tuple[str, str | None]:
    label = label or getattr(config, "label", None)
    time = time or getattr(getattr(config, "labels", None), "event_time", None)
    if not label or (not time and split == dataset.TIME):
        raise TrainingError(
            "the pipeline needs to know the label and time columns: say DatasetConfig(…, label=…), or "
            'TrainingPipeline(…, label=…, time=…); without a time, TrainingPipeline(…, split="random") or "order"'
        )
    return label, time


def _not_features(table: pa.Table, config: Any, others: Sequence[str]) -> list[str]:
    keys = {key for view in getattr(config, "views", ()) for key in getattr(view, "keys", ())}
    return [*others, *sorted(keys | index_columns(table, config))]


def _plain_weights(class_weights: Any) -> Any:
    if isinstance(class_weights, str):
        return class_weights
    return sorted([repr(label), float(value)] for label, value in class_weights.items())


def _about_labels(cut: dataset.Split, label: str) -> list[str]:
    """Return sentences about labels that may be meant otherwise, and about classes that the model cannot know."""
    found = []
    unseen = int((cut.judge_labels < 0.0).sum()) if cut.classes is not None else 0
    if unseen:
        found.append(
            f"label {label!r}: {unseen:,} rows after the split have a class that no row before it has; they count as "
            f"wrong answers"
        )
    if cut.classes is None:
        distinct = np.unique(cut.learn_labels)
        if 2 < len(distinct) <= FEW_LABELS and (distinct == np.floor(distinct)).all():
            found.append(
                f"label {label!r} has {len(distinct)} whole values and is learned as a number; if they are classes, "
                f'say task="classification"'
            )
    return found


def _views(facts: dict[str, Any], config: Any) -> dict[str, str]:
    found = facts.get("views") or {}
    return found or {
        view.name: view.version for view in getattr(config, "views", ()) if hasattr(view, "version")
    }


def _digest_of(settings: dict[str, Any], *arrays: npt.NDArray[Any]) -> str:
    """Return the digest of everything that decides the model: settings, rows, labels and libraries.

    Its JSON is not canonical, because the digests of runs that are on disks already must stay the same.
    """
    sha = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    sha.update(json.dumps(lineage.environment(), sort_keys=True).encode())
    for array in arrays:
        sha.update(repr((array.shape, array.dtype.str)).encode())
        sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()
