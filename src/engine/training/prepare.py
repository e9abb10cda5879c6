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
from engine.training import dataset
from engine.training.signals import Stop
from engine.transform import FeatureProgram

if TYPE_CHECKING:
    import pyarrow as pa


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
        run: digest of everything that decides the model, 64 hex digits.
    """

    split: dataset.Split
    program: FeatureProgram
    learn: npt.NDArray[np.float32]
    judge: npt.NDArray[np.float32]
    settings: dict[str, Any]
    facts: dict[str, Any]
    views: dict[str, str]
    run: str


def prepare(
    table: pa.Table,
    config: Any,
    *,
    spec: Sequence[Any] | None,
    label: str | None,
    time: str | None,
    holdout: float,
    settings: Mapping[str, Any],
    stop: Stop,
) -> Prepared:
    """Split a training table, fit the feature program on its earlier part, and compute the features of both parts.

    Args:
        table: of the feature store.
        config: the dataset config, for the label, the time, the keys of its views and its digest.
        spec, label, time, holdout: as `TrainingPipeline` takes them.
        settings: all other settings that decide the model, for the run digest.
        stop: called between the steps.

    Raises:
        TrainingError: the label or time column is not known, or the table cannot be split.
    """
    facts = dataset.about(table, config)
    label, time = _columns(config, label, time)
    split = dataset.by_time(table, label, time, holdout)
    stop()
    if spec is None:
        spec = dataset.features_of(table, _not_features(config, label, time))
    program, learn = FeatureProgram.fit_batch(spec, split.learn)
    judge = program.batch(split.judge)
    decided: dict[str, Any] = {
        "dataset": facts["digest"],
        "program": program.digest,
        "label": label,
        "time": time,
        "holdout": holdout,
        "split_at": split.at,
        **settings,
    }
    run = _digest_of(decided, learn, split.learn_labels, judge, split.judge_labels)
    facts |= {"without_label": split.dropped, "learned_from": len(learn), "judged_by": len(judge)}
    return Prepared(split, program, learn, judge, decided, facts, _views(facts, config), run)


def _columns(config: Any, label: str | None, time: str | None) -> tuple[str, str]:
    label = label or getattr(config, "label", None)
    time = time or getattr(getattr(config, "labels", None), "event_time", None)
    if not label or not time:
        raise TrainingError(
            "the pipeline needs to know the label and time columns: say DatasetConfig(…, label=…), or "
            "TrainingPipeline(…, label=…, time=…)"
        )
    return label, time


def _not_features(config: Any, label: str, time: str) -> list[str]:
    keys = {key for view in getattr(config, "views", ()) for key in getattr(view, "keys", ())}
    return [label, time, *sorted(keys)]


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
