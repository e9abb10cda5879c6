"""A bundle: all that one version serves with, read from the registry when asked for and checked before it is parsed."""

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
    """One version, resolved. Each part is read and its digest checked when it is asked for; models are loaded anew.

    Attributes:
        version: the `Version`; `str(version)` is "name@7".
        manifest: everything that was recorded, as plain JSON; do not change it.
        alias, generation: what it was resolved by, and the alias's generation then; None by number or digest.
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
        """The model. Raises RegistryError where it is damaged or cannot be loaded."""
        return artifacts.from_bytes(f"{self.version} primary", self.content("primary"), trust=self._trust)

    def fallback(self) -> Model | None:
        """The fallback, None where there is none. Raises as `primary`."""
        if "fallback" not in self.manifest["artifacts"]:
            return None
        return artifacts.from_bytes(f"{self.version} fallback", self.content("fallback"), trust=self._trust)

    def program(self, functions: Iterable[Any] = ()) -> FeatureProgram | None:
        """The feature program, None where there is none. `functions`: those of the user's own that it calls."""
        if "program" not in self.manifest["artifacts"]:
            return None
        try:
            return FeatureProgram.from_json(self.content("program").decode(), functions=functions)
        except (EngineError, UnicodeDecodeError) as error:
            raise RegistryError(f"{self.version} program cannot be loaded: {error}") from error

    @property
    def default(self) -> float | list[float] | None:
        """What is answered where neither model could; None for NaN."""
        return self.manifest["default"]

    @property
    def policy(self) -> dict[str, Any]:
        """The deadline policy: arguments of Engine by name."""
        return dict(self.manifest["policy"])

    @property
    def metrics(self) -> dict[str, float]:
        """What was measured of it, by name."""
        return dict(self.manifest["metrics"])

    @property
    def lineage(self) -> dict[str, Any]:
        """Where it came from: what was given, `code` (commit, dirty) and `environment`."""
        return dict(self.manifest["lineage"])

    @property
    def golden(self) -> Golden | None:
        """Rows with the answers that the primary must give; None where there are none."""
        if "golden" not in self.manifest["artifacts"]:
            return None
        try:
            return Golden.from_bytes(self.content("golden"))
        except InputError as error:
            raise RegistryError(f"{self.version} golden: {error}") from None

    @property
    def reference(self) -> Any:
        """The monitor's reference as plain JSON; None where there is none."""
        if "reference" not in self.manifest["artifacts"]:
            return None
        return json.loads(self.content("reference"))

    @property
    def diff(self) -> str:
        """What the tracked source files had changed against the commit; "" where nothing, or where it is not known."""
        if "diff" not in self.manifest["artifacts"]:
            return ""
        return self.content("diff").decode(errors="replace")

    def content(self, role: str) -> bytes:
        """The bytes of an artifact, as they were registered.

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
