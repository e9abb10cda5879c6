"""Faults around a monitor: it reports them, and serving goes on."""

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from engine.errors import ClosedError
from engine.monitor import ModelMonitor, Reference


def reference(seed=0):
    rng = np.random.default_rng(seed)
    return Reference.fit(rng.normal(size=(2000, 3)), outputs=rng.random(2000))


@pytest.fixture
def monitor():
    with ModelMonitor(reference(), handlers=[], background=False) as made:
        yield made


def test_windows_of_nothing_but_missing_values_alert_for_that_alone(monitor):
    monitor.input_distribution.update(np.full((5000, 3), np.nan))
    assert monitor.input_distribution.drift_detected()
    assert {tuple(alert.evidence["seen_by"]) for alert in monitor.alerts} == {("missing values",)}
    assert len(monitor.alerts) == 3


def test_constant_columns_and_infinities(monitor):
    made = Reference.fit({"same": np.full(500, 7.0), "x": np.random.default_rng(1).normal(size=500)})
    with ModelMonitor(made, handlers=[], background=False) as other:
        other.input_distribution.update(
            np.column_stack([np.full(3000, 7.0), np.random.default_rng(2).normal(size=3000)])
        )
        assert not other.input_distribution.drift_detected()
        other.input_distribution.update(np.array([[np.inf, -np.inf]] * 200))
        assert set(other.input_distribution.drifted) == {"same", "x"}
        other.to_json()
        other.metrics_text()


def test_outputs_that_are_no_numbers_alert_critically(monitor):
    for _ in range(200):
        monitor.log_prediction([0.0, 0.1, 0.2], float("nan"), 1.0)
    assert monitor.output_distribution.drift_detected()
    (alert,) = [alert for alert in monitor.alerts if alert.kind == "output_drift"]
    assert (alert.severity, alert.evidence["seen_by"]) == ("critical", ["missing values"])


def test_a_full_ring_under_load_drops_counts_and_goes_on():
    # Every row holds one value three times, so columns that differ would show a row that was torn. How many rows get
    # through depends on the machine: each thread has rows of its own, because the same row four times is drift.
    rng = np.random.default_rng(3)
    same = Reference.fit(np.repeat(rng.normal(size=(2000, 1)), 3, axis=1), outputs=rng.random(2000))
    with ModelMonitor(
        same, handlers=[], ring_rows=16, false_alarms_per_100k=1e-6, background=False
    ) as monitor:
        rows = [np.repeat(rng.normal(size=(20_000, 1)), 3, axis=1).astype(np.float32) for _ in range(4)]
        values = rng.random(20_000)
        threads = [
            threading.Thread(target=monitor._sketch.push_rows, args=(each, values, i << 32))
            for i, each in enumerate(rows)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        made = monitor.to_json()
        assert made["answers"] + made["dropped"] == 80_000
        assert made["rows"] == made["answers"] > 0
        counts = [counts.tolist() for _, counts, _ in monitor.input_distribution.histograms()]
        assert counts[0] == counts[1] == counts[2]
        assert not monitor.input_distribution.drift_detected()


def test_a_handler_that_raises_or_hangs_stops_neither_logging_nor_closing():
    hangs = threading.Event()

    def hang(alert):
        hangs.wait(30)

    def fail(alert):
        raise RuntimeError("no network")

    monitor = ModelMonitor(reference(), handlers=[fail, hang])
    monitor._sketch.push_rows(np.full((500, 3), 9, dtype=np.float32), np.zeros(500))
    for _ in range(200):
        if monitor._alerts.handler_errors:
            break
        time.sleep(0.02)
    assert monitor._alerts.handler_errors >= 1
    # The background thread hangs in the handler. Logging and labels go on, and close returns.
    answer = monitor.log_prediction([0, 0, 0], 0.5, 1.0)
    assert monitor.outcome(answer, 1) == "joined"
    closer = threading.Thread(target=monitor.close)
    closer.start()
    closer.join(20)
    assert not closer.is_alive()
    hangs.set()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_in_a_child_of_fork_calls_say_so_and_close_returns():
    with ModelMonitor(reference(), handlers=[]) as monitor:
        observer = monitor.observer
        child = os.fork()
        if child == 0:
            code = 1
            try:
                for call in (
                    lambda: monitor.log_prediction([0, 0, 0], 0.5, 1.0),
                    lambda: monitor.outcome(1, 1),
                    lambda: monitor.input_distribution.update([0, 0, 0]),
                    monitor.check,
                    monitor.to_json,
                    lambda: monitor.set_reference(reference()),
                ):
                    with pytest.raises(ClosedError, match="belongs to the parent process"):
                        call()
                monitor.close()
                with ModelMonitor(reference(), handlers=[], background=False) as own:
                    own.log_prediction([0, 0, 0], 0.5, 1.0)
                    code = 0 if own.to_json()["answers"] == 1 else 2
                del observer
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        monitor.log_prediction([0, 0, 0], 0.5, 1.0)
        assert monitor.to_json()["answers"] == 1


def test_a_process_ends_without_closing_its_monitor():
    script = (
        "import numpy as np\n"
        "from engine.monitor import ModelMonitor, Reference\n"
        "m = ModelMonitor(Reference.fit(np.random.default_rng(0).normal(size=(200, 2))))\n"
        "m.log_prediction([0, 0], 0.5, 1.0)\n"
        "print('served')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "served", "")


def test_importing_the_monitor_brings_in_nothing_heavy():
    script = (
        "import sys, engine, engine.monitor\n"
        "print([m for m in ('scipy', 'matplotlib', 'prometheus_client', 'pandas') if m in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_missing_library_names_the_extra(monkeypatch, tmp_path):
    from engine.errors import MissingDependencyError

    with ModelMonitor(reference(), handlers=[], background=False) as monitor:
        monkeypatch.setitem(sys.modules, "prometheus_client", None)
        with pytest.raises(MissingDependencyError, match=r"pip install 'deadline-engine\[monitor\]'"):
            monitor.metrics_text()
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        monitor.report(tmp_path / "r.html")
        assert [path.name for path in tmp_path.iterdir()] == ["r.html"]


def test_a_report_that_cannot_be_written_leaves_nothing_half_done(monitor, tmp_path):
    with pytest.raises(OSError):
        monitor.report(tmp_path / "no" / "folder.html")
    monitor.log_prediction([0, 0, 0], 0.5, 1.0)
