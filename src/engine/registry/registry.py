"""The registry: immutable versions by content, aliases that are flipped in one step, and a log of who did it."""

from __future__ import annotations

import contextlib
import functools
import getpass
import hashlib
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from engine.errors import RegistryError
from engine.registry import manifest as manifests
from engine.registry.building import Parts, built
from engine.registry.bundle import Bundle
from engine.registry.connection import is_missing
from engine.registry.files import PART, Blobs, explained
from engine.registry.index import Index
from engine.registry.notice_page import put_up
from engine.registry.versions import (
    DIGEST,
    PRODUCTION,
    AliasState,
    AuditEntry,
    Reference,
    Version,
    checked_alias,
    checked_name,
    parse,
)
from engine.registry.watch import Watch

INDEX = "registry.db"
NOTE_LENGTH_MAX = 4096


@dataclass(frozen=True, slots=True)
class Verified:
    """What `verify` looked at, and what is wrong: one sentence each, none where all is well."""

    versions: int
    blobs: int
    bytes: int
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Collected:
    """What `gc` removed: temporary files of writers that died, and blobs that no version refers to."""

    parts: int
    orphans: int
    bytes: int


class ModelRegistry:
    """Versions of models with all that serves them, in one folder.

    Thread-safe, and safe among the processes of one machine. A version is a bundle: primary, fallback, default,
    feature program, deadline policy, metrics, golden rows, monitor reference and lineage. It never changes.
    Everything is durable when the call returns; a process killed in the middle leaves the registry as it was before
    or as it is after, and at most files that `gc` removes.

    Args:
        path: the folder, made where it is missing. A folder that cannot be written can be read.
        default_name: the name of what is registered without one.
        trust: store and load pickles, and skops files of types that skops does not know (scikit-learn's trees). They
            run code when they are loaded: whoever can write to the folder then runs code in every service.
        code: a folder in the git repository whose commit and changes are recorded; the working folder unless given,
            False for none.

    Raises:
        RegistryError: the folder cannot be used, or holds something else.

    >>> import tempfile, pathlib
    >>> registry = ModelRegistry(tempfile.mkdtemp())
    >>> registry.names()
    []
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        default_name: str = "model",
        trust: bool = False,
        code: str | os.PathLike[str] | bool = True,
    ) -> None:
        self.path = Path(path).absolute()
        self.default_name = checked_name(default_name)
        self.trust = trust
        self._code = Path.cwd() if code is True else Path(code) if code else None
        index = self.path / INDEX
        create = is_missing(index)
        if create:
            _require_fresh(self.path)
        self._blobs = Blobs(self.path, create=create)
        self._index = Index(index, create=create)
        self._manifests: dict[str, dict[str, Any]] = {}

    def register(
        self,
        model: Any,
        metrics: Mapping[str, float] | None = None,
        *,
        name: str | None = None,
        fallback: Any = None,
        default: Any = None,
        program: Any = None,
        golden: Any = None,
        reference: Any = None,
        policy: Mapping[str, Any] | None = None,
        lineage: Mapping[str, Any] | None = None,
        note: str = "",
    ) -> Version:
        """Stores a version. Durable on return. Registering the same bundle again gives the version that it has.

        Parts that must fit together are loaded from the bytes that were stored and tried: with a fallback, a program
        or golden rows the models' widths and the golden answers are checked. A primary alone is recognised by its
        content and stored.

        Args:
            model: the primary: a path (LightGBM text, XGBoost JSON or UBJSON, CatBoost JSON, ONNX, skops), the
                bytes of such a file, or a fitted object of lightgbm, xgboost, catboost or sklearn, which is saved in
                its library's own format.
            metrics: finite numbers by name.
            name: the model's name; the registry's default_name unless given.
            fallback: as model; must be native once loaded.
            default: a finite number, or one for each output.
            program: a FeatureProgram, the path of a saved one or its JSON.
            golden: (rows, values), or rows alone, whose values the stored primary then gives.
            reference: the monitor's reference: anything with `to_json()`, or plain JSON.
            policy: arguments of Engine by name, numbers and texts: deadline_ms, lane, batch_rows_max, executors,
                queue_rows_max, miss_rate, spin, priority, weight, on_error, allow_nonfinite, breaker.
            lineage: plain JSON about where it came from. `code` and `environment` are added unless they are in it.
            note: for the audit log.

        Raises:
            RegistryError: a part that cannot be stored or does not fit, a name that is not allowed, a full disk, a
                read-only folder. Nothing was registered then.
        """
        name = checked_name(name if name is not None else self.default_name)
        parts = Parts(model, fallback, default, program, golden, reference, policy, metrics, lineage)
        draft = built(name, parts, trust=self.trust, code=self._code)
        with self._blobs.shared():
            blobs = self._blobs.put(draft.contents)
            manifest = draft.manifest(blobs)
            digest = hashlib.sha256(manifest).hexdigest()
            return self._index.add_version(name, digest, manifest, blobs, _who(), _note(note))

    def promote(
        self,
        name: str,
        version: int | str | Version,
        alias: str = PRODUCTION,
        *,
        note: str = "",
        generation: int | None = None,
    ) -> AliasState:
        """Points an alias at a version, in one durable step; whoever follows the alias takes it up.

        Args:
            version: a Version, a number, or "7", "sha256:…" or another alias.
            generation: flip only if the alias is at this generation still; 0 means that it does not exist yet.

        Raises:
            RegistryError: no such version, or the generation is another.
        """
        checked_name(name)
        found = self._version(parse(version if isinstance(version, Version) else f"{name}@{version}"))[0]
        if found.name != name:
            raise RegistryError(f"{found} is not a version of {name!r}")
        return self._told(
            self._index.point(name, checked_alias(alias), found.number, _who(), _note(note), generation)
        )

    def rollback(
        self, name: str, alias: str = PRODUCTION, *, note: str = "", generation: int | None = None
    ) -> AliasState:
        """Points an alias back at the version before, in one durable step. Twice goes back two versions.

        Args:
            generation: only if the alias is at this generation still: two who see the same fault go back once.

        Raises:
            RegistryError: no such alias, no version before, or the generation is another.
        """
        return self._told(
            self._index.point_back(checked_name(name), checked_alias(alias), _who(), _note(note), generation)
        )

    def resolve(self, reference: str | Version) -> Bundle:
        """The bundle of `name@alias`, `name@7`, `name@sha256:…` or a Version. Raises RegistryError."""
        version, state = self._version(parse(reference))
        return self._bundle(version, state)

    def alias(self, name: str, alias: str = PRODUCTION) -> AliasState:
        """Where an alias points now. Raises RegistryError where there is none."""
        return self._index.alias(checked_name(name), checked_alias(alias))

    def names(self) -> list[str]:
        """Every name that has a version, sorted."""
        return self._index.names()

    def versions(self, name: str) -> list[Version]:
        """Every version of a name, oldest first. Raises RegistryError for an unknown name."""
        return self._index.versions(checked_name(name))

    def aliases(self, name: str) -> list[AliasState]:
        """Every alias of a name, sorted."""
        return self._index.aliases(checked_name(name))

    def history(self, name: str, alias: str | None = None) -> list[AuditEntry]:
        """What was done to a name, or to one alias of it, oldest first."""
        return self._index.history(checked_name(name), alias)

    def diff(self, one: str | Version, other: str | Version) -> dict[str, tuple[Any, Any]]:
        """What differs between two versions: a dotted path in the manifest to (in one, in other), None where absent."""
        first, second = (_flat(self.resolve(each).manifest) for each in (one, other))
        return {
            path: (first.get(path), second.get(path))
            for path in sorted(first.keys() | second.keys())
            if first.get(path) != second.get(path)
        }

    def watch(self, reference: str, *, generation: int = 0) -> Watch:
        """A `Watch` that says when an alias is flipped; it has a connection of its own.

        Args:
            reference: `name@alias`.
            generation: the one that is known already, and not news.
        """
        asked = parse(reference)
        if asked.alias is None:
            raise RegistryError(f"only an alias can be followed, got {reference!r}: a version never changes")
        return Watch(Index(self.path / INDEX, create=False), asked.name, asked.alias, generation=generation)

    def verify(self) -> Verified:
        """Reads everything back: the index, and each blob that a version needs against its digest."""
        problems = self._index.problems()
        versions = self._index.versions()
        sizes: dict[str, int] = {}
        for version in versions:
            try:
                needed = self._manifest(version, cached=False)["artifacts"]
            except RegistryError as error:
                problems.append(str(error))
                continue
            for role, part in needed.items():
                if part["digest"] in sizes:
                    continue
                try:
                    sizes[part["digest"]] = len(self._blobs.get(part["digest"], part["size"]))
                except RegistryError as error:
                    problems.append(f"{version} {role}: {error}")
        return Verified(len(versions), len(sizes), sum(sizes.values()), problems)

    def gc(self) -> Collected:
        """Removes what killed writers left: temporary files, and blobs that no version refers to.

        Waits for writers at work; none is ever robbed. Files of other names are left alone.
        """
        with self._blobs.alone():
            needed = self._index.blobs()
            found = list(self._blobs.listed())
            parts = [entry for entry in found if entry[0].endswith(PART)]
            orphans = [entry for entry in found if DIGEST.fullmatch(entry[0]) and entry[0] not in needed]
            self._blobs.remove([entry for entry, _ in (*parts, *orphans)])
        return Collected(len(parts), len(orphans), sum(size for _, size in (*parts, *orphans)))

    def close(self) -> None:
        """Gives the index's connection back; the next call opens another."""
        self._index.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"ModelRegistry({str(self.path)!r})"

    def _told(self, state: AliasState) -> AliasState:
        """Tells followers of a flip. Where that fails they find it in the index, a little later."""
        with contextlib.suppress(OSError, RegistryError):
            put_up(self.path, state.name, state.alias, lambda: self._index.alias(state.name, state.alias))
        return state

    def _version(self, asked: Reference) -> tuple[Version, AliasState | None]:
        if asked.alias is not None:
            state = self._index.alias(asked.name, asked.alias)
            return self._index.version(asked.name, state.number), state
        if asked.digest is not None:
            return self._index.version_by_digest(asked.name, asked.digest), None
        assert asked.number is not None, "a reference has an alias, a digest or a number"
        return self._index.version(asked.name, asked.number), None

    def _bundle(self, version: Version, state: AliasState | None) -> Bundle:
        return Bundle(
            version,
            self._manifest(version),
            self._blobs.get,
            alias=state.alias if state else None,
            generation=state.generation if state else None,
            trust=self.trust,
        )

    def _manifest(self, version: Version, *, cached: bool = True) -> dict[str, Any]:
        found = self._manifests.get(version.digest) if cached else None
        if found is None:
            found = manifests.read(self._index.manifest(version), version.name)
            if (
                len(self._manifests) >= 64
            ):  # versions that one process goes between; older ones are read again
                self._manifests.clear()
            self._manifests[version.digest] = found
        return found


def _require_fresh(path: Path) -> None:
    """Refuses to begin a registry where there is something already, a registry that lost its index above all: a new
    one would take every blob for rubbish."""
    blobs = path / "blobs"
    try:
        if blobs.is_dir():
            if left := sum(1 for _ in blobs.iterdir()):
                raise RegistryError(
                    f"{path}: {INDEX} is missing or empty, and {left} files in blobs/ belong to it; put it back from a "
                    f"copy, or choose another folder"
                )
        elif path.is_dir() and any(path.iterdir()):
            raise RegistryError(f"{path} is not empty and no registry: choose a folder of its own")
    except OSError as error:
        raise explained(f"registry {path}", error) from None


def _flat(body: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(body, Mapping) or (path and not body):
        return {path: body}
    found: dict[str, Any] = {}
    for key, value in body.items():
        found |= _flat(value, f"{path}.{key}" if path else str(key))
    return found


@functools.cache
def _host() -> tuple[str, str]:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container without an entry for its user
        user = f"uid{os.getuid()}"
    return user, socket.gethostname()


def _who() -> str:
    user, host = _host()
    return f"{user}@{host}:{os.getpid()}"


def _note(note: str) -> str:
    if len(note) > NOTE_LENGTH_MAX:
        raise RegistryError(f"a note may have {NOTE_LENGTH_MAX:,} characters, got {len(note):,}")
    return note
