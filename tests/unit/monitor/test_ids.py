import numpy as np
import pytest

from engine.errors import MonitorError
from engine.monitor import ModelMonitor, Reference
from engine.monitor._ids import WideIds

# float32 holds 2^24 and 2^24 + 2; 2^24 + 1 is rounded to 2^24.
A, B, C = 1 << 24, (1 << 24) + 1, (1 << 24) + 2


def test_ids_that_float32_does_not_hold_have_codes_of_their_own():
    ids = WideIds.of(np.array([A, B, B, C, (1 << 60) + 1, 5]))
    assert dict(ids) == {B: -8388608.0, (1 << 60) + 1: -8388609.0}
    assert [ids.code(value) for value in (5, 5.5, A, B, float(B), np.int64(B), (1 << 60) + 3)] == [
        5.0, 5.5, A, -8388608.0, -8388608.0, -8388608.0, -2.0,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "values",
    [
        np.array([A, B, 7], dtype=np.int64),
        np.array([A, B, 7], dtype=np.uint64),
        np.array([A, B, 7], dtype=np.float64),
        np.array([A, B, 7], dtype=object),
    ],
)
def test_columns_of_any_kind_give_the_same_codes(values):
    ids = WideIds.of(values)
    assert dict(ids) == {B: -8388608.0}
    assert ids.codes(values, values.astype(np.float32)).tolist() == [A, -8388608.0, 7.0]


def test_missing_infinite_and_other_values_are_no_ids():
    values = np.array([np.nan, np.inf, -np.inf, 0.1, 2.0**127], dtype=np.float64)
    assert WideIds.of(values) == {}
    assert WideIds.of(np.array([None, "x", 1e300], dtype=object)) == {int(1e300): -8388608.0}


def reference():
    ids = np.array([A, B, B, C] * 100)
    return Reference.fit({"customer": ids, "x": np.arange(400.0)}, categorical=["customer"])


def test_every_form_of_a_row_gives_the_same_code():
    made = reference()
    for row in ({"customer": B, "x": 1.0}, [B, 1.0], [float(B), 1.0], np.array([B, 1]), np.array([B, 1.0])):
        assert made.row(row).tolist() == [-8388608.0, 1.0]
        assert made.matrix([row]).tolist() == [[-8388608.0, 1.0]]
    assert np.isnan(made.row({"customer": None, "x": 1.0})[0])
    for table in (
        {"customer": np.array([B, A, B + 4]), "x": np.ones(3)},
        np.array([[B, 1], [A, 1], [B + 4, 1]]),
    ):
        assert made.matrix(table)[:, 0].tolist() == [-8388608.0, A, -2.0]
    with pytest.raises(MonitorError, match="feature 'customer': expected a number or None, got 'red'"):
        made.row({"customer": "red"})
    with pytest.raises(MonitorError, match="feature 'customer': expected numbers"):
        made.matrix({"customer": ["red"], "x": [1.0]})


def test_a_reference_with_ids_reads_back_and_names_its_bins():
    made = reference()
    (customer, _) = made.features
    assert customer.counts.tolist() == [200, 100, 100]
    assert customer.bin_names() == [str(B), str(A), str(C)]
    again = Reference.from_json(made.to_json())
    assert again.to_json() == made.to_json()
    assert again.row([B, 1.0]).tolist() == made.row([B, 1.0]).tolist()


def test_two_ids_that_change_places_are_seen():
    rng = np.random.default_rng(0)
    made = Reference.fit({"customer": rng.choice([A, B], 2000, p=[0.9, 0.1])}, categorical=["customer"])
    with ModelMonitor(made, handlers=[], background=False) as monitor:
        monitor.input_distribution.update({"customer": rng.choice([A, B], 2000, p=[0.9, 0.1])})
        assert not monitor.input_distribution.drift_detected()
        monitor.input_distribution.update({"customer": rng.choice([A, B], 500, p=[0.1, 0.9])})
        assert monitor.input_distribution.drift_detected()


def test_an_engine_s_rounded_id_is_not_a_new_category():
    ids = [(1 << 24) + 1, (1 << 24) + 5]
    made = Reference.fit({"customer": np.array(ids * 100)}, categorical=["customer"])
    with ModelMonitor(made, handlers=[], background=False) as monitor:
        rows = np.array(ids * 100, dtype=np.float32)[:, None]
        monitor._sketch.push_rows(rows, np.zeros(200))
        monitor.check()
        assert monitor.input_distribution.columns()["customer"]["unseen_share"] == 0.0
        assert not monitor.input_distribution.drift_detected()
