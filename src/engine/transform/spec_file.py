"""Specs as JSON and YAML files.

A file is a list of features in the form of `Feature.to_json`. YAML is read as plain data: strings, numbers, booleans,
null, lists and mappings. Tags, anchors and aliases are refused, because a tag can construct objects and an alias can
make a small file huge. Size and depth are bounded, and a key given twice is refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from engine._common import optional
from engine.errors import ProgramError
from engine.transform.plan import NativeFunction
from engine.transform.sources import feature_from_json
from engine.transform.spec import Feature

BYTES_MAX = 4 << 20
DEPTH_MAX = 64
_SCALARS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null"))


def load_spec(path: str | os.PathLike[str], *, functions: Iterable[NativeFunction] = ()) -> list[Feature]:
    """Read the features that a .json, .yaml or .yml file lists, in output order.

        - {type: number, input: dep_delay, ops: [{op: impute, strategy: median}, standardise]}
        - {type: category, input: carrier, ops: [one_hot]}

    Args:
        path: of the file, at most 4 MiB of UTF-8, nested at most 64 deep.
        functions: the functions of your own that the file names.

    Raises:
        ProgramError: a file that is no spec; names the line or the feature, what was expected and what was got.
        MissingDependencyError: the file is YAML and PyYAML is not installed.
        OSError: the file cannot be read.
    """
    file = Path(path)
    known = {function.name: function for function in functions}
    readers = {".json": _json_entries, ".yaml": _yaml_entries, ".yml": _yaml_entries}
    if file.suffix not in readers:
        raise ProgramError(
            f"{file}: expected a spec as .json, .yaml or .yml, got {file.suffix or 'no suffix'!r}"
        )
    size = file.stat().st_size
    if size > BYTES_MAX:
        raise ProgramError(f"{file}: expected a spec of at most {BYTES_MAX} bytes, got {size}")
    features = []
    try:
        text = file.read_bytes().decode("utf-8")
        for place, entry in readers[file.suffix](text):
            try:
                features.append(feature_from_json(entry, known))
            except ProgramError as error:
                raise ProgramError(f"{place}: {error}") from None
    except UnicodeDecodeError as error:
        raise ProgramError(f"{file}: expected UTF-8: {error}") from None
    except RecursionError:
        raise ProgramError(f"{file}: nested too deeply") from None
    except ProgramError as error:
        raise ProgramError(f"{file}, {error}") from None
    return features


def _json_entries(text: str) -> Iterator[tuple[str, Any]]:
    """Yield each feature as JSON, and its place for errors. `_yaml_entries` does the same."""
    try:
        found = json.loads(text, object_pairs_hook=_distinct, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise ProgramError(f"line {error.lineno}: expected JSON: {error.msg}") from None
    except ValueError as error:
        raise ProgramError(f"{error}") from None
    if not isinstance(found, list):
        raise ProgramError(f"line 1: expected a list of features, got {_shown(found)}")
    return ((f"feature {i}", entry) for i, entry in enumerate(found))


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ProgramError(f"the key {twice!r} is given twice in {_shown(found)}")
    return found


def _refuse_constant(name: str) -> Any:
    raise ProgramError(f"expected a finite number, got {name}")


def _yaml_entries(text: str) -> Iterator[tuple[str, Any]]:
    yaml = optional.need("yaml", "a spec in YAML", "yaml")
    try:
        _check_events(yaml, text)
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if not isinstance(root, yaml.SequenceNode):
            raise ProgramError(f"line {_line(root)}: expected a list of features")
        return iter([(f"line {_line(node)}", _plain(yaml, loader, node)) for node in root.value])
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        words = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ProgramError(f"line {mark.line + 1 if mark else 1}: expected YAML: {words}") from None


def _check_events(yaml: Any, text: str) -> None:
    """Raise ProgramError for a tag, an anchor, an alias or too deep a nesting, before anything is built."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        place = f"line {event.start_mark.line + 1}"
        if getattr(event, "anchor", None) is not None:
            raise ProgramError(
                f"{place}: expected plain values, got the anchor or alias {event.anchor!r}; write it out"
            )
        if getattr(event, "tag", None) is not None:
            raise ProgramError(f"{place}: expected plain values, got the tag {event.tag!r}")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEPTH_MAX:
            raise ProgramError(f"{place}: expected at most {DEPTH_MAX} levels of nesting")


def _plain(yaml: Any, loader: Any, node: Any) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return [_plain(yaml, loader, part) for part in node.value]
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = _plain(yaml, loader, key_node)
            if not isinstance(key, str):
                raise ProgramError(f"line {_line(key_node)}: expected a key that is text, got {_shown(key)}")
            if key in found:
                raise ProgramError(f"line {_line(key_node)}: the key {key!r} is given twice")
            found[key] = _plain(yaml, loader, value_node)
        return found
    if node.tag not in _SCALARS:
        kind = node.tag.rsplit(":", 1)[-1]
        raise ProgramError(
            f"line {_line(node)}: expected text, a number, true, false or null, got the {kind} {node.value!r}; "
            f"put it in quotes if text is meant"
        )
    try:
        return loader.construct_object(node)
    except ValueError as error:
        raise ProgramError(f"line {_line(node)}: expected a number: {error}") from None


def _line(node: Any) -> int:
    return 1 if node is None else int(node.start_mark.line) + 1


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "an object"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
