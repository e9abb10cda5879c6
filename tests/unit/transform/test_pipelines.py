"""A scikit-learn Pipeline becomes a program and its estimator: together they predict what the pipeline predicts."""

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_selection import SelectFromModel, SelectKBest, VarianceThreshold
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import (
    Binarizer,
    FunctionTransformer,
    KBinsDiscretizer,
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    RobustScaler,
    StandardScaler,
)

from engine import transform as t
from engine.errors import InputError, ProgramError

NUMBERS = ["amount", "delay", "count", "narrow", "flag", "whole", "real", "maybe"]
CATEGORIES = [
    "colour",
    "size",
    "object",
    "string",
    "categorical",
    "codes",
    "count",
    "flag",
    "whole",
    "maybe",
    "half",
]


def table(rows, seed):
    rng = np.random.default_rng(seed)
    colours = rng.choice(["red", "green", "blue", "rare", "rarer"], rows, p=[0.4, 0.3, 0.28, 0.01, 0.01])
    frame = pd.DataFrame(
        {
            "amount": rng.lognormal(2, 2, rows),
            "delay": np.where(rng.random(rows) < 0.2, np.nan, rng.normal(3, 40, rows)),
            "count": rng.integers(0, 9, rows),
            "narrow": rng.normal(0, 1, rows).astype(np.float32),
            "flag": rng.random(rows) > 0.4,
            "whole": pd.array(rng.integers(0, 5, rows), dtype="Int64"),
            "real": pd.array(rng.normal(0, 3, rows), dtype="Float64"),
            "maybe": pd.array(rng.random(rows) > 0.5, dtype="boolean"),
            "colour": colours,
            "size": rng.choice(["s", "m", "l"], rows),
            "object": pd.Series(colours, dtype=object),
            "string": pd.Series(rng.choice(["x", "y"], rows), dtype="string"),
            "categorical": pd.Categorical(colours),
            "codes": pd.Categorical(rng.integers(10, 14, rows)),
            "half": rng.choice([0.5, 1.5, np.nan, 7.0], rows),
        }
    )
    frame.loc[::7, "size"] = None
    frame.loc[::9, ["whole", "real", "maybe"]] = pd.NA
    return frame


FITTED, FRESH = table(600, 1), table(300, 2)
LABEL = FITTED["amount"].to_numpy() > 8


def mixed(**options):
    numbers = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler())
    names = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"))
    return ColumnTransformer(
        [
            ("numbers", numbers, ["amount", "delay", "count", "narrow"]),
            ("names", names, ["size"]),
            (
                "colours",
                OneHotEncoder(handle_unknown="ignore"),
                ["colour", "object", "string", "categorical"],
            ),
            ("range", MinMaxScaler((-1, 3), clip=True), ["amount"]),
        ],
        **options,
    )


TRANSFORMERS = {
    "columns": (mixed(), list(FITTED)),
    "scaled one-hots": (make_pipeline(mixed(), StandardScaler(with_mean=False)), list(FITTED)),
    "best": (make_pipeline(mixed(), SelectKBest(k=5)), list(FITTED)),
    "varied": (make_pipeline(mixed(sparse_threshold=0), VarianceThreshold(0.05)), list(FITTED)),
    "weights": (mixed(transformer_weights={"numbers": 2.0, "colours": 0.5}), list(FITTED)),
    "as a frame": (
        make_pipeline(
            ColumnTransformer([("s", StandardScaler(), ["amount"])], remainder="passthrough").set_output(
                transform="pandas"
            ),
            ColumnTransformer([("m", MaxAbsScaler(), ["remainder__count"])], remainder="passthrough"),
        ),
        ["count", "amount", "flag"],
    ),
    "remainder": (
        ColumnTransformer([("one", OneHotEncoder(), ["count", "flag"])], remainder="passthrough"),
        ["amount", "count", "flag", "narrow"],
    ),
    "remainder scaled": (
        ColumnTransformer([("no", "drop", ["delay"])], remainder=RobustScaler()),
        ["amount", "count", "delay"],
    ),
    "selected": (
        ColumnTransformer(
            [
                ("ints", StandardScaler(), make_column_selector(dtype_include=np.int64)),
                ("texts", OrdinalEncoder(), make_column_selector(pattern="colour")),
                ("second", MaxAbsScaler(), [1]),
                ("slice", RobustScaler(), slice(1, 3)),
                ("names", RobustScaler(), slice("amount", "count")),
                ("mask", "passthrough", [False, True] + [False] * 4),
                ("last", "passthrough", [-1]),
                ("none", StandardScaler(), []),
            ]
        ),
        ["colour", "amount", "delay", "count", "narrow", "flag"],
    ),
    "ordinal": (
        OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-2),
        CATEGORIES,
    ),
    "ordinal, NaN": (OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan), CATEGORIES),
    "ordinal, error": (OrdinalEncoder(), CATEGORIES),
    "ordinal, rare": (
        OrdinalEncoder(min_frequency=20, handle_unknown="use_encoded_value", unknown_value=99),
        CATEGORIES,
    ),
    "ordinal, given": (
        OrdinalEncoder(categories=[["s", "l", "m", np.nan]], encoded_missing_value=7),
        ["size"],
    ),
    "one-hot, first": (OneHotEncoder(drop="first"), CATEGORIES),
    "one-hot, binary": (OneHotEncoder(drop="if_binary", sparse_output=False), CATEGORIES),
    "one-hot, drop": (OneHotEncoder(drop=["green", 3.0]), ["colour", "count"]),
    "one-hot, rare": (OneHotEncoder(min_frequency=20, handle_unknown="infrequent_if_exist"), CATEGORIES),
    "one-hot, warn": (OneHotEncoder(min_frequency=0.1, handle_unknown="warn"), CATEGORIES),
    "one-hot, most": (OneHotEncoder(max_categories=3, handle_unknown="ignore", drop="first"), CATEGORIES),
    "bins": (KBinsDiscretizer(4, encode="ordinal"), ["amount", "count", "narrow"]),
    "bins, sparse": (KBinsDiscretizer(4, encode="onehot", strategy="uniform"), ["amount", "count"]),
    "bins, selected": (
        make_pipeline(KBinsDiscretizer(3, encode="onehot-dense"), VarianceThreshold(0.1)),
        ["amount", "count"],
    ),
    "union": (
        FeatureUnion(
            [
                ("a", StandardScaler()),
                ("b", "passthrough"),
                ("c", "drop"),
                ("d", FunctionTransformer(np.sqrt)),
            ],
            transformer_weights={"a": 3},
        ),
        ["amount", "count"],
    ),
    "indicators": (
        FeatureUnion([("a", SimpleImputer()), ("b", MissingIndicator())]),
        ["delay", "half", "count"],
    ),
    "constants": (SimpleImputer(strategy="constant", fill_value=-1), ["delay", "half"]),
    "frequent": (SimpleImputer(strategy="most_frequent"), ["delay", "half", "count"]),
    "binary": (Binarizer(threshold=3.0), ["amount", "count"]),
    "nothing": (FunctionTransformer(), ["amount", "delay", "count", "narrow", "flag"]),
    "no deviation": (StandardScaler(with_std=False), NUMBERS),
    "robust": (RobustScaler(quantile_range=(5, 95), unit_variance=True, with_centering=False), NUMBERS),
    "important": (SelectFromModel(RandomForestClassifier(5, random_state=0)), ["amount", "count", "flag"]),
}


class Sum:
    """An estimator that needs no fitting."""

    def predict(self, rows):
        return np.sum(rows, axis=1)


def dense(matrix):
    return np.asarray(matrix.toarray() if sparse.issparse(matrix) else matrix, dtype=np.float64)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_the_rows_are_those_of_scikit_learn(name):
    transformer, columns = TRANSFORMERS[name]
    fitted, fresh = FITTED[columns], FRESH[columns]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformer.fit(fitted, LABEL)
        program, _ = t.pipeline_program(Pipeline([("transform", transformer), ("sum", Sum())]))
        for frame in (fitted, fresh):
            expected = dense(transformer.transform(frame)).astype(np.float32)
            got = program.batch(frame)
            # Each value rounded once from float64; NaN is NaN.
            np.testing.assert_array_equal(got, expected)
            rows = [program.row(row) for row in frame[:40].to_dict("records")]
            assert np.array(rows).tobytes() == got[:40].tobytes()
    assert set(program.input_names) <= set(columns)
    assert list(program.input_names) == [name for name in columns if name in program.input_names]
    again = t.FeatureProgram.from_json(program.to_json())
    assert again.digest == program.digest
    assert again.batch(fresh).tobytes() == program.batch(fresh).tobytes()


@pytest.mark.parametrize(
    "model", [LogisticRegression(max_iter=1000), RandomForestClassifier(20, random_state=0)]
)
def test_the_estimator_predicts_what_the_pipeline_predicts(model):
    pipeline = Pipeline([("prepare", mixed()), ("model", model)]).fit(FITTED, LABEL)
    program, estimator = t.pipeline_program(pipeline)
    assert estimator is pipeline[-1]
    strange = FRESH.assign(colour="purple", size=FRESH["size"].mask(FRESH["amount"] > 0), delay=np.nan)
    for frame in (FITTED, FRESH, strange):
        # A forest reads float32; a linear model reads float64, and loses 2^-24 of each value.
        np.testing.assert_allclose(
            estimator.predict_proba(program.batch(frame)), pipeline.predict_proba(frame), rtol=1e-5, atol=1e-7
        )
    if isinstance(model, RandomForestClassifier):
        assert (estimator.predict_proba(program.batch(FRESH)) == pipeline.predict_proba(FRESH)).all()


def test_outputs_and_inputs_are_named():
    pipeline = Pipeline([("prepare", mixed()), ("sum", Sum())])
    pipeline[0].fit(FITTED)
    program, _ = t.pipeline_program(pipeline)
    assert program.input_names == (
        *("amount", "delay", "count", "narrow"),
        *("colour", "size", "object", "string", "categorical"),
    )
    assert program.output_names[:5] == (
        *("numbers__amount", "numbers__delay", "numbers__count", "numbers__narrow"),
        "numbers__missingindicator_delay",
    )
    assert program.output_names[5:8] == ("names__size=l", "names__size=m", "names__size=s")
    assert program.output_names[-1] == "range__amount"


def test_values_worked_out_by_hand():
    frame = pd.DataFrame({"x": [0.0, 4.0, np.nan], "c": ["b", "a", "b"]})
    prepare = ColumnTransformer(
        [
            ("x", make_pipeline(SimpleImputer(add_indicator=True), MinMaxScaler((0, 8))), ["x"]),
            ("c", OneHotEncoder(drop="first"), ["c"]),
        ]
    ).fit(frame)
    program, _ = t.pipeline_program(make_pipeline(prepare, Sum()))
    # The mean is 2, halfway from 0 to 4; the indicator is scaled from 0 … 1 to 0 … 8; "a" is dropped.
    assert program.batch(frame).tolist() == [[0.0, 0.0, 1.0], [8.0, 0.0, 0.0], [4.0, 8.0, 1.0]]
    assert program.row({"x": 1.0, "c": "a"}).tolist() == [2.0, 0.0, 0.0]


def test_a_pipeline_fitted_on_an_array_has_its_columns_by_place():
    rows = FITTED[["amount", "count", "narrow"]].to_numpy(dtype=float)
    prepare = ColumnTransformer([("s", StandardScaler(), [2]), ("o", OneHotEncoder(), [1])])
    pipeline = make_pipeline(prepare, LogisticRegression()).fit(rows, LABEL)
    program, _ = t.pipeline_program(pipeline)
    assert program.input_names == ("x0", "x1", "x2")
    expected = dense(prepare.transform(rows)).astype(np.float32)
    assert np.array([program.row(row) for row in rows]).tobytes() == expected.tobytes()
    assert program.row(rows[0].tolist()).tobytes() == expected[0].tobytes()
    assert t.FeatureProgram.from_json(program.to_json()).input_names == ("x0", "x1", "x2")


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        (
            "colour",
            "purple",
            "input 'colour': expected a category that the program was fitted on, got 'purple'",
        ),
        ("colour", None, "input 'colour': .*got None.*handle_unknown='ignore'"),
        ("count", 77, "input 'count': .*got 77"),
        ("flag", None, "input 'flag': .*got None"),
    ],
)
def test_a_category_that_the_encoder_refuses_is_an_input_error(column, value, words):
    columns = ["colour", "count", "flag"]
    encoder = OneHotEncoder().fit(FITTED[columns])
    program, _ = t.pipeline_program(make_pipeline(encoder, Sum()))
    row = {"colour": "red", "count": 3, "flag": True}
    assert program.row(row).sum() == 3.0
    with pytest.raises(InputError, match=words):
        program.row({**row, column: value})
    frame = pd.DataFrame([row] * 300).astype(object)
    frame.loc[200, column] = value
    with pytest.raises(InputError, match=f"row 200, {words}"):
        program.batch(frame)
    with pytest.raises(InputError, match=f"row 1, {words}"):
        program.batch([row, {**row, column: value}])


def test_a_refused_json_row_is_an_input_error():
    program, _ = t.pipeline_program(make_pipeline(OrdinalEncoder().fit(FITTED[["colour"]]), Sum()))
    assert program.row_json(b'{"colour": "blue"}').tolist() == [0.0]
    with pytest.raises(InputError, match=r"input 'colour': .*got 'purple'"):
        program.row_json(b'{"colour": "purple"}')


def test_names_that_come_twice_are_told_apart():
    union = FeatureUnion([("a", StandardScaler()), ("b", MinMaxScaler())], verbose_feature_names_out=False)
    program, _ = t.pipeline_program(make_pipeline(union.fit(FITTED[["amount"]]), Sum()))
    assert program.output_names == ("amount", "amount#2")


def test_a_column_without_values_is_dropped_as_scikit_learn_drops_it():
    frame = pd.DataFrame({"a": [np.nan, np.nan], "b": [1.0, np.nan]})
    for imputer, expected in (
        (SimpleImputer(), [[1.0], [1.0]]),
        (SimpleImputer(keep_empty_features=True), [[0.0, 1.0], [0.0, 1.0]]),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program, _ = t.pipeline_program(make_pipeline(imputer.fit(frame), Sum()))
        assert program.batch(frame).tolist() == expected


class Scaler(StandardScaler):
    pass


class Shifted(StandardScaler):
    def transform(self, X, copy=None):
        return super().transform(X, copy) + 1.0


def fitted(transformer, columns=("amount",)):
    return transformer.fit(FITTED[list(columns)], LABEL)


def test_a_subclass_that_changes_nothing_is_its_base():
    program, _ = t.pipeline_program(make_pipeline(fitted(Scaler()), Sum()))
    expected = dense(fitted(StandardScaler()).transform(FRESH[["amount"]])).astype(np.float32)
    np.testing.assert_array_equal(program.batch(FRESH), expected)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: make_pipeline(fitted(PCA(1)), Sum()),
            "PCA has no counterpart in a feature program; known are: Bin",
        ),
        (lambda: make_pipeline(fitted(Shifted()), Sum()), r"Shifted defines transform\(\) anew"),
        (lambda: make_pipeline(fitted(FunctionTransformer(np.exp)), Sum()), "FunctionTransformer with func="),
        (lambda: make_pipeline(StandardScaler(), Sum()), "Pipeline is not fitted: call its fit first"),
        (
            lambda: make_pipeline(fitted(StandardScaler())),
            "the pipeline ends in StandardScaler.*from_sklearn",
        ),
        (lambda: fitted(StandardScaler()), "expected a fitted scikit-learn Pipeline, got StandardScaler"),
        (
            lambda: make_pipeline(
                fitted(SimpleImputer(strategy="constant", fill_value="none"), ["size"]), Sum()
            ),
            "feature 'size' ends as a category: add ordinal, one_hot",
        ),
        (
            lambda: make_pipeline(
                make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder()).fit(
                    pd.DataFrame({"c": pd.Series(["a", "a", None], dtype=object)})
                ),
                Sum(),
            ),
            "OneHotEncoder: None is one of its categories though column 'c' was imputed.*Turn None into NaN",
        ),
        (
            lambda: make_pipeline(
                OrdinalEncoder().fit(pd.DataFrame({"c": pd.Series(["a", None, np.nan], dtype=object)})), Sum()
            ),
            "OrdinalEncoder: None and NaN are two of its categories",
        ),
    ],
)
def test_what_cannot_be_exact_is_refused(make, words):
    with pytest.raises(ProgramError, match=words):
        t.pipeline_program(make())
