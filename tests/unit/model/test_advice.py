"""Advice in errors can be followed: each way out is taken here, as the message words it."""

import copy
import importlib.metadata
import json
import pickle
import sys
import types

import numpy as np
import pytest
from tests.unit.model.handmade_models import lightgbm_text, stump

from engine._common import optional
from engine.errors import (
    InputError,
    InputTypeError,
    MissingDependencyError,
    ModelFormatError,
    UnsupportedModelError,
)
from engine.model import dense, inspect, load_model

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(200, 3))
TARGET = ROWS[:, 0] * 2 + ROWS[:, 1]


def test_pickle_the_fitted_object_and_load_it_there():
    linear_model = pytest.importorskip("sklearn.linear_model")
    fitted = linear_model.Ridge().fit(ROWS, TARGET)
    model = load_model(fitted)
    with pytest.raises(
        InputTypeError, match="pickle the fitted object or send the file, and call load_model there"
    ):
        pickle.dumps(model)
    there = load_model(pickle.loads(pickle.dumps(fitted)))
    assert there.digest == model.digest
    assert there.predict(ROWS).tolist() == model.predict(ROWS).tolist()


def test_a_copy_of_a_model_is_the_model():
    model = dense([np.ones((2, 1))], [np.zeros(1)])
    assert copy.copy(model) is model
    assert copy.deepcopy({"model": [model]})["model"][0] is model


def test_a_predict_of_ones_own_is_served_as_a_callable():
    xgboost = pytest.importorskip("xgboost")

    class Doubled(xgboost.XGBRegressor):
        def predict(self, rows, **options):
            return 2 * super().predict(rows, **options)

    model = Doubled(n_estimators=3).fit(ROWS, TARGET)
    with pytest.raises(
        UnsupportedModelError,
        match=r"load_model\(model\.predict, n_features=…, n_outputs=…, dtype='float64'\)",
    ):
        load_model(model)
    served = load_model(model.predict, n_features=3, n_outputs=1, dtype="float64")
    np.testing.assert_allclose(served.predict(ROWS), model.predict(ROWS), rtol=1e-7)


def test_a_loss_of_catboost_that_is_not_known_is_served_by_its_own_predict():
    catboost = pytest.importorskip("catboost")
    model = catboost.CatBoostRegressor(
        iterations=3, loss_function="RMSEWithUncertainty", verbose=False, allow_writing_files=False
    ).fit(ROWS, TARGET)
    with pytest.raises(
        UnsupportedModelError,
        match=r"load_model\(model\.predict, n_features=3, n_outputs=…, dtype='float64'\)",
    ):
        load_model(model)
    served = load_model(model.predict, n_features=3, n_outputs=2, dtype="float64")
    np.testing.assert_allclose(served.predict(ROWS), model.predict(ROWS))


def test_catboost_models_of_texts_say_what_to_train_on():
    catboost = pytest.importorskip("catboost")
    texts = [[text] for text in ["good day", "bad day", "bad night", "good night"] * 10]
    pool = catboost.Pool(texts, [1, 0, 0, 1] * 10, text_features=[0])
    model = catboost.CatBoostClassifier(iterations=2, verbose=False, allow_writing_files=False).fit(pool)
    with pytest.raises(
        UnsupportedModelError, match="text features, and rows hold numbers; train it on numbers"
    ):
        load_model(model)


def test_lightgbms_approximate_answers_can_be_switched_off():
    lightgbm = pytest.importorskip("lightgbm")
    model = lightgbm.LGBMRegressor(n_estimators=3, verbose=-1, pred_early_stop=True).fit(ROWS, TARGET)
    with pytest.raises(UnsupportedModelError, match=r"set_params\(pred_early_stop=False\)"):
        load_model(model)
    model.set_params(pred_early_stop=False)
    np.testing.assert_allclose(load_model(model).predict(ROWS), model.predict(ROWS))


def test_what_inspect_cannot_read_load_model_can(tmp_path):
    catboost = pytest.importorskip("catboost")
    fitted = catboost.CatBoostRegressor(iterations=2, verbose=False, allow_writing_files=False).fit(
        ROWS, TARGET
    )
    fitted.save_model(str(tmp_path / "model.cbm"))
    with pytest.raises(UnsupportedModelError, match="use load_model"):
        inspect(tmp_path / "model.cbm")
    np.testing.assert_allclose(load_model(tmp_path / "model.cbm").predict(ROWS), fitted.predict(ROWS))


def test_sparse_rows_become_arrays_as_the_error_says():
    sparse = pytest.importorskip("scipy.sparse")
    model = dense([np.ones((2, 1))], [np.zeros(1)])
    rows = sparse.csr_matrix([[0.0, 2.0], [3.0, 0.0]])
    with pytest.raises(InputError, match=r"pass rows\.toarray\(\)"):
        model.predict(rows)
    assert model.predict(rows.toarray()).tolist() == [2.0, 3.0]


def test_codes_of_categories_that_a_model_does_not_know():
    pandas = pytest.importorskip("pandas")
    model = dense([np.ones((2, 1))], [np.zeros(1)], feature_names=["x", "kind"])
    frame = pandas.DataFrame({"x": [0.5, 0.5], "kind": pandas.Categorical(["b", "a"])})
    with pytest.raises(InputError, match=r"\(frame\['kind'\]\.cat\.codes\)"):
        model.predict(frame)
    frame["kind"] = frame["kind"].cat.codes
    assert model.predict(frame).tolist() == [1.5, 0.5]


def test_text_behind_the_mark_of_utf_8(tmp_path):
    path = tmp_path / "model"
    path.write_bytes(b"\xef\xbb\xbf" + lightgbm_text([stump("1", 0)]))
    assert load_model(path).predict([[0.0, 0.0], [2.0, 0.0]]).tolist() == [10.0, 20.0]
    assert inspect(path).trees == 1
    xgboost = pytest.importorskip("xgboost")
    booster = xgboost.train({}, xgboost.DMatrix(ROWS, TARGET), 2)
    path.write_bytes(b"\xef\xbb\xbf" + bytes(booster.save_raw("json")))
    np.testing.assert_allclose(
        load_model(path).predict(ROWS), booster.predict(xgboost.DMatrix(ROWS)), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            "a pointer of Git LFS.*git lfs pull",
        ),
        (b"<!DOCTYPE html><html></html>", "a page of HTML"),
        (b"#include <string>\n", "source code of C"),
        (b'<?xml version="1.0"?><PMML/>', "XML, such as PMML"),
    ],
)
def test_what_people_take_for_a_model_file(load, content, text):
    with pytest.raises(UnsupportedModelError, match=text):
        load(content)


class Elsewhere:
    pass


def test_a_pickle_of_a_class_that_is_not_here_is_not_called_damaged(tmp_path, monkeypatch):
    module = types.ModuleType("a_module_of_the_training_code")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(Elsewhere, "__module__", module.__name__)
    module.Elsewhere = Elsewhere
    path = tmp_path / "model"
    path.write_bytes(pickle.dumps(Elsewhere(), protocol=2))
    monkeypatch.delitem(sys.modules, module.__name__)
    with pytest.raises(
        ModelFormatError,
        match=r"what this process does not have: .*a_module_of_the_training_code.*install or import it",
    ):
        load_model(path, trust=True)


def test_an_object_of_another_version_is_told_from_a_damaged_one():
    ensemble = pytest.importorskip("sklearn.ensemble")
    fitted = ensemble.GradientBoostingRegressor(n_estimators=2).fit(ROWS, TARGET)
    del fitted.init_
    with pytest.raises(
        UnsupportedModelError,
        match=r"cannot be read as the installed sklearn knows it: AttributeError.*init_",
    ):
        load_model(fitted)


def test_how_to_install_fits_how_this_package_was_installed(monkeypatch):
    class Distribution:
        direct_url = None

        def read_text(self, name):
            assert name == "direct_url.json"
            return self.direct_url

    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Distribution())
    said = str(optional.missing("lmdb", "the store", "store"))
    assert said == "the store needs lmdb: pip install 'deadline-engine[store]'"
    Distribution.direct_url = json.dumps({"url": "file:///somewhere", "dir_info": {"editable": True}})
    said = str(optional.missing("lmdb", "the store", "store"))
    assert said.endswith("came from no package index here, so pip install lmdb may be what you need")
    assert isinstance(optional.missing("skops", "x"), MissingDependencyError)
