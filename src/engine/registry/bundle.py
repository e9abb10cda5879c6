"""A bundle: everything that one version serves with, on disk. Parts are read on demand, and checked before parsing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from engine.errors import EngineError, InputError, RegistryError
from engine.model import Model
from engine.model.golden import Golden
from engine.registry import artifacts
from engine.registry.versions import Version
from engine.transform import FeatureProgram

Fetch = Callable[[str, int], bytes]


class Bundle:
    """One version, resolved by `ModelRegistry.resolve`.

    Every access to a part reads it and checks its digest; `primary()` and `fallback()` load a new model each time.

    Attributes:
        version: the `Version`; `str(version)` is "name@7".
        manifest: everything that was recorded, as plain JSON. Do not change it.
        alias: the alias it was resolved by; None if by number or digest.
        generation: the alias's generation at that time; None without an alias.
    """

    __slots__ = ("_fetch", "_trust", "alias", "generation", "manifest", "version")

    def __init__(
        self,
        version: Version,
        manifest: Mapping[str, Any],
        fetch: Fetch,
        *,
        alias: str | None = None,
        generation: int | None = None,
        trust: bool = False,
    ) -> None:
        self.version = version
        self.manifest = manifest
        self.alias = alias
        self.generation = generation
        self._fetch = fetch
        self._trust = trust

    def primary(self) -> Model:
        """Load the primary.

        Raises:
            RegistryError: it is missing, damaged, or cannot be loaded.
        """
        return artifacts.from_bytes(f"{self.version} primary", self.content("primary"), trust=self._trust)

    def fallback(self) -> Model | None:
        """Load the fallback; None if the version has none. Raises as `primary` does."""
        if "fallback" not in self.manifest["artifacts"]:
            return None
        return artifacts.from_bytes(f"{self.version} fallback", self.content("fallback"), trust=self._trust)

    def program(self, functions: Iterable[Any] = ()) -> FeatureProgram | None:
        """Load the feature program; None if the version has none.

        Args:
            functions: your own `@transform` functions that the program calls.

        Raises:
            RegistryError: it is missing, damaged, or calls a function that is not in `functions`.
        """
        if "program" not in self.manifest["artifacts"]:
            return None
        try:
            return FeatureProgram.from_json(self.content("program").decode(), functions=functions)
        except (EngineError, UnicodeDecodeError) as error:
            raise RegistryError(f"{self.version} program cannot be loaded: {error}") from error

    @property
    def default(self) -> float | list[float] | None:
        """The answer if neither model gives one: a number, or one for each output; None for NaN."""
        return self.manifest["default"]

    @property
    def policy(self) -> dict[str, Any]:
        """The deadline policy: options of Engine by name. A copy."""
        return dict(self.manifest["policy"])

    @property
    def metrics(self) -> dict[str, float]:
        """The registered metrics by name. A copy."""
        return dict(self.manifest["metrics"])

    @property
    def lineage(self) -> dict[str, Any]:
        """The registered lineage, with `code` (commit, dirty) and `environment`. A copy."""
        return dict(self.manifest["lineage"])

    @property
    def golden(self) -> Golden | None:
        """Rows and the answers that the primary must give; None if the version has none.

        Raises:
            RegistryError: they are missing or damaged.
        """
        if "golden" not in self.manifest["artifacts"]:
            return None
        try:
            return Golden.from_bytes(self.content("golden"))
        except InputError as error:
            raise RegistryError(f"{self.version} golden: {error}") from None

    @property
    def reference(self) -> Any:
        """The monitor's reference as plain JSON; None if the version has none. Raises RegistryError if damaged."""
        if "reference" not in self.manifest["artifacts"]:
            return None
        return json.loads(self.content("reference"))

    @property
    def diff(self) -> str:
        """The diff of the tracked source files against their commit; "" if nothing differed or git was not there."""
        if "diff" not in self.manifest["artifacts"]:
            return ""
        return self.content("diff").decode(errors="replace")

    def content(self, role: str) -> bytes:
        """Return the bytes of an artifact as they were registered.

        Args:
            role: a key of `manifest["artifacts"]`: "primary", "fallback", "program", "golden", "reference" or "diff".

        Raises:
            RegistryError: no such artifact, or it is missing or damaged.
        """
        found = self.manifest["artifacts"].get(role)
        if found is None:
            there = ", ".join(sorted(self.manifest["artifacts"]))
            raise RegistryError(f"{self.version} has no artifact {role!r}; there are: {there}")
        try:
            return self._fetch(found["digest"], found["size"])
        except RegistryError as error:
            raise RegistryError(f"{self.version} {role}: {error}") from None

    def __repr__(self) -> str:
        return f"Bundle({self.version}, {', '.join(sorted(self.manifest['artifacts']))})"
