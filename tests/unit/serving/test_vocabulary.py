"""Python and the native core have the same words for the same codes, and an import says where they do not."""

from types import SimpleNamespace

import pytest

from engine._common import vocabulary
from engine.serving._deployment import _check_vocabulary, _native_vocabulary


def words(**changed):
    names = ("SOURCES", "REASONS", "PRIORITIES")
    return SimpleNamespace(**{name: changed.get(name, getattr(vocabulary, name)) for name in names})


def test_the_native_core_has_the_same_words():
    native = _native_vocabulary()
    assert native["SOURCES"] == ("primary", "fallback", "default")
    assert native["REASONS"] == vocabulary.REASONS
    assert native["PRIORITIES"] == ("critical", "normal", "sheddable")


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        (
            {"SOURCES": ("primary", "default", "fallback")},
            "SOURCES and the native core differ at code 1: Python has default, C",
        ),
        (
            {"REASONS": vocabulary.REASONS[:-1]},
            "REASONS .* at code 16: Python has no word, C.. has default_error",
        ),
        ({"PRIORITIES": (*vocabulary.PRIORITIES, "idle")}, "at code 3: Python has idle, C.. has no word"),
    ],
)
def test_a_difference_is_an_import_error_that_names_it(changed, text):
    with pytest.raises(ImportError, match=text):
        _check_vocabulary(_native_vocabulary(), words(**changed))
