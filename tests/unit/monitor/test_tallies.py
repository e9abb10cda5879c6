import numpy as np

from engine._common.vocabulary import REASONS, SOURCES
from engine.monitor._tallies import OLDER, Tallies


def block(deployments=(1,), at_s=100, ok=10, fallback=0):
    tally = np.zeros((len(deployments), len(SOURCES), len(REASONS)), dtype=np.uint32)
    tally[:, 0, 0] = ok
    tally[:, 1, REASONS.index("late")] = fallback
    return {
        "answers": int(tally.sum()),
        "first_ns": int(at_s * 1e9),
        "last_ns": int((at_s + 1) * 1e9),
        "deployments": np.array(deployments, dtype=np.uint64),
        "tally": tally,
        "late": np.array([1, 0, 0], dtype=np.uint32),
        "output_moments": np.array([[ok, 5.0, 3.0]] * len(deployments)),
    }


def test_answers_add_up_by_version_source_and_reason():
    tallies = Tallies()
    reasons = tallies.observe(block((1, 2), ok=10, fallback=5), {1: "a", 2: "b"})
    tallies.observe(block((2,), ok=1), {2: "b"})
    assert reasons.shape == (len(SOURCES), len(REASONS))
    assert reasons.sum() == 30
    made = tallies.to_json()
    assert made["versions"]["b"]["answers"] == {"primary": {"ok": 11}, "fallback": {"late": 5}}
    assert made["versions"]["a"]["output_mean"] == 0.5
    assert made["shares"] == {"primary": 21 / 31, "fallback": 10 / 31, "default": 0.0}
    assert made["late"]["primary"] == 2


def test_unannounced_deployments_are_named_by_number():
    tallies = Tallies()
    tallies.observe(block((0, 9)), {})
    assert list(tallies.by_version) == ["", "9"]


def test_old_versions_are_put_together():
    tallies = Tallies()
    for number in range(1, 101):
        tallies.observe(block((number,)), {number: f"v{number}"})
    assert len(tallies.by_version) <= 65
    assert (
        tallies.by_version[OLDER].sum()
        + sum(table.sum() for name, table in tallies.by_version.items() if name != OLDER)
        == 1000
    )
    assert "v100" in tallies.by_version


def test_history_joins_up_and_loses_nothing():
    tallies = Tallies()
    for second in range(3000):
        tallies.observe(block((1,), at_s=second, ok=2), {1: "a"})
    assert len(tallies.slices) <= 241
    assert sum(part[2] for part in tallies.slices) == 6000
    assert all(
        before[1] <= after[1] for before, after in zip(tallies.slices, tallies.slices[1:], strict=False)
    )
