"""A fitted scikit-learn Pipeline as a feature program in front of its final estimator."""

from __future__ import annotations

from typing import Any

from engine.errors import ProgramError
from engine.transform.program import FeatureProgram
from engine.transform.sklearn_import import features_after, input_names_of


def pipeline_program(pipeline: Any, *, missing: str = "impute") -> tuple[FeatureProgram, Any]:
    """Split a fitted scikit-learn Pipeline into a feature program and its final estimator.

    The program gives the rows that the pipeline hands to its estimator, each value rounded once from float64 to
    float32. The inputs have the names that the pipeline was fitted on, in their order; those that no transformer reads
    are left out. A pipeline fitted on an array has the inputs x0, x1, …, one for each column.

    The program can follow StandardScaler, MinMaxScaler, MaxAbsScaler, RobustScaler, Binarizer, KBinsDiscretizer,
    SimpleImputer, MissingIndicator, OneHotEncoder, OrdinalEncoder, FunctionTransformer (None, numpy.log1p and
    numpy.sqrt), ColumnTransformer, FeatureUnion, nested pipelines, and selectors such as SelectKBest. An encoder with
    handle_unknown="error" makes the program refuse a row with another category, by an InputError.

    Args:
        pipeline: a fitted sklearn.pipeline.Pipeline.
        missing: the meaning of an absent key in rows, as for `FeatureProgram.fit`.

    Returns:
        The program, and the pipeline's own last step.

    Raises:
        ProgramError: no fitted Pipeline, one without a final estimator, or a transformer or an option that a program
            cannot reproduce; names the class and the way out.
    """
    if not isinstance(getattr(pipeline, "steps", None), list) or not pipeline.steps:
        raise ProgramError(f"expected a fitted scikit-learn Pipeline, got {type(pipeline).__name__}")
    *before, (_, estimator) = pipeline.steps
    if estimator is None or isinstance(estimator, str) or not hasattr(estimator, "predict"):
        raise ProgramError(
            f"the pipeline ends in {estimator!r}, which predicts nothing; FeatureProgram.from_sklearn takes a "
            f"pipeline of transformers"
        )
    names, known = input_names_of(pipeline)
    features = features_after([step for _, step in before], names)
    kinds = {name: kind for feature in features for name, kind in feature.inputs()}
    # Rows of an array are positional, so every column stays an input, read or not.
    order = [name for name in names if name in kinds or not known]
    inputs = [(name, kinds.get(name, "number")) for name in order]
    return FeatureProgram(features, missing=missing, inputs=inputs), estimator
