"""Every benchmark at smoke size, so that none rots, and the runner's own rules."""

import json
import os

import pytest
from benchmarks import conditions, render, runner


@pytest.mark.slow
@pytest.mark.skipif("ENGINE_SMOKE_ELSEWHERE" in os.environ, reason="CI runs every case in a step of its own")
@pytest.mark.parametrize("name", runner.names())
def test_a_case_runs_and_gives_a_result(name, tmp_path):
    before = sorted((path.name, path.stat().st_mtime_ns) for path in runner.RESULTS.glob("*.json"))
    assert runner.run_named(name, smoke=True, json_path=tmp_path / "result.json") == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert set(result) == {"name", "metrics", "rivals", "conditions"}
    assert result["name"] == name
    assert result["metrics"]
    assert result["conditions"]["smoke"] is True
    assert {"commit", "date", "cpu", "cores", "compiler", "versions", "arrivals"} <= result[
        "conditions"
    ].keys()
    after = sorted((path.name, path.stat().st_mtime_ns) for path in runner.RESULTS.glob("*.json"))
    assert after == before


def test_every_case_says_what_it_measures():
    for name in runner.names():
        assert len((runner.load(name).__doc__ or "").split()) > 20, name


def test_an_unknown_case_is_refused_with_the_list(capsys):
    assert runner.run_named("nonsense", smoke=True, json_path=None) == 1
    assert "there are: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"metrics": {}}, "exactly metrics, rivals and conditions"),
        (
            {"metrics": {"a": float("nan")}, "rivals": {}, "conditions": {}},
            "metrics.a: expected a finite number",
        ),
        (
            {"metrics": {}, "rivals": {"r": {"b": "1"}}, "conditions": {}},
            "rivals.r.b: expected a finite number",
        ),
        ({"metrics": {"a": True}, "rivals": {}, "conditions": {}}, "metrics.a: expected a finite number"),
    ],
)
def test_what_is_no_result_is_refused(result, message):
    with pytest.raises(runner.BadResult, match=message):
        runner.check(result)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.31234, "0.3123"), (12345.6, "12,346"), (0.00012, "0.00012"), (0, "0"), (99.876, "99.88"), (None, "")],
)
def test_a_figure_has_four_significant_digits(value, shown):
    assert runner.figure(value) == shown


def test_the_checksum_depends_on_the_values():
    import numpy as np

    assert conditions.checksum(np.array([1.0])) == conditions.checksum(np.array([1.0]))
    assert conditions.checksum(np.array([1.0])) != conditions.checksum(np.array([2.0]))


def test_the_table_leaves_out_what_was_not_measured_and_shows_rivals_beside_ours():
    result = {
        "metrics": {"predict_us_p50": 0.4},
        "rivals": {"onnxruntime_call": {"predict_us_p50": 5.0}},
        "conditions": {"cpu": "a cpu", "cores": 2, "date": "2026-01-02 03:04 UTC"},
    }
    text = render.table({"overhead": result})
    assert "| 0.4000 us | bare ONNX Runtime call 5.000 us |" in text
    assert "await predict_async" not in text
    assert "a cpu, 2 cores, 2026-01-02" in text


def test_a_share_is_rounded_down():
    assert render._shown(0.99996, "%") == "99.99 %"
    assert render._shown(1.0, "%") == "100 %"


def test_the_committed_tables_are_those_of_the_committed_results(root):
    found = render.results()
    assert render.table(found) in (root / "README.md").read_text()
    assert render.document(found) == (root / "docs" / "benchmarks.md").read_text()


def test_recovery_is_counted_from_the_end_of_each_stall_but_the_first():
    from collections import Counter

    import numpy as np
    from benchmarks.bench_deadline import recoveries_ms

    from engine.loadgen.load import Run, Schedule

    # One arrival a millisecond for six seconds; stalls of 200 ms open every 2 s, and the primary needs 30 ms more.
    due_ms = np.arange(6_000)
    served = due_ms % 2_000 >= 230
    latency = np.where(served, 1_000.0, 50_000.0)
    zeros = np.zeros(len(due_ms))

    def run(source):
        schedule = Schedule(due_ms * 1_000_000, 6.0)
        return Run(schedule, 10.0, zeros, zeros, latency, latency, source, zeros, Counter(), 0)

    # A window of 50 arrivals may miss one (0.02): the first that is good enough begins at 29 ms.
    assert recoveries_ms(run(np.zeros(6_000, np.uint8)), 200.0, 2_000.0) == [29.0, 29.0]
    # Where the primary never answered there is nothing to come back to.
    assert recoveries_ms(run(np.ones(6_000, np.uint8)), 200.0, 2_000.0) == [1_800.0, 1_800.0]
