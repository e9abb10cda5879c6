"""Scorers of every version of the ABI, and models on a device: batches in flight, hung, given up."""

import ctypes
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest

import engine
from engine.errors import ConfigError
from engine.model import Model, _scorer, dense

HERE = Path(__file__).parent / "scorers"
NAME = b"engine.scorer.v1"  # kept: capsules borrow it
ROW = [1.0, 2.0]

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc compiles the example scorers")


@pytest.fixture
def built(tmp_path):
    """A function of a version: its example scorer as (library, capsule)."""

    def build(abi):
        path = tmp_path / f"abi{abi}.so"
        flags = ["-std=c11", "-D_GNU_SOURCE", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-pthread"]
        subprocess.run(
            ["gcc", *flags, f"-I{engine.get_include()}", str(HERE / f"abi{abi}.c"), "-o", str(path)],
            check=True,
        )
        library = ctypes.CDLL(str(path))
        library.make.restype = ctypes.c_void_p
        return library, capsule_of(library.make())

    return build


def capsule_of(address):
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    return new(address, NAME, None)


def served(capsule, **options):
    fallback = dense([[[1.0], [1.0]]], [[1000.0]])  # the sum of the row plus 1000
    eng = engine.Engine(Model(capsule, format="example", digest=""), fallback, -1.0, lane="batch", **options)
    assert eng.wait_ready(20)
    return eng


@pytest.mark.parametrize(("abi", "value"), [(1, 103.0), (2, 203.0), (3, 303.0)])
def test_scorers_of_every_version_serve(built, abi, value):
    _, capsule = built(abi)
    assert _scorer.score(capsule, [ROW, ROW]).tolist() == [value, value]
    with served(capsule, deadline_ms=5_000) as eng:
        answers = [eng.predict(ROW) for _ in range(50)]
        assert {(answer.value, answer.source) for answer in answers} == {(value, "primary")}
        assert eng.stats()["executors"]["seats"] == (4 if abi == 3 else 0)


def test_facts_of_a_scorer_tell_of_its_seats(built):
    assert _scorer.describe(built(3)[1])["in_flight_max"] == 4
    assert _scorer.describe(built(3)[1])["rows_max"] == 8
    assert _scorer.describe(built(2)[1])["in_flight_max"] == 0
    assert _scorer.describe(built(2)[1])["stops"]
    assert not _scorer.describe(built(1)[1])["stops"]


def ask(eng, each, found):
    for _ in range(each):
        found.append(eng.predict(ROW))


def test_one_thread_has_several_batches_in_flight(built):
    library, capsule = built(3)
    library.counts.restype = ctypes.POINTER(ctypes.c_uint64)
    with served(capsule, deadline_ms=10_000, executors=1) as eng:
        calls = library.counts()[2]  # the warm-up's
        found = []
        callers = [threading.Thread(target=ask, args=(eng, 20, found)) for _ in range(12)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        assert {(answer.value, answer.source) for answer in found} == {(303.0, "primary")}
        batches, most, called, _ = library.counts()[:4]
        assert batches > 0
        assert 1 < most <= 4
        assert called == calls
        assert eng.stats()["executors"]["replaced"] == 0


def test_a_hung_device_costs_seats_and_no_thread_and_comes_back(built):
    library, capsule = built(3)
    with served(capsule, deadline_ms=50, executors=1, breaker={"rest_ms": 5}) as eng:
        library.hang(1)
        for _ in range(6):
            answer = eng.predict(ROW)
            assert answer.source != "primary"
            assert answer.reason in ("timeout", "stalled", "breaker_open", "late", "no_time")
        until = time.monotonic() + 20
        while eng.stats()["executors"]["abandoned"] == 0 and time.monotonic() < until:
            eng.predict(ROW)
        assert eng.stats()["executors"]["abandoned"] > 0
        library.hang(0)
        until = time.monotonic() + 20
        while eng.predict(ROW, deadline_ms=1_000).source != "primary" and time.monotonic() < until:
            time.sleep(0.005)
        assert eng.predict(ROW, deadline_ms=1_000).value == 303.0
        assert eng.stats()["executors"]["replaced"] == 0


def test_close_returns_with_batches_in_flight(built):
    library, capsule = built(3)
    eng = served(capsule, deadline_ms=3_600_000, executors=1)
    library.hang(1)
    found = []
    callers = [threading.Thread(target=ask, args=(eng, 1, found)) for _ in range(3)]
    for caller in callers:
        caller.start()
    library.counts.restype = ctypes.POINTER(ctypes.c_uint64)
    until = time.monotonic() + 20
    while library.counts()[0] == 0 and time.monotonic() < until:
        time.sleep(0.001)
    eng.close(timeout_s=0.05)
    for caller in callers:
        caller.join(20)
    assert {answer.reason for answer in found} <= {"closing", "stalled"}
    assert {answer.value for answer in found} == {1003.0}
    library.hang(0)


class Scorer(ctypes.Structure):
    """engine_scorer of ABI 3."""

    _fields_ = [
        ("abi", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("n_features", ctypes.c_uint32),
        ("n_outputs", ctypes.c_uint32),
        ("ctx", ctypes.c_void_p),
        *[
            (name, ctypes.c_void_p)
            for name in ("score", "score_f64", "retain", "release", "score_until", "score_until_f64")
        ],
        *[(name, ctypes.c_void_p) for name in ("begin", "begin_f64", "poll", "abandon")],
        ("in_flight_max", ctypes.c_uint32),
        ("rows_max", ctypes.c_uint32),
    ]


SOUND = {
    "abi": 3,
    "flags": 2,
    "n_features": 2,
    "n_outputs": 1,
    "score": 1,
    "begin": 1,
    "poll": 1,
    "abandon": 1,
    "in_flight_max": 2,
    "rows_max": 4,
}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"score": None}, "needs a score function"),
        ({"poll": None}, "needs poll and abandon too"),
        ({"abandon": None}, "needs poll and abandon too"),
        ({"begin": None}, "belong to a scorer that has begin"),
        ({"in_flight_max": 0}, "in_flight_max is 0"),
        ({"rows_max": 0}, "rows_max is 0"),
        ({"flags": 0}, "must be ENGINE_SCORER_REENTRANT"),
        ({"flags": 3}, "must not take the GIL"),
        ({"score_f64": 1}, "needs begin_f64 where it has score_f64"),
        ({"begin_f64": 1}, "needs begin_f64 where it has score_f64, and only there"),
        ({"n_outputs": 0}, "at least one output"),
    ],
)
def test_a_scorer_that_contradicts_itself_is_refused(change, expected):
    struct = Scorer(**{**SOUND, **change})
    with pytest.raises(ConfigError, match=expected):
        _scorer.describe(capsule_of(ctypes.addressof(struct)))
