"""The pipeline: point-in-time features, a split by time, a program, a model, its fallback, and a registered version."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from engine._common.arguments import number, whole
from engine.errors import ConfigError, MissingDependencyError, MonitorError, TrainingError
from engine.model import Model
from engine.registry import Version, artifacts, lineage
from engine.training import dataset
from engine.training.checkpoints import Checkpoints
from engine.training.distill import distill
from engine.training.evaluate import measured
from engine.training.learners import Learner, Rows, learner_of
from engine.training.signals import Stop, stopping
from engine.transform import FeatureProgram

if TYPE_CHECKING:
    import pyarrow as pa


class Store(Protocol):
    """What the pipeline needs of a feature store."""

    def get_training_features(self, dataset_config: Any) -> pa.Table: ...


class Registry(Protocol):
    """What the pipeline needs of a registry."""

    @property
    def register(self) -> Callable[..., Version]:
        """Called as (model, metrics, name=, fallback=, default=, program=, golden=, reference=, policy=, lineage=)."""


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """What `train` did.

    Attributes:
        version: as registered.
        metrics: on the rows after the split; those of the fallback begin with "fallback_".
        run: digest of everything that decided the result, 64 hex digits: the same run is the same version.
        resumed_step: the step that was on the disk already: 0 for a run from the start, the last one for a run that
            was registered before.
        fallback: trees, leaves, us_row, budget_us and agreement; None where there is none.
    """

    version: Version
    metrics: dict[str, float]
    run: str
    resumed_step: int
    fallback: dict[str, Any] | None


@dataclass(frozen=True, slots=True, eq=False)
class _Prepared:
    """A dataset made ready: its split and fitted program, feature rows, and what the lineage says of them."""

    split: dataset.Split
    program: FeatureProgram
    learn: npt.NDArray[np.float32]
    judge: npt.NDArray[np.float32]
    settings: dict[str, Any]
    facts: dict[str, Any]
    views: dict[str, str]
    run: str


class TrainingPipeline:
    """Trains from dataset configs and registers what comes out, with all that serving needs.

    Args:
        feature_store: anything with `get_training_features(dataset_config) -> pyarrow.Table`.
        model_registry: anything with `register`, a ModelRegistry.
        learner: "lightgbm", "xgboost", a scikit-learn estimator, a function (rows, labels) -> fitted model, or a
            `Learner`.
        spec: features as `FeatureProgram.fit` takes them; unless given, every number and boolean of the table as it is
            and every text by its place, without the label, the time, and the keys of the config's views.
        label, time: columns of the table; the config's `label` and its labels' `event_time` unless given.
        name: what the version is registered as; the registry's default unless given.
        holdout: share of the rows, the latest, that the model is judged by and never sees; in (0, 1).
        fallback_budget_us: microseconds that a row of the distilled fallback may take here; None for no fallback.
        golden_rows: of the rows after the split, that the version must answer as now wherever it is served.
        policy: deadline policy of the version.
        checkpoints: folder of the checkpoints; "training" in the registry's folder unless given.

    Raises:
        ConfigError: a learner or a share that makes no sense.
    """

    def __init__(
        self,
        feature_store: Store,
        model_registry: Registry,
        *,
        learner: Any = "lightgbm",
        spec: Sequence[Any] | None = None,
        label: str | None = None,
        time: str | None = None,
        name: str | None = None,
        holdout: float = 0.2,
        fallback_budget_us: float | None = 2.0,
        golden_rows: int = 64,
        policy: Mapping[str, Any] | None = None,
        checkpoints: str | os.PathLike[str] | None = None,
    ) -> None:
        number("holdout", holdout, 0.0, 1.0, above=True, below=True, error=ConfigError)
        if fallback_budget_us is not None:
            number("fallback_budget_us", fallback_budget_us, 0.0, 1e9, above=True, error=ConfigError)
        whole("golden_rows", golden_rows, 1, 1 << 31, error=ConfigError)
        self.feature_store, self.model_registry = feature_store, model_registry
        self.learner: Learner = learner_of(learner)
        self.spec, self.label, self.time, self.name = spec, label, time, name
        self.holdout, self.fallback_budget_us = holdout, fallback_budget_us
        self.golden_rows, self.policy, self.checkpoints = golden_rows, policy, checkpoints

    def train(self, dataset_config: Any, *, note: str = "") -> TrainingRun:
        """Trains on a dataset and registers the version.

        Reproducible: the same dataset, settings and libraries give the same run digest, model bits and version. Each
        finished step of the learner is on the disk before the next begins; after SIGTERM (which raises
        TrainingInterrupted within a round of boosting), `kill -9` or a power cut the same call goes on from there, to
        the same bits.

        Args:
            dataset_config: what the feature store takes.
            note: for the registry's log.

        Raises:
            TrainingError: a dataset that cannot be learned from, a damaged checkpoint, a learner that failed.
            MissingDependencyError: the learner's library is not installed.
            EngineError: what the feature store or the registry raises.
        """
        with stopping() as stop:
            return self._train(dataset_config, note, stop)

    def _train(self, config: Any, note: str, stop: Stop) -> TrainingRun:
        made = self._prepared(config, stop)
        saved = Checkpoints(self._folder(), made.run)
        if (registered := self._registered(made.run)) is not None:
            saved.clear()
            return registered
        content, resumed = self._learned(made, saved, stop)
        trust = getattr(self.model_registry, "trust", False)
        model = artifacts.from_bytes("the trained model", content, trust=trust)
        outcome, fallback = self._judged(made, model, saved, stop)
        parts = self._parts(made, model, outcome)
        version = self.model_registry.register(
            content, outcome["metrics"], fallback=fallback, note=note, **parts
        )
        saved.clear()
        return TrainingRun(version, outcome["metrics"], made.run, resumed, outcome["fallback"])

    def _prepared(self, config: Any, stop: Stop) -> _Prepared:
        """The rows to learn from and to judge by, and the digest of all that decides what comes of them."""
        table = self.feature_store.get_training_features(config)
        facts = dataset.about(table, config)
        label, time = self._columns(config)
        split = dataset.by_time(table, label, time, self.holdout)
        stop()
        spec = self.spec
        if spec is None:
            spec = dataset.features_of(table, _not_features(config, label, time))
        program, learn = FeatureProgram.fit_batch(spec, split.learn)
        judge = program.batch(split.judge)
        settings: dict[str, Any] = {
            "dataset": facts["digest"],
            "learner": self.learner.settings(),
            "program": program.digest,
            "label": label,
            "time": time,
            "holdout": self.holdout,
            "split_at": split.at,
            "fallback_budget_us": self.fallback_budget_us,
            "golden_rows": self.golden_rows,
            "policy": dict(self.policy or {}),
        }
        run = _digest_of(settings, learn, split.learn_labels, judge, split.judge_labels)
        facts |= {"without_label": split.dropped, "learned_from": len(learn), "judged_by": len(judge)}
        return _Prepared(split, program, learn, judge, settings, facts, _views(facts, config), run)

    def _parts(self, made: _Prepared, model: Model, outcome: dict[str, Any]) -> dict[str, Any]:
        """What is registered besides the model and its fallback."""
        golden = _evenly(made.judge, self.golden_rows)
        reference, without_reference = _reference(made.judge, made.program, model)
        parts: dict[str, Any] = {
            "default": float(made.split.learn_labels.mean()) if model.n_outputs == 1 else None,
            "program": made.program,
            "golden": (golden, model.predict(golden)),
            "reference": reference,
            "policy": self.policy,
            "lineage": {
                "dataset": made.facts,
                "views": made.views,
                "config": made.settings,
                "run": made.run,
                "fallback": outcome["fallback"],
                "without_reference": without_reference,
            },
        }
        return parts if self.name is None else {**parts, "name": self.name}

    def _registered(self, run: str) -> TrainingRun | None:
        """The version that this run was registered as, by a process that may have died before it could say so.

        Asked for because a second registration would be another version: it measures the fallback's time again.
        """
        registry: Any = self.model_registry
        if not hasattr(registry, "resolve") or not hasattr(registry, "versions"):
            return None
        name = self.name if self.name is not None else registry.default_name
        if name not in registry.names():
            return None
        for version in reversed(registry.versions(name)):
            bundle = registry.resolve(version)
            if bundle.lineage.get("run") == run:
                return TrainingRun(
                    version, bundle.metrics, run, self.learner.steps, bundle.lineage.get("fallback")
                )
        return None

    def _learned(self, made: _Prepared, saved: Checkpoints, stop: Stop) -> tuple[bytes, int]:
        """The model's bytes after the last step, and the step that it began after."""
        data = Rows(made.learn, made.split.learn_labels, made.program.output_names)
        before = saved.load("primary")
        content, done = (before.payload, before.step) if before else (None, 0)
        for index in range(done, self.learner.steps):
            stop()
            content = self.learner.step(data, index, content, stop)
            saved.save("primary", index + 1, content)
        if content is None:
            raise TrainingError(f"the learner has {self.learner.steps} steps; expected at least 1")
        return content, done

    def _judged(
        self, made: _Prepared, model: Model, saved: Checkpoints, stop: Stop
    ) -> tuple[dict[str, Any], bytes | None]:
        """Metrics and the fallback. Saved too: what was measured in microseconds would differ the next time, and the
        version with it."""
        before = saved.load("outcome")
        if before is not None:
            return before.about, before.payload or None
        judge, labels = made.judge, made.split.judge_labels
        answers = model.predict(judge)
        if not np.isfinite(answers).all():
            raise TrainingError(
                f"the trained model gives no number for {int((~np.isfinite(answers)).sum())} of {len(judge)} rows "
                f"after the split; look at its labels and features"
            )
        outcome: dict[str, Any] = {"metrics": measured(labels, answers), "fallback": None}
        content = b""
        if self.fallback_budget_us is not None:
            found = distill(
                model,
                made.learn,
                judge,
                made.program.output_names,
                budget_us=self.fallback_budget_us,
                stop=stop,
            )
            if found is not None:
                content, outcome["fallback"] = found.content, found.about
                own = measured(labels, found.model.predict(judge))
                outcome["metrics"] |= {f"fallback_{name}": value for name, value in own.items()}
                outcome["metrics"]["fallback_correlation"] = found.about["agreement"]["correlation"]
        saved.save("outcome", 1, content, outcome)
        return outcome, content or None

    def _columns(self, config: Any) -> tuple[str, str]:
        label = self.label or getattr(config, "label", None)
        time = self.time or getattr(getattr(config, "labels", None), "event_time", None)
        if not label or not time:
            raise TrainingError(
                "the pipeline needs to know the label and time columns: say DatasetConfig(…, label=…), or "
                "TrainingPipeline(…, label=…, time=…)"
            )
        return label, time

    def _folder(self) -> Path:
        if self.checkpoints is not None:
            return Path(self.checkpoints)
        registry = getattr(self.model_registry, "path", None)
        return (
            Path(registry, "training")
            if registry is not None
            else Path(tempfile.gettempdir(), "engine-training")
        )


def _not_features(config: Any, label: str, time: str) -> list[str]:
    keys = {key for view in getattr(config, "views", ()) for key in getattr(view, "keys", ())}
    return [label, time, *sorted(keys)]


def _views(facts: dict[str, Any], config: Any) -> dict[str, str]:
    found = facts.get("views") or {}
    return found or {
        view.name: view.version for view in getattr(config, "views", ()) if hasattr(view, "version")
    }


def _digest_of(settings: dict[str, Any], *arrays: npt.NDArray[Any]) -> str:
    """Of everything that decides the model: settings, rows, labels, and the libraries that work on them."""
    sha = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    sha.update(json.dumps(lineage.environment(), sort_keys=True).encode())
    for array in arrays:
        sha.update(repr((array.shape, array.dtype.str)).encode())
        sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()


def _evenly(rows: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.float32]:
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int))]


def _reference(
    judge: npt.NDArray[np.float32], program: FeatureProgram, model: Model
) -> tuple[Any, str | None]:
    """The monitor's reference, or why there is none. Of rows that the model has not learned from: to those that it has,
    it answers more surely than it ever will again, and every answer served would look like drift."""
    try:
        from engine.monitor import Reference
    except ImportError as error:
        return None, str(error)
    try:
        return Reference.fit(judge, program.output_names, outputs=model.predict(judge)), None
    except (MissingDependencyError, MonitorError) as error:
        return None, str(error)
