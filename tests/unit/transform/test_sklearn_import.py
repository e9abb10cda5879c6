"""Programs out of fitted scikit-learn transformers compute the same; a transformer without a counterpart is refused."""

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    PowerTransformer,
    RobustScaler,
    StandardScaler,
)

from engine import transform as t
from engine.errors import ProgramError


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(3)
    frame = pd.DataFrame({name: rng.normal(3, 40, 400) for name in "abcde"})
    frame.loc[::5, "a"] = np.nan
    frame["same"] = 2.5
    frame["colour"] = rng.choice(["red", "green", "blue"], 400)
    frame["size"] = rng.choice(["s", "m", "l"], 400)
    frame.loc[::7, "size"] = None
    return frame


def test_a_column_transformer_is_computed_alike(frame):
    one_hot = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    columns = ColumnTransformer(
        [
            ("scaled", make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), ["a", "same"]),
            ("range", MinMaxScaler(), ["b"]),
            ("robust", RobustScaler(quantile_range=(10, 90)), ["c"]),
            ("bins", KBinsDiscretizer(5, encode="ordinal", quantile_method="linear"), ["d"]),
            ("hot", KBinsDiscretizer(3, encode="onehot-dense", quantile_method="linear"), ["d"]),
            ("colour", one_hot, ["colour"]),
            (
                "size",
                make_pipeline(SimpleImputer(strategy="most_frequent"), one_hot),
                ["size"],
            ),
            ("code", OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), ["colour"]),
            ("none", "drop", ["e"]),
        ],
        remainder="passthrough",
    )
    columns.set_output(transform="default").fit(frame.drop(columns="e").assign(e=1.0))
    program = t.FeatureProgram.from_sklearn(columns, frame)
    assert program.output_names[:3] == ("scaled__a", "scaled__same", "range__b")
    assert program.output_names[5:8] == ("hot__d=0", "hot__d=1", "hot__d=2")
    fresh = frame.assign(colour="purple", a=frame["b"] * 7, d=frame["d"] * 3)
    np.testing.assert_allclose(
        program.batch(fresh), columns.transform(fresh).astype(float), rtol=1e-5, atol=1e-5
    )
    assert t.FeatureProgram.from_json(program.to_json()).digest == program.digest


def test_a_pipeline_of_one_kind_of_column(frame):
    numbers = frame[["a", "b"]]
    pipeline = make_pipeline(SimpleImputer(), StandardScaler(with_mean=False)).fit(numbers)
    program = t.FeatureProgram.from_sklearn(pipeline, numbers)
    assert program.output_names == ("a", "b")


@pytest.mark.parametrize(
    ("transformer", "words"),
    [
        (
            PowerTransformer(),
            "PowerTransformer has no counterpart in a feature program; known are: .*before the pipeline",
        ),
        (
            SimpleImputer(missing_values=-1.0),
            "SimpleImputer with missing_values=-1.0.*mark missing values by NaN or None in the table",
        ),
        (FunctionTransformer(np.exp), "FunctionTransformer with func=.*numpy.log1p and numpy.sqrt"),
    ],
)
def test_what_has_no_like_is_refused(frame, transformer, words):
    numbers = frame[["b", "c"]]
    with pytest.raises(ProgramError, match=words):
        t.FeatureProgram.from_sklearn(transformer.fit(numbers), numbers)


def test_a_row_that_differs_is_named(frame):
    scaler = StandardScaler().fit(frame[["b"]])
    transform = scaler.transform
    scaler.transform = lambda table: transform(table) + (np.arange(len(table)) == 7)[:, None]
    with pytest.raises(ProgramError, match="row 7, output 'b': scikit-learn gives"):
        t.FeatureProgram.from_sklearn(scaler, frame[["b"]])


def test_a_transformer_fitted_without_names_is_refused(frame):
    with pytest.raises(ProgramError, match="fit it on a data frame"):
        t.FeatureProgram.from_sklearn(StandardScaler().fit(frame[["b"]].to_numpy()), frame[["b"]])
