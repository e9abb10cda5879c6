import os

import numpy as np
import pytest

from engine.errors import MonitorError
from engine.monitor import ModelMonitor, Reference
from engine.monitor.outcomes import area_under_curve
from engine.monitor.performance import Baseline, Performance, estimated, loss, loss_kind

NIGHTLY = bool(os.environ.get("ENGINE_NIGHTLY"))


def scored(rng, n, swapped=False):
    """Calibrated shares with an AUC of about 0.8, and their labels; swapped labels turn it to about 0.2."""
    share = rng.beta(0.9, 0.9, n)
    label = (rng.random(n) < share).astype(float)
    return share[:, None], 1.0 - label if swapped else label


def fed(performance, outputs, label):
    return [
        found for row, truth in zip(outputs, label, strict=True) if (found := performance.add(row, truth))
    ]


def test_losses_fit_their_outputs():
    shares = np.array([[0.2], [0.9]])
    assert loss_kind(shares, np.array([0.0, 1.0])) == "brier"
    assert loss_kind(shares * 9.0, np.array([0.0, 1.0])) == "rank"
    assert loss_kind(shares, np.array([0.3, 7.0])) == "absolute"
    assert loss_kind(np.array([[0.2, 0.8], [0.5, 0.5]]), np.array([1.0, 0.0])) == "brier"
    assert loss_kind(np.array([[1.0, 2.0, 4.0]]), np.array([3.0])) == "middle"
    none = np.zeros(0)
    assert loss("brier", shares, np.array([0.0, 1.0]), none) == pytest.approx([0.04, 0.01])
    assert loss("brier", np.array([[0.3, 0.7]]), np.array([1.0]), none) == pytest.approx([0.09])
    assert loss("middle", np.array([[1.0, 2.0, 4.0]]), np.array([3.0]), none) == pytest.approx([1.0])
    assert np.isnan(loss("brier", shares, np.array([2.0, 0.5]), none)).all()
    ranks = np.arange(4.0)
    assert loss("rank", np.array([[0.0], [9.0]]), np.array([0.0, 1.0]), ranks) == pytest.approx([0.0, 0.0])


def test_an_auc_that_turns_over_is_one_alert_and_ends_when_it_is_back():
    rng = np.random.default_rng(0)
    performance = Performance(1e-5, Baseline.fit(*scored(rng, 2000)))
    assert fed(performance, *scored(rng, 2000)) == []
    (worse,) = fed(performance, *scored(rng, 3000, swapped=True))
    assert 2000 < worse.detected_row <= 2150
    assert abs(worse.started_row - 2000) <= 100
    assert worse.evidence["figures"]["AUC"] < 0.35
    assert worse.evidence["figures_reference"]["AUC"] == pytest.approx(0.8, abs=0.05)
    assert performance.open is worse
    assert fed(performance, *scored(rng, 3000)) == [worse]
    assert 4500 <= worse.ended_row <= 6500
    assert performance.open is None


@pytest.mark.parametrize("kind", ["rank", "absolute", "middle", "classes"])
def test_each_loss_sees_a_model_that_gets_worse(kind):
    rng = np.random.default_rng(1)

    def rows(n, noise):
        truth = rng.normal(size=n)
        if kind == "absolute":
            return (truth + noise * rng.normal(size=n))[:, None], truth
        if kind == "middle":
            middle = truth + noise * rng.normal(size=n)
            return np.stack([middle - 1.0, middle, middle + 1.0], axis=1), truth
        if kind == "rank":
            label = (truth > 0.0).astype(float)
            return (5.0 + truth + 2.0 * noise * rng.normal(size=n))[:, None], label
        label = rng.integers(0, 3, n)
        shares = np.full((n, 3), 0.1)
        right = rng.random(n) > noise / 2.0
        shares[np.arange(n), np.where(right, label, (label + 1) % 3)] = 0.8
        return shares, label.astype(float)

    performance = Performance(1e-5, Baseline.fit(*rows(1000, 0.3)))
    assert fed(performance, *rows(3000, 0.3)) == []
    (worse,) = fed(performance, *rows(1500, 1.0))
    assert worse.detected_row <= 3900


def test_a_model_that_gets_better_raises_no_alert():
    rng = np.random.default_rng(2)
    performance = Performance(1e-5, Baseline.fit(*scored(rng, 1000)))
    share = rng.choice([0.02, 0.98], 3000)
    assert fed(performance, share[:, None], (rng.random(3000) < share).astype(float)) == []


def test_a_model_that_stays_as_it_is_raises_no_alert_beside_a_small_baseline():
    for seed in range(30 if NIGHTLY else 4):
        rng = np.random.default_rng(10 + seed)
        for labels in (100, 500):
            performance = Performance(1e-5, Baseline.fit(*scored(rng, labels)))
            assert fed(performance, *scored(rng, 100_000 if NIGHTLY else 10_000)) == []


def watched(rng, monitor, n, swapped=False):
    shares, label = scored(rng, n, swapped)
    for share, truth in zip(shares[:, 0].tolist(), label.tolist(), strict=True):
        monitor.outcome(monitor.log_prediction([0.0], share, 1.0, version="7"), truth)


def test_a_monitor_learns_the_performance_of_the_first_labels_and_raises_a_critical_alert():
    rng = np.random.default_rng(3)
    heard = []
    reference = Reference.fit(rng.normal(size=(500, 1)), outputs=rng.beta(0.9, 0.9, 500))
    with ModelMonitor(reference, handlers=[heard.append], background=False) as monitor:
        watched(rng, monitor, 1500)
        assert [alert for alert in monitor.check() if alert.kind == "performance_drift"] == []
        watched(rng, monitor, 500, swapped=True)
        (alert,) = [alert for alert in monitor.check() if alert.kind == "performance_drift"]
        assert (alert.severity, alert.column) == ("critical", "")
        assert "AUC" in alert.message
        assert alert in heard
        made = monitor.to_json()
        assert made["performance"]["lasts"] is True
        assert 'engine_monitor_alert_lasts{column="",kind="performance_drift"} 1.0' in monitor.metrics_text()
        assert "Predictions got worse" in monitor._repr_html_()


def test_labels_of_the_reference_are_the_baseline_and_survive_its_json():
    rng = np.random.default_rng(4)
    shares, label = scored(rng, 3000)
    reference = Reference.fit(rng.normal(size=(3000, 1)), outputs=shares, labels=label)
    reference = Reference.from_json(reference.to_json())
    assert reference.performance.figures["AUC"] == pytest.approx(
        area_under_curve(shares[:, 0], label), abs=1e-3
    )
    with ModelMonitor(reference, handlers=[], background=False) as monitor:
        watched(rng, monitor, 300, swapped=True)
        assert ["performance_drift", ""] in monitor.to_json()["lasting"]


def test_labels_that_do_not_fit_are_refused():
    rows = np.random.default_rng(5).normal(size=(200, 1))
    with pytest.raises(MonitorError, match="labels need outputs"):
        Reference.fit(rows, labels=np.zeros(200))
    with pytest.raises(MonitorError, match="expected one for each of the 200 rows of outputs"):
        Reference.fit(rows, outputs=rows[:, 0], labels=np.zeros(10))
    with pytest.raises(MonitorError, match="at least 100 labels"):
        Reference.fit(rows, outputs=rows[:, 0], labels=np.full(200, np.nan))


def test_a_restart_goes_on(tmp_path):
    rng = np.random.default_rng(6)
    reference = Reference.fit(rng.normal(size=(500, 1)), outputs=rng.beta(0.9, 0.9, 500))
    raised = []
    for part in range(12):
        with ModelMonitor(reference, handlers=[], background=False, state=tmp_path / "state") as monitor:
            watched(rng, monitor, 120, swapped=part >= 8)
            monitor.check()
            raised = [alert for alert in monitor.alerts if alert.kind == "performance_drift"]
    assert len(raised) == 1
    assert 400 < raised[0].detected_row - 0 < 800


def test_an_estimate_equals_what_labels_show_later():
    rng = np.random.default_rng(7)
    shares, label = scored(rng, 20_000)
    found = estimated(shares, None, 0.5)
    assert found["calibrated"] is False
    assert found["auc"] == pytest.approx(area_under_curve(shares[:, 0], label), abs=0.01)
    assert found["brier"] == pytest.approx(np.square(shares[:, 0] - label).mean(), abs=0.01)
    assert found["accuracy"] == pytest.approx(((shares[:, 0] >= 0.5) == label).mean(), abs=0.01)
    # Shares that are too sure: earlier labels show it.
    sure = np.clip((shares - 0.5) * 1.6 + 0.5, 0.001, 0.999)
    baseline = Baseline.fit(sure[:10_000], label[:10_000])
    found = estimated(sure[10_000:], baseline, 0.5)
    assert found["calibrated"] is True
    assert found["brier"] == pytest.approx(np.square(sure[10_000:, 0] - label[10_000:]).mean(), abs=0.01)
    believed = estimated(sure[10_000:], None, 0.5)["brier"]
    assert abs(believed - found["brier"]) > 0.03


def test_the_expected_auc_of_ties_is_a_half():
    assert estimated(np.array([[0.25], [0.25], [0.5], [0.75]]), None, 0.5)["auc"] == pytest.approx(
        # Pairs weighted by p (1 - q): ties count half.
        sum(
            p * (1 - q) * (1.0 if p > q else 0.5 if p == q else 0.0)
            for p in (0.25, 0.25, 0.5, 0.75)
            for q in (0.25, 0.25, 0.5, 0.75)
        )
        / (1.75 * 2.25)
    )


def test_classes_have_an_estimate_and_other_numbers_have_none():
    shares = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
    found = estimated(shares, None, 0.5)
    assert found["accuracy"] == pytest.approx(0.75)
    assert found["brier"] == pytest.approx(((1 - 0.54) + (1 - 0.66)) / 2)
    assert estimated(np.array([[3.0], [700.0]]), None, 0.5) is None
    assert estimated(np.full((3, 1), np.nan), None, 0.5) is None


def test_the_page_and_the_metrics_call_the_estimate_one():
    rng = np.random.default_rng(8)
    with ModelMonitor(Reference.fit(rng.normal(size=(500, 1))), handlers=[], background=False) as monitor:
        for share in rng.beta(0.9, 0.9, 400).tolist():
            monitor.log_prediction([0.0], share, 1.0)
        found = monitor.to_json()["performance"]["estimated"]
        assert (found["rows"], found["calibrated"]) == (400, False)
        assert f"engine_monitor_estimated_auc {found['auc']}" in monitor.metrics_text()
        assert "estimated before labels come" in monitor._repr_html_()
