"""`engine materialize`: bring the views that a Python file defines into its online store.

The definitions are code and the file is imported, so run it only where its author may run code.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

from engine._common.progress import Progress
from engine.errors import ConfigError
from engine.feature_store.definitions import FeatureView
from engine.feature_store.instants import time_range
from engine.feature_store.store import FeatureStore


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to a parser."""
    parser.add_argument(
        "definitions", help="a Python file or module that defines one FeatureStore and its FeatureViews"
    )
    parser.add_argument("views", nargs="*", metavar="VIEW", help="names of views; default: all of them")
    parser.add_argument(
        "--start", metavar="TIME", help="the first instant, ISO 8601 with a zone; default: everything"
    )
    parser.add_argument(
        "--end", metavar="TIME", help="the first instant that is left out, ISO 8601 with a zone; default: now"
    )
    parser.add_argument("--json", action="store_true", help="print a line of JSON for each view")


def main(chosen: argparse.Namespace) -> int:
    """Materialise the views one after the other. All of them are checked before the first is written. Returns 0."""
    time_range(chosen.start, chosen.end)
    store, views = load_definitions(chosen.definitions, chosen.views)
    for view in views:
        store._check(view, chosen.start, chosen.end)
    for view in views:
        with Progress(view.name, "rows") as progress:
            written = store.materialize(view, chosen.start, chosen.end, progress=progress)
        if chosen.json:
            print(json.dumps({"view": view.name, **asdict(written)}), flush=True)
            continue
        print(
            f"{view.name}: {written.rows:,} rows: {written.written:,} written, {written.same:,} there already, "
            f"{written.older:,} older than what is there, {written.resumed:,} done by an earlier run",
            flush=True,
        )
    return 0


def load_definitions(name: str, wanted: list[str]) -> tuple[FeatureStore, list[FeatureView]]:
    """The store and the views that a Python file or module defines.

    Args:
        name: the path of the file, or the name of the module. It is imported.
        wanted: names of views; none for all of them.

    Raises:
        ConfigError: there is no such file or module, it defines no or several stores, or no such view.
    """
    module = _imported(name)
    return _store(module, name), _views(module, wanted, name)


def _imported(name: str) -> ModuleType:
    path = Path(name)
    if path.suffix != ".py":
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise ConfigError(f"{name}: no such module, and no Python file: {error}") from None
    if not path.is_file():
        raise ConfigError(f"{name}: no such file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # As for a script, the modules beside it can be imported.
    sys.path.insert(0, str(path.resolve().parent))
    spec.loader.exec_module(module)
    return module


def _store(module: ModuleType, name: str) -> FeatureStore:
    stores = {id(value): value for value in vars(module).values() if isinstance(value, FeatureStore)}
    if len(stores) != 1:
        raise ConfigError(f"{name}: expected one FeatureStore among its names, found {len(stores)}")
    return next(iter(stores.values()))


def _views_in(values: Iterable[Any]) -> Iterator[FeatureView]:
    """The views among these values, and in the lists, tuples, sets and dicts among them."""
    for value in values:
        if isinstance(value, FeatureView):
            yield value
        elif isinstance(value, dict):
            yield from (part for part in value.values() if isinstance(part, FeatureView))
        elif isinstance(value, (list, tuple, set, frozenset)):
            yield from (part for part in value if isinstance(part, FeatureView))


def _views(module: ModuleType, wanted: list[str], name: str) -> list[FeatureView]:
    views: dict[str, FeatureView] = {}
    for view in _views_in(vars(module).values()):
        other = views.setdefault(view.name, view)
        if other != view or other.source.patterns != view.source.patterns:
            raise ConfigError(f"{name}: defines two views named {view.name!r}; rename one of them")
    unknown = [view for view in wanted if view not in views]
    if unknown or not views:
        there = ", ".join(sorted(views)) or "none"
        raise ConfigError(
            f"{name}: defines no view {unknown[0]!r}; there are: {there}"
            if unknown
            else f"{name}: defines no FeatureView"
        )
    return [views[view] for view in wanted] or list(views.values())
