"""Metrics, rules and the dashboard, as the real tools of Prometheus and the schema of Grafana see them."""

import json
import re
import shutil
import subprocess
from importlib import resources

import pytest
from tests.unit.monitor.night import night

from engine import cli
from engine.monitor import ModelMonitor
from engine.monitor.metrics import text
from engine.monitor.report.summary import latency_histogram

FOLDER = resources.files("engine.monitor") / "prometheus"


@pytest.fixture(scope="module")
def promtool():
    binary = shutil.which("promtool")
    if binary is None:
        pytest.skip("promtool is not installed: make servers")

    def run(*words, given=None):
        return subprocess.run([binary, *map(str, words)], input=given, capture_output=True, text=True)

    return run


@pytest.fixture(scope="module")
def metrics():
    with night() as monitor, night(broken=False, name="pricing") as other:
        return monitor.metrics_text(other)


def test_promtool_takes_the_metrics_without_a_word(promtool, metrics):
    with ModelMonitor(background=False) as empty:
        nothing = empty.metrics_text()
    for given in (metrics, nothing):
        done = promtool("check", "metrics", given=given)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_open_metrics_is_read_by_its_own_parser():
    from prometheus_client.openmetrics.parser import text_string_to_metric_families

    with night(broken=False) as monitor:
        found = {
            family.name: family
            for family in text_string_to_metric_families(text([("m", monitor.to_json())], True))
        }
    assert found["engine_monitor_latency_seconds"].type == "histogram"
    assert found["engine_monitor_answers"].type == "counter"


def test_latency_is_a_histogram_in_seconds():
    import numpy as np

    from engine.monitor._sketch import LATENCY_UPPER_NS

    counts = np.zeros((3, len(LATENCY_UPPER_NS)), dtype=np.uint64)
    for nanoseconds, count in ((900, 1), (2_000_000, 10), (10**12, 2)):
        counts[0, np.searchsorted(LATENCY_UPPER_NS, nanoseconds)] += count
    made = latency_histogram(counts)
    assert list(made) == ["primary"]
    buckets = dict(map(tuple, made["primary"]["buckets"]))
    assert len(buckets) == 25
    assert buckets[1.024e-06] == 1
    assert (buckets[0.001048576], buckets[0.002097152], buckets[17.179869184]) == (1, 11, 11)
    assert made["primary"]["count"] == 13
    assert made["primary"]["sum"] == pytest.approx(2000.02, rel=0.032)


def test_the_deadline_s_share_is_a_histogram(metrics):
    found = dict(re.findall(r'deadline_used_ratio_bucket\{le="([^"]+)",model="flights"\} ([\d.]+)', metrics))
    assert list(found) == ["0.2", "0.4", "0.6", "0.8", "1", "1.2", "1.4", "1.6", "1.8", "+Inf"]
    assert found["1"] == found["+Inf"] == "3000.0"
    assert 0 < float(found["0.2"]) < float(found["0.4"])


RULES_TEST = """
rule_files: [rules.yml]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - series: 'engine_monitor_alert_lasts{model="fraud",instance="i",kind="input_drift",column="temp"}'
        values: '1x10'
      - series: 'engine_monitor_alert_lasts{model="fraud",instance="i",kind="input_drift",column="dewp"}'
        values: '1x10'
      - {series: 'engine_monitor_alert_lasts{model="fraud",instance="i",kind="late_share"}', values: '_x5 1x5'}
      - {series: 'engine_monitor_answers_total{model="fraud",instance="i"}', values: '0+10x60 600x60'}
    alert_rule_test:
      - eval_time: 5m
        alertname: EngineInputDrift
        exp_alerts:
          - exp_labels: {model: fraud, instance: i, severity: warning}
            exp_annotations:
              summary: "fraud: 2 inputs are no longer as in the reference"
              description: "Ask the owners of the feeds; the page of the monitor has the columns."
      - {eval_time: 4m, alertname: EngineAnswersLate, exp_alerts: []}
      - eval_time: 7m
        alertname: EngineAnswersLate
        exp_alerts:
          - exp_labels: {model: fraud, instance: i, severity: critical}
            exp_annotations:
              summary: "fraud: more answers are late than the budget allows"
              description: "Look for a stall of the machine or a fallback that is too slow."
      - {eval_time: 30m, alertname: EngineInputDrift, exp_alerts: []}
      - {eval_time: 60m, alertname: EngineNoAnswers, exp_alerts: []}
      - eval_time: 85m
        alertname: EngineNoAnswers
        exp_alerts:
          - exp_labels: {model: fraud, instance: i, severity: critical}
            exp_annotations: {summary: "fraud: no answer for 20 minutes, and there were some an hour ago"}
"""


def test_promtool_takes_the_rules_and_they_fire_when_they_should(promtool, tmp_path):
    (tmp_path / "rules.yml").write_text((FOLDER / "rules.yml").read_text())
    done = promtool("check", "rules", tmp_path / "rules.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    (tmp_path / "test.yml").write_text(RULES_TEST)
    done = promtool("test", "rules", tmp_path / "test.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_and_dashboard_ask_for_metrics_that_there_are(metrics):
    there = set(re.findall(r"^(engine_monitor_\w+)", metrics, re.MULTILINE))
    there |= set(re.findall(r"^# TYPE (engine_monitor_\w+)", metrics, re.MULTILINE))
    for name in ("rules.yml", "dashboard.json"):
        asked = set(re.findall(r"engine_monitor_\w+", (FOLDER / name).read_text()))
        assert len(asked) > 3
        assert asked <= there, name


def test_every_question_of_the_dashboard_is_promql(promtool, tmp_path):
    dashboard = json.loads((FOLDER / "dashboard.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(asked) >= 16
    rules = [
        {"record": f"asked:{place}", "expr": expr.replace("$__rate_interval", "5m").replace("$model", ".*")}
        for place, expr in enumerate(asked)
    ]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "asked", "rules": rules}]}))
    done = promtool("check", "rules", tmp_path / "rules.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_grafana_s_schema_knows_every_field_of_the_dashboard():
    models = pytest.importorskip(
        "grafana_foundation_sdk.models.dashboard", reason="grafana-foundation-sdk is missing"
    )
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins

    register_default_plugins()
    given = json.loads((FOLDER / "dashboard.json").read_text())
    made = json.loads(JSONEncoder().encode(models.Dashboard.from_json(given)))
    assert list(lost(given, made)) == []
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in given["panels"]]
    assert len(set(places)) == len(places)


def lost(given, made, path=""):
    """Yield the paths of values that a round trip through the schema changes."""
    if isinstance(given, dict):
        for key, value in given.items():
            if key in (made or {}):
                yield from lost(value, made[key], f"{path}/{key}")
            elif value not in (None, "", [], {}):
                yield f"{path}/{key}"
    elif isinstance(given, list):
        for place, (one, other) in enumerate(zip(given, made, strict=True)):
            yield from lost(one, other, f"{path}[{place}]")
    elif given != made:
        yield path


def test_the_command_prints_them(capsys):
    assert cli.main(["monitor", "rules"]) == 0
    assert "EngineInputDrift" in capsys.readouterr().out
    assert cli.main(["monitor", "dashboard"]) == 0
    assert json.loads(capsys.readouterr().out)["uid"] == "engine-monitor"
