import pytest

from engine.monitor.report.status import RowClock, how_bad_of, percent, span, status, swaps


def alert(kind="input_drift", column="temp", row=100, severity="warning", **evidence):
    return {
        "kind": kind,
        "column": column,
        "severity": severity,
        "lasts": True,
        "message": "a message",
        "started_row": row,
        "detected_at": 5000.0,
        "ended_at": None,
        "evidence": evidence,
    }


def summary(alerts=(), slices=(), versions=(), reasons=(), rows=0, **more):
    return {
        "alerts": list(alerts),
        "answers": int(sum(sum(part[2:5]) for part in slices)),
        "rows": rows,
        "reference_rows": 1000,
        "inputs": {"temp": {}, "dewp": {}, "humid": {}},
        "outputs": {},
        "sources": {"slices": list(slices), "slice_versions": list(versions), "slice_reasons": list(reasons)},
        **more,
    }


# Four slices of 100 s and 100 answers each.
SLICES = [[1000.0 + 100 * k, 1100.0 + 100 * k, 90.0, 10.0, 0.0, 0.0] for k in range(4)]


@pytest.mark.parametrize(
    ("given", "level"),
    [
        (summary(), "quiet"),
        (summary(slices=SLICES, reference_rows=None), "learning"),
        (summary(slices=SLICES, rows=400), "ok"),
        (summary([alert()], SLICES, rows=400), "warning"),
        (summary([alert(), alert("late_share", "", severity="critical")], SLICES, rows=400), "critical"),
    ],
)
def test_a_model_has_one_status(given, level):
    assert status({**given, **({"reference_rows": None} if level == "learning" else {})}).level == level


def test_a_row_has_the_time_at_which_it_came():
    assert RowClock(summary(slices=SLICES, rows=400)).at(250) == 1250.0
    # 100 answers became the reference: row 0 is the answer 100.
    assert RowClock(summary(slices=SLICES, rows=300)).at(0) == 1100.0
    # Rows came without answers.
    assert RowClock(summary(slices=SLICES, rows=9000)).at(0) is None
    assert RowClock(summary(slices=SLICES, rows=400)).at(401) is None


def test_columns_that_changed_together_are_one_trouble():
    evidence = {"mean": 32.0, "mean_reference": 12.0, "std": 6.0, "std_reference": 5.0}
    made = summary(
        [
            alert(row=250, **evidence),
            alert(column="dewp", row=252, missing_share=0.02),
            alert(column="humid", row=2000),
        ],
        SLICES,
        rows=400,
    )
    found = status(made)
    assert [trouble.title for trouble in found.troubles] == [
        "2 inputs changed together: temp, dewp",
        "Input changed: humid",
    ]
    assert found.troubles[0].since_s == 1250.0
    assert found.troubles[0].how_bad == "temp: mean 32, was 12 (4.0 sd up)"
    assert found.since_s == 1250.0
    assert found.troubles[1].estimated is False


def test_a_swap_just_before_is_told_and_named_in_the_advice():
    versions = [{"m@1": 100.0}, {"m@1": 100.0}, {"m@1": 20.0, "m@2": 80.0}, {"m@2": 100.0}]
    made = summary(
        [alert("error_share", "", 210, "critical", share=0.2, budget=0.01)], SLICES, versions, rows=400
    )
    made["sources"]["slice_reasons"] = [{"ok": 100}] * 3 + [{"ok": 80, "primary_error": 20}]
    found = status(made)
    assert found.changes[0] == "Version m@2 took over from m@1, 10 s before “The model fails” began."
    assert found.advice[0].startswith("Roll back from m@2 to m@1")
    assert found.advice[1].startswith("The primary raises")
    assert "20 answers" in found.advice[1]
    assert swaps(made["sources"]) == [(1000.0, "m@1"), (1200.0, "m@2")]


def test_without_a_swap_the_version_is_cleared():
    made = summary([alert()], SLICES, [{"m@1": 100.0}] * 4, rows=400)
    assert (
        status(made).changes[0] == "No version was swapped near the beginning: m@1 answered before and after."
    )


def test_a_dead_feed_is_named():
    made = summary([alert(missing_share=1.0, missing_share_reference=0.0)], SLICES, rows=400)
    made["inputs"]["temp"] = {"missing_share": 1.0}
    assert any("No value comes any more in temp" in change for change in status(made).changes)


@pytest.mark.parametrize(
    ("evidence", "said"),
    [
        ({"share": 0.165, "budget": 0.05}, "16.5% of the answers, budget 5%"),
        ({"missing_share": 1.0, "missing_share_reference": 0.02}, "missing 100%, was 2%"),
        ({"unseen_share": 0.04, "codes": True}, "new categories 4%"),
        ({"mean": 5.0, "mean_reference": 5.0, "std": 9.0, "std_reference": 3.0}, "standard deviation 9, was 3"),
        ({"mean": 5e6, "mean_reference": 5e3, "std": 1.0, "std_reference": 10.0},
         "mean 5,000,000, was 5000 (499,500 sd up)"),
        ({"psi": 0.31, "codes": True}, "the mix of values moved, PSI 0.31"),
        ({}, "a message"),
    ],
)  # fmt: skip
def test_how_bad_is_said_in_figures(evidence, said):
    assert how_bad_of(alert(**evidence)) == said


def test_an_alert_of_an_unknown_kind_is_shown_with_its_message():
    found = status(summary([alert("frozen_value", "temp", 250)], SLICES, rows=400))
    assert found.troubles[0].title == "Frozen value: temp"
    assert found.troubles[0].how_bad == "a message"
    assert found.advice == ("Read the messages under Alerts.",)


def test_shares_and_spans_are_short():
    assert [percent(share) for share in (0.0, 1.0, 0.0371, 0.9997, 0.165)] == [
        "0%",
        "100%",
        "3.71%",
        "99.97%",
        "16.5%",
    ]
    assert [span(s) for s in (3, 119, 120, 7200, 86400, 172800)] == [
        "3 s",
        "119 s",
        "2 min",
        "2 h",
        "24 h",
        "2 days",
    ]
