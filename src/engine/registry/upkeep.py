"""Upkeep of a registry: reading everything back, and removing the files that killed writers left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from engine.errors import RegistryError
from engine.registry.files import PART, Blobs
from engine.registry.index import Index
from engine.registry.versions import DIGEST, Version


@dataclass(frozen=True, slots=True)
class Verified:
    """The result of `ModelRegistry.verify`.

    Attributes:
        versions, blobs, bytes: how many were read back.
        problems: one sentence each; empty if all is as registered.
    """

    versions: int
    blobs: int
    bytes: int
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Collected:
    """The result of `ModelRegistry.gc`.

    Attributes:
        parts: temporary files of dead writers that were removed.
        orphans: blobs that no version refers to and that were removed.
        bytes: their sizes together.
    """

    parts: int
    orphans: int
    bytes: int


def verify(index: Index, blobs: Blobs, manifest_of: Callable[[Version], dict[str, Any]]) -> Verified:
    """Read back the index, every manifest, and every blob that a version needs, each once."""
    problems = index.problems()
    versions = index.versions()
    sizes: dict[str, int] = {}
    for version in versions:
        try:
            needed = manifest_of(version)["artifacts"]
        except RegistryError as error:
            problems.append(str(error))
            continue
        for role, part in needed.items():
            if part["digest"] in sizes:
                continue
            try:
                sizes[part["digest"]] = len(blobs.get(part["digest"], part["size"]))
            except RegistryError as error:
                problems.append(f"{version} {role}: {error}")
    return Verified(len(versions), len(sizes), sum(sizes.values()), problems)


def gc(index: Index, blobs: Blobs) -> Collected:
    """Remove temporary files and orphans, while no writer is at work."""
    with blobs.alone():
        needed = index.blobs()
        found = list(blobs.listed())
        parts = [entry for entry in found if entry[0].endswith(PART)]
        orphans = [entry for entry in found if DIGEST.fullmatch(entry[0]) and entry[0] not in needed]
        blobs.remove([entry for entry, _ in (*parts, *orphans)])
    return Collected(len(parts), len(orphans), sum(size for _, size in (*parts, *orphans)))
