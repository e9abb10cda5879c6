"""The pipeline: from a dataset config to a registered version with its program, fallback and golden rows."""

from __future__ import annotations

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
from engine.registry import Version, artifacts
from engine.training.checkpoints import Checkpoints
from engine.training.distill import distill
from engine.training.evaluate import measured
from engine.training.learners import Learner, Rows, learner_of
from engine.training.prepare import Prepared, prepare
from engine.training.signals import Stop, stopping
from engine.transform import FeatureProgram

if TYPE_CHECKING:
    import pyarrow as pa


class Store(Protocol):
    """The part of a feature store that the pipeline uses."""

    def get_training_features(self, dataset_config: Any) -> pa.Table:
        """Return the training table of a dataset config: keys, times, labels and point-in-time features."""
        ...


class Registry(Protocol):
    """The part of a registry that the pipeline uses."""

    @property
    def register(self) -> Callable[..., Version]:
        """Called as (model, metrics, name=, fallback=, default=, program=, golden=, reference=, policy=, lineage=,
        note=)."""


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """The result of `TrainingPipeline.train`.

    Attributes:
        version: the registered version.
        metrics: finite numbers by name, measured on the rows after the split. The fallback's begin with "fallback_".
        run: digest of everything that decided the result, 64 hex digits. Equal runs give the same version.
        resumed_step: the last step that an earlier process had finished; 0 for a run from the start.
        fallback: trees, leaves, us_row, budget_us and agreement of the distilled fallback; None without one.
    """

    version: Version
    metrics: dict[str, float]
    run: str
    resumed_step: int
    fallback: dict[str, Any] | None


class TrainingPipeline:
    """Train models from dataset configs and register each with all that serving needs.

    A pipeline keeps settings only, so one may train any number of datasets, one after the other.

    Args:
        feature_store: a FeatureStore, or any object with `get_training_features(dataset_config) -> pyarrow.Table`.
        model_registry: a ModelRegistry, or any object with its `register`.
        learner: "lightgbm", "xgboost", a scikit-learn estimator, a function (rows, labels) -> fitted model, or a
            `Learner`.
        spec: features as `FeatureProgram.fit` takes them. By default every number and boolean of the table as it is,
            and every text as an ordinal; never the label, the time, or the keys of the config's views.
        label, time: columns of the table; by default the config's `label`, and the `event_time` of its labels.
        name: the model's name; by default the registry's.
        holdout: share of the rows, the latest ones, kept to judge the model; in (0, 1).
        fallback_budget_us: microseconds that one row of the distilled fallback may take here, above 0; None for no
            fallback.
        golden_rows: rows after the split whose answers are stored; the version must give them wherever it is served.
        policy: the version's deadline policy, options of Engine by name.
        checkpoints: folder of the checkpoints; by default "training" in the registry's folder.

    Raises:
        ConfigError: an unknown learner, or a number out of range.
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
        self.feature_store = feature_store
        self.model_registry = model_registry
        self.learner: Learner = learner_of(learner)
        self.spec = spec
        self.label = label
        self.time = time
        self.name = name
        self.holdout = holdout
        self.fallback_budget_us = fallback_budget_us
        self.golden_rows = golden_rows
        self.policy = policy
        self.checkpoints = checkpoints

    def train(self, dataset_config: Any, *, note: str = "") -> TrainingRun:
        """Train on a dataset and register the version. Blocks for as long as training takes.

        Reproducible: the same dataset, settings and libraries give the same run digest, model bits and version. Every
        finished step of the learner is on the disk before the next begins. SIGTERM raises TrainingInterrupted within
        one round of boosting; after it, a kill or a power cut, the same call resumes to the same bits.

        Args:
            dataset_config: passed on to the feature store.
            note: for the registry's audit log.

        Raises:
            TrainingError: the dataset cannot be learned from, a checkpoint is damaged, or the learner failed.
            TrainingInterrupted: SIGTERM came.
            MissingDependencyError: the learner's library is not installed.
            EngineError: raised by the feature store or the registry.
        """
        with stopping() as stop:
            return self._train(dataset_config, note, stop)

    def _train(self, config: Any, note: str, stop: Stop) -> TrainingRun:
        made = prepare(
            self.feature_store.get_training_features(config),
            config,
            spec=self.spec,
            label=self.label,
            time=self.time,
            holdout=self.holdout,
            settings={
                "learner": self.learner.settings(),
                "fallback_budget_us": self.fallback_budget_us,
                "golden_rows": self.golden_rows,
                "policy": dict(self.policy or {}),
            },
            stop=stop,
        )
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

    def _parts(self, made: Prepared, model: Model, outcome: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of `register` besides the model, its metrics and its fallback."""
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
        """Return the version of this run where an earlier process registered it and died before it returned.

        A second registration would be another version, because it measures the fallback's time again.
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

    def _learned(self, made: Prepared, saved: Checkpoints, stop: Stop) -> tuple[bytes, int]:
        """Return the model's bytes after the last step, and the number of steps done before this process."""
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
        self, made: Prepared, model: Model, saved: Checkpoints, stop: Stop
    ) -> tuple[dict[str, Any], bytes | None]:
        """Return metrics and the fallback's bytes.

        Both are saved as a checkpoint, because times measured again would differ and give another version.
        """
        before = saved.load("outcome")
        if before is not None:
            return before.about, before.payload or None
        judge, labels = made.judge, made.split.judge_labels
        answers = model.predict(judge)
        if not np.isfinite(answers).all():
            raise TrainingError(
                f"the trained model answers NaN or infinity to {int((~np.isfinite(answers)).sum())} of {len(judge)} "
                f"rows after the split; check the labels and features"
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

    def _folder(self) -> Path:
        if self.checkpoints is not None:
            return Path(self.checkpoints)
        registry = getattr(self.model_registry, "path", None)
        return (
            Path(registry, "training")
            if registry is not None
            else Path(tempfile.gettempdir(), "engine-training")
        )


def _evenly(rows: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.float32]:
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int))]


def _reference(
    judge: npt.NDArray[np.float32], program: FeatureProgram, model: Model
) -> tuple[Any, str | None]:
    """Return the monitor's reference, or None and the reason why there is none.

    It is made of rows that the model has not learned from. A model is more certain about the rows it has learned from
    than about any other, so a reference made of them would show drift in every served answer.
    """
    try:
        from engine.monitor import Reference
    except ImportError as error:
        return None, str(error)
    try:
        return Reference.fit(judge, program.output_names, outputs=model.predict(judge)), None
    except (MissingDependencyError, MonitorError) as error:
        return None, str(error)
