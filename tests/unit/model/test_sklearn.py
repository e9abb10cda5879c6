"""Every estimator that people load: natively where a reader takes it, else through scikit-learn itself."""

import pickle
import warnings

import numpy as np
import pytest

from engine.errors import UnsupportedModelError
from engine.model import load_model

sklearn = pytest.importorskip("sklearn")
from sklearn import (  # noqa: E402
    calibration,
    cluster,
    discriminant_analysis,
    ensemble,
    linear_model,
    model_selection,
    multiclass,
    naive_bayes,
    neighbors,
    svm,
    tree,
)
from sklearn.compose import TransformedTargetRegressor  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(200, 4))
TARGET = ROWS[:, 0] * 2 + ROWS[:, 1]
TWO = (TARGET > 0).astype(int)
THREE = np.digitize(TARGET, [-1, 1])


class Own(linear_model.LogisticRegression):
    """A subclass that answers as its parent does."""


class Turned(linear_model.Ridge):
    def predict(self, rows):
        return -super().predict(rows)


NATIVE = [
    (linear_model.RidgeClassifier(), TWO),
    (linear_model.RidgeClassifierCV(), THREE),
    (svm.LinearSVC(), TWO),
    (svm.LinearSVC(), THREE),
    (linear_model.Perceptron(), THREE),
    (linear_model.SGDClassifier(loss="hinge", random_state=0), TWO),
    (discriminant_analysis.LinearDiscriminantAnalysis(), TWO),
    (discriminant_analysis.LinearDiscriminantAnalysis(), THREE),
    (linear_model.TweedieRegressor(power=1.5), np.exp(TARGET)),
    (linear_model.TweedieRegressor(power=0), TARGET),
    (linear_model.TweedieRegressor(power=0, link="log"), np.exp(TARGET)),
    (linear_model.TweedieRegressor(power=2, link="identity"), np.abs(TARGET) + 10),
    (linear_model.LassoLarsIC(), TARGET),
    (Own(), TWO),
    (model_selection.GridSearchCV(linear_model.LogisticRegression(), {"C": [0.1, 1.0]}, cv=2), THREE),
    (model_selection.GridSearchCV(ensemble.RandomForestRegressor(3), {"max_depth": [2, 3]}, cv=2), TARGET),
]
BY_LIBRARY = [
    (calibration.CalibratedClassifierCV(linear_model.RidgeClassifier(), cv=2), TWO),
    (
        calibration.CalibratedClassifierCV(tree.DecisionTreeClassifier(max_depth=2), cv=2, method="isotonic"),
        THREE,
    ),
    (ensemble.VotingClassifier([("a", Own()), ("b", naive_bayes.GaussianNB())], voting="soft"), THREE),
    (
        ensemble.VotingRegressor(
            [("a", linear_model.Ridge()), ("b", tree.DecisionTreeRegressor(max_depth=2))]
        ),
        TARGET,
    ),
    (ensemble.StackingClassifier([("a", naive_bayes.GaussianNB())], cv=2), TWO),
    (ensemble.StackingRegressor([("a", linear_model.Ridge())], cv=2), TARGET),
    (ensemble.BaggingClassifier(max_features=0.5, n_estimators=3, random_state=0), TWO),
    (ensemble.BaggingRegressor(n_estimators=3, random_state=0), TARGET),
    (ensemble.AdaBoostClassifier(n_estimators=3, random_state=0), THREE),
    (multiclass.OneVsRestClassifier(linear_model.LogisticRegression()), THREE),
    (TransformedTargetRegressor(linear_model.Ridge(), func=np.log, inverse_func=np.exp), np.exp(TARGET)),
    (linear_model.LogisticRegression(solver="newton-cg"), THREE),
    (linear_model.SGDClassifier(loss="modified_huber", random_state=0), TWO),
    (ensemble.HistGradientBoostingClassifier(categorical_features=[3], max_iter=5), TWO),
    (ensemble.GradientBoostingClassifier(init=naive_bayes.GaussianNB(), n_estimators=3), TWO),
    (neighbors.KNeighborsRegressor(), np.c_[TARGET, -TARGET]),
    (svm.OneClassSVM(), None),
    (Turned(), TARGET),
]


@pytest.mark.parametrize(("estimator", "target"), NATIVE + BY_LIBRARY, ids=lambda value: type(value).__name__)
def test_answers_are_the_librarys_own(estimator, target):
    rows = np.c_[ROWS[:, :3], np.abs(ROWS[:, 3] * 3).astype(int)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = estimator.fit(rows, target)
    model = load_model(fitted)
    expected = next(
        getattr(fitted, method)(rows)
        for method in ("predict_proba", "decision_function", "predict")
        if hasattr(fitted, method)
        and (method == "predict" or hasattr(fitted, "classes_") or hasattr(fitted, "offset_"))
    )
    if expected.ndim == 2 and expected.shape[1] == 2 and hasattr(fitted, "classes_"):
        expected = expected[:, 1]
    np.testing.assert_allclose(model.predict(rows), expected, rtol=1e-9, atol=1e-9)
    if any(estimator is each for each, _ in NATIVE):
        assert model.native
    elif type(estimator) is not linear_model.LogisticRegression:
        assert not model.native
        assert model.describe()["native_reason"]
        assert len(model.digest) == 64


def test_a_model_through_scikit_learn_serves_and_warns_of_nothing(tmp_path):
    pandas = pytest.importorskip("pandas")
    from engine import Engine

    frame = pandas.DataFrame(ROWS, columns=list("abcd"))
    fitted = ensemble.BaggingRegressor(n_estimators=3, random_state=0).fit(frame, TARGET)
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(fitted))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = load_model(path, trust=True)
        assert model.feature_names == tuple("abcd")
        np.testing.assert_allclose(model.predict(frame[list("dcba")]), fitted.predict(frame))
        with Engine(model, default=-1.0, deadline_ms=5_000) as engine:
            assert engine.predict(ROWS[0]).value == pytest.approx(fitted.predict(frame[:1])[0])


def test_a_histogram_booster_on_columns_of_text():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": ROWS[:, 0], "kind": pandas.Categorical(RNG.choice(["x", "y", "z"], 200))})
    target = frame["a"] + (frame["kind"] == "y") * 5
    fitted = ensemble.HistGradientBoostingRegressor(categorical_features="from_dtype", max_iter=20).fit(
        frame, target
    )
    model = load_model(fitted)
    assert model.categories == {"kind": ("x", "y", "z")}
    np.testing.assert_allclose(model.predict(frame[["kind", "a"]]), fitted.predict(frame))
    assert model.predict({"a": 0.5, "kind": "y"})[0] == pytest.approx(
        fitted.predict(pandas.DataFrame({"a": [0.5], "kind": pandas.Categorical(["y"], list("xyz"))}))[0]
    )


@pytest.mark.parametrize(
    ("estimator", "text"),
    [
        (linear_model.Ridge(), "not fitted"),
        (ensemble.BaggingRegressor(), "not fitted"),
        (model_selection.GridSearchCV(linear_model.Ridge(), {}), "refit=True"),
        (StandardScaler().fit(ROWS), "has no predict: .*choose an estimator with a predict"),
        (cluster.DBSCAN().fit(ROWS), "has no predict: .*choose an estimator with a predict"),
        (neighbors.LocalOutlierFactor().fit(ROWS), "novelty=True"),
    ],
    ids=str,
)
def test_what_stays_refused_says_why(estimator, text):
    with pytest.raises(UnsupportedModelError, match=text):
        load_model(estimator)


def test_the_ways_out_of_labels_alone_work():
    votes = ensemble.VotingClassifier([("a", linear_model.LogisticRegression())]).fit(ROWS, TWO)
    with pytest.raises(UnsupportedModelError, match=r"model\.set_params\(voting='soft'\)"):
        load_model(votes)
    votes.set_params(voting="soft")
    np.testing.assert_allclose(load_model(votes).predict(ROWS), votes.predict_proba(ROWS)[:, 1])
    codes = multiclass.OutputCodeClassifier(linear_model.LogisticRegression(), random_state=0).fit(ROWS, TWO)
    way_out = r"load_model\(model\.predict, n_features=4, dtype='float64'\)"
    with pytest.raises(UnsupportedModelError, match=way_out):
        load_model(codes)
    labels = load_model(codes.predict, n_features=ROWS.shape[1], dtype="float64")
    assert labels.predict(ROWS).tolist() == codes.predict(ROWS).tolist()
    outliers = neighbors.LocalOutlierFactor(novelty=True).fit(ROWS)
    np.testing.assert_allclose(load_model(outliers).predict(ROWS), outliers.decision_function(ROWS))


def test_thresholds_change_labels_alone_and_searches_are_told_from_them():
    inner = linear_model.LogisticRegression()
    for fitted in (
        model_selection.FixedThresholdClassifier(inner, threshold=0.9),
        model_selection.TunedThresholdClassifierCV(inner, cv=3),
        linear_model.LogisticRegressionCV(cv=3),
        model_selection.GridSearchCV(inner, {"C": [0.1, 1.0]}, cv=3),
    ):
        fitted.fit(ROWS, TWO)
        model = load_model(fitted)
        assert model.native
        np.testing.assert_allclose(model.predict(ROWS), fitted.predict_proba(ROWS)[:, 1])


def test_a_subclass_of_a_booster_with_its_own_predict_is_refused():
    xgboost = pytest.importorskip("xgboost")

    class Doubled(xgboost.XGBRegressor):
        def predict(self, rows):
            return 2 * super().predict(rows)

    class Plain(xgboost.XGBRegressor):
        pass

    plain = Plain(n_estimators=2).fit(ROWS, TARGET)
    np.testing.assert_allclose(load_model(plain).predict(ROWS), plain.predict(ROWS), rtol=1e-5)
    with pytest.raises(UnsupportedModelError, match="Doubled has a predict of its own"):
        load_model(Doubled(n_estimators=2).fit(ROWS, TARGET))
