"""`engine registry`: the registry from the command line, as tables for people or as JSON."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engine._common import durable
from engine.errors import RegistryError
from engine.registry.registry import INDEX, ModelRegistry
from engine.registry.versions import PRODUCTION, parse

FOLDER = "registry"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options and verbs of `engine registry`."""
    parser.add_argument(
        "--registry",
        default=os.environ.get("ENGINE_REGISTRY", FOLDER),
        metavar="DIR",
        help="folder of the registry; default: $ENGINE_REGISTRY, else 'registry'",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    verbs = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    listed = verbs.add_parser("list", help="list models, or the versions of one")
    listed.add_argument("name", nargs="?")
    show = verbs.add_parser("show", help="print the manifest of a version")
    show.add_argument("version", help="name@alias, name@7 or name@sha256:…")
    show.add_argument(
        "--diff", action="store_true", help="print the diff of the source files against their commit"
    )
    history = verbs.add_parser("history", help="print the audit log of a model")
    history.add_argument("name")
    diff = verbs.add_parser("diff", help="print the differences between two versions")
    diff.add_argument("one")
    diff.add_argument("other")
    promote = verbs.add_parser("promote", help="point an alias at a version")
    promote.add_argument("version", help="name@7, name@sha256:… or name@staging")
    rollback = verbs.add_parser("rollback", help="point an alias back at its previous version")
    rollback.add_argument("name")
    for flips in (promote, rollback):
        flips.add_argument("--alias", default=PRODUCTION, help=f"the alias; default: {PRODUCTION}")
        flips.add_argument("--note", default="", help="for the audit log")
    delete = verbs.add_parser("delete", help="delete a version; gc removes its files")
    delete.add_argument("version", help="name@7 or name@sha256:…")
    delete_alias = verbs.add_parser("delete-alias", help="delete an alias; the versions stay")
    delete_alias.add_argument("name", help="name@alias")
    tag = verbs.add_parser("tag", help="set, remove or print tags of a version")
    tag.add_argument("version", help="name@alias, name@7 or name@sha256:…")
    tag.add_argument(
        "tags", nargs="*", metavar="KEY=VALUE", help="tags to set; KEY= without a value removes one"
    )
    noted = verbs.add_parser("note", help="add a note about a version to the audit log")
    noted.add_argument("version", help="name@alias, name@7 or name@sha256:…")
    noted.add_argument("text")
    artifact = verbs.add_parser("artifact", help="list the artifacts of a version, or write one to a file")
    artifact.add_argument("version", help="name@alias, name@7 or name@sha256:…")
    artifact.add_argument("name", nargs="?", help="of the artifact")
    artifact.add_argument(
        "--out", type=Path, metavar="FILE", help="the file to write; default: the artifact's name"
    )
    search = verbs.add_parser("search", help="list versions by a text in names, tags and notes")
    search.add_argument("text", nargs="?", default="")
    search.add_argument(
        "--tag",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="only versions with this tag; may be repeated",
    )
    for logged in (delete, delete_alias, tag):
        logged.add_argument("--note", default="", help="for the audit log")
    verbs.add_parser("verify", help="read everything back against its digests")
    verbs.add_parser("gc", help="remove files that killed writers left")


def main(chosen: argparse.Namespace) -> int:
    """Run the parsed command. Return the exit status: 1 if `verify` found a problem. Raises RegistryError."""
    # A mistyped folder must not become a new registry.
    if not os.path.exists(os.path.join(chosen.registry, INDEX)):
        raise RegistryError(f"no registry at {chosen.registry!r}; say --registry DIR")
    with ModelRegistry(chosen.registry, code=False) as registry:
        return _COMMANDS[chosen.command](registry, chosen)


def _list(registry: ModelRegistry, chosen: argparse.Namespace) -> int:
    names = [chosen.name] if chosen.name else registry.names()
    rows: list[dict[str, Any]] = []
    for name in names:
        pointing: dict[int, list[str]] = {}
        for state in registry.aliases(name):
            pointing.setdefault(state.number, []).append(state.alias)
        versions = registry.versions(name)
        for version in versions if chosen.name else versions[-1:]:
            metrics = registry.resolve(version).metrics
            rows.append(
                {
                    "version": str(version),
                    "aliases": ", ".join(pointing.get(version.number, [])),
                    "created": _when(version.created_ns),
                    "digest": version.digest[:12],
                    "metrics": ", ".join(f"{key} {value:.6g}" for key, value in sorted(metrics.items())),
                }
            )
            if not chosen.name:
                rows[-1]["aliases"] = ", ".join(
                    f"{alias}: {number}" for number, aliases in sorted(pointing.items()) for alias in aliases
                )
    _table(rows, chosen)
    return 0


def _show(registry: ModelRegistry, chosen: argparse.Namespace) -> int:
    bundle = registry.resolve(chosen.version)
    if chosen.diff:
        print(bundle.diff, end="")
        return 0
    print(json.dumps({"registered": asdict(bundle.version), **bundle.manifest}, indent=1, sort_keys=True))
    return 0


def _history(registry: ModelRegistry, chosen: argparse.Namespace) -> int:
    rows = [
        {
            "when": _when(entry.at_ns),
            "action": entry.action,
            "alias": entry.alias or "",
            "before": entry.before if entry.before is not None else "",
            "after": entry.after,
            "generation": entry.generation if entry.generation is not None else "",
            "who": entry.who,
            "note": entry.note,
        }
        for entry in registry.history(chosen.name)
    ]
    _table(rows, chosen)
    return 0


def _diff(registry: ModelRegistry, chosen: argparse.Namespace) -> int:
    found = registry.diff(chosen.one, chosen.other)
    _table(
        [{"what": path, chosen.one: one, chosen.other: other} for path, (one, other) in found.items()], chosen
    )
    return 0


def _promote(registry: ModelRegistry, chosen: argparse.Namespace) -> int:
    version = registry.resolve(chosen.version).version
    state = registry.promote(version.name, version, chosen.alias, note=chosen.note)
    _say(asdict(state), f"{state.name}@{state.alias} is {version}, generation {state.generation}", chosen)
    return 0


def _rollback(registry: ModelRegistry, chosen: argparse.Namespace) -> int:
    state = registry.rollback(parse(chosen.name).name, chosen.alias, note=chosen.note)
    text = f"{state.name}@{state.alias} is {state.name}@{state.number} again, generation {state.generation}"
    _say(asdict(state), text, chosen)
    return 0


def _delete(registry: ModelRegistry, chosen: argparse.Namespace) -> int:
    version = registry.delete(chosen.version, note=chosen.note)
    _say(asdict(version), f"{version} is deleted; `engine registry gc` removes its files", chosen)
    return 0


def _delete_alias(registry: ModelRegistry, chosen: argparse.Namespace) -> int:
    asked = parse(chosen.name)
    if asked.alias is None or "@" not in chosen.name:
        raise RegistryError(f"expected name@alias, got {chosen.name!r}")
    state = registry.delete_alias(asked.name, asked.alias, note=chosen.note)
    _say(
        asdict(state),
        f"{state.name}@{state.alias} is deleted; it pointed at {state.name}@{state.number}",
        chosen,
    )
    return 0


def _tag(registry: ModelRegistry, chosen: argparse.Namespace) -> int:
    given = _pairs(chosen.tags)
    changes = {key: value or None for key, value in given.items()}
    found = (
        registry.set_tags(chosen.version, changes, note=chosen.note)
        if given
        else registry.tags(chosen.version)
    )
    _say(found, "\n".join(f"{key}={value}" for key, value in found.items()) or "no tags", chosen)
    return 0


def _note(registry: ModelRegistry, chosen: argparse.Namespace) -> int:
    registry.add_note(chosen.version, chosen.text)
    version = registry.resolve(chosen.version).version
    _say({"version": str(version), "note": chosen.text}, f"{version}: noted", chosen)
    return 0


def _artifact(registry: ModelRegistry, chosen: argparse.Namespace) -> int:
    bundle = registry.resolve(chosen.version)
    if chosen.name is None:
        sizes = {name: bundle.manifest["artifacts"][f"file:{name}"]["size"] for name in bundle.artifacts}
        _table([{"artifact": name, "bytes": size} for name, size in sizes.items()], chosen)
        return 0
    content = bundle.artifact(chosen.name)
    target = chosen.out or Path(chosen.name.rpartition("/")[2])
    if target.exists():
        raise RegistryError(f"{target}: is there already; say --out FILE")
    durable.write(target, content)
    _say(
        {"artifact": chosen.name, "output": str(target), "bytes": len(content)},
        f"{target}: {len(content):,} bytes",
        chosen,
    )
    return 0


def _search(registry: ModelRegistry, chosen: argparse.Namespace) -> int:
    rows = [
        {
            "version": str(version),
            "created": _when(version.created_ns),
            "tags": ", ".join(f"{key}={value}" for key, value in registry.tags(version).items()),
        }
        for version in registry.search(chosen.text, tags=_pairs(chosen.tag))
    ]
    _table(rows, chosen)
    return 0


def _pairs(words: Sequence[str]) -> dict[str, str]:
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise RegistryError(f"expected KEY=VALUE, got {word!r:.80}")
        found[key] = value
    return found


def _verify(registry: ModelRegistry, chosen: argparse.Namespace) -> int:
    found = registry.verify()
    lines = [f"{found.versions} versions, {found.blobs} blobs, {found.bytes:,} bytes read back"]
    lines += found.problems or ["all as registered"]
    _say(asdict(found), "\n".join(lines), chosen)
    return 1 if found.problems else 0


def _gc(registry: ModelRegistry, chosen: argparse.Namespace) -> int:
    found = registry.gc()
    text = f"removed {found.parts} temporary files and {found.orphans} orphans, {found.bytes:,} bytes"
    _say(asdict(found), text, chosen)
    return 0


_COMMANDS: dict[str, Callable[[ModelRegistry, argparse.Namespace], int]] = {
    "list": _list,
    "show": _show,
    "history": _history,
    "diff": _diff,
    "promote": _promote,
    "rollback": _rollback,
    "delete": _delete,
    "delete-alias": _delete_alias,
    "tag": _tag,
    "note": _note,
    "artifact": _artifact,
    "search": _search,
    "verify": _verify,
    "gc": _gc,
}


def _say(body: Mapping[str, Any], text: str, chosen: argparse.Namespace) -> None:
    print(json.dumps(body) if chosen.json else text)


def _table(rows: Sequence[Mapping[str, Any]], chosen: argparse.Namespace) -> None:
    if chosen.json:
        print(json.dumps(list(rows)))
        return
    if not rows:
        print("nothing")
        return
    heads = list(rows[0])
    cells = [heads, *([_short(row[head]) for head in heads] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(heads))]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _when(at_ns: int) -> str:
    return datetime.fromtimestamp(at_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S")
