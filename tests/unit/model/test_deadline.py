"""A scorer with a deadline: it gives up past it, and is the plain scorer otherwise."""

import ctypes
import time

import numpy as np
import pytest
from tests.unit.model.handmade_models import lightgbm_text, stump

from engine.errors import ConfigError, ModelError
from engine.model import _scorer, dense, load_model
from engine.model.readers.lightgbm import read_lightgbm

ROWS = np.array([[0.0, 0.0], [2.0, 0.0]], dtype=np.float32)


@pytest.fixture
def forest():
    return read_lightgbm(lightgbm_text([stump("1.5", 10)] * 40), "forty.txt")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_forest_gives_up_once_its_deadline_has_passed(forest, dtype):
    rows = ROWS.astype(dtype)
    assert _scorer.describe(forest.scorer)["stops"]
    with pytest.raises(ModelError, match="gave up on 2 rows: its deadline has passed"):
        _scorer.score(forest.scorer, rows, deadline_ns=time.monotonic_ns())
    in_an_hour = time.monotonic_ns() + 3_600 * 10**9
    assert _scorer.score(forest.scorer, rows, deadline_ns=in_an_hour).tolist() == [400.0, 800.0]


@pytest.mark.parametrize(
    "model", [dense([[[1.0], [1.0]]], [[0.5]]), load_model(lambda rows: rows[:, 0], n_features=2)]
)
def test_what_cannot_stop_scores_as_ever(model):
    assert not _scorer.describe(model.scorer)["stops"]
    assert _scorer.score(model.scorer, ROWS, deadline_ns=0).tolist() == model.predict(ROWS).tolist()


class ScorerOfAbi1(ctypes.Structure):
    """engine_scorer as modules built against the first version lay it out: nine members and then foreign memory."""

    _fields_ = [
        ("abi", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("n_features", ctypes.c_uint32),
        ("n_outputs", ctypes.c_uint32),
        ("ctx", ctypes.c_void_p),
        ("score", ctypes.c_void_p),
        ("score_f64", ctypes.c_void_p),
        ("retain", ctypes.c_void_p),
        ("release", ctypes.c_void_p),
        ("not_ours", ctypes.c_uint64 * 8),
    ]


def capsule_of(struct):
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    return new(ctypes.addressof(struct), NAME, None)


NAME = b"engine.scorer.v1"  # kept: the capsule borrows it
SCORE = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.POINTER(ctypes.c_float),
    ctypes.c_size_t,
    ctypes.c_size_t,
    ctypes.POINTER(ctypes.c_double),
)


def test_scorers_of_the_first_abi_are_still_read():
    @SCORE
    def score(ctx, rows, n_rows, row_stride, out):
        for r in range(n_rows):
            out[r] = rows[r * row_stride] + 1.0
        return 0

    struct = ScorerOfAbi1(
        abi=1, flags=0, n_features=2, n_outputs=1, score=ctypes.cast(score, ctypes.c_void_p).value
    )
    struct.not_ours[:] = [2**64 - 1] * 8  # an address that would crash if it were called
    capsule = capsule_of(struct)
    assert not _scorer.describe(capsule)["stops"]
    assert _scorer.score(capsule, ROWS).tolist() == [1.0, 3.0]
    assert _scorer.score(capsule, ROWS, deadline_ns=0).tolist() == [1.0, 3.0]


@pytest.mark.parametrize("abi", [0, 4])
def test_a_scorer_of_another_abi_is_refused(abi):
    struct = ScorerOfAbi1(abi=abi, n_features=2, n_outputs=1)
    with pytest.raises(ConfigError, match=f"expected a scorer of ABI 1 to 3, got {abi}"):
        _scorer.describe(capsule_of(struct))
