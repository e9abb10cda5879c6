import logging

import pytest

from engine.errors import MonitorError
from engine.monitor.alerts import Alerts


def test_handlers_are_called_once_and_one_that_raises_does_not_stop_the_others(caplog):
    seen = []

    def broken(alert):
        raise RuntimeError("pager is down")

    alerts = Alerts([broken, seen.append])
    alert = alerts.add("too hot", "critical")
    with caplog.at_level(logging.ERROR, logger="engine.monitor"):
        alerts.notify(alert)
    assert seen == [alert]
    assert alerts.handler_errors == 1
    assert "too hot" in caplog.text


def test_without_handlers_alerts_go_to_the_log(caplog):
    alerts = Alerts(None)
    with caplog.at_level(logging.INFO, logger="engine.monitor"):
        alerts.notify(alerts.add("low", "warning"))
    assert [(record.levelname, record.message) for record in caplog.records] == [("WARNING", "message: low")]


def test_the_latest_thousand_are_kept_and_all_are_counted():
    alerts = Alerts([])
    for i in range(1005):
        alerts.add(str(i), "info")
    assert [alerts.all()[0].message, alerts.all()[-1].message] == ["5", "1004"]
    assert alerts.counts() == {("message", "info"): 1005}
    assert alerts.all()[-1].number == 1005


def test_an_unknown_severity_lists_the_known_ones():
    with pytest.raises(MonitorError, match="one of info, warning, critical, got 'loud'"):
        Alerts([]).add("x", "loud")


def test_a_handler_must_be_callable():
    with pytest.raises(MonitorError, match="must be callable, got str"):
        Alerts(["mail"])
