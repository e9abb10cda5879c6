"""Names, versions, aliases, and the references that people write for them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from engine.errors import RegistryError

PRODUCTION = "production"
# Letters of both cases and slashes are safe: no name ever becomes a path, and names are compared byte by byte.
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"
NAME = re.compile(rf"{_PART}(?:/{_PART})*")
NAME_LENGTH_MAX = 128
ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
DIGEST = re.compile(r"[0-9a-f]{64}")
DIGEST_PREFIX = re.compile(r"[0-9a-f]{8,64}")  # people copy 8 digits; an ambiguous prefix is an error


@dataclass(frozen=True, slots=True)
class Version:
    """One immutable version of a model.

    Attributes:
        name: the model's name.
        number: counts from 1 for each name; never used twice.
        digest: sha256 of the manifest, 64 hex digits. The manifest names every artifact by digest, so two versions with
            equal digests serve the same bits.
        created_ns: wall clock of the registration, nanoseconds since 1970. For people: nothing is ordered by it.
    """

    name: str
    number: int
    digest: str
    created_ns: int

    def __str__(self) -> str:
        return f"{self.name}@{self.number}"


@dataclass(frozen=True, slots=True)
class AliasState:
    """The target of an alias.

    Attributes:
        name, alias: `name@alias`.
        number: of the version it points at.
        generation: 1 when the alias is made, and one more for each flip.
        past: numbers of the versions it pointed at before, latest last. `rollback` takes the last one.
    """

    name: str
    alias: str
    number: int
    generation: int
    past: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One entry of the audit log.

    Attributes:
        id: position in the log; a later entry has a larger one.
        at_ns: wall clock, nanoseconds since 1970.
        name: of the model.
        action: "register", "promote", "rollback", "tag", "note", "delete" (a version) or "delete alias".
        alias: of a flip or a deleted alias; None for other actions.
        before: number of the version before a flip or a deletion; None if there was none.
        after: number of the version after a flip, or of the version that the action is about.
        generation: of the alias after a flip, or when it was deleted; None for other actions.
        who: user, host and process, as "user@host:pid".
        note: given by the caller.
    """

    id: int
    at_ns: int
    name: str
    action: str
    alias: str | None
    before: int | None
    after: int
    generation: int | None
    who: str
    note: str


@dataclass(frozen=True, slots=True)
class Reference:
    """A parsed `name@…`: exactly one of alias, number and digest (whole or its first 8 digits and more) is set."""

    name: str
    alias: str | None = None
    number: int | None = None
    digest: str | None = None


def checked_name(name: object) -> str:
    """Return the name of a model. Raises RegistryError if it is not allowed."""
    if not isinstance(name, str) or len(name) > NAME_LENGTH_MAX or not NAME.fullmatch(name):
        raise RegistryError(
            f"name must be 1 to {NAME_LENGTH_MAX} of letters, digits, '.', '_', '-' and '/' between parts, and each "
            f"part begin with a letter or digit, got {name!r:.160}"
        )
    return name


def checked_alias(alias: object) -> str:
    """Return the alias. Raises RegistryError if it is not allowed, or a number: that would mean a version."""
    if not isinstance(alias, str) or not ALIAS.fullmatch(alias):
        raise RegistryError(
            f"alias must be 1 to 64 of letters, digits, '.', '_' and '-', first a letter or digit, got {alias!r:.80}"
        )
    if alias.isdigit():
        raise RegistryError(f"alias must not be a number, which means a version, got {alias!r}")
    return alias


def parse(reference: str | Version) -> Reference:
    """Return the parts of `name@alias`, `name@7`, `name@sha256:…` or a Version. `name` means `name@production`.

    Raises:
        RegistryError: anything else.
    """
    if isinstance(reference, Version):
        return Reference(checked_name(reference.name), digest=reference.digest)
    if not isinstance(reference, str):
        raise RegistryError(f"expected 'name@alias', 'name@7' or 'name@sha256:…', got {reference!r:.80}")
    name, at, which = reference.partition("@")
    checked_name(name)
    if not at:
        return Reference(name, alias=PRODUCTION)
    if which.startswith("sha256:"):
        digest = which.removeprefix("sha256:")
        if not DIGEST_PREFIX.fullmatch(digest):
            raise RegistryError(
                f"{reference!r:.120}: expected at least 8 hex digits of a sha256, got {digest!r:.80}"
            )
        return Reference(name, digest=digest)
    if which.isascii() and which.isdigit() and len(which) <= 18:
        return Reference(name, number=int(which))
    return Reference(name, alias=checked_alias(which))
