"""The pipeline: from a dataset config to a registered version with its program, fallback and golden rows."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from engine._common.arguments import number, one_of, whole
from engine.errors import ConfigError, MissingDependencyError, MonitorError, TrainingError
from engine.model import Model
from engine.registry import ModelRegistry, Version, artifacts
from engine.training.checkpoints import Checkpoints
from engine.training.dataset import SEED, SPLITS, TIME
from engine.training.distill import distill
from engine.training.evaluate import measured
from engine.training.folds import FOLDS_MAX, folds, summary
from engine.training.labels import REGRESSION, TASKS, UNSEEN
from engine.training.learners import Learner, Rows, learner_of
from engine.training.prepare import Prepared, prepare
from engine.training.signals import Stop, stopping
from engine.transform import FeatureProgram

if TYPE_CHECKING:
    import pyarrow as pa

US_ROW = "engine.fallback_us_row"  # tag of a version: microseconds of one row of its fallback, where it was trained
log = logging.getLogger("engine.training")


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
        note=), and classes= where labels are classes other than 0 and 1."""


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """The result of `TrainingPipeline.train`.

    Attributes:
        version: the registered version.
        metrics: finite numbers by name, measured on the rows after the split. The fallback's begin with "fallback_".
        run: digest of everything that decided the result, 64 hex digits. Equal runs give the same version.
        resumed_step: the last step that an earlier process had finished; 0 for a run from the start.
        fallback: trees, leaves, us_row, budget_us and agreement of the distilled fallback; None without one. The
            version's lineage has all but the measured us_row, because equal runs must give equal versions.
        warnings: sentences for a person: features that alone predict the label nearly perfectly, or are a key, a time
            or monotone with the row order; labels that may be meant otherwise. They are logged, and kept in the
            version's lineage.
    """

    version: Version
    metrics: dict[str, float]
    run: str
    resumed_step: int
    fallback: dict[str, Any] | None
    warnings: tuple[str, ...] = ()


class TrainingPipeline:
    """Train models from dataset configs and register each with all that serving needs.

    A pipeline keeps settings only, so one may train any number of datasets, one after the other.

    Args:
        feature_store: a FeatureStore, or any object with `get_training_features(dataset_config) -> pyarrow.Table`.
        model_registry: a ModelRegistry, or any object with its `register`.
        learner: "lightgbm", "xgboost", a scikit-learn estimator, a function (rows, labels) -> fitted model, or a
            `Learner`.
        spec: features as `FeatureProgram.fit` takes them. By default every number and boolean of the table as it is,
            and every text as an ordinal; never the label, the time, the weight, the group, the keys of the config's
            views, or a pandas index.
        label, time: columns of the table; by default the config's `label`, and the `event_time` of its labels. Labels
            are numbers, or classes of any type: text, booleans, whole numbers. Classes are encoded once, as codes from
            0 in their own order; `Bundle.classes` has them.
        name: the model's name; by default the registry's.
        holdout: share of the rows kept to judge the model, in (0, 1): the latest ones, unless `split` says otherwise.
        split: "time"; without a time column "random", drawn with a fixed seed, or "order", the last rows of the table.
        weight: column of the rows' weights in fit and metrics, finite and at least 0.
        group: column whose rows of one value stay on one side of the split. Split by time or order, rows after the
            split are left out if their group has rows before it.
        class_weights: "balanced", or weights by label, which multiply the weights of the rows to learn from.
        folds: cross-validate the rows before the split in this many folds, 2 to 100: the metrics then have the mean and
            the standard deviation of each metric over the folds, `cv_auc` and `cv_auc_std`. Split by time or order,
            each fold is judged by a model of the rows before it; groups stay on one side. None for none.
        task: "classification" or "regression"; by default by the learner, else by the labels: texts, booleans, 0 and 1,
            and two whole numbers are classes.
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
        split: str = TIME,
        weight: str | None = None,
        group: str | None = None,
        class_weights: Mapping[Any, float] | str | None = None,
        folds: int | None = None,
        task: str | None = None,
        fallback_budget_us: float | None = 2.0,
        golden_rows: int = 64,
        policy: Mapping[str, Any] | None = None,
        checkpoints: str | os.PathLike[str] | None = None,
    ) -> None:
        number("holdout", holdout, 0.0, 1.0, above=True, below=True, error=ConfigError)
        if fallback_budget_us is not None:
            number("fallback_budget_us", fallback_budget_us, 0.0, 1e9, above=True, error=ConfigError)
        whole("golden_rows", golden_rows, 1, 1 << 31, error=ConfigError)
        one_of("split", split, SPLITS, error=ConfigError)
        if folds is not None:
            whole("folds", folds, 2, FOLDS_MAX, error=ConfigError)
        if task is not None:
            one_of("task", task, TASKS, error=ConfigError)
        if not (class_weights in (None, "balanced") or isinstance(class_weights, Mapping)):
            raise ConfigError(
                f'class_weights must be "balanced" or weights by label, got {class_weights!r:.80}'
            )
        self.feature_store = feature_store
        self.model_registry = model_registry
        self.learner: Learner = learner_of(learner, trust=bool(getattr(model_registry, "trust", False)))
        self.spec = spec
        self.label = label
        self.time = time
        self.name = name
        self.holdout = holdout
        self.split = split
        self.weight = weight
        self.group = group
        self.class_weights = class_weights
        self.folds = folds
        self.task = task
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
            RegistryError: the registry would refuse the learner's kind of model; said before the fit where that shows.
            MissingDependencyError: the learner's library is not installed.
            EngineError: raised by the feature store or the registry.
        """
        with stopping() as stop:
            return self._train(dataset_config, note, stop)

    def _train(self, config: Any, note: str, stop: Stop) -> TrainingRun:
        settings = {
            "learner": self.learner.settings(),
            "fallback_budget_us": self.fallback_budget_us,
            "golden_rows": self.golden_rows,
            "policy": dict(self.policy or {}),
        }
        if self.folds is not None:
            settings["folds"] = self.folds
        made = prepare(
            self.feature_store.get_training_features(config),
            config,
            spec=self.spec,
            label=self.label,
            time=self.time,
            holdout=self.holdout,
            split=self.split,
            weight=self.weight,
            group=self.group,
            class_weights=self.class_weights,
            task=self.task or getattr(self.learner, "task", None),
            n_classes=getattr(self.learner, "n_classes", None),
            settings=settings if self.task is None else {**settings, "task": self.task},
            stop=stop,
        )
        for sentence in made.warnings:
            log.warning("%s", sentence)
        saved = Checkpoints(self._folder(), made.run)
        with saved.held(stop):
            if (registered := self._registered(made)) is not None:
                saved.clear()
                return registered
            return self._trained(made, saved, note, stop)

    def _trained(self, made: Prepared, saved: Checkpoints, note: str, stop: Stop) -> TrainingRun:
        """Train, judge and register one run, while no other process is at it."""
        content, resumed = self._learned(made, saved, stop)
        validated = self._validated(made, saved, stop)
        trust = getattr(self.model_registry, "trust", False)
        model = artifacts.from_bytes("the trained model", content, trust=trust)
        classes = _classes_of(made, model)
        outcome, fallback = self._judged(made, model, classes, saved, stop)
        outcome["metrics"] |= validated
        parts = self._parts(made, model, classes, outcome)
        version = self.model_registry.register(
            content, outcome["metrics"], fallback=fallback, note=note, **parts
        )
        self._keep_time(version, outcome["fallback"])
        saved.clear()
        return TrainingRun(
            version, outcome["metrics"], made.run, resumed, outcome["fallback"], tuple(made.warnings)
        )

    def _keep_time(self, version: Version, fallback: dict[str, Any] | None) -> None:
        """Keep the fallback's measured time as a tag: a version's content must not depend on a clock."""
        registry: Any = self.model_registry
        if fallback is not None and hasattr(registry, "set_tags") and US_ROW not in registry.tags(version):
            registry.set_tags(version, {US_ROW: repr(fallback["us_row"])})

    def _parts(
        self, made: Prepared, model: Model, classes: tuple[Any, ...] | None, outcome: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the arguments of `register` besides the model, its metrics and its fallback."""
        golden = _evenly(made.judge, self.golden_rows)
        reference, without_reference = _reference(made.judge, made.program, model)
        fallback = outcome["fallback"]
        parts: dict[str, Any] = {
            "default": _default(made, model, classes),
            "program": made.program,
            "golden": (golden, model.predict(golden)),
            "reference": reference,
            "policy": self.policy,
            "lineage": {
                "dataset": made.facts,
                "views": made.views,
                "config": made.settings,
                "run": made.run,
                "fallback": fallback and {key: value for key, value in fallback.items() if key != "us_row"},
                "without_reference": without_reference,
                "warnings": made.warnings,
            },
        }
        # Another registry may not know the argument, which says nothing where the labels are 0 and 1.
        if classes not in (None, (0, 1)) or (classes and isinstance(self.model_registry, ModelRegistry)):
            parts["classes"] = classes
        return parts if self.name is None else {**parts, "name": self.name}

    def _registered(self, made: Prepared) -> TrainingRun | None:
        """Return the version of this run where an earlier process has registered it."""
        registry: Any = self.model_registry
        if not hasattr(registry, "resolve") or not hasattr(registry, "versions"):
            return None
        name = self.name if self.name is not None else registry.default_name
        if name not in registry.names():
            return None
        for version in reversed(registry.versions(name)):
            bundle = registry.resolve(version)
            if bundle.lineage.get("run") == made.run:
                fallback = bundle.lineage.get("fallback")
                if fallback and hasattr(registry, "tags") and (kept := registry.tags(version).get(US_ROW)):
                    fallback = {**fallback, "us_row": float(kept)}
                return TrainingRun(
                    version, bundle.metrics, made.run, self.learner.steps, fallback, tuple(made.warnings)
                )
        return None

    def _learned(self, made: Prepared, saved: Checkpoints, stop: Stop) -> tuple[bytes, int]:
        """Return the model's bytes after the last step, and the number of steps done before this process."""
        data = self._rows(made)
        check = getattr(self.learner, "check", None)
        if check is not None:
            check(data)
        before = saved.load("primary")
        content: bytes | None
        content, done = (before.payload, before.step) if before else (None, 0)
        for index in range(done, self.learner.steps):
            stop()
            content = self.learner.step(data, index, content, stop)
            saved.save("primary", index + 1, content)
        if content is None:
            raise TrainingError(f"the learner has {self.learner.steps} steps; expected at least 1")
        return content, done

    def _validated(self, made: Prepared, saved: Checkpoints, stop: Stop) -> dict[str, float]:
        """Return the metrics of the folds. Each fold that is done is saved, and never done again."""
        if self.folds is None:
            return {}
        found = []
        parts = folds(len(made.learn), self.folds, self.split, instants=made.instants, groups=made.groups)
        for place, (learn, judge) in enumerate(parts):
            stage = f"fold-{place}"
            before = saved.load(stage)
            if before is None:
                saved.save(stage, 1, b"", self._fold(made, place, learn, judge, stop))
                before = saved.load(stage)
                assert before is not None, "a checkpoint that was saved is there"
            found.append(before.about)
        return summary(found)

    def _fold(self, made: Prepared, place: int, learn: Any, judge: Any, stop: Stop) -> dict[str, float]:
        """Return the metrics of the rows `judge`, by a program and a model of the rows `learn`."""
        import pyarrow as pa

        cut = made.split
        program, rows = FeatureProgram.fit_batch(made.spec, cut.learn.take(pa.array(learn)))
        data = self._rows_at(made, rows, program.output_names, learn)
        content = None
        for index in range(self.learner.steps):
            stop()
            content = self.learner.step(data, index, content, stop)
        assert content is not None, "a learner has a step"
        trust = getattr(self.model_registry, "trust", False)
        model = artifacts.from_bytes(f"the model of fold {place}", content, trust=trust)
        classes = _classes_of(made, model)
        if classes is not None and model.n_outputs > 1 and model.n_outputs != len(classes):
            raise TrainingError(
                f"fold {place}: its {len(learn):,} rows to learn from lack some of the {len(classes)} classes; take "
                f'fewer folds, or split="random"'
            )
        answers = model.predict(program.batch(cut.learn.take(pa.array(judge))))
        weights = None if made.learn_shares is None else made.learn_shares[judge]
        return measured(
            _coded(cut.learn_labels[judge], cut.classes, classes),
            answers,
            classes=classes,
            weights=weights,
            numbers=self.task == REGRESSION,
        )

    def _rows(self, made: Prepared) -> Rows:
        """Return the rows to learn from. A learner that stops early gets some of them apart, as `valid`."""
        return self._rows_at(made, made.learn, made.program.output_names, slice(None))

    def _rows_at(
        self, made: Prepared, rows: npt.NDArray[np.float32], names: tuple[str, ...], at: Any
    ) -> Rows:
        """Return the rows to learn from, given their features and the places of their labels."""
        cut = made.split
        task = self.task if self.task == REGRESSION else None
        labels = cut.learn_labels[at]
        weights = cut.learn_weights if cut.learn_weights is None else cut.learn_weights[at]

        def some(places: Any) -> Rows:
            own = weights if weights is None else weights[places]
            return Rows(rows[places], labels[places], names, cut.classes, own, task)

        n = len(rows)
        share = float(getattr(self.learner, "validation", 0.0))
        if not share or n < 2:
            return some(slice(None))
        order = np.arange(n) if self.split == TIME else np.random.default_rng(SEED).permutation(n)
        first = min(n - 1, max(1, int(n * (1.0 - share))))
        data = some(np.sort(order[:first]))
        data.valid = some(np.sort(order[first:]))
        return data

    def _judged(
        self,
        made: Prepared,
        model: Model,
        classes: tuple[Any, ...] | None,
        saved: Checkpoints,
        stop: Stop,
    ) -> tuple[dict[str, Any], bytes | None]:
        """Return metrics and the fallback's bytes.

        Both are saved as a checkpoint, because times measured again would differ and give another version.
        """
        before = saved.load("outcome")
        if before is not None:
            return before.about, before.payload or None
        judge, cut = made.judge, made.split
        numbers = self.task == REGRESSION

        def of(answers: npt.NDArray[np.float64]) -> dict[str, float]:
            return measured(
                _coded(cut.judge_labels, cut.classes, classes),
                answers,
                classes=classes,
                weights=cut.judge_weights,
                numbers=numbers,
            )

        answers = model.predict(judge)
        if not np.isfinite(answers).all():
            raise TrainingError(
                f"the trained model answers NaN or infinity to {int((~np.isfinite(answers)).sum())} of {len(judge)} "
                f"rows after the split; check the labels and features"
            )
        outcome: dict[str, Any] = {"metrics": of(answers), "fallback": None}
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
                own = of(found.model.predict(judge))
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


def _classes_of(made: Prepared, model: Model) -> tuple[Any, ...] | None:
    """Return the classes in the order of the model's answers; None for numbers.

    A function of the user's own may fit a classifier to labels that looked like numbers. Then the answers are in the
    order of the labels, as scikit-learn has it, or the labels are codes already, as in LightGBM.
    """
    classes = made.split.classes
    if classes is not None or model.n_outputs == 1:
        return classes
    distinct = np.unique(made.split.learn_labels)
    whole = bool((distinct == np.floor(distinct)).all())
    if len(distinct) == model.n_outputs:
        return tuple(int(label) if whole else float(label) for label in distinct)
    if whole and distinct[0] >= 0 and distinct[-1] < model.n_outputs:
        return tuple(range(model.n_outputs))
    return None


def _coded(
    labels: npt.NDArray[np.float64], encoded: tuple[Any, ...] | None, classes: tuple[Any, ...] | None
) -> npt.NDArray[np.float64]:
    """Return labels as codes of `classes`, where they are not encoded yet."""
    if classes is None or encoded is not None:
        return labels
    values = np.array(classes, dtype=np.float64)
    places = np.minimum(np.searchsorted(values, labels), len(values) - 1)
    return np.where(values[places] == labels, places, UNSEEN).astype(np.float64)


def _default(made: Prepared, model: Model, classes: tuple[Any, ...] | None) -> float | list[float] | None:
    """Return the answer without a model: the mean label, or the share of each class."""
    labels, weights = made.split.learn_labels, made.split.learn_weights
    if model.n_outputs == 1:
        many = classes is not None and len(classes) > 2  # the answers are codes: their mean is none of them
        return None if many else float(np.average(labels, weights=weights))
    if classes is None or len(classes) != model.n_outputs:
        return None
    codes = _coded(labels, made.split.classes, classes)
    shares = np.bincount(codes.astype(int), weights, minlength=len(classes))
    return [float(share) for share in shares / shares.sum()]


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
