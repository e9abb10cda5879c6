"""Deployments that are loaded and ready: the live one and those before it, and the engines that they serve in."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from engine.errors import RegistryError
from engine.registry.deployment import Deployment
from engine.serving import Engine

RESIDENT_MAX = 3  # the live one and two before it
# What nobody is led to any more stays open this long: a thread may have looked its method up already.
RETIRED_S = 30.0


@dataclass(frozen=True, slots=True, eq=False)
class Resident:
    """A deployment that is ready to serve, and the engine that it serves in; deployments alike share one.

    `features` is what the engine reads rows through: the program, or a store's online features of it.
    """

    deployment: Deployment
    features: Any
    engine: Engine

    @property
    def version(self) -> str:
        return str(self.deployment.bundle.version)


class Residents:
    """The loaded deployments, latest first; the first one is live. Not thread-safe: the service's lock is held.

    Args:
        make_features: what an engine reads a deployment's rows through, None for none.
        make_engine: builds a warmed-up engine for a deployment and its features.
    """

    def __init__(
        self,
        make_features: Callable[[Deployment], Any],
        make_engine: Callable[[Deployment, Any], Engine],
    ) -> None:
        self._make_features, self._make_engine = make_features, make_engine
        self._kept: tuple[Resident, ...] = ()
        self._retired: list[tuple[float, Any]] = []  # engines and online features, and when to close them
        # Of an engine's id: the version that its own `rollback` goes back to, in no time.
        self._one_back: dict[int, str] = {}

    @property
    def live(self) -> Resident:
        return self._kept[0]

    def __bool__(self) -> bool:
        return bool(self._kept)

    def __iter__(self) -> Iterator[Resident]:
        return iter(self._kept)

    def find(self, version: str) -> Resident | None:
        return next((each for each in self._kept if each.version == version), None)

    def prepare(self, deployment: Deployment) -> Resident:
        """Makes a deployment ready to go live, off the live path.

        Raises:
            RegistryError: those who call the live version could not call this one, or not read its answers.
            ConfigError: what Engine refuses.
        """
        if self._kept:
            _require_same_callers(self.live.deployment, deployment)
        features = self._features_of(deployment)
        if self._kept and _alike(self.live.deployment, deployment):
            return Resident(deployment, features, self.live.engine)
        return Resident(deployment, features, self._make_engine(deployment, features))

    def keep(self, ready: Resident) -> None:
        """Keeps a deployment resident behind the live one."""
        self._trim((self.live, ready, *self._kept[1:]))

    def go_live(self, chosen: Resident, *, without: Resident | None = None) -> None:
        """Makes a ready deployment the live one; `without` is not kept.

        Raises:
            EngineError: the engine refused it; the one before is live still.
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
        self._trim((chosen, *(each for each in self._kept if each is not chosen and each is not without)))

    def sweep(self) -> None:
        """Closes what nobody has been led to for half a minute."""
        while self._retired and self._retired[0][0] <= time.monotonic():
            gone = self._retired.pop(0)[1]
            self._one_back.pop(id(gone), None)
            gone.close()

    def close(self) -> None:
        parts = [part for each in self._kept for part in _closable(each)] + [
            part for _, part in self._retired
        ]
        for part in {id(part): part for part in parts}.values():
            part.close()

    def _features_of(self, deployment: Deployment) -> Any:
        """Those of a resident with the same program, whose connections to a store are open, else new ones."""
        for each in self._kept:
            if _digest(each.deployment) == _digest(deployment):
                return each.features
        return self._make_features(deployment)

    def _trim(self, wanted: tuple[Resident, ...]) -> None:
        before, self._kept = self._kept, wanted[:RESIDENT_MAX]
        known = {id(part) for each in self._kept for part in _closable(each)}
        for part in (part for each in (*before, *wanted) for part in _closable(each)):
            if id(part) not in known:
                known.add(id(part))  # retired once
                self._retired.append((time.monotonic() + RETIRED_S, part))


def _closable(each: Resident) -> list[Any]:
    return [each.engine, *([each.features] if hasattr(each.features, "close") else [])]


def _digest(parts: Deployment) -> str | None:
    return parts.program.digest if parts.program else None


def default_of(parts: Deployment) -> Any:
    """The default in full: to `swap`, None means the one before."""
    if parts.default is not None:
        return parts.default
    n_outputs = parts.primary.n_outputs
    return float("nan") if n_outputs == 1 else [float("nan")] * n_outputs


def _alike(one: Deployment, other: Deployment) -> bool:
    """Whether both can serve in one engine: they differ in what `swap` changes, and in nothing else."""
    inputs = [each.program.input_names if each.program else None for each in (one, other)]
    return (
        one.primary.n_features == other.primary.n_features
        and inputs[0] == inputs[1]
        and one.primary.native == other.primary.native
        and (one.fallback is None) == (other.fallback is None)
        and one.bundle.policy == other.bundle.policy
    )


def _require_same_callers(live: Deployment, new: Deployment) -> None:
    version, running = new.bundle.version, live.bundle.version
    if new.primary.n_outputs != live.primary.n_outputs:
        raise RegistryError(
            f"{version} is refused: wrong width: it answers {new.primary.n_outputs} outputs, callers of {running} read "
            f"{live.primary.n_outputs}"
        )
    takes, sends = _rows_of(new), _rows_of(live)
    if takes != sends:
        raise RegistryError(
            f"{version} is refused: wrong width: it takes {takes}, callers of {running} send {sends}"
        )


def _rows_of(parts: Deployment) -> str:
    if parts.program is not None:
        return "the inputs of a feature program"
    return f"rows of {parts.primary.n_features} features"
