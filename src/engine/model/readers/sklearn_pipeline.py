"""A fitted scikit-learn Pipeline as one model: its transformers become a feature program in front of its estimator.

Rows hold the columns that the pipeline was fitted on. The program computes the features in double, as scikit-learn
does, and hands them on so where the estimator's model reads doubles. A column of text has codes in rows of numbers: the
place of its category in `Model.categories`, NaN where it is missing. Rows with names are turned into them.

A pipeline with transformers that no program can follow is answered by scikit-learn itself.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from engine.errors import ModelError, ProgramError, UnsupportedModelError
from engine.model import _scorer
from engine.model.model import Model
from engine.model.readers import sklearn_library
from engine.model.rows import TextCodes

if TYPE_CHECKING:
    from engine.transform import FeatureProgram

Array = npt.NDArray[Any]

PROBE_ROWS = 16
TOLERANCE = 1e-6


class PipelineModel(Model):
    """A `Model` of a scikit-learn Pipeline.

    Attributes:
        program: the FeatureProgram of its transformers.
        estimator: the Model of its last step. `Engine(model.estimator, features=model.program)` serves mappings by the
            program's own reader, the quickest way, with features rounded to float32.
    """

    __slots__ = ("estimator", "program")

    def __init__(self, program: FeatureProgram, estimator: Model, **facts: Any) -> None:
        super().__init__(**facts)
        self.program = program
        self.estimator = estimator

    def predict(self, rows: Any, *, threads: int = 1, strict: bool = False) -> npt.NDArray[np.float64]:
        """Score rows as `Model.predict` does. A category that an encoder refuses is an InputError."""
        try:
            return super().predict(rows, threads=threads, strict=strict)
        except ModelError as failure:
            self._refuse(rows, strict)
            raise failure from None

    def _refuse(self, rows: Any, strict: bool) -> None:
        """Raise the program's InputError for rows that it does not take."""
        array = self._matched(rows, strict)
        if array.ndim != 2:
            return
        columns: dict[str, Any] = {}
        for at, (name, own) in enumerate(
            zip(self.program.input_names, self.feature_names or (), strict=True)
        ):
            codes = self.categories.get(own) if self.categories else None
            columns[name] = array[:, at] if codes is None else codes.texts_of(array[:, at])
        self.program.batch(columns)


def read_pipeline(
    pipeline: Any,
    kind: str,
    read_estimator: Callable[[Any], Model],
    by_library: Callable[[str], Model],
    *,
    whole: bool,
) -> Model:
    """Read one fitted Pipeline.

    Args:
        pipeline: the object.
        kind: its class's name.
        read_estimator: makes a Model of its last step.
        by_library: makes a Model that scikit-learn answers for, where no program can; takes the reason.
        whole: `read_estimator` takes all rounds that the estimator's own predict does, so that answers can be compared.

    Raises:
        UnsupportedModelError: the pipeline is not fitted, predicts nothing, or scikit-learn cannot answer for it.
    """
    from engine.transform import pipeline_program

    last = pipeline.steps[-1][1] if pipeline.steps else None
    if not hasattr(last, "predict"):
        raise UnsupportedModelError(
            f"scikit-learn {kind} ends in {last!r:.60}, which predicts nothing: load a pipeline with an estimator, "
            f"or make its transformers a feature program, FeatureProgram.from_sklearn(pipeline, frame)"
        )
    if all(step is None or step == "passthrough" for _, step in pipeline.steps[:-1]):
        return read_estimator(last)
    try:
        program, estimator = pipeline_program(pipeline)
        model = read_estimator(estimator)
        if model.n_features != len(program.output_names):
            raise UnsupportedModelError(
                f"the transformers make {len(program.output_names)} columns and the estimator reads {model.n_features}"
            )
        made, rows = _joined(pipeline, kind, program, model)
        if whole:
            _require_same_answers(made, pipeline, rows)
        return made
    except (ProgramError, UnsupportedModelError) as error:
        return by_library(str(error))


def _joined(pipeline: Any, kind: str, program: FeatureProgram, model: Model) -> tuple[PipelineModel, Array]:
    """The program in front of the model, and rows that no encoder refuses."""
    from engine.model import _pipeline

    texts = _texts(program)
    given = _probe_rows(program, texts)
    scorer = model.scorer
    if model.format == "xgboost":
        sparse = _gives_sparse(pipeline, program, given, texts)
        if sparse is None:
            raise UnsupportedModelError(
                "it cannot be told whether XGBoost gets sparse rows, whose zeros are missing"
            )
        scorer = _scorer.with_missing(scorer, 0.0) if sparse else scorer
    known = [
        [text.encode() for text in texts[name]] if name in texts else None for name in program.input_names
    ]
    facts = ("format", "digest", "n_features", "n_outputs", "native")
    details = {key: value for key, value in model.describe().items() if key not in facts}
    made = PipelineModel(
        program,
        model,
        scorer=_pipeline.with_program(program.native, known, scorer),
        format="sklearn",
        digest=hashlib.sha256(f"{program.digest} {model.digest}".encode()).hexdigest(),
        feature_names=program.input_names,
        details={**details, "estimator": kind, "last_step": type(pipeline.steps[-1][1]).__name__},
        categories=texts or None,
    )
    made.probe_rows = given
    return made, given


def _texts(program: FeatureProgram) -> dict[str, TextCodes]:
    """The texts of each category input that some op of the program tells apart, and those that it refuses."""
    found: dict[str, list[tuple[tuple[str, ...], str | None]]] = {
        name: [] for name, kind in program.inputs if kind == "category"
    }
    for feature in program.features:
        for name, ops in _chains(feature):
            if name in found:
                found[name] += _known_texts(ops)
    return {name: TextCodes.of(known) for name, known in found.items()}


def _chains(feature: Any) -> Iterator[tuple[str, Sequence[Any]]]:
    if feature.input is not None:
        yield feature.input, feature.ops
    for part in feature.of:
        yield from _chains(part)


def _known_texts(ops: Sequence[Any]) -> Iterator[tuple[tuple[str, ...], str | None]]:
    """(texts, refuse) of each op on text; `refuse` as that of `map`, but a missing text that was imputed is none."""
    imputed = False
    for op in ops:
        if op.reads != "category":
            return
        if op.op == "impute":
            imputed = True
            yield (op.value,), None
        elif hasattr(op, "categories"):
            refuse = getattr(op, "refuse", None)
            yield op.categories, "unknown" if refuse is not None and imputed else refuse


def _probe_rows(program: FeatureProgram, texts: Mapping[str, TextCodes]) -> Array:
    """float64 [PROBE_ROWS, n_inputs]: rows that no encoder refuses, without missing values."""
    rng = np.random.default_rng(0)
    numbers: dict[str, tuple[float, ...]] = {}
    for feature in program.features:
        for name, ops in _chains(feature):
            for op in ops:
                if getattr(op, "refuse", None) is not None and op.reads == "number":
                    numbers[name] = op.keys
    columns = []
    for name in program.input_names:
        if name in texts:
            columns.append(rng.choice(texts[name].accepted(), PROBE_ROWS).astype(np.float64))
        elif name in numbers:
            columns.append(rng.choice(np.asarray(numbers[name], np.float64), PROBE_ROWS))
        else:
            # Whole numbers and others, small and large; a step such as log1p takes no negative ones.
            columns.append(np.abs(rng.normal(size=PROBE_ROWS)) * 10.0 ** rng.integers(-1, 4, PROBE_ROWS))
    return np.column_stack(columns)


def _table(pipeline: Any, program: FeatureProgram, rows: Array, texts: Mapping[str, TextCodes]) -> Any:
    """The rows as the pipeline takes them. Columns that it was fitted on and no transformer reads are zeros."""
    columns: dict[str, Any] = {}
    for at, name in enumerate(program.input_names):
        columns[name] = np.array(texts[name].texts_of(rows[:, at]), object) if name in texts else rows[:, at]
    names = next((list(map(str, n)) for n in _fitted_names(pipeline)), None)
    if names is None:
        return (
            np.column_stack(list(columns.values()))
            if not texts
            else np.array(list(zip(*columns.values(), strict=True)), object)
        )
    import pandas

    return pandas.DataFrame({name: columns.get(name, np.zeros(len(rows))) for name in names})


def _fitted_names(pipeline: Any) -> Iterator[Any]:
    for step in (pipeline, *(step for _, step in pipeline.steps)):
        if not isinstance(step, str) and getattr(step, "feature_names_in_", None) is not None:
            yield step.feature_names_in_


def _gives_sparse(
    pipeline: Any, program: FeatureProgram, rows: Array, texts: Mapping[str, TextCodes]
) -> bool | None:
    """Whether the estimator gets sparse rows; None where the transformers do not take the rows."""
    try:
        given: Any = _table(pipeline, program, rows, texts)
        for _, step in pipeline.steps[:-1]:
            given = given if step is None or step == "passthrough" else step.transform(given)
    except Exception:
        return None
    return hasattr(given, "toarray") and hasattr(given, "nnz")


def _require_same_answers(made: PipelineModel, pipeline: Any, rows: Array) -> None:
    """Raise UnsupportedModelError if the pipeline answers otherwise, such as for a class that changes an answer."""
    method = sklearn_library.method_of(pipeline.steps[-1][1], "Pipeline")
    try:
        given = _table(pipeline, made.program, rows, made.categories or {})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = sklearn_library.scores(getattr(pipeline, method)(given), method, pipeline)
    except Exception:  # rows of our own making that the pipeline does not take say nothing
        return
    found = made.predict(rows)
    if found.shape != expected.shape or not np.allclose(
        found, expected, TOLERANCE, TOLERANCE, equal_nan=True
    ):
        raise UnsupportedModelError(
            "its transformers and its estimator, one after the other, give other answers"
        )
