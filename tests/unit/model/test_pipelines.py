"""scikit-learn Pipelines as models: every kind of rows, against the pipeline's own answers, and what is refused."""

import copy
import pickle
import warnings

import numpy as np
import pytest

pd = pytest.importorskip("pandas")
pytest.importorskip("sklearn")

from sklearn.base import BaseEstimator, TransformerMixin  # noqa: E402
from sklearn.calibration import CalibratedClassifierCV  # noqa: E402
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor, make_column_selector  # noqa: E402
from sklearn.decomposition import PCA  # noqa: E402
from sklearn.ensemble import (  # noqa: E402
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.impute import SimpleImputer  # noqa: E402
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, RidgeClassifier  # noqa: E402
from sklearn.model_selection import GridSearchCV  # noqa: E402
from sklearn.pipeline import Pipeline, make_pipeline  # noqa: E402
from sklearn.preprocessing import (  # noqa: E402
    FunctionTransformer,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    StandardScaler,
)

import engine  # noqa: E402
from engine.errors import ConfigError, InputError, UnsupportedModelError  # noqa: E402
from engine.model import Model, dense, load_model, probe  # noqa: E402
from engine.model.readers.sklearn_pipeline import PipelineModel  # noqa: E402

RNG = np.random.default_rng(0)
NUMBERS, TEXTS = ["amount", "delay", "big"], ["colour", "size"]


def table(rows, seed):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "amount": rng.lognormal(2, 2, rows),
            "colour": rng.choice(["red", "green", "blue"], rows),
            "delay": np.where(rng.random(rows) < 0.2, np.nan, rng.normal(3, 40, rows)),
            "big": 1_700_000_000 + rng.integers(0, 1000, rows),  # float32 holds every 128th
            "size": rng.choice(np.array(["s", "m", None], object), rows),
            "unused": rng.normal(size=rows),
        }
    )


FITTED, FRESH = table(600, 1), table(200, 2)
# Missing as pandas says it. scikit-learn's imputer takes a None among objects for a value, and a model for missing.
NO_SIZE = pd.Series([None] * len(FRESH), dtype="str")
LABEL = ((FITTED["amount"] > 8) ^ (FITTED["colour"] == "red") ^ (FITTED["big"] % 3 == 0)).to_numpy()
TARGET = FITTED["big"].to_numpy() % 100 + FITTED["amount"].to_numpy()


def columns(**options):
    numbers = make_pipeline(SimpleImputer(add_indicator=True), StandardScaler())
    texts = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"))
    return ColumnTransformer([("numbers", numbers, NUMBERS), ("texts", texts, TEXTS)], **options)


def boosters():
    found = {}
    for module, name, more in (
        ("lightgbm", "LGBMClassifier", {"verbose": -1}),
        ("xgboost", "XGBClassifier", {}),
        ("catboost", "CatBoostClassifier", {"verbose": False, "allow_writing_files": False}),
    ):
        try:
            found[name] = getattr(__import__(module), name)(n_estimators=15, **more)
        except ImportError:
            continue
    return found


CLASSIFIERS = {
    "LogisticRegression": LogisticRegression(max_iter=1000),
    "RandomForestClassifier": RandomForestClassifier(15, random_state=0),
    "HistGradientBoostingClassifier": HistGradientBoostingClassifier(max_iter=15),
    **boosters(),
}


def quiet(call):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call()


@pytest.mark.parametrize("sparse_threshold", [0.0, 1.0], ids=["dense", "sparse"])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers_behind_columns_of_all_kinds(name, sparse_threshold):
    if "Hist" in name and sparse_threshold:
        pytest.skip("takes no sparse rows")
    fitted = quiet(
        lambda: make_pipeline(
            columns(sparse_threshold=sparse_threshold), copy.deepcopy(CLASSIFIERS[name])
        ).fit(FITTED, LABEL)
    )
    model = load_model(fitted)
    assert isinstance(model, PipelineModel)
    assert model.native
    assert model.feature_names == ("amount", "colour", "delay", "big", "size")
    strange = FRESH.assign(colour="purple", delay=np.nan, size=NO_SIZE)
    for frame in (FITTED, FRESH, strange, FRESH[FRESH.columns[::-1]], FRESH.drop(columns="unused")):
        expected = quiet(lambda frame=frame: fitted.predict_proba(frame.assign(unused=0.0))[:, 1])
        # XGBoost adds its trees in float32.
        np.testing.assert_allclose(
            model.predict(frame), expected, rtol=1e-6 if name == "XGBClassifier" else 1e-12
        )
    expected = quiet(lambda: fitted.predict_proba(FRESH)[:, 1])
    records = FRESH.to_dict("records")
    rtol = 1e-6 if name == "XGBClassifier" else 1e-12
    np.testing.assert_allclose(model.predict(records), expected, rtol=rtol)
    assert model.predict(records[0]).tolist() == model.predict(records)[:1].tolist()
    assert model.predict(FRESH, threads=2).tobytes() == model.predict(FRESH).tobytes()


@pytest.mark.parametrize(
    "last",
    [
        Ridge(),
        HistGradientBoostingRegressor(max_iter=20),
        IsolationForest(n_estimators=20, random_state=0),
        RidgeClassifier(),
    ],
    ids=lambda last: type(last).__name__,
)
def test_other_estimators(last):
    target = LABEL if isinstance(last, RidgeClassifier) else TARGET
    fitted = make_pipeline(columns(sparse_threshold=0), last).fit(FITTED, target)
    method = "predict" if isinstance(last, Ridge | HistGradientBoostingRegressor) else "decision_function"
    expected = getattr(fitted, method)(FRESH)
    np.testing.assert_allclose(load_model(fitted).predict(FRESH), expected, rtol=1e-9, atol=1e-9)


def test_several_classes_and_targets():
    classes = np.digitize(FITTED["amount"], [4, 20])
    fitted = make_pipeline(columns(), LogisticRegression(max_iter=2000)).fit(FITTED, classes)
    np.testing.assert_allclose(load_model(fitted).predict(FRESH), fitted.predict_proba(FRESH), rtol=1e-9)
    fitted = make_pipeline(columns(), Ridge()).fit(FITTED, np.c_[TARGET, -TARGET])
    np.testing.assert_allclose(load_model(fitted).predict(FRESH), fitted.predict(FRESH), rtol=1e-9)


def test_values_worked_out_by_hand():
    frame = pd.DataFrame({"x": [0.0, 4.0, np.nan], "c": ["b", "a", "b"]})
    prepare = ColumnTransformer(
        [("x", SimpleImputer(), ["x"]), ("c", OneHotEncoder(handle_unknown="ignore"), ["c"])]
    )
    fitted = make_pipeline(prepare, LinearRegression()).fit(frame, [1.0, 2.0, 3.0])
    fitted[-1].coef_, fitted[-1].intercept_ = np.array([1.0, 10.0, 100.0]), 0.5
    model = load_model(fitted)
    # The mean of x is 2; then come the columns of "a" and "b".
    assert model.predict(frame).tolist() == [100.5, 14.5, 102.5]
    assert model.predict({"c": "a", "x": None}).tolist() == [12.5]
    assert model.predict([{"x": 1, "c": "z"}, {"x": 1, "c": None}]).tolist() == [1.5, 1.5]
    assert model.predict([[1.0, "a"], [2.0, "b"]]).tolist() == [11.5, 102.5]
    assert model.predict(np.array([[1.0, "a"]], object)).tolist() == [11.5]
    # In rows of numbers a category has its place among Model.categories.
    assert model.categories == {"c": ("a", "b")}
    assert model.predict([[1.0, 1.0], [1.0, np.nan], [1.0, -1.0]]).tolist() == [101.5, 1.5, 1.5]


def test_whole_numbers_beyond_float32_count():
    """Scaled in double, 1,700,000,001 and ...002 differ; rounded to float32 first, they would not."""
    frame = pd.DataFrame({"when": 1_700_000_000.0 + np.arange(64.0)})
    target = (frame["when"] % 2).to_numpy()
    for last in (
        RandomForestClassifier(5, random_state=0, bootstrap=False),
        HistGradientBoostingClassifier(min_samples_leaf=1, max_leaf_nodes=64),
    ):
        fitted = make_pipeline(StandardScaler(), last).fit(frame, target)
        np.testing.assert_allclose(
            load_model(fitted).predict(frame), fitted.predict_proba(frame)[:, 1], rtol=1e-9
        )


def test_a_pipeline_fitted_on_arrays_goes_by_position():
    rows = FITTED[["amount", "big", "unused"]].to_numpy()
    prepare = ColumnTransformer([("s", StandardScaler(), [2, 0]), ("o", "passthrough", [1])])
    fitted = make_pipeline(prepare, LogisticRegression()).fit(rows, LABEL)
    model = load_model(fitted)
    assert model.n_features == 3
    np.testing.assert_allclose(model.predict(rows), fitted.predict_proba(rows)[:, 1], rtol=1e-9)
    frame = pd.DataFrame(rows, columns=["p", "q", "r"])
    assert model.predict(frame).tolist() == model.predict(rows).tolist()
    with pytest.raises(InputError, match="expected rows of 3 columns, got 2"):
        model.predict(frame[["p", "q"]])


def test_texts_of_a_pipeline_fitted_on_arrays():
    rows = np.array([["a", 1], ["b", 2], ["a", 3], ["c", 4]], object)
    fitted = make_pipeline(
        ColumnTransformer([("one", OneHotEncoder(), [0])], remainder="passthrough"), Ridge()
    ).fit(rows, [1.0, 2.0, 3.0, 4.0])
    model = load_model(fitted)
    np.testing.assert_allclose(model.predict(rows), fitted.predict(rows), rtol=1e-12)
    frame = pd.DataFrame(rows, columns=["letter", "number"])
    np.testing.assert_allclose(model.predict(frame), fitted.predict(rows), rtol=1e-12)
    with pytest.raises(InputError, match="row 1, column 'x0': expected one of 'a', 'b', 'c', got str 'z'"):
        model.predict([["a", 1], ["z", 2]])


def test_a_category_that_an_encoder_refuses_is_an_input_error():
    frame = FITTED[["colour", "size"]].assign(size=FITTED["size"].fillna("s"), count=np.arange(600) % 3)
    fitted = make_pipeline(OneHotEncoder(), LogisticRegression()).fit(frame, LABEL)
    model = load_model(fitted)
    np.testing.assert_allclose(model.predict(frame), fitted.predict_proba(frame)[:, 1], rtol=1e-12)
    row = {"colour": "red", "size": "m", "count": 1}
    for key, value, got in (
        ("colour", "purple", r"row 1, column 'colour': expected one of .*'red'.*, got str 'purple'"),
        ("colour", None, "row 1, column 'colour': .*got none"),
        ("colour", 3, "row 1, column 'colour': .*got int 3"),
        ("count", 77, "input 'count': .*got 77.*handle_unknown"),
    ):
        with pytest.raises(InputError, match=got):
            model.predict([row, {**row, key: value}])
        with pytest.raises((ValueError, TypeError)):
            fitted.predict_proba(pd.DataFrame([{**row, key: value}]))
    renamed = load_model(fitted, feature_names=["farbe", "groesse", "anzahl"])
    assert renamed.predict({"farbe": "red", "groesse": "m", "anzahl": 1}) == model.predict(row)
    with pytest.raises(InputError, match="got 77"):
        renamed.predict({"farbe": "red", "groesse": "m", "anzahl": 77})


@pytest.mark.parametrize("name", ["XGBClassifier"])
@pytest.mark.parametrize(
    "encoder", [OneHotEncoder(), OneHotEncoder(sparse_output=False)], ids=["sparse", "dense"]
)
def test_xgboost_takes_the_zeros_of_sparse_rows_for_missing(name, encoder):
    if name not in CLASSIFIERS:
        pytest.skip("no xgboost")
    frame = FITTED[["colour"]].assign(count=RNG.integers(0, 4, 600))
    label = LABEL ^ (frame["count"] == 0)
    fitted = make_pipeline(encoder, copy.deepcopy(CLASSIFIERS[name])).fit(frame, label)
    np.testing.assert_allclose(
        load_model(fitted).predict(frame), fitted.predict_proba(frame)[:, 1], rtol=1e-6
    )


class Doubled(TransformerMixin, BaseEstimator):
    """A transformer of the user's own, which no program follows."""

    def fit(self, X, y=None):
        self.n_features_in_ = X.shape[1]
        return self

    def transform(self, X):
        return 2.0 * np.asarray(X, float)


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ((StandardScaler(), PCA(2)), "PCA has no counterpart"),
        ((Doubled(),), "Doubled defines transform() anew"),
        ((FunctionTransformer(np.square),), "FunctionTransformer with func"),
        ((PolynomialFeatures(2),), "PolynomialFeatures has no counterpart"),
    ],
)
def test_scikit_learn_answers_where_no_program_follows(steps, reason):
    frame = FITTED[["amount", "big", "unused"]]
    fitted = make_pipeline(*steps, LogisticRegression(max_iter=50)).fit(frame, LABEL)
    model = load_model(fitted)
    np.testing.assert_allclose(model.predict(frame), fitted.predict_proba(frame)[:, 1], rtol=1e-12)
    assert not model.native
    assert reason in model.describe()["native_reason"]
    assert model.describe()["runtime"] == "scikit-learn"


def test_scikit_learn_answers_for_texts_too():
    numbers = make_pipeline(SimpleImputer(), StandardScaler(), PCA(2))
    texts = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"))
    prepare = ColumnTransformer(
        [("n", numbers, NUMBERS), ("t", texts, make_column_selector(dtype_exclude=np.number))]
    )
    fitted = make_pipeline(prepare, LogisticRegression()).fit(FITTED, LABEL)
    model = load_model(fitted)
    for frame in (FRESH, FRESH.assign(colour="purple", size=NO_SIZE)):
        np.testing.assert_allclose(model.predict(frame), fitted.predict_proba(frame)[:, 1], rtol=1e-12)
    assert model.predict(FRESH.to_dict("records")).tolist() == model.predict(FRESH).tolist()
    assert set(model.categories) == {"colour", "size"}


@pytest.mark.parametrize(
    "around",
    [
        lambda pipeline: CalibratedClassifierCV(pipeline, cv=3),
        lambda pipeline: VotingClassifier([("a", pipeline), ("b", copy.deepcopy(pipeline))], voting="soft"),
        lambda pipeline: StackingClassifier([("a", pipeline)], cv=3),
        lambda pipeline: GridSearchCV(pipeline, {"logisticregression__C": [0.1, 1.0]}, cv=3),
        lambda pipeline: make_pipeline(pipeline),
    ],
    ids=["calibrated", "voting", "stacking", "search", "nested"],
)
def test_pipelines_inside_other_estimators(around):
    fitted = around(make_pipeline(columns(), LogisticRegression(max_iter=500))).fit(FITTED, LABEL)
    model = load_model(fitted)
    for frame in (FRESH, FRESH.assign(colour="purple", size=NO_SIZE, delay=np.nan)):
        np.testing.assert_allclose(model.predict(frame), fitted.predict_proba(frame)[:, 1], rtol=1e-9)


def test_a_transformed_target_around_and_inside_a_pipeline():
    pipeline = make_pipeline(columns(), Ridge())
    outside = TransformedTargetRegressor(pipeline, func=np.log1p, inverse_func=np.expm1)
    inside = make_pipeline(
        columns(), TransformedTargetRegressor(Ridge(), func=np.log1p, inverse_func=np.expm1)
    )
    for fitted in (outside, inside):
        fitted.fit(FITTED, TARGET)
        np.testing.assert_allclose(load_model(fitted).predict(FRESH), fitted.predict(FRESH), rtol=1e-9)


@pytest.mark.parametrize("protocol", [0, 5])
def test_pipelines_in_files(tmp_path, protocol):
    fitted = make_pipeline(columns(), LogisticRegression(max_iter=500)).fit(FITTED, LABEL)
    path = tmp_path / "pipeline.joblib"
    path.write_bytes(pickle.dumps(fitted, protocol))
    with pytest.raises(UnsupportedModelError, match="trust=True"):
        load_model(path)
    np.testing.assert_allclose(
        load_model(path, trust=True).predict(FRESH), fitted.predict_proba(FRESH)[:, 1], rtol=1e-9
    )
    joblib = pytest.importorskip("joblib")
    joblib.dump(fitted, path, compress=3)
    assert load_model(path, trust=True).predict(FRESH).tolist() == load_model(fitted).predict(FRESH).tolist()
    probe(path, trust=True)


def test_rounds_are_for_the_boosted_model_at_the_end():
    if "LGBMClassifier" not in CLASSIFIERS:
        pytest.skip("no lightgbm")
    fitted = quiet(
        lambda: make_pipeline(columns(), copy.deepcopy(CLASSIFIERS["LGBMClassifier"])).fit(FITTED, LABEL)
    )
    model = load_model(fitted, num_trees=3)
    expected = quiet(lambda: fitted[-1].predict_proba(fitted[:-1].transform(FRESH), num_iteration=3)[:, 1])
    np.testing.assert_allclose(model.predict(FRESH), expected, rtol=1e-12)
    assert model.describe()["trees_used"] == 3
    with pytest.raises(ConfigError, match="iteration_range"):
        load_model(
            make_pipeline(StandardScaler(), Ridge()).fit(FITTED[NUMBERS].fillna(0), TARGET), num_trees=3
        )
    with pytest.raises(ConfigError, match="iteration_range"):
        load_model(make_pipeline(PCA(2), Ridge()).fit(FITTED[NUMBERS].fillna(0), TARGET), num_trees=3)


def test_pipelines_that_predict_nothing_or_are_not_fitted():
    with pytest.raises(UnsupportedModelError, match=r"predicts nothing.*FeatureProgram\.from_sklearn"):
        load_model(make_pipeline(StandardScaler()).fit(FITTED[["amount"]]))
    with pytest.raises(UnsupportedModelError, match="not fitted"):
        load_model(make_pipeline(StandardScaler(), Ridge()))
    with pytest.raises(UnsupportedModelError, match="not fitted"):
        load_model(Pipeline([("s", "passthrough"), ("r", Ridge())]))


def test_an_ordinal_encoder_with_all_its_codes():
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-2)
    fitted = make_pipeline(encoder, RandomForestClassifier(20, random_state=0)).fit(FITTED[TEXTS], LABEL)
    model = load_model(fitted)
    frame = pd.DataFrame(
        {
            "colour": pd.Series(["red", "purple", None], dtype="str"),
            "size": pd.Series(["m", None, "zz"], dtype="str"),
        }
    )
    np.testing.assert_allclose(model.predict(frame), fitted.predict_proba(frame)[:, 1], rtol=1e-12)


def test_an_engine_serves_a_pipeline_and_falls_back_on_another():
    primary = make_pipeline(columns(), RandomForestClassifier(20, random_state=0)).fit(FITTED, LABEL)
    model = load_model(primary)
    fallback = make_pipeline(columns(), LogisticRegression(max_iter=500)).fit(FITTED, LABEL)
    codes = model._matched(FRESH, False)
    assert codes.dtype == np.float64
    expected, other = (each.predict_proba(FRESH)[:, 1] for each in (primary, fallback))
    records = FRESH.to_dict("records")
    with engine.Engine(model, fallback=load_model(fallback), deadline_ms=10_000) as eng:
        for rows in (codes, FRESH, FRESH[FRESH.columns[::-1]], records):
            np.testing.assert_allclose(eng.predict_many(rows).values, expected, rtol=1e-12)
        for at in (0, 7):
            assert eng.predict(records[at]).value == pytest.approx(expected[at])
            assert eng.predict(FRESH.iloc[at]).value == pytest.approx(expected[at])
        with pytest.raises(InputError, match=r"lack.*'amount'"):
            eng.predict({"colour": "red"})
        eng.swap(load_model(fallback), golden=(FRESH, other))
        np.testing.assert_allclose(eng.predict_many(FRESH).values, other, rtol=1e-12)
    # The program's own reader, for mappings at the highest rate; features are rounded to float32.
    with engine.Engine(model.estimator, features=model.program, deadline_ms=10_000) as eng:
        answers = eng.predict_many(FRESH.to_dict("records"))
        np.testing.assert_allclose(answers.values, expected, rtol=1e-6)


def test_a_fallback_knows_the_codes_of_a_primary_that_scikit_learn_answers():
    numbers = make_pipeline(SimpleImputer(), StandardScaler(), PCA(2))
    texts = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"))
    prepare = ColumnTransformer([("n", numbers, NUMBERS), ("t", texts, TEXTS)])
    table_ = FITTED.drop(columns="unused")
    primary = make_pipeline(prepare, LogisticRegression()).fit(table_, LABEL)
    fallback = make_pipeline(columns(), LogisticRegression(max_iter=500)).fit(table_, LABEL)
    strange = FRESH.assign(colour="purple")
    with engine.Engine(load_model(primary), fallback=load_model(fallback), deadline_ms=10_000) as eng:
        answers = eng.predict_many(strange)
        expected = {
            "primary": primary.predict_proba(strange)[:, 1],
            "fallback": fallback.predict_proba(strange)[:, 1],
        }
        for at, answer in enumerate(answers):
            assert answer.value == pytest.approx(expected[answer.source][at])


@pytest.mark.parametrize("more", [(), (PCA(3),)], ids=["native", "by scikit-learn"])
def test_encoders_that_refuse_what_they_do_not_know_in_files_and_engines(tmp_path, more):
    """OneHotEncoder's default. Rows of zeros, or random ones, are no rows to try such a model with."""
    frame = FITTED[["amount", "colour"]].assign(count=1 + np.arange(600) % 3)
    prepare = ColumnTransformer(
        [("o", OneHotEncoder(), ["colour", "count"]), ("s", StandardScaler(), ["amount"])], sparse_threshold=0
    )
    fitted = make_pipeline(prepare, *more, LogisticRegression()).fit(frame, LABEL)
    expected = fitted.predict_proba(frame)[:, 1]
    path = tmp_path / "model"
    path.write_bytes(pickle.dumps(fitted))
    np.testing.assert_allclose(load_model(path, trust=True).predict(frame), expected, rtol=1e-9)
    skops = pytest.importorskip("skops.io")
    skops.dump(fitted, path)
    np.testing.assert_allclose(load_model(path, trust=True).predict(frame), expected, rtol=1e-9)
    with engine.Engine(load_model(fitted), default=-1.0, deadline_ms=60_000) as eng:
        assert eng.wait_ready(60)
        assert eng.predict(frame.iloc[0]).value == pytest.approx(expected[0])
        eng.swap(load_model(fitted), version="2")
        answer = eng.predict(frame.iloc[1])
        assert (answer.value, answer.version) == (pytest.approx(expected[1]), "2")
        assert eng.stats()["last_error"] is None


def test_a_model_of_another_width_is_refused():
    from engine.model import _pipeline

    fitted = make_pipeline(StandardScaler(), Ridge()).fit(FITTED[["amount", "big"]], TARGET)
    program = load_model(fitted).program
    wide = dense([np.ones((3, 1))], [np.zeros(1)])
    with pytest.raises(ConfigError, match="makes 2 columns and the model takes 3"):
        _pipeline.with_program(program.native, [None, None], wide.scorer)
    narrow = dense([np.ones((2, 1))], [np.zeros(1)])
    with pytest.raises(ConfigError, match="expected texts for 0 of 2 inputs, got 1 of 2"):
        _pipeline.with_program(program.native, [None, [b"a"]], narrow.scorer)
    assert isinstance(load_model(fitted), Model)
