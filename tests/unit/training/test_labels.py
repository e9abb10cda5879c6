"""Labels of every type, weights, groups, and splits without a time."""

import numpy as np
import pyarrow as pa
import pytest

from engine.errors import ConfigError, TrainingError
from engine.registry import ModelRegistry
from engine.training import LightGBM, TrainingPipeline, XGBoost
from engine.training.dataset import split
from engine.training.evaluate import auc, measured

N = 600


class Store:
    """A feature store of one table."""

    def __init__(self, table):
        self.table = table

    def get_training_features(self, dataset_config):
        return self.table


def table_of(labels, **columns):
    x = np.random.default_rng(3).normal(size=(N, 2))
    at = pa.array(np.arange(N) * 1_000_000, pa.timestamp("us"))
    third = np.digitize(x[:, 0], [-0.5, 0.5])
    values = [
        labels[code % len(labels)] for code in (third if len(labels) > 2 else (x[:, 0] > 0).astype(int))
    ]
    return pa.table({"x": x[:, 0], "z": x[:, 1], "at": at, "y": values, **columns})


@pytest.fixture
def registry(tmp_path):
    return ModelRegistry(tmp_path / "registry", code=False)


def logistic():
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=500)


def trained(table, registry, learner, **keywords):
    keywords = {"label": "y", "time": "at", "fallback_budget_us": None, **keywords}
    run = TrainingPipeline(Store(table), registry, learner=learner, **keywords).train(object())
    return run, registry.resolve(run.version)


@pytest.mark.parametrize("labels", [[1, 2], [-1, 1], ["no", "yes"], [False, True], [0, 1], [0.0, 7.0]])
@pytest.mark.parametrize("make", [lambda: LightGBM(20), lambda: XGBoost(20), logistic])
def test_two_classes_of_any_type_are_a_probability(registry, labels, make):
    run, bundle = trained(table_of(labels), registry, make())
    assert bundle.classes == tuple(labels)
    assert [type(label) for label in bundle.classes] == [type(label) for label in labels]
    assert bundle.manifest["shape"]["n_outputs"] == 1
    assert run.metrics["auc"] > 0.95
    assert run.metrics["accuracy"] > 0.9
    learned = table_of([0, 1])["y"].to_numpy()[:480]
    assert bundle.default == learned.mean()
    answers = bundle.primary().predict(np.array([[-2.0, 0.0], [2.0, 0.0]], dtype=np.float32))
    assert bundle.labels(answers) == labels


@pytest.mark.parametrize("labels", [[-1, 0, 1], [1, 2, 3], [0, 10, 20], ["a", "b", "c"], [0, 1, 2]])
@pytest.mark.parametrize(
    "make",
    [lambda: LightGBM(20, objective="multiclass"), lambda: XGBoost(20, objective="multi:softprob"), logistic],
)
def test_three_classes_of_any_type_are_three_probabilities(registry, labels, make):
    run, bundle = trained(table_of(labels), registry, make())
    assert bundle.classes == tuple(labels)
    assert bundle.manifest["shape"]["n_outputs"] == 3
    assert run.metrics["accuracy"] > 0.9
    assert run.metrics["log_loss"] < 0.5
    learned = table_of([0, 1, 2])["y"].to_numpy()[:480]
    assert bundle.default == pytest.approx([float((learned == code).mean()) for code in range(3)])
    answers = bundle.primary().predict(np.array([[-2.0, 0.0], [0.0, 0.0], [2.0, 0.0]], dtype=np.float32))
    assert bundle.labels(answers) == labels


def test_texts_need_no_objective_and_dictionaries_are_texts(registry):
    table = table_of(["a", "b", "c"])
    run, bundle = trained(table, registry, "lightgbm")
    assert bundle.classes == ("a", "b", "c")
    coded = table.set_column(3, "y", table["y"].combine_chunks().dictionary_encode())
    assert trained(coded, registry, "lightgbm")[0].metrics == run.metrics


def test_whole_numbers_are_regressed_unless_the_task_says_otherwise(registry):
    table = table_of([1, 2, 3])
    run, bundle = trained(table, registry, LightGBM(20))
    assert bundle.classes is None
    assert "rmse" in run.metrics
    assert any("has 3 whole values and is learned as a number" in text for text in run.warnings)
    run, bundle = trained(table, registry, LightGBM(20), task="classification")
    assert bundle.classes == (1, 2, 3)
    assert run.metrics["accuracy"] > 0.9
    run, bundle = trained(table_of([0, 1]), registry, LightGBM(20), task="regression")
    assert bundle.classes is None
    assert set(run.metrics) == {"rmse", "mae", "r2"}


def test_a_function_may_fit_a_classifier_to_whole_numbers(registry):
    run, bundle = trained(table_of([-1, 0, 1]), registry, lambda rows, labels: logistic().fit(rows, labels))
    assert bundle.classes == (-1, 0, 1)
    assert run.metrics["accuracy"] > 0.9


def test_labels_that_the_learner_was_told_to_be_codes_stay_codes(registry):
    _, bundle = trained(table_of([0, 1, 3]), registry, LightGBM(5, objective="multiclass", num_class=4))
    assert bundle.classes == (0, 1, 2, 3)


def test_a_class_that_comes_up_after_the_split_counts_as_wrong(registry):
    table = table_of(["a", "b", "c"])
    labels = table["y"].to_pylist()
    labels[-60:] = ["new"] * 60
    run, bundle = trained(table.set_column(3, "y", pa.array(labels)), registry, logistic())
    assert bundle.classes == ("a", "b", "c")
    assert 0.4 < run.metrics["accuracy"] <= 0.5
    assert run.metrics["log_loss"] < 0.5
    assert any(
        "60 rows after the split have a class that no row before it has" in text for text in run.warnings
    )


def test_labels_that_are_no_classes(registry):
    texts = table_of([0, 1]).set_column(3, "y", pa.array([f"row {i}" for i in range(N)]))
    with pytest.raises(TrainingError, match="must hold numbers for a regression, got string"):
        trained(texts, registry, LightGBM(5), task="regression")
    with pytest.raises(ConfigError, match="task must be one of classification, regression"):
        TrainingPipeline(Store(texts), registry, task="rank")


def test_weights_and_classes_that_weigh_more(registry):
    weights = np.where(np.arange(N) % 2 == 0, 1.0, 0.0)
    table = table_of(["no", "yes"], w=weights)
    for make in (lambda: LightGBM(20), lambda: XGBoost(20), logistic):
        run, bundle = trained(table, registry, make(), weight="w")
        assert "w" not in bundle.program().input_names
        assert bundle.default == (table["y"].to_numpy(zero_copy_only=False)[:480:2] == "yes").mean()
        assert run.metrics["auc"] > 0.9
    other = trained(table, registry, LightGBM(20))[0]
    assert other.run != trained(table, registry, LightGBM(20), weight="w")[0].run
    table = table.drop_columns(["w"])
    _, heavy = trained(table, registry, logistic(), class_weights={"yes": 50.0})
    _, even = trained(table, registry, logistic(), class_weights="balanced")
    row = np.array([[-0.2, 0.0]], dtype=np.float32)
    assert heavy.primary().predict(row)[0] > even.primary().predict(row)[0]
    assert even.default == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("keywords", "text"),
    [
        ({"weight": "v"}, "the dataset has no weight column 'v'"),
        ({"weight": "y"}, "the weight column 'y' must hold numbers, got string"),
        ({"weight": "x"}, "the weight column 'x' must hold finite numbers of at least 0, got -"),
        ({"group": "g"}, "the dataset has no group column 'g'"),
        (
            {"class_weights": {"maybe": 2.0}},
            "class_weights has 'maybe', which is no label; there are: 'no', 'yes'",
        ),
        ({"class_weights": {"yes": -2.0}}, "class_weights must be finite numbers of at least 0"),
    ],
)
def test_weights_and_groups_that_make_no_sense(registry, keywords, text):
    with pytest.raises(TrainingError, match=text):
        trained(table_of(["no", "yes"]), registry, LightGBM(5), **keywords)


def test_settings_of_the_split(registry):
    with pytest.raises(ConfigError, match="split must be one of time, random, order, got 'shuffle'"):
        TrainingPipeline(Store(None), registry, split="shuffle")
    with pytest.raises(ConfigError, match='class_weights must be "balanced" or weights by label'):
        TrainingPipeline(Store(None), registry, class_weights="even")
    with pytest.raises(TrainingError, match="class_weights needs labels that are classes"):
        split(pa.table({"y": [1.5, 2.5, 3.5]}), "y", None, 0.4, how="order", class_weights="balanced")


def test_without_a_time_rows_are_split_in_order_or_drawn():
    table = pa.table({"y": [float(i) for i in range(10)], "g": list("aabbccddee")})
    last = split(table, "y", None, 0.3, how="order")
    assert (last.learn_labels.tolist(), last.judge_labels.tolist()) == ([0, 1, 2, 3, 4, 5, 6], [7, 8, 9])
    drawn, again = (split(table, "y", None, 0.3, how="random") for _ in range(2))
    assert sorted([*drawn.learn_labels, *drawn.judge_labels]) == list(range(10))
    assert len(drawn.judge_labels) == 3
    assert drawn.judge_labels.tolist() == again.judge_labels.tolist()
    by_group = split(table, "y", None, 0.3, how="random", group="g")
    assert len(by_group.judge_labels) == 4
    assert not set(by_group.learn["g"].to_pylist()) & set(by_group.judge["g"].to_pylist())


def test_a_group_stays_on_one_side_of_an_instant():
    table = pa.table({"y": [0.5, 1.5, 2.5, 3.5, 4.5], "at": [1, 2, 3, 4, 5], "g": list("ababc")})
    found = split(table, "y", "at", 0.5, group="g")
    assert (found.learn_labels.tolist(), found.judge_labels.tolist(), found.left_out) == (
        [0.5, 1.5],
        [4.5],
        2,
    )
    with pytest.raises(TrainingError, match="every row after the split is of a 'g' that has rows before it"):
        split(table.slice(0, 4), "y", "at", 0.5, group="g")


def test_a_run_without_a_time_column(registry):
    table = table_of([0, 1]).drop_columns(["at"])
    run, bundle = trained(table, registry, LightGBM(20), time=None, split="random")
    assert run.metrics["auc"] > 0.95
    assert bundle.lineage["config"]["split_at"] == "random"
    with pytest.raises(TrainingError, match='without a time, TrainingPipeline\\(…, split="random"\\)'):
        trained(table, registry, LightGBM(20), time=None)


@pytest.mark.parametrize(
    "make",
    [
        lambda: LightGBM(400, early_stopping_rounds=5, learning_rate=0.3),
        lambda: LightGBM(400, early_stopping_round=5, learning_rate=0.3),
        lambda: XGBoost(400, early_stopping_rounds=5, eta=0.3),
    ],
)
def test_training_stops_early_and_keeps_its_best_iteration(registry, make):
    table = table_of([0, 1])
    noisy = table["y"].to_numpy().copy()
    noisy[::7] ^= 1
    learner = make()
    assert (learner.steps, learner.validation) == (1, 0.2)
    run, bundle = trained(table.set_column(3, "y", pa.array(noisy)), registry, learner)
    assert bundle.primary().describe()["trees"] < 100
    assert run.metrics["auc"] > 0.7
    with pytest.raises(ConfigError, match="early_stopping_rounds must be an int, got str"):
        LightGBM(10, early_stopping_rounds="soon")


def test_metrics_by_hand_with_weights_and_unknown_classes():
    labels, answers = np.array([0.0, 1.0, 1.0, -1.0]), np.array([0.2, 0.9, 0.4, 0.9])
    found = measured(labels, answers, classes=("a", "b"))
    assert found["accuracy"] == 0.5
    assert found["base_rate"] == 2 / 3
    assert found["auc"] == 1.0
    weighted = measured(labels[:3], answers[:3], classes=("a", "b"), weights=np.array([1.0, 1.0, 2.0]))
    assert weighted["accuracy"] == 0.5
    assert weighted["base_rate"] == 0.75
    # Pairs of a 1 above a 0: (0.9, 0.2) weighs 2, (0.1, 0.2) does not hold and weighs 1.
    assert auc(np.array([0, 1, 1]), np.array([0.2, 0.9, 0.1]), np.array([1.0, 2.0, 1.0])) == pytest.approx(
        2 / 3
    )
    two = measured(np.array([1.0, -1.0]), np.array([[0.25, 0.5, 0.25], [0.9, 0.1, 0.0]]), classes=(1, 2, 3))
    assert two == {"accuracy": 0.5, "log_loss": pytest.approx(np.log(2))}
    with pytest.raises(
        TrainingError, match="the model gives 2 answers a row, but the label 7 is no whole number"
    ):
        measured(np.array([7.0]), np.array([[0.5, 0.5]]))
    with pytest.raises(TrainingError, match="the labels are 3 classes, but the model gives 2 answers a row"):
        measured(np.array([1.0]), np.array([[0.5, 0.5]]), classes=(1, 2, 3))
