"""The binding of the row codec: the bytes on disk, arguments that do not fit, and times at both ends of the clock."""

import numpy as np
import pytest

from engine.feature_store._codec import REASONS, Layout, Reader, merge, request_keys, supersedes

NS_MIN, NS_MAX = -(2**63) + 1, 2**63 - 1
LAYOUT = Layout(b"schema-1", ["int", "text"])


def packed(event_ns=1, created_ns=None, revision=3, number=258, text="ab"):
    created = None if created_ns is None else [created_ns]
    return LAYOUT.pack([event_ns], created, revision, [[number], [text]], [None, None])[0]


def test_a_row_has_the_bytes_that_version_0_1_0_wrote():
    assert packed(created_ns=2) == (
        b"EFB\x01schema-1"
        b"\x80\0\0\0\0\0\0\x01\x80\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03"
        b"\0\x02\x01\0\0\0\0\0\0\0\0\0\0\x02\0\0\0ab"
    )
    assert packed(event_ns=-1)[12:28] == b"\x7f\xff\xff\xff\xff\xff\xff\xff\0\0\0\0\0\0\0\0"
    assert LAYOUT.unpack(packed(created_ns=2)) == (1, 2, 3, [258, "ab"])
    nulls = LAYOUT.pack([1], None, 3, [[0], [None]], [[1], [1]])[0]
    assert nulls[36:] == b"\x03" + bytes(16)
    assert LAYOUT.unpack(nulls) == (1, None, 3, [None, None])


@pytest.mark.parametrize(
    ("columns", "nulls", "message"),
    [
        ([[1, 2], ["a"]], [None, None], "columns are equally long"),
        ([[1], ["a", "b"]], [None, None], "columns are equally long"),
        ([[1], ["a"]], [[1, 0], None], "columns are equally long"),
        ([[1]], [None], "expected 2 columns and as many masks, got 1 and 1"),
        ([[1], ["a"]], [None], "expected 2 columns and as many masks, got 2 and 1"),
    ],
)
def test_columns_that_do_not_fit_the_layout_are_refused(columns, nulls, message):
    with pytest.raises(ValueError, match=message):
        LAYOUT.pack([1], None, 0, columns, nulls)


def test_event_and_created_times_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="equally long"):
        LAYOUT.pack([1], [1, 2], 0, [[1], ["a"]], [None, None])
    with pytest.raises(ValueError, match="equally long"):
        LAYOUT.pack([[1]], None, 0, [[1], ["a"]], [None, None])


def test_a_layout_that_makes_no_sense_is_refused():
    for tag, kinds in ((b"short", ["int"]), (b"schema-1", []), (b"schema-1", ["int"] * 1025)):
        with pytest.raises(ValueError, match="a tag of 8 bytes and 1 to 1,024 columns"):
            Layout(tag, kinds)
    with pytest.raises(ValueError, match="a kind is one of bool, int, float, text, time, got 'double'"):
        Layout(b"schema-1", ["double"])


def test_a_new_row_that_is_no_row_is_refused():
    for new in (b"", b"EFB\x01", b"x" * 100):
        with pytest.raises(ValueError, match="the new bytes are no row"):
            supersedes(new, packed())


def test_a_text_that_is_no_utf8_is_foreign():
    assert LAYOUT.unpack(packed()[:-2] + b"\xff\xfe") == "foreign"


@pytest.mark.parametrize(
    ("event_ns", "now_ns", "found"),
    [(100, 110, True), (100, 111, False), (100, 0, True), (NS_MIN, NS_MAX, False), (NS_MAX, NS_MIN, True)],
)
def test_a_row_expires_after_its_ttl_at_any_time_of_the_clock(event_ns, now_ns, found):
    reader = Reader(b"v\0", [("k", "text")], LAYOUT, [("v__x", 0)], 10)
    counts = [0] * len(REASONS)
    requests = ({"k": "a"},)
    keys = request_keys((reader,), requests)
    [(out, missing)] = merge((reader,), requests, keys, [packed(event_ns=event_ns)], now_ns, counts)
    assert (out["v__x"], missing) == ((258, ()) if found else (None, ("v__x",)))
    assert counts[REASONS.index("found" if found else "expired")] == 1


def test_values_of_other_arrays_are_converted():
    narrow = LAYOUT.pack(np.array([1], np.int32), None, 3, [np.array([258], np.int16), ["ab"]], [None, None])[
        0
    ]
    assert narrow == packed()
