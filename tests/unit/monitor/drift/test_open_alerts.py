from engine.monitor.alerts import Alerts, incidents
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


def begun(lasting, column, row, problem="drift"):
    (alert,) = lasting.drift(
        "input_drift", "warning", Episode(column, row, row + 50, evidence=EVIDENCE | {"problem": problem})
    )
    return alert


def test_fifteen_columns_of_one_broken_feed_are_one_incident():
    log = Alerts([])
    lasting = OpenAlerts(log)
    columns = [f"f{i}" for i in range(15)]
    for place, column in enumerate(columns):
        begun(lasting, column, 1000 + 10 * place, "all missing")
    (found,) = incidents(log.all())
    assert (found.number, found.problem, found.members) == (1, "all missing", tuple(columns))
    assert (found.started_row, found.lasts) == (1000, True)


def test_unrelated_changes_are_incidents_of_their_own():
    log = Alerts([])
    lasting = OpenAlerts(log)
    begun(lasting, "a", 1000)
    begun(lasting, "b", 1000)
    begun(lasting, "c", 1000, "frozen value")
    begun(lasting, "d", 5000, "frozen value")
    assert [found.members for found in incidents(log.all())] == [("a",), ("b",), ("c",), ("d",)]


def test_columns_that_move_together_are_one_incident():
    log = Alerts([])
    lasting = OpenAlerts(log)
    lasting.relate([["a", "b"]])
    begun(lasting, "a", 1000)
    begun(lasting, "c", 1500)
    begun(lasting, "b", 2500)
    assert [found.members for found in incidents(log.all())] == [("a", "b"), ("c",)]


def test_a_change_that_comes_back_soon_opens_its_alert_again():
    log = Alerts([])
    lasting = OpenAlerts(log)
    alert = begun(lasting, "a", 1000)
    lasting.drift("input_drift", "warning", Episode("a", 1000, 1050, 9000, EVIDENCE))
    assert not alert.lasts
    assert lasting.drift("input_drift", "warning", Episode("a", 12_000, 12_500, evidence=EVIDENCE)) == []
    assert (alert.lasts, alert.ended_row, alert.reopened) == (True, None, 1)
    lasting.drift("input_drift", "warning", Episode("a", 12_000, 12_500, 20_000, EVIDENCE))
    assert begun(lasting, "a", 60_000).number == 2
