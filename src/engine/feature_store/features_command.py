"""`engine features`: list, show and verify the views that a Python file defines, against their online store.

The definitions are code and the file is imported, so run it only where its author may run code.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engine._common import durable
from engine.errors import InputError, StoreError
from engine.feature_store.command import load_definitions
from engine.feature_store.definitions import FeatureView
from engine.feature_store.store import FeatureStore
from engine.feature_store.verification import SAMPLE_MAX, explained, metrics_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options and verbs of `engine features`."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    verbs = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    listed = verbs.add_parser("list", help="list the views, and which of them are online")
    show = verbs.add_parser("show", help="print a view: keys, features and their types, and what is online")
    verify = verbs.add_parser(
        "verify", help="compare online rows with the source; the exit status is 1 if any is served wrong"
    )
    for verb in (listed, show, verify):
        verb.add_argument(
            "definitions", help="a Python file or module that defines one FeatureStore and its FeatureViews"
        )
    show.add_argument("views", nargs=1, metavar="VIEW", help="the name of a view")
    verify.add_argument("views", nargs="*", metavar="VIEW", help="names of views; default: all of them")
    verify.add_argument(
        "--sample",
        type=int,
        default=10_000,
        metavar="ROWS",
        help="the most entities of a view; default: 10,000",
    )
    verify.add_argument("--seed", type=int, help="of the sample; default: another one each time")
    verify.add_argument(
        "--metrics", type=Path, metavar="FILE", help="write the outcome there too, in Prometheus' text format"
    )


def main(chosen: argparse.Namespace) -> int:
    """Run one verb. Returns the exit status: 1 if `verify` found rows that are served wrong, 0 otherwise."""
    store, views = load_definitions(chosen.definitions, getattr(chosen, "views", []))
    if chosen.command == "verify":
        return _verify(store, views, chosen)
    described = [_described(store, view) for view in views]
    if chosen.json:
        print(json.dumps(described if chosen.command == "list" else described[0], indent=2))
    elif chosen.command == "list":
        _print_list(described)
    else:
        _print_view(described[0])
    return 0


def _verify(store: FeatureStore, views: list[FeatureView], chosen: argparse.Namespace) -> int:
    if not 1 <= chosen.sample <= SAMPLE_MAX:
        raise InputError(f"--sample: expected 1 to {SAMPLE_MAX:,}, got {chosen.sample}")
    outcomes = []
    for view in views:
        outcome = store.verify(view, chosen.sample, seed=chosen.seed)
        outcomes.append(outcome)
        if chosen.json:
            print(json.dumps({**asdict(outcome), "ok": outcome.ok}, default=str), flush=True)
        else:
            print("\n".join(explained(outcome)), flush=True)
    if chosen.metrics is not None:
        # Whole or not at all, because it is read at any moment.
        durable.write(chosen.metrics, metrics_text(outcomes).encode())
    return 0 if all(outcome.ok for outcome in outcomes) else 1


def _described(store: FeatureStore, view: FeatureView) -> dict[str, Any]:
    """A view as JSON-able values."""
    noted = store.online.note(f"definition:{view.online_name}")
    schemas = store.online.schemas(view.online_name)
    version = view.as_stored.version
    online = "no" if not schemas else "yes"
    if noted is not None and noted != version.encode():
        online = "another definition"
    try:
        kinds = dict(store._schema(view).features)
    except StoreError:
        # Neither the store nor the source is there; the definition is, and says no types.
        kinds = {}
    return {
        "view": view.name,
        "version": version,
        "keys": list(view.keys),
        "features": {name: kinds.get(name, "") for name in view.columns_out},
        "source": view.source.describe(),
        "ttl_s": None if view.ttl_ns is None else view.ttl_ns / 1e9,
        "as_of": view.as_of,
        "stored_as": view.online_name,
        "online": online,
        "schemas": [schema.tag.hex() for schema in schemas],
    }


def _print_list(described: list[dict[str, Any]]) -> None:
    rows = [("VIEW", "KEYS", "FEATURES", "TTL", "VERSION", "ONLINE")]
    for each in described:
        ttl = "-" if each["ttl_s"] is None else f"{each['ttl_s']:,.0f} s"
        rows.append(
            (
                each["view"],
                ", ".join(each["keys"]),
                str(len(each["features"])),
                ttl,
                each["version"][:12],
                each["online"],
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def _print_view(described: dict[str, Any]) -> None:
    for name, value in described.items():
        if name == "features":
            print("features:")
            for feature, kind in value.items():
                print(f"  {described['view']}__{feature}{f': {kind}' if kind else ''}")
        else:
            print(f"{name}: {', '.join(map(str, value)) if isinstance(value, list) else value}")
