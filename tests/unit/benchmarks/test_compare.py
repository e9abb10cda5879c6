"""`python -m benchmarks compare`: ratios, and which of them left the spread of their repeats."""

import json

import pytest
from benchmarks import compare
from benchmarks.__main__ import main


def result(metrics, spread=None, rivals=None, **conditions):
    conditions = {"cpu": "a cpu", **conditions} | ({"spread": spread} if spread is not None else {})
    return {"name": "case", "metrics": metrics, "rivals": rivals or {}, "conditions": conditions}


def verdict(before, after):
    (change,) = compare.changes(before, after)
    return change.verdict


def test_a_figure_that_left_its_spread_is_outside():
    before = result({"us": 1.0}, {"engine": {"us": [0.9, 1.2]}})
    assert verdict(before, result({"us": 1.3})) == compare.OUTSIDE
    assert verdict(before, result({"us": 1.2})) == compare.INSIDE
    # Today's repeats reach into the former's.
    assert verdict(before, result({"us": 1.3}, {"engine": {"us": [1.1, 1.4]}})) == compare.INSIDE
    assert verdict(before, result({"us": 0.5}, {"engine": {"us": [0.4, 0.6]}})) == compare.OUTSIDE


def test_a_figure_without_a_spread_is_neither():
    assert verdict(result({"us": 1.0}), result({"us": 2.0})) == compare.UNKNOWN


def test_a_spread_of_one_side_is_enough():
    assert (
        verdict(result({"us": 1.0}), result({"us": 2.0}, {"engine": {"us": [1.9, 2.1]}})) == compare.OUTSIDE
    )
    assert verdict(result({"us": 1.0}), result({"us": 2.0}, {"engine": {"us": [0.9, 2.1]}})) == compare.INSIDE


@pytest.mark.parametrize(
    "spread",
    [{"engine": {"native_us": [1.0, 2.0]}}, {"native_us": [1.0, 2.0]}, {"native": {"us": [1.0, 2.0]}}],
)
def test_every_form_of_spread_that_a_case_stores_is_read(spread):
    assert compare.spread_of(result({"native_us": 1.5}, spread), "native_us") == (1.0, 2.0)


def test_a_spread_of_something_else_is_none():
    assert compare.spread_of(result({"us_p50": 1.5}, {"engine": {"us": [1.0, 2.0]}}), "us_p50") is None


def test_the_order_is_outside_then_unknown_then_inside_and_by_size():
    spread = {"engine": {"a": [1.0, 1.0], "b": [1.0, 1.0], "c": [0.5, 2.0]}}
    before = result({"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0, "e": 1.0, "zero": 0.0}, spread)
    after = result({"a": 1.1, "b": 0.5, "c": 1.9, "d": 1.2, "e": 9.0, "zero": 1.0, "new": 1.0})
    assert [change.key for change in compare.changes(before, after)] == ["b", "a", "zero", "e", "d", "c"]


def test_the_report_says_what_the_machine_did():
    before = {"case": result({"us": 1.0}, rivals={"r": {"us": 2.0, "ms": 1.0}}), "old": result({})}
    after = {"case": result({"us": 3.0}, rivals={"r": {"us": 3.0, "ms": 1.5}}, cores=4), "young": result({})}
    text = compare.report(before, after, "v1")
    assert "1 figures of 1 cases against v1" in text
    assert "1.500 of then; cores: None then, 4 now" in text
    assert "young is new" in text
    assert "old is gone" in text


def test_the_committed_results_compare_with_themselves(root, capsys):
    if not (root / ".git").exists():
        pytest.skip("not a git checkout")
    assert main(["compare", "HEAD"]) == 0
    assert "overhead predict_us_p50" in capsys.readouterr().out


def test_other_results_may_be_compared(root, tmp_path, capsys):
    if not (root / ".git").exists():
        pytest.skip("not a git checkout")
    (committed,) = compare.results_at("HEAD").keys() & {"overhead"}
    made = compare.results_at("HEAD")[committed]
    made["metrics"]["predict_us_p50"] *= 2
    made["conditions"].pop("spread", None)
    (tmp_path / "overhead.json").write_text(json.dumps(made))
    assert main(["compare", "HEAD", "--results", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.index("outside (1)") < out.index("2.000  overhead predict_us_p50") < out.index("inside (")


def test_an_unknown_revision_is_refused(root, capsys):
    if not (root / ".git").exists():
        pytest.skip("not a git checkout")
    with pytest.raises(SystemExit):
        main(["compare", "no-such-revision"])
    assert "no-such-revision" in capsys.readouterr().err
