"""Names, versions, aliases, and the references that people write for them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from engine.errors import RegistryError

PRODUCTION = "production"
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
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
        action: "register", "promote" or "rollback".
        alias: of a flip; None for "register".
        before: number of the version before a flip; None if there was none.
        after: number of the version after it, or of the registered version.
        generation: of the alias after a flip; None for "register".
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


def checked_name(name: object, subject: str = "name") -> str:
    """Return the name. Raises RegistryError if it is not allowed.

    Args:
        subject: of the error.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise RegistryError(
            f"{subject} must be 1 to 64 of a-z, 0-9, '.', '_' and '-', first a letter or digit, got {name!r:.80}"
        )
    return name


def checked_alias(alias: object) -> str:
    """Return the alias. Raises RegistryError if it is no name, or a number: that would mean a version."""
    found = checked_name(alias, "alias")
    if found.isdigit():
        raise RegistryError(f"alias must not be a number, which means a version, got {found!r}")
    return found


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
