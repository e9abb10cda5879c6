"""A primary that fails says why: in the counters, and in the error of a swap."""

import pytest

import engine
from engine.errors import ModelError


def refuses(rows):
    raise KeyError("no such column")


def test_the_last_error_of_the_primary_is_kept():
    good = engine.load_model(lambda rows: rows[:, 0], n_features=2)
    with engine.Engine(good, default=0.0, deadline_ms=5000) as eng:
        assert eng.stats()["last_error"] is None
    bad = engine.load_model(refuses, n_features=2)
    with engine.Engine(bad, default=0.0, deadline_ms=5000) as eng:
        assert eng.predict([1.0, 2.0]).source == "default"
        assert "in refuses" in eng.stats()["last_error"]
        assert "KeyError: 'no such column'" in eng.stats()["last_error"]


def test_a_swap_shows_and_chains_the_cause():
    good = engine.load_model(lambda rows: rows[:, 0], n_features=2)
    with engine.Engine(good, default=0.0, deadline_ms=5000) as eng:
        with pytest.raises(
            ModelError, match="fails on its warm-up rows: KeyError: 'no such column'"
        ) as raised:
            eng.swap(engine.load_model(refuses, n_features=2))
        assert isinstance(raised.value.__cause__, KeyError)
        assert eng.predict([1.0, 2.0]).value == 1.0
