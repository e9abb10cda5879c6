"""Words of a command line in any order: options stand before or after the verb, and before or after a sub-command.

argparse gives an option to the parser that reads its part of the line. So the words are put into the order that it
expects, before it sees them: options of a parser before its sub-command, those of the sub-command behind it.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence


def verb_at(
    words: Sequence[str], place: int, parser: argparse.ArgumentParser, verbs: Collection[str]
) -> bool:
    """Return whether the word at `place` is the verb: every word before it is an option of its parser, or a value."""
    known = {**_options(parser), **_below(parser)}
    ended = 0
    for start, end, option in _groups(words[:place], known, verbs):
        if not option or words[start] == "--":
            return False
        ended = end
    return ended == place


def arranged(parser: argparse.ArgumentParser, words: Sequence[str]) -> list[str]:
    """Return the words in the order that argparse expects. Words that no parser knows keep their side.

    Args:
        parser: of the verb, with its options and sub-commands.
        words: all words but the verb.
    """
    commands = _commands(parser)
    own, below = _options(parser), _below(parser)
    known = {**below, **own}
    groups = list(_groups(words, known, commands))
    place = next((start for start, _, option in groups if not option and words[start] in commands), None)
    if place is None:
        return list(words)
    below = _options(commands[words[place]])
    before: list[str] = []
    after: list[str] = []
    for start, end, option in groups:
        if start == place:
            continue
        names = getattr(option, "option_strings", ())
        mine, others = own.keys() & names, below.keys() & names
        # An option of both, and a word of neither, keeps its side.
        late = bool(others) if bool(mine) != bool(others) else start > place
        (after if late else before).extend(words[start:end])
    return [*before, words[place], *arranged(commands[words[place]], after)]


def _groups(
    words: Sequence[str], known: Mapping[str, argparse.Action], commands: Collection[str]
) -> Iterator[tuple[int, int, argparse.Action | str | None]]:
    """Yield (first word, the one after the last, option) of each option with its values, and of each other word.

    The option is an action, the word itself if no parser knows it, and None for a word that is no option. The place
    after the last word may lie behind the end, where values are missing.
    """
    place = 0
    while place < len(words):
        word = words[place]
        if word == "--":  # every later word is a value
            yield place, len(words), None
            return
        if len(word) < 2 or not word.startswith("-") or _is_number(word):
            yield place, place + 1, None
            place += 1
            continue
        name, equals, _ = word.partition("=")
        action = known.get(name) or _abbreviated(name, known)
        end = place + 1
        if action is not None and not equals:
            end += _n_values(action, words[end:], commands)
        yield place, end, action or word
        place = end


def _n_values(action: argparse.Action, rest: Sequence[str], commands: Collection[str]) -> int:
    nargs = action.nargs
    if isinstance(nargs, int):
        return nargs
    if nargs is None:
        return 1
    free = sum(
        1
        for _ in itertools.takewhile(
            lambda word: (not word.startswith("-") or _is_number(word)) and word not in commands, rest
        )
    )
    return min(free, 1) if nargs == argparse.OPTIONAL else free


def _abbreviated(name: str, known: Mapping[str, argparse.Action]) -> argparse.Action | None:
    """Return the one option that a long name abbreviates, as argparse takes it."""
    found = {id(action): action for option, action in known.items() if option.startswith(name)}
    return next(iter(found.values())) if name.startswith("--") and len(found) == 1 else None


def _options(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    return {name: action for action in parser._actions for name in action.option_strings}


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _below(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    found: dict[str, argparse.Action] = {}
    for command in _commands(parser).values():
        found |= {**_options(command), **_below(command)}
    return found


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
