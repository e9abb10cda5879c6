"""A bundle: everything that one version serves with, on disk. Parts are read on demand, and checked before parsing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from engine.errors import EngineError, InputError, RegistryError
from engine.model import Model
from engine.model.golden import Golden
from engine.registry import artifacts
from engine.registry.manifest import metric
from engine.registry.versions import Version
from engine.transform import FeatureProgram

Fetch = Callable[[str, int], bytes]


def labels_of(values: Any, classes: Sequence[Any]) -> list[Any]:
    """Return the class that each answer stands for; None for an answer that is NaN, infinite or stands for none.

    Args:
        values: float [n], or [n, number of classes].
        classes: in the order of the answers.

    Raises:
        RegistryError: another number of outputs than classes.
    """
    answers = np.asarray(values, dtype=np.float64)
    known: Any
    if answers.ndim == 2:
        if answers.shape[1] != len(classes):
            raise RegistryError(
                f"expected {len(classes)} answers a row, one for each class, got {answers.shape[1]}"
            )
        known = np.asarray(np.isfinite(answers).all(axis=1))
        places = np.where(known[:, None], answers, 0.0).argmax(axis=1)
    elif len(classes) == 2:
        known = np.isfinite(answers)
        places = (answers > 0.5).astype(np.int64)
    else:
        known = (
            np.isfinite(answers) & (answers == np.floor(answers)) & (answers >= 0) & (answers < len(classes))
        )
        places = np.where(known, answers, 0).astype(np.int64)
    return [classes[place] if sure else None for place, sure in zip(places, known, strict=True)]


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
        """The registered metrics by name; NaN and infinities are what they were. A copy."""
        return {name: metric(value) for name, value in self.manifest["metrics"].items()}

    @property
    def classes(self) -> tuple[str | bool | int | float, ...] | None:
        """The labels that the answers stand for, of the type they had in training; None for numbers.

        Output `i` of a primary with several outputs is the probability of `classes[i]`; the answer of one with a single
        output is the probability of `classes[1]`, or with more than two classes the position of the label.
        """
        found = self.manifest.get("classes")
        return None if found is None else tuple(found)

    def labels(self, values: Any) -> list[Any]:
        """Return the label of each answer: the likeliest class; None for an answer that is NaN or infinite.

        Args:
            values: float [n] or [n, n_outputs], as `Model.predict` and `Answers.values` give them.

        Raises:
            RegistryError: the version has no classes, or another number of outputs.
        """
        if (classes := self.classes) is None:
            raise RegistryError(f"{self.version} has no classes: its answers are numbers")
        return labels_of(values, classes)

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

    @property
    def artifacts(self) -> tuple[str, ...]:
        """The names of the artifacts that were registered besides the version's own parts, sorted."""
        return tuple(
            role.removeprefix(artifacts.FILE)
            for role in sorted(self.manifest["artifacts"])
            if role.startswith(artifacts.FILE)
        )

    def artifact(self, name: str) -> bytes:
        """Return the bytes of an artifact that was registered under this name.

        Raises:
            RegistryError: no such artifact, or it is missing or damaged.
        """
        if name not in self.artifacts:
            raise RegistryError(
                f"{self.version} has no artifact {name!r:.160}; there are: {', '.join(self.artifacts) or 'none'}"
            )
        return self.content(artifacts.FILE + name)

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
