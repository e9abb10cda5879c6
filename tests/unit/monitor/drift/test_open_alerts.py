from engine.monitor.alerts import Alerts
from engine.monitor.drift.budgets import Overspending
from engine.monitor.drift.detector import Episode
from engine.monitor.drift.open_alerts import OpenAlerts, drift_message

EVIDENCE = {
    "seen_by": ["mean up", "shape"],
    "codes": False,
    "mean": 2.5,
    "mean_reference": 0.5,
    "std": 1.0,
    "std_reference": 1.25,
    "missing_share": 0.1,
    "missing_share_reference": 0.0,
    "unseen_share": 0.0,
}


def test_an_alert_lasts_from_the_beginning_of_an_episode_to_its_end():
    alerts = Alerts([])
    lasting = OpenAlerts(alerts)
    episode = Episode("temp", 1000, 1500, evidence=EVIDENCE)
    (alert,) = lasting.drift("input_drift", "warning", episode)
    assert (alert.kind, alert.column, alert.started_row, alert.detected_row) == (
        "input_drift",
        "temp",
        1000,
        1500,
    )
    assert lasting.all() == (alert,)
    assert alert.lasts
    episode.ended_row = 4000
    assert lasting.drift("input_drift", "warning", episode) == []
    assert lasting.all() == ()
    assert (alert.lasts, alert.ended_row) == (False, 4000)
    assert alerts.all() == [alert]


def test_a_budget_s_alert_has_the_share_and_the_budget():
    lasting = OpenAlerts(Alerts([]))
    (fallback,) = lasting.budget(Overspending("fallback_share", 100, 300, 0.25, 0.05))
    (late,) = lasting.budget(Overspending("late_share", 100, 300, 0.25, 0.05))
    assert (fallback.severity, late.severity) == ("warning", "critical")
    assert fallback.message == (
        "fallback share is 25.00% of the last answers, budget 5.00%; "
        "since about answer 100, certain at answer 300"
    )
    assert fallback.evidence == {"share": 0.25, "budget": 0.05}


def test_an_episode_in_words():
    assert drift_message("input_drift", Episode("temp", 1000, 1500, evidence=EVIDENCE)) == (
        "input drift: temp is no longer as in the reference (mean up, shape); mean 2.5, was 0.5; std 1, was 1.25; "
        "missing 10.00%, was 0.00%; since about row 1,000, certain at row 1,500"
    )
    codes = EVIDENCE | {"codes": True, "missing_share": 0.0, "unseen_share": 0.5}
    assert "; new categories 50.00%; since" in drift_message(
        "input_drift", Episode("code", 0, 1, evidence=codes)
    )
