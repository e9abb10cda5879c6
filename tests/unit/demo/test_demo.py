"""`engine demo --quick` from end to end: its output, its files, and the sums in its report."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from engine import cli
from engine.demo import phases, report
from engine.loadgen import load

for library in ("pandas", "lightgbm", "onnxmltools", "matplotlib"):
    pytest.importorskip(library)


@pytest.mark.slow
def test_the_quick_demo_serves_every_phase_and_writes_its_report(tmp_path, capsys):
    assert cli.main(["demo", "--quick", "--out", str(tmp_path)]) == 0
    printed, errors = capsys.readouterr()
    assert "breaker" not in errors  # it is in engine.log
    assert (tmp_path / "engine.log").exists()
    assert all(line.endswith("(quick: measures little)") for line in printed.splitlines())
    assert "0 native and 0 ONNX answers differ" in printed
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["checks"]["primary_differ"] == found["checks"]["onnx_differ"] == 0
    assert found["checks"]["auc_primary"] > found["checks"]["auc_fallback"] > 0.6
    assert [(phase["lane"], phase["load"]) for phase in found["phases"]] == [
        (lane, name) for lane in ("batch", "inline") for name, _, _ in phases.PHASES
    ]
    for phase in found["phases"]:
        assert phase["lag_us_p50"] is None or phase["lag_us_p50"] >= 0
        if "void" not in phase:
            assert sum(phase["sources"].values()) == pytest.approx(1)
            assert sum(phase["reasons"].values()) == pytest.approx(1)
    assert (tmp_path / "report.svg").read_text().startswith("<?xml")
    for name in ("features.json", "primary.txt", "primary.onnx", "fallback.txt", "report.html"):
        assert (tmp_path / name).stat().st_size > 0
    loop = json.loads((tmp_path / "loop.json").read_text())
    assert loop["metrics"]["auc"] > 0.7
    assert set(loop["versions"]) == {loop["version"], loop["bad_version"]}
    kinds = [event["kind"] for event in loop["events"]]
    assert kinds[0] == "serving"
    assert "rolled_back" in kinds
    assert loop["outcomes"]


def a_phase(lag_us):
    n = 100
    zeros = np.zeros(n)
    run = load.Run(
        load.Schedule(np.arange(n, dtype=np.int64), 1.0),
        10.0,
        zeros,
        np.full(n, lag_us),
        zeros,
        zeros,
        np.zeros(n, np.uint8),
        zeros,
        {},
        0,
    )
    return phases.Phase("batch", "2x", run, {"void": run.void} if run.void else {})


def test_a_void_phase_says_so_instead_of_giving_figures():
    line = report.line(a_phase(lag_us=5_000))
    assert "void: generator could not keep up" in line
    assert line.endswith("run the demo again with nothing else on these cores")
    assert "%" not in line


def test_after_the_last_flight_comes_the_first_again():
    class Flights:
        late = np.array([True, False, False])

        def __len__(self):
            return 3

        def records(self, count):
            return [{"a": index} for index in range(count)]

    requests = phases.Requests(SimpleNamespace(rows=np.arange(3.0)[:, None]), Flights())
    assert requests.records_of(2, 5) == [{"a": 2}, {"a": 0}, {"a": 1}]
    assert requests.rows_of(5, 8)[:, 0].tolist() == [2, 0, 1]


def test_infinity_becomes_null_in_the_report():
    assert report._finite({"a": float("inf"), "b": 1.0, "c": float("nan")}) == {
        "a": None,
        "b": 1.0,
        "c": None,
    }
