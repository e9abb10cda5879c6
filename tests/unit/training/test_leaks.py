"""A pandas index is no feature, and the report names features that know too much."""

import json
import logging
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.unit.training.test_labels import Store

from engine.registry import ModelRegistry
from engine.training import LightGBM, TrainingPipeline, leaks
from engine.training.index_columns import index_columns
from engine.transform import number

N = 400
BEGIN = datetime(2024, 1, 1, tzinfo=UTC)


def frame(index=None):
    """Coin flips, sorted by label and then put into order of time: the old index knows the label."""
    rng = np.random.default_rng(0)
    found = pd.DataFrame(
        {
            "t": [BEGIN + timedelta(minutes=int(minute)) for minute in rng.permutation(N)],
            "y": rng.integers(0, 2, N),
            "v": rng.normal(size=N),
        }
    )
    found = pd.concat([found[found.y == 0], found[found.y == 1]], ignore_index=True).sort_values("t")
    found.index.name = index
    return found


class Config:
    """The part of a DatasetConfig that the pipeline reads."""

    label, views = "y", ()

    def __init__(self, source, columns=None):
        self.labels, self.columns = source, columns


class Source:
    """The part of a Source that the pipeline reads."""

    event_time = "t"

    def __init__(self, data):
        self.data = data

    @property
    def patterns(self):
        return (self.data,) if isinstance(self.data, str) else None


def trained(tmp_path, table, config, **keywords):
    registry = ModelRegistry(tmp_path / "registry", code=False)
    pipeline = TrainingPipeline(
        Store(table), registry, learner=LightGBM(10), fallback_budget_us=None, **keywords
    )
    run = pipeline.train(config)
    return run, registry.resolve(run.version)


@pytest.mark.parametrize("index", [None, "row"])
@pytest.mark.parametrize("kept", ["metadata", "frame", "file"])
def test_an_index_is_no_feature(tmp_path, index, kept):
    table = pa.Table.from_pandas(frame(index))
    assert (index or "__index_level_0__") in table.column_names
    path = str(tmp_path / "labels.parquet")
    pq.write_table(table, path)
    plain = table.replace_schema_metadata(None)
    given = {
        "metadata": (table, Config(Source(None))),
        "frame": (plain, Config(Source(frame(index)))),
        "file": (plain, Config(Source(path))),
    }
    run, bundle = trained(tmp_path, *given[kept])
    assert bundle.program().input_names == ("v",)
    assert run.metrics["auc"] < 0.65
    assert run.warnings == ()


def test_an_index_that_is_asked_for_is_a_feature_and_the_report_warns(tmp_path, caplog):
    table = pa.Table.from_pandas(frame("row"))
    asked = Config(Source(None), columns=["row", "v", "y", "t"])
    assert index_columns(table, asked) == set()
    assert trained(tmp_path, table, asked)[1].program().input_names == ("v", "row")
    with caplog.at_level(logging.WARNING, logger="engine.training"):
        run, bundle = trained(tmp_path, table, Config(Source(None)), spec=[number("row"), number("v")])
    assert bundle.program().input_names == ("row", "v")
    assert any(
        "feature 'row' alone predicts the label nearly perfectly (AUC 1.0000" in text for text in run.warnings
    )
    assert any("feature 'row' looks like a key" in text for text in run.warnings)
    assert bundle.lineage["warnings"] == list(run.warnings)
    assert set(run.warnings) <= {record.message for record in caplog.records}
    again = trained(tmp_path, table, Config(Source(None)), spec=[number("row"), number("v")])[0]
    assert again.warnings == run.warnings


def test_other_columns_of_the_same_name_as_a_plain_frame_are_features():
    table = pa.table({"row": [1], "v": [1.0], "t": [1], "y": [0]})
    assert index_columns(table, Config(Source(pd.DataFrame({"row": [1]}).rename_axis("row")))) == set()
    assert index_columns(table, object()) == set()
    broken = table.replace_schema_metadata({"pandas": json.dumps([])})
    assert index_columns(broken, object()) == set()
    ranged = pa.Table.from_pandas(pd.DataFrame({"v": [1.0, 2.0]}))
    assert index_columns(ranged, object()) == set()


def found(columns, labels, *, classes=True, positions=None):
    table = pa.table(columns)
    half = len(table) // 2
    labels = np.asarray(labels, dtype=np.float64)
    return leaks.warnings(
        table.slice(0, half),
        table.slice(half),
        list(columns),
        labels[:half],
        labels[half:],
        classes=classes,
        positions=np.arange(half) if positions is None else positions,
        stop=lambda: None,
    )


def test_columns_that_say_nothing_wrong():
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, N)
    columns = {
        "noise": rng.normal(size=N),
        "strong": y + rng.normal(size=N),
        "constant": np.ones(N),
        "empty": pa.array([None] * N, pa.float64()),
        "text": rng.choice(["a", "b"], N),
        "user_id": rng.integers(0, 20, N),
        "flag": rng.integers(0, 2, N).astype(bool),
    }
    assert found(columns, y) == []


@pytest.mark.parametrize(
    ("column", "text"),
    [
        (lambda y, rng: y * 2.0 - 5, "AUC 1.0000"),
        (lambda y, rng: -y + rng.normal(size=N) * 0.05, "AUC 1.0000"),
        (lambda y, rng: y.astype(bool), "AUC 1.0000"),
        (lambda y, rng: np.where(y == 1, rng.choice(["paid", "settled"], N), "open"), "accuracy 1.0000"),
        (lambda y, rng: np.where(y == 1, rng.choice([-1.0, 1.0], N), 0.0), "accuracy 1.0000"),
    ],
)
def test_a_feature_that_alone_predicts_the_label(column, text):
    rng = np.random.default_rng(2)
    y = rng.integers(0, 2, N)
    (sentence,) = found({"x": column(y, rng)}, y)
    assert sentence.startswith(f"feature 'x' alone predicts the label nearly perfectly ({text} on rows")


def test_a_feature_that_predicts_classes_or_numbers():
    rng = np.random.default_rng(2)
    three = rng.integers(0, 3, N)
    (sentence,) = found({"x": three * 10}, three)
    assert "(accuracy 1.0000" in sentence
    number_of = rng.normal(size=N)
    (sentence,) = found({"x": number_of * 3 + 1}, number_of, classes=False)
    assert "(R2 0.99" in sentence
    assert found({"x": number_of + rng.normal(size=N)}, number_of, classes=False) == []


def test_rare_classes_do_not_make_every_column_a_leak():
    y = np.zeros(N)
    y[::200] = 1
    assert found({"x": np.random.default_rng(0).normal(size=N)}, y) == []


def test_keys_times_and_counters():
    rng = np.random.default_rng(4)
    y = rng.integers(0, 2, N)
    order = rng.permutation(N // 2)
    columns = {
        "ticket": [f"T{i}" for i in rng.permutation(N)],
        "epoch": np.arange(N) * 60 + rng.integers(0, 30, N),
        "row": np.concatenate([order, order + N // 2]),
        "order_id": np.concatenate([rng.permutation(N // 2 - 9), np.zeros(9, int), rng.permutation(N // 2)]),
    }
    ticket, epoch, row, order_id = found(columns, y, positions=order)
    assert ticket.startswith("feature 'ticket' looks like a key (200 distinct values in 200 rows)")
    assert epoch.startswith("feature 'epoch' is monotone with the row order (in order of time)")
    assert row.startswith("feature 'row' is monotone with the row order (as the dataset gives them)")
    assert order_id.startswith("feature 'order_id' looks like a key (191 distinct values in 200 rows)")
    assert found({"x": np.arange(20)}, np.zeros(20)) == []


def test_a_long_table_is_judged_by_some_of_its_rows(monkeypatch):
    monkeypatch.setattr(leaks, "ROWS_MAX", 50)
    rng = np.random.default_rng(4)
    y = rng.integers(0, 2, N)
    twice = rng.permutation(N)
    twice[1] = twice[2]  # rows that the sample of every fourth does not have
    columns = {"ticket": rng.permutation(N), "twice": twice, "leak": y * 3.0}
    ticket, leak = found(columns, y)
    assert ticket.startswith("feature 'ticket' looks like a key (200 distinct values in 200 rows)")
    assert leak.startswith("feature 'leak' alone predicts")
