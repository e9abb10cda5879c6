import os
import subprocess
import sys

import numpy as np
import pytest

from engine.monitor import ModelMonitor, Reference, _state

NAMES = ("a", "b")


@pytest.fixture(scope="module")
def reference():
    rng = np.random.default_rng(0)
    return Reference.fit(rng.normal(size=(5000, 2)), NAMES, outputs=rng.random(5000))


def shifted(n, seed=1, by=0.25):
    return np.random.default_rng(seed).normal(size=(n, 2)) + np.array([by, 0.0])


def started(reference, path, **options):
    return ModelMonitor(reference, **({"handlers": [], "background": False, "state": path} | options))


def alerts_of(monitor):
    return [
        (alert.column, alert.started_row, alert.detected_row, alert.ended_row) for alert in monitor.alerts
    ]


def test_a_process_that_starts_every_200_rows_sees_what_one_process_sees(reference, tmp_path):
    rows = shifted(4000)
    with ModelMonitor(reference, handlers=[], background=False) as whole:
        whole.input_distribution.update(rows)
        expected = alerts_of(whole)
        figures = whole.input_distribution.columns()
    assert [alert[0] for alert in expected] == ["a"]
    for start in range(0, 4000, 200):
        with started(reference, tmp_path / "state") as part:
            part.input_distribution.update(rows[start : start + 200])
    assert alerts_of(part) == expected
    assert part.input_distribution.rows == 4000
    assert part.input_distribution.columns() == figures


def test_an_alert_that_lasts_is_the_same_one_after_a_restart_and_ends(reference, tmp_path):
    seen = []
    with started(reference, tmp_path / "state") as monitor:
        monitor.input_distribution.update(shifted(2000, by=1.0))
        assert monitor.input_distribution.drift_detected()
    with started(reference, tmp_path / "state", handlers=[seen.append]) as monitor:
        assert monitor.input_distribution.drifted == ("a",)
        (alert,) = monitor.check()
        assert (alert.number, alert.column) == (1, "a")
        monitor.input_distribution.update(shifted(2000, by=1.0))
        monitor.input_distribution.update(shifted(10_000, by=0.0))
        assert monitor.check() == ()
        assert 4000 <= alert.ended_row < 5500
        assert monitor.alert("later").number == 2
    assert [made.message for made in seen] == ["later"]


def test_a_label_finds_an_answer_of_a_process_that_has_ended(reference, tmp_path):
    with started(reference, tmp_path / "state") as monitor:
        first = monitor.log_prediction([0, 0], 0.75, 1.0, version="7")
        second = monitor.log_prediction([0, 0], 0.25, 1.0, version="8", source="fallback")
        assert monitor.outcome(first, 1) == "joined"
    with started(reference, tmp_path / "state") as monitor:
        assert monitor.outcome(first, 1) == "repeated"
        assert monitor.outcome(first, value=2.0) == "joined"
        assert monitor.outcome(second, 0, value=1.0) == "joined"
        made = monitor.to_json()
    groups = {(group["version"], group["source"]): group for group in made["outcomes"]["groups"]}
    assert groups["7", "primary"]["labels"] == 1
    assert groups["7", "primary"]["value"] == 2.0
    assert groups["8", "fallback"]["prediction_mean"] == 0.25
    assert made["outcomes"]["counts"] == {"joined": 3, "unknown": 0, "repeated": 1}
    assert made["sources"]["versions"]["7"]["answers"] == {"primary": {"ok": 1}}


def test_budgets_and_counters_go_on(reference, tmp_path):
    for _ in range(10):
        with started(reference, tmp_path / "state") as monitor:
            for i in range(50):
                monitor.log_prediction([0, 0], 0.5, 1.0, source="fallback" if i % 25 == 0 else "primary")
            monitor.counter("bookings", "Bookings made").inc(2, version="7")
    assert monitor.counter("bookings").values == {"7": 20.0}
    versions = monitor.to_json()["sources"]["versions"]
    assert versions[""]["answers"] == {"primary": {"ok": 480}, "fallback": {"ok": 20}}
    with started(reference, tmp_path / "state") as monitor:
        for _ in range(1000):
            monitor.log_prediction([0, 0], 0.5, 1.0, source="fallback")
        (alert,) = [alert for alert in monitor.check() if alert.kind == "fallback_share"]
        assert 400 < alert.started_row <= 500 < alert.detected_row <= 600
    with started(reference, tmp_path / "state") as monitor:
        assert [alert.kind for alert in monitor.check() if not alert.column] == ["fallback_share"]


def test_a_learned_reference_is_not_learned_again(tmp_path):
    rows = np.random.default_rng(0).normal(size=(300, 300))
    with started(None, tmp_path / "state", learn_rows=200) as monitor:
        monitor.input_distribution.update(rows)
        made = monitor.reference.to_json()
    with started(None, tmp_path / "state", learn_rows=200) as monitor:
        assert monitor.reference.to_json() == made
        assert monitor.input_distribution.rows == 100
        assert monitor.set_version_reference(Reference.fit(rows)) is True


def test_with_another_reference_rows_and_alerts_go_on_and_evidence_does_not(reference, tmp_path):
    with started(reference, tmp_path / "state") as monitor:
        monitor.input_distribution.update(shifted(2000, by=1.0))
        monitor.input_distribution.update(shifted(100, by=1.0))
    other = Reference.fit(shifted(5000, seed=3, by=1.0), NAMES)
    with started(other, tmp_path / "state") as monitor:
        assert monitor.input_distribution.rows == 2100
        assert monitor.input_distribution.drifted == ("a",)
        assert monitor.input_distribution.columns()["a"]["nearest_alarm"] == 0.0
    with started(Reference.fit(shifted(5000), ("x", "y")), tmp_path / "state") as monitor:
        assert monitor.check() == ()
        assert [alert.ended_row is not None for alert in monitor.alerts] == [True]


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04cut short"])
def test_a_damaged_file_is_put_aside_and_the_monitor_starts_anew(reference, tmp_path, content, caplog):
    path = tmp_path / "state"
    path.write_bytes(content)
    with started(reference, path) as monitor:
        assert monitor.input_distribution.rows == 0
    assert "starts anew" in caplog.text
    assert (tmp_path / "state.damaged").read_bytes() == content
    assert _state.read(path)["inputs"]["rows"] == 0


def test_every_cut_of_a_file_is_damaged_and_none_raises(reference, tmp_path):
    path = tmp_path / "state"
    with started(reference, path) as monitor:
        monitor.input_distribution.update(shifted(500))
    content = path.read_bytes()
    for end in range(0, len(content), max(len(content) // 40, 1)):
        path.write_bytes(content[:end])
        with started(reference, path) as monitor:
            assert monitor.input_distribution.rows == 0


def test_a_file_that_cannot_be_written_is_logged_and_nothing_raises(reference, tmp_path, caplog):
    with started(reference, tmp_path / "missing" / "state") as monitor:
        with pytest.raises(OSError, match="missing"):
            monitor.save()
    assert "could not save its state" in caplog.text


def test_the_state_is_written_once_a_minute(reference, tmp_path, monkeypatch):
    monkeypatch.setattr(_state.StateFile, "EVERY_S", 0.0)
    with started(reference, tmp_path / "state") as monitor:
        monitor.input_distribution.update(shifted(100))
        assert not (tmp_path / "state").exists()
        monitor.check()
        assert _state.read(tmp_path / "state")["inputs"]["rows"] == 100


def test_a_process_that_is_killed_leaves_a_whole_file(reference, tmp_path):
    script = f"""
import os, signal, threading, time
import numpy as np
from engine.monitor import ModelMonitor, Reference
reference = Reference.from_json(open({str(tmp_path / "reference")!r}).read())
monitor = ModelMonitor(reference, handlers=[], background=False, state={str(tmp_path / "state")!r})
monitor.input_distribution.update(np.zeros((100, 2)))
monitor.save()
print("saved", flush=True)
threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
while True:
    monitor.input_distribution.update(np.zeros((50, 2)))
    monitor.save()
"""
    (tmp_path / "reference").write_text(reference.to_json())
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False
    )
    assert (done.returncode, done.stdout) == (-9, "saved\n"), done.stderr
    with started(reference, tmp_path / "state") as monitor:
        assert monitor.input_distribution.rows >= 100
        assert monitor.input_distribution.rows % 50 == 0


@pytest.mark.parametrize(
    "key",
    [
        "reference", "digest", "inputs", "outputs", "budgets", "alerts", "tallies", "outcomes", "counters", "versions",
        "answers",
    ],
)  # fmt: skip
@pytest.mark.parametrize("wrong", [5, "text", [], {}, [[1, 2]], {"rows": "many"}])
def test_a_file_with_wrong_contents_raises_nothing(reference, tmp_path, key, wrong):
    path = tmp_path / "state"
    with started(reference, path) as monitor:
        monitor.log_prediction([0, 0], 0.5, 1.0, version="7")
        monitor.input_distribution.update(shifted(500, by=2.0))
    state = _state.read(path)
    _state.write(path, state | {key: wrong})
    with started(reference, path) as monitor:
        monitor.input_distribution.update(shifted(500, by=2.0))
        assert monitor.input_distribution.drift_detected()
        monitor.to_json()
    del state[key]
    _state.write(path, state)
    with started(None, path) as monitor:
        monitor.check()


def test_a_folder_of_the_environment_keeps_the_state_of_monitors_that_name_none(
    reference, tmp_path, monkeypatch
):
    monkeypatch.setenv("ENGINE_MONITOR_STATE", str(tmp_path / "states"))
    rows = shifted(4000)
    last = None
    for start in range(0, 4000, 200):
        with ModelMonitor(reference, handlers=[], background=False, name="a/b") as monitor:
            if last is not None:
                assert monitor.outcome(last, 1) == "joined"
            monitor.input_distribution.update(rows[start : start + 200])
            last = monitor.log_prediction(rows[start], 0.5, 1.0)
    assert [alert.column for alert in monitor.alerts] == ["a"]
    assert sorted(path.suffix for path in (tmp_path / "states").iterdir()) == [".lock", ".state"]


def test_each_monitor_of_the_folder_has_a_file_of_its_own(reference, tmp_path, monkeypatch):
    monkeypatch.setenv("ENGINE_MONITOR_STATE", str(tmp_path))
    monitors = [ModelMonitor(reference, handlers=[], background=False) for _ in range(2)]
    for place, monitor in enumerate(monitors):
        monitor.input_distribution.update(shifted(100 * (place + 1)))
        monitor.close()
    monitors = [ModelMonitor(reference, handlers=[], background=False) for _ in range(2)]
    assert [monitor.input_distribution.rows for monitor in monitors] == [100, 200]
    for monitor in monitors:
        monitor.close()


def test_a_folder_of_the_environment_that_cannot_be_made_is_logged(reference, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ENGINE_MONITOR_STATE", str(tmp_path / "file" / "states"))
    with ModelMonitor(reference, handlers=[], background=False) as monitor:
        monitor.input_distribution.update(shifted(100))
    assert "the monitor keeps no state" in caplog.text
