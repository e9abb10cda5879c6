"""Words of a command line in any order."""

import argparse

import pytest

from engine._common.command_line import arranged, verb_at

VERBS = ("score", "registry")


@pytest.fixture
def parser():
    """An option and a flag of the verb; sub-commands "list" and "promote" with options of their own."""
    made = argparse.ArgumentParser()
    made.add_argument("--folder")
    made.add_argument("--json", action="store_true")
    commands = made.add_subparsers(dest="command")
    commands.add_parser("list").add_argument("name", nargs="?")
    promote = commands.add_parser("promote")
    promote.add_argument("version")
    promote.add_argument("--alias")
    promote.add_argument("--past", type=int)
    return made


@pytest.mark.parametrize(
    "words",
    [
        "--folder f --json promote v --alias a",
        "promote --folder f v --json --alias a",
        "promote v --alias a --json --folder=f",
        "--alias a --folder f promote v --json",
        "--json --alias=a promote --fold f v",
        "--folder f promote --json --alias a -- v",
    ],
)
def test_options_stand_anywhere(parser, words):
    chosen = parser.parse_args(arranged(parser, words.split()))
    assert (chosen.command, chosen.folder, chosen.json) == ("promote", "f", True)
    assert (chosen.version, chosen.alias) == ("v", "a")


def test_a_value_that_is_called_like_a_command_stays_a_value(parser):
    chosen = parser.parse_args(
        arranged(parser, ["--folder", "list", "promote", "list", "--alias", "promote"])
    )
    assert (chosen.command, chosen.folder, chosen.version, chosen.alias) == (
        "promote",
        "list",
        "list",
        "promote",
    )
    assert parser.parse_args(arranged(parser, ["promote", "v", "--past", "-3"])).past == -3


def test_words_without_a_command_or_with_unknown_options_are_left_to_argparse(parser):
    assert arranged(parser, ["--json", "nothing"]) == ["--json", "nothing"]
    assert arranged(parser, ["--odd", "list", "--other"]) == ["--odd", "list", "--other"]
    assert arranged(parser, ["list", "-h"]) == ["list", "-h"]


@pytest.mark.parametrize(
    ("words", "place", "right"),
    [
        ("--json registry list", 1, True),
        ("--folder registry registry list", 1, False),
        ("--folder registry registry list", 2, True),
        ("--alias a registry promote", 2, True),
        ("other registry list", 1, False),
    ],
)
def test_the_verb_is_the_word_that_is_no_value(parser, words, place, right):
    assert verb_at(words.split(), place, parser, VERBS) is right
