"""What the registry calls things: names, versions, aliases, and the references that people write for them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from engine.errors import RegistryError

PRODUCTION = "production"
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
DIGEST = re.compile(r"[0-9a-f]{64}")
DIGEST_PREFIX = re.compile(r"[0-9a-f]{8,64}")  # 8 digits are what people copy; an ambiguous prefix is refused


@dataclass(frozen=True, slots=True)
class Version:
    """One immutable version of a model.

    Attributes:
        name: the model's name.
        number: 1 for the first of its name, and up; never used again.
        digest: sha256 of the manifest, which names every artifact by its own: two equal digests serve the same bits.
        created_ns: wall clock when it was registered, nanoseconds since 1970; for people, nothing is ordered by it.
    """

    name: str
    number: int
    digest: str
    created_ns: int

    def __str__(self) -> str:
        return f"{self.name}@{self.number}"


@dataclass(frozen=True, slots=True)
class AliasState:
    """Where an alias points.

    Attributes:
        name, alias: `name@alias`.
        number: the version it points at.
        generation: 1 when it was first set, and one more at each flip.
        past: the versions it pointed at before, latest last; `rollback` goes back along them.
    """

    name: str
    alias: str
    number: int
    generation: int
    past: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One thing that was done to a name, in the order in which it was done.

    Attributes:
        id: position in the log; later is larger, whatever the clock said.
        at_ns: wall clock, nanoseconds since 1970.
        action: "register", "promote" or "rollback".
        alias, before, after, generation: of a flip; alias and before are None where there was none.
        who: user, host and process.
        note: what the caller said about it.
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


def checked_name(name: object, what: str = "name") -> str:
    """The name itself; raises RegistryError for anything that is not one. Names never become paths even so."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise RegistryError(
            f"{what} must be 1 to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit, got {name!r:.80}"
        )
    return name


def checked_alias(alias: object) -> str:
    """The alias itself; an alias is a name that is no number, which would be a version."""
    found = checked_name(alias, "alias")
    if found.isdigit():
        raise RegistryError(f"alias must not be a number, which means a version, got {found!r}")
    return found


def parse(reference: str | Version) -> Reference:
    """Reads `name@alias`, `name@7`, `name@sha256:…` or a Version; a bare `name` means `name@production`.

    Raises:
        RegistryError: none of these.
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
