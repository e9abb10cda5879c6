"""The registry: immutable versions by content, aliases flipped in one step, and an audit log."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from engine._common.caller import who
from engine.errors import RegistryError
from engine.registry import manifest as manifests
from engine.registry import upkeep
from engine.registry.building import Parts, built
from engine.registry.bundle import Bundle
from engine.registry.connection import is_missing
from engine.registry.files import Blobs, explained
from engine.registry.index import Index
from engine.registry.notice_page import publish
from engine.registry.upkeep import Collected, Verified
from engine.registry.versions import (
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
TAG_KEY_LENGTH_MAX = 256
MANIFESTS_MAX = 64  # kept in memory


class ModelRegistry:
    """Versions of models with everything that serves them, in one folder.

    A version is a bundle: primary, fallback, default, feature program, deadline policy, metrics, golden rows, monitor
    reference and lineage. It never changes. Aliases such as `production` point at versions.

    Thread-safe, and safe among the processes of one machine. Every change is durable when the call returns. A process
    killed in the middle of a call leaves the registry as before or as after it, and at most files that `gc` removes.

    Args:
        path: the folder; made if it is missing. A folder that cannot be written can still be read.
        default_name: the name of versions registered without one.
        trust: store and load pickles, and skops files of types that skops does not know (scikit-learn's trees). Loading
            them runs code: anyone who can write to the folder then runs code in every service.
        code: a folder in the git repository whose commit and changes are recorded; by default the working folder, False
            for none.
        create: make a registry where there is none; False raises instead, and makes nothing.

    Raises:
        RegistryError: the folder cannot be used or holds something else, or there is no registry and not `create`.

    >>> import tempfile
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
        create: bool = True,
    ) -> None:
        self.path = Path(path).absolute()
        self.default_name = checked_name(default_name)
        self.trust = trust
        self._code = Path.cwd() if code is True else Path(code) if code else None
        index = self.path / INDEX
        missing = is_missing(index)
        if missing and not create:
            if (self.path / "blobs").is_dir():
                _require_fresh(self.path)
            raise RegistryError(
                f"no registry at {self.path}: {INDEX} is missing; check the path, or make one with ModelRegistry(path)"
            )
        with _one_maker(self.path) if missing else contextlib.nullcontext():
            missing = missing and is_missing(index)
            if missing:
                _require_fresh(self.path)
            self._blobs = Blobs(self.path, create=missing)
            self._index = Index(index, create=missing)
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
        classes: Sequence[Any] | None = None,
        artifacts: Mapping[str, bytes | str | os.PathLike[str]] | None = None,
        note: str = "",
    ) -> Version:
        """Store a version and return it. Durable on return.

        A bundle that is registered already keeps its version. Parts that must fit together are loaded from the stored
        bytes and tried: with a fallback, a program or golden rows, the widths and the golden answers are checked. A
        primary alone is recognised by its content and stored.

        Args:
            model: the primary: a path (LightGBM text, XGBoost JSON or UBJSON, CatBoost JSON, ONNX, skops), the bytes of
                such a file, or a fitted object of lightgbm, xgboost, catboost or sklearn. An object is saved in its
                library's own format.
            metrics: numbers by name; NaN and infinities are kept.
            name: the model's name: 1 to 128 of letters, digits, '.', '_', '-', and '/' between parts; by default the
                registry's default_name. Names that differ in case are different names.
            fallback: as `model`; it must be native once loaded.
            default: a finite number, or one for each output.
            program: a FeatureProgram, the path of a saved one, or its JSON.
            golden: (rows, values), or rows alone; the stored primary then gives the values.
            reference: the monitor's reference: an object with `to_json()`, or plain JSON.
            policy: options of Engine by name, numbers and texts: deadline_ms, lane, batch_rows_max, executors,
                queue_rows_max, miss_rate, spin, priority, weight, on_error, allow_nonfinite, breaker.
            lineage: plain JSON about the version's origin. `code` and `environment` are added unless given.
            classes: the labels that the answers stand for, texts, booleans or numbers, in the order of the outputs;
                None if the answers are numbers.
            artifacts: anything else that belongs to the version, as bytes or a path by name: "tokenizer.json". A
                folder stands for the files in it and below. `Bundle.artifact` gives them back.
            note: for the audit log, at most 4,096 characters.

        Raises:
            RegistryError: a part cannot be stored or does not fit, the name is not allowed, the disk is full, or the
                folder is read-only. Nothing is registered then.
        """
        name = checked_name(name if name is not None else self.default_name)
        parts = Parts(
            model, fallback, default, program, golden, reference, policy, metrics, lineage, classes, artifacts
        )
        draft = built(name, parts, trust=self.trust, code=self._code)
        with self._blobs.shared():
            blobs = self._blobs.put(draft.contents)
            manifest = draft.manifest(blobs)
            digest = hashlib.sha256(manifest).hexdigest()
            return self._index.add_version(name, digest, manifest, blobs, who(), _note(note))

    def promote(
        self,
        name: str,
        version: int | str | Version,
        alias: str = PRODUCTION,
        *,
        note: str = "",
        generation: int | None = None,
    ) -> AliasState:
        """Point an alias at a version, in one durable step, and return its new state. Followers take it up.

        Args:
            name: of the model.
            version: a Version, a number, "7", "sha256:…", or another alias.
            alias: "production" unless given; made if it is missing.
            note: for the audit log.
            generation: flip only if the alias is still at this generation; 0 if it must not exist yet.

        Raises:
            RegistryError: no such version, or the alias has moved to another generation.
        """
        checked_name(name)
        found = self._version(parse(version if isinstance(version, Version) else f"{name}@{version}"))[0]
        if found.name != name:
            raise RegistryError(f"{found} is not a version of {name!r}")
        return self._published(
            self._index.point(name, checked_alias(alias), found.number, who(), _note(note), generation)
        )

    def rollback(
        self, name: str, alias: str = PRODUCTION, *, note: str = "", generation: int | None = None
    ) -> AliasState:
        """Point an alias back at its previous version, in one durable step. Two calls go back two versions.

        Args:
            name, alias: `name@alias`.
            note: for the audit log.
            generation: roll back only if the alias is still at this generation, so that two callers who see the same
                fault go back once.

        Raises:
            RegistryError: no such alias, no previous version, or the alias has moved to another generation.
        """
        return self._published(
            self._index.point_back(checked_name(name), checked_alias(alias), who(), _note(note), generation)
        )

    def resolve(self, reference: str | Version) -> Bundle:
        """Return the bundle of `name@alias`, `name@7`, `name@sha256:…`, `name` (its production alias) or a Version.

        No artifact is read yet.

        Raises:
            RegistryError: no such version, or its manifest is damaged.
        """
        version, state = self._version(parse(reference))
        return self._bundle(version, state)

    def alias(self, name: str, alias: str = PRODUCTION) -> AliasState:
        """Return where an alias points now. Raises RegistryError if it does not exist."""
        return self._index.alias(checked_name(name), checked_alias(alias))

    def names(self) -> list[str]:
        """Return every name that has a version, sorted."""
        return self._index.names()

    def versions(self, name: str) -> list[Version]:
        """Return every version of a name, oldest first. Raises RegistryError for an unknown name."""
        return self._index.versions(checked_name(name))

    def aliases(self, name: str) -> list[AliasState]:
        """Return every alias of a name, sorted by alias."""
        return self._index.aliases(checked_name(name))

    def history(self, name: str, alias: str | None = None) -> list[AuditEntry]:
        """Return the audit log of a name, or of one alias of it, oldest entry first."""
        return self._index.history(checked_name(name), alias)

    def delete(self, version: str | Version, *, note: str = "") -> Version:
        """Delete a version, and return it. The audit log keeps that it was there; its number is never used again.

        Its artifacts become orphans, whose files the next `gc` removes. A process that has loaded it serves on.

        Args:
            version: a Version, "name@7" or "name@sha256:…".
            note: for the audit log.

        Raises:
            RegistryError: no such version, an alias points at it, or the reference names an alias.
        """
        asked = parse(version)
        if asked.alias is not None:
            raise RegistryError(
                f"{version!r:.160} names an alias: say name@NUMBER to delete a version, or delete_alias(name, alias)"
            )
        found = self._version(asked)[0]
        self._index.delete_version(found, who(), _note(note))
        self._manifests.pop(found.digest, None)
        return found

    def delete_alias(
        self, name: str, alias: str, *, note: str = "", generation: int | None = None
    ) -> AliasState:
        """Delete an alias, and return its last state. The versions stay. Followers serve on what they have loaded.

        Args:
            name, alias: `name@alias`.
            note: for the audit log.
            generation: delete only if the alias is still at this generation.

        Raises:
            RegistryError: no such alias, or it has moved to another generation.
        """
        return self._index.delete_alias(
            checked_name(name), checked_alias(alias), who(), _note(note), generation
        )

    def set_tags(
        self, version: str | Version, tags: Mapping[str, str | None], *, note: str = ""
    ) -> dict[str, str]:
        """Set tags of a version, and return all that it has then. Tags are no part of its content and its digest.

        Args:
            version: as `resolve` takes it.
            tags: texts by key, at most 256 and 4,096 characters; None removes a key.
            note: for the audit log.

        Raises:
            RegistryError: no such version, or a key or value that is no text or too long.
        """
        for key, value in tags.items():
            if not isinstance(key, str) or not 1 <= len(key) <= TAG_KEY_LENGTH_MAX:
                raise RegistryError(
                    f"a tag's key must be a text of 1 to {TAG_KEY_LENGTH_MAX} characters, got {key!r:.80}"
                )
            if value is not None and (not isinstance(value, str) or len(value) > NOTE_LENGTH_MAX):
                raise RegistryError(
                    f"tag {key!r} must be a text of at most {NOTE_LENGTH_MAX:,} characters, or None, got {value!r:.80}"
                )
        found = self._version(parse(version))[0]
        return self._index.set_tags(found, tags, who(), _note(note))

    def tags(self, version: str | Version) -> dict[str, str]:
        """Return the tags of a version by key. Raises RegistryError if there is no such version."""
        return self._index.tags(self._version(parse(version))[0])

    def add_note(self, version: str | Version, note: str) -> None:
        """Add a note about a version to the audit log. Raises RegistryError: no such version, or an empty note."""
        found = self._version(parse(version))[0]
        if not note.strip():
            raise RegistryError("a note must not be empty")
        self._index.add_note(found, who(), _note(note))

    def search(
        self,
        text: str = "",
        *,
        name: str | None = None,
        tags: Mapping[str, str] | None = None,
        metrics: Mapping[str, tuple[float | None, float | None]] | None = None,
    ) -> list[Version]:
        """Return the versions that fit every condition, in order of name and number.

        Args:
            text: a part of the name, of a tag or of a note, in any case.
            name: the name, exactly.
            tags: keys and their values; "" fits any value.
            metrics: the least and the largest value by name, None for no bound. A NaN fits no bound.
        """
        found = self._index.search(text, None if name is None else checked_name(name), tags or {})
        if not metrics:
            return found
        bounds = {
            key: (-math.inf if low is None else low, math.inf if high is None else high)
            for key, (low, high) in metrics.items()
        }
        return [version for version in found if _within(self._bundle(version, None).metrics, bounds)]

    def diff(self, one: str | Version, other: str | Version) -> dict[str, tuple[Any, Any]]:
        """Return the differences between two versions, as {dotted path in the manifest: (in one, in other)}.

        None stands for an absent path.
        """
        first, second = (_flat(self.resolve(each).manifest) for each in (one, other))
        return {
            path: (first.get(path), second.get(path))
            for path in sorted(first.keys() | second.keys())
            if first.get(path) != second.get(path)
        }

    def watch(self, reference: str, *, generation: int = 0) -> Watch:
        """Return a `Watch` that reports when an alias is flipped. It has a connection of its own: close it.

        Args:
            reference: `name@alias`.
            generation: the generation known already; the watch does not report it.

        Raises:
            RegistryError: `reference` names no alias.
        """
        asked = parse(reference)
        if asked.alias is None:
            raise RegistryError(f"only an alias can be followed, got {reference!r}: a version never changes")
        return Watch(Index(self.path / INDEX, create=False), asked.name, asked.alias, generation=generation)

    def verify(self) -> Verified:
        """Read everything back: the index, and each blob that a version needs against its digest.

        Returns:
            Counts, and one sentence for each problem. It does not raise for a damaged version.
        """
        return upkeep.verify(self._index, self._blobs, lambda version: self._manifest(version, cached=False))

    def gc(self) -> Collected:
        """Remove the files that killed writers left: temporary files, and blobs that no version refers to.

        Waits for writers at work and takes nothing of theirs. Files of other names stay.

        Raises:
            RegistryError: a writer holds the lock for longer than 30 s, or the folder is read-only.
        """
        return upkeep.gc(self._index, self._blobs)

    def close(self) -> None:
        """Close the index's connection. The next call opens another."""
        self._index.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"ModelRegistry({str(self.path)!r})"

    def _published(self, state: AliasState) -> AliasState:
        """Publish a flip to followers. If that fails, they find it in the index within a second."""
        with contextlib.suppress(OSError, RegistryError):
            publish(self.path, state.name, state.alias, lambda: self._index.alias(state.name, state.alias))
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
            if len(self._manifests) >= MANIFESTS_MAX:
                self._manifests.clear()
            self._manifests[version.digest] = found
        return found


def _within(metrics: Mapping[str, float], bounds: Mapping[str, tuple[float, float]]) -> bool:
    return all(key in metrics and low <= metrics[key] <= high for key, (low, high) in bounds.items())


@contextlib.contextmanager
def _one_maker(path: Path) -> Iterator[None]:
    """Hold the folder while a registry is made in it, because a half-made one looks like a folder of something else."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise explained(f"registry {path}", error) from None
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _require_fresh(path: Path) -> None:
    """Raise RegistryError where a folder holds something already.

    Above all a registry that has lost its index: a new index would make every blob an orphan for `gc`.
    """
    blobs = path / "blobs"
    try:
        if blobs.is_dir():
            if left := sum(1 for _ in blobs.iterdir()):
                raise RegistryError(
                    f"{path}: {INDEX} is missing or empty, and {left} files in blobs/ belong to it; put it back from a "
                    f"copy, or choose another folder"
                )
        elif path.is_dir() and any(path.iterdir()):
            raise RegistryError(f"{path} is not empty and no registry: choose an empty folder")
    except OSError as error:
        raise explained(f"registry {path}", error) from None


def _flat(body: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(body, Mapping) or (path and not body):
        return {path: body}
    found: dict[str, Any] = {}
    for key, value in body.items():
        found |= _flat(value, f"{path}.{key}" if path else str(key))
    return found


def _note(note: str) -> str:
    if len(note) > NOTE_LENGTH_MAX:
        raise RegistryError(f"a note may have {NOTE_LENGTH_MAX:,} characters, got {len(note):,}")
    return note
