"""The constructor's signature, its docstring and the table of options say the same."""

import inspect
import re

import engine
from engine._common.options import OPTIONS

PARTS = {"primary", "fallback", "default", "features", "monitor", "version", "warmup"}


def entries(doc):
    """The entries of a docstring's Args section: name -> text, white space as single blanks."""
    section = inspect.cleandoc(doc).split("Args:\n")[1].split("\n\n")[0]
    found = {}
    for entry in re.split(r"\n    (?=\w)", "\n" + section):
        names, _, text = entry.partition(": ")
        found |= {name: " ".join(text.split()) for name in names.split(", ") if name.strip()}
    return {name.strip(): text for name, text in found.items()}


def test_the_constructor_takes_the_parts_and_the_options():
    taken = inspect.signature(engine.Engine).parameters
    assert set(taken) == PARTS | set(OPTIONS)
    assert [name for name in taken if name in OPTIONS] == list(OPTIONS)
    assert {name: taken[name].default for name in OPTIONS} == {
        name: option.default for name, option in OPTIONS.items()
    }


def test_the_docstring_explains_each_argument_with_the_tables_words():
    explained = entries(engine.Engine.__doc__)
    assert set(explained) == set(inspect.signature(engine.Engine).parameters)
    for name, option in OPTIONS.items():
        assert explained[name].startswith(option.meaning), name
