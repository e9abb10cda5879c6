import numpy as np

from engine.monitor import Reference
from engine.monitor._sketch import Sketch
from engine.monitor.drift import DriftDetector


class Stream:
    """A detector fed by the native counter."""

    def __init__(self, reference, **options):
        columns = reference.features
        self.sketch = Sketch(features_max=len(columns), outputs_max=1)
        self.sketch.set_layout([(c.bins.cuts, c.bins.bin_of, c.bins.n_bins) for c in columns], len(columns))
        bins_max = max(column.bins.n_bins for column in columns)
        self.detector = DriftDetector(columns, bins_max, **options)
        self.events = []

    def feed(self, rows):
        for start in range(0, len(rows), 1000):
            self.sketch.fold_features(np.ascontiguousarray(rows[start : start + 1000], dtype=np.float32))
            while (block := self.sketch.take()) is not None:
                names = ("counts", "missing", "infinite", "unseen", "runs", "sums")
                self.events += self.detector.observe(block["rows"], *(block[name] for name in names))
        return self


def reference(n_features=3, seed=0):
    return Reference.fit(np.random.default_rng(seed).normal(size=(5000, n_features)))


def normal(n, n_features=3, seed=1):
    return np.random.default_rng(seed).normal(size=(n, n_features))


def test_no_drift_no_episode():
    assert Stream(reference()).feed(normal(20_000, seed=4)).events == []


def test_one_lasting_drift_is_one_episode_with_start_evidence_and_end():
    stream = Stream(reference())
    stream.feed(normal(3000))
    shifted = normal(20_000, seed=2)
    shifted[:, 1] += 0.6
    stream.feed(shifted)
    (episode,) = stream.events
    assert (episode.column, episode.ended_row) == ("f1", None)
    assert abs(episode.started_row - 3000) <= 200
    assert 3000 < episode.detected_row <= 3600
    assert "mean up" in episode.evidence["seen_by"]
    assert abs(episode.evidence["mean"] - 0.6) < 0.25
    stream.feed(normal(10_000, seed=3))
    assert stream.events == [episode, episode]
    assert 23_000 <= episode.ended_row <= 24_000
    assert stream.detector.open == {}


def test_a_drift_that_pauses_is_the_same_episode():
    stream = Stream(reference())
    for seed in range(6):
        shifted = normal(2000, seed=10 + seed)
        shifted[:, 0] += 0.8 if seed % 2 == 0 else 0.0
        stream.feed(shifted)
    assert len(stream.events) == 1


def test_a_small_lasting_change_is_one_episode_and_ends_soon_after_it_is_undone():
    rng = np.random.default_rng(1)
    made = Reference.fit(rng.normal(size=(20_000, 1)))
    stream = Stream(made).feed(rng.normal(0.1, 1.0, size=(60_000, 1)))
    (episode,) = stream.events
    assert episode.ended_row is None
    stream.feed(rng.normal(size=(6000, 1)))
    assert stream.events == [episode, episode]
    assert 60_000 <= episode.ended_row <= 62_000


def test_a_small_lasting_change_of_a_share_is_one_episode():
    rng = np.random.default_rng(2)
    names = np.array([0.0, 1.0, 2.0, 3.0])
    made = Reference.fit({"code": rng.choice(names, 20_000, p=[0.5, 0.3, 0.1, 0.1])}, categorical=["code"])
    stream = Stream(made).feed(rng.choice(names, (80_000, 1), p=[0.46, 0.3, 0.14, 0.1]))
    assert len(stream.events) == 1
    gaps = np.where(rng.random((20_000, 1)) < 0.05, np.nan, rng.normal(size=(20_000, 1)))
    stream = Stream(Reference.fit(gaps))
    stream.feed(np.where(rng.random((60_000, 1)) < 0.08, np.nan, rng.normal(size=(60_000, 1))))
    assert len(stream.events) == 1


def test_missing_values_and_new_categories_are_seen_at_once():
    codes = np.random.default_rng(5).integers(0, 4, size=5000).astype(np.float32)
    made = Reference.fit(
        {"code": codes, "x": np.random.default_rng(6).normal(size=5000)}, categorical=["code"]
    )
    stream = Stream(made)
    rows = np.column_stack([np.full(100, 9.0), np.full(100, np.nan)])
    stream.feed(rows)
    found = {episode.column: episode for episode in stream.events}
    assert found["code"].evidence["seen_by"] == ["unseen values"]
    assert found["code"].evidence["unseen_share"] == 1.0
    assert found["x"].evidence["seen_by"] == ["missing values"]
    assert found["x"].evidence["mean"] is None
    assert max(episode.detected_row for episode in stream.events) <= 100


def test_a_constant_that_changes_and_infinities_are_seen():
    made = Reference.fit({"constant": np.full(1000, 3.0), "x": np.random.default_rng(6).normal(size=1000)})
    stream = Stream(made).feed(np.column_stack([np.full(2000, 3.0), normal(2000, 1)[:, 0]]))
    assert stream.events == []
    stream.feed(np.column_stack([np.full(200, 3.5), np.full(200, np.inf)]))
    found = {episode.column: episode.evidence["seen_by"] for episode in stream.events}
    assert set(found) == {"constant", "x"}
    assert "unseen values" in found["x"]


def test_a_column_without_values_in_the_reference_has_no_episode():
    made = Reference.fit({"empty": np.full(1000, np.nan), "x": np.arange(1000.0)})
    rows = np.column_stack([np.full(500, np.nan), np.random.default_rng(0).integers(0, 1000, 500)])
    assert [episode.column for episode in Stream(made).feed(rows).events] == []


def test_text_in_a_column_that_never_had_a_value_is_not_called_frozen():
    made = Reference.fit({"empty": np.full(1000, np.nan), "x": np.random.default_rng(0).normal(size=1000)})
    (episode,) = Stream(made).feed(np.column_stack([np.full(500, -2.0), normal(500, 1)[:, 0]])).events
    assert (episode.column, episode.evidence["problem"]) == ("empty", "fewer missing values")


def test_the_state_has_the_nearest_alarm_of_each_column():
    stream = Stream(reference()).feed(normal(1000))
    state = {column.name: figures for column, figures in stream.detector.state()}
    assert set(state) == {"f0", "f1", "f2"}
    assert all(0.0 <= figures["nearest_alarm"] < 1.0 and not figures["drifted"] for figures in state.values())


def test_dependent_rows_need_more_evidence():
    def stays(n, seed):
        return np.repeat(np.random.default_rng(seed).normal(size=(n // 100, 1)), 100, axis=0)

    made = Reference.fit(stays(20_000, 0))
    assert made.features[0].mean_dependence.factor > 20
    assert Stream(made).feed(stays(20_000, 1)).events == []
    assert len(Stream(made).feed(stays(20_000, 2) + 3.0).events) == 1


def test_a_frozen_column_is_seen_after_twice_the_longest_usual_run():
    stream = Stream(reference()).feed(normal(2000))
    frozen = normal(2000, seed=2)
    frozen[:, 0] = frozen[0, 0]
    (episode,) = stream.feed(frozen).events
    assert (episode.column, episode.evidence["problem"]) == ("f0", "frozen value")
    assert 2000 < episode.detected_row <= 2150


def test_problems_have_names():
    stream = Stream(Reference.fit(np.random.default_rng(0).normal(10.0, size=(5000, 3))))
    stream.feed(np.random.default_rng(1).normal(10.0, size=(2000, 3)))
    broken = np.random.default_rng(2).normal(10.0, size=(2000, 3))
    broken[:, 0] *= 1000.0
    broken[:, 1] = np.nan
    broken[::50, 2] = 99.0
    found = {episode.column: episode.evidence["problem"] for episode in stream.feed(broken).events}
    assert found == {"f0": "unit changed (x 1000)", "f1": "all missing", "f2": "impossible values"}


def test_a_thinned_reference_does_not_know_how_rows_depend_on_each_other_but_live_rows_show_it():
    rng = np.random.default_rng(3)
    stays = np.repeat(rng.normal(size=(6000, 1)), 50, axis=0)
    made = Reference.fit(stays[:250_000:50])
    assert made.features[0].mean_dependence.independent
    assert Stream(made, rows_block=50).feed(stays[250_000:]).events == []
    shifted = stays[250_000:] + 3.0
    assert len(Stream(made, rows_block=50).feed(np.concatenate([stays[250_000:], shifted])).events) == 1


def test_more_values_than_usual_of_a_column_of_new_users_is_no_change():
    rng = np.random.default_rng(4)
    made = Reference.fit({"user": rng.integers(0, 10**6, 5000)}, categorical=["user"])
    assert Stream(made).feed(rng.integers(0, 10**6, (20_000, 1))).events == []
