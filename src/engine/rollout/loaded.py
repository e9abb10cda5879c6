"""The loaded versions: the active one, those before it, and the engines that they serve in."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from engine.errors import RegistryError
from engine.registry.deployment import Deployment
from engine.serving import Engine
from engine.serving.columns import same_columns

LOADED_MAX = 3  # the active version and two before it
# An engine that serves no more stays open for this long, because a thread may have looked its method up already.
RETIRED_S = 30.0


@dataclass(frozen=True, slots=True, eq=False)
class LoadedVersion:
    """A deployment with its engine; deployments of one shape share an engine.

    Attributes:
        features: reads the engine's rows: the deployment's program, or a store's online features of it. None for none.
    """

    deployment: Deployment
    features: Any
    engine: Engine

    @property
    def version(self) -> str:
        """Name and number, "name@7"."""
        return str(self.deployment.bundle.version)


class LoadedVersions:
    """The loaded versions, latest first; the first one is active. Not thread-safe: the service holds its lock.

    Args:
        make_features: returns the reader of a deployment's rows, None for none.
        make_engine: returns a warmed-up engine for a deployment and its features.
    """

    def __init__(
        self,
        make_features: Callable[[Deployment], Any],
        make_engine: Callable[[Deployment, Any], Engine],
    ) -> None:
        self._make_features, self._make_engine = make_features, make_engine
        self._versions: tuple[LoadedVersion, ...] = ()
        self._retired: list[tuple[float, Any]] = []  # engines and online features, and when to close them
        # id of an engine -> the version that its own `rollback` goes back to.
        self._one_back: dict[int, str] = {}

    @property
    def active(self) -> LoadedVersion:
        """The version that takes traffic. There is one from the first activation on."""
        return self._versions[0]

    def __bool__(self) -> bool:
        return bool(self._versions)

    def __iter__(self) -> Iterator[LoadedVersion]:
        return iter(self._versions)

    def find(self, version: str) -> LoadedVersion | None:
        """The loaded version of this name, or None."""
        return next((each for each in self._versions if each.version == version), None)

    def prepare(self, deployment: Deployment) -> LoadedVersion:
        """Make a deployment ready to be activated, while the active version serves.

        Raises:
            RegistryError: callers of the active version could not call this one, or could not read its answers.
            ConfigError: Engine refuses an option.
        """
        if self._versions:
            _require_same_callers(self.active.deployment, deployment)
        features = self._features_of(deployment)
        if self._versions and _alike(self.active.deployment, deployment):
            return LoadedVersion(deployment, features, self.active.engine)
        return LoadedVersion(deployment, features, self._make_engine(deployment, features))

    def preload(self, ready: LoadedVersion) -> None:
        """Put a ready version behind the active one, so that a rollback to it is one swap."""
        self._trim((self.active, ready, *self._versions[1:]))

    def activate(self, chosen: LoadedVersion, *, without: LoadedVersion | None = None) -> None:
        """Make a ready version the active one, and unload `without`.

        Raises:
            EngineError: the engine refused it; the version before is still active.
        """
        engine = chosen.engine
        if (serving := engine.version) != chosen.version:
            if self._one_back.get(id(engine)) == chosen.version:
                engine.rollback()
            else:
                parts = chosen.deployment
                engine.swap(
                    parts.primary,
                    fallback=parts.fallback,
                    default=default_of(parts),
                    features=chosen.features,
                    version=chosen.version,
                    warmup=parts.rows,
                )
            self._one_back[id(engine)] = serving
        self._trim((chosen, *(each for each in self._versions if each is not chosen and each is not without)))

    def sweep(self) -> None:
        """Close engines and features that have served nothing for half a minute."""
        while self._retired and self._retired[0][0] <= time.monotonic():
            gone = self._retired.pop(0)[1]
            self._one_back.pop(id(gone), None)
            gone.close()

    def close(self) -> None:
        """Close all engines and features, retired ones too."""
        parts = [part for each in self._versions for part in _closable(each)] + [
            part for _, part in self._retired
        ]
        for part in {id(part): part for part in parts}.values():
            part.close()

    def _features_of(self, deployment: Deployment) -> Any:
        """The features of a loaded version with the same program, whose store connections are open, else new ones."""
        for each in self._versions:
            if _digest(each.deployment) == _digest(deployment):
                return each.features
        return self._make_features(deployment)

    def _trim(self, wanted: tuple[LoadedVersion, ...]) -> None:
        before, self._versions = self._versions, wanted[:LOADED_MAX]
        known = {id(part) for each in self._versions for part in _closable(each)}
        for part in (part for each in (*before, *wanted) for part in _closable(each)):
            if id(part) not in known:
                known.add(id(part))  # each part once
                self._retired.append((time.monotonic() + RETIRED_S, part))


def _closable(each: LoadedVersion) -> list[Any]:
    return [each.engine, *([each.features] if hasattr(each.features, "close") else [])]


def _digest(parts: Deployment) -> str | None:
    return parts.program.digest if parts.program else None


def default_of(parts: Deployment) -> Any:
    """The default in full, because None means the version before's to `swap`."""
    if parts.default is not None:
        return parts.default
    n_outputs = parts.primary.n_outputs
    return float("nan") if n_outputs == 1 else [float("nan")] * n_outputs


def _alike(one: Deployment, other: Deployment) -> bool:
    """Whether both can serve in one engine, because they differ only in parts that `swap` changes."""
    inputs = [each.program.input_names if each.program else None for each in (one, other)]
    return (
        (one.program is not None or same_columns(one.primary, other.primary))
        and one.primary.n_features == other.primary.n_features
        and inputs[0] == inputs[1]
        and one.primary.native == other.primary.native
        and (one.fallback is None) == (other.fallback is None)
        and one.bundle.policy == other.bundle.policy
    )


def _require_same_callers(active: Deployment, new: Deployment) -> None:
    version, running = new.bundle.version, active.bundle.version
    if new.primary.n_outputs != active.primary.n_outputs:
        raise RegistryError(
            f"{version} is refused: wrong width: it answers {new.primary.n_outputs} outputs, callers of {running} read "
            f"{active.primary.n_outputs}"
        )
    takes, sends = _rows_of(new), _rows_of(active)
    if takes != sends:
        raise RegistryError(
            f"{version} is refused: wrong width: it takes {takes}, callers of {running} send {sends}"
        )


def _rows_of(parts: Deployment) -> str:
    if parts.program is not None:
        return "the inputs of a feature program"
    return f"rows of {parts.primary.n_features} features"
