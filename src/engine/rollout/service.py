"""The service itself: looks at the alias, takes up what it points at, and goes back where that fails."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from engine.errors import EngineError, RegistryError
from engine.registry import AliasState, ModelRegistry, Watch
from engine.registry.deployment import Deployment
from engine.rollout.events import Event, Events
from engine.rollout.probation import Counted, Probation
from engine.rollout.residents import Resident, Residents, default_of
from engine.serving import Engine
from engine.serving._answers import Answer, Answers

RETRY_S = 1.0  # between looks at a registry that cannot be read
PROBATION_EVERY_S = 0.05  # reading an engine's counters takes about 60 us
_VERBS = ("predict", "predict_many", "predict_async", "predict_many_async")


@dataclass(frozen=True, slots=True)
class Parts:
    """What a service is composed of; see `engine.open`."""

    registry: ModelRegistry
    store: Any
    views: tuple[Any, ...]
    monitor: Any
    functions: tuple[Any, ...]
    options: dict[str, Any]

    def deployment(self, version: str) -> Deployment:
        """A version loaded and tried. Raises RegistryError with the reason."""
        bundle = self.registry.resolve(version)
        trained: Any = bundle.lineage.get("views")
        for view in self.views if isinstance(trained, dict) else ():
            expected = trained.get(view.name)
            if expected is not None and expected != view.version:
                raise RegistryError(
                    f"{version} is refused: it was trained on version {expected[:12]} of feature view {view.name!r}, "
                    f"got {view.version[:12]}; serve with that definition, or train again"
                )
        return Deployment.of(bundle, self.functions)

    def features(self, deployment: Deployment) -> Any:
        """What an engine reads a deployment's rows through: its program, and the store where that has some of it."""
        program = deployment.program
        if self.store is None or program is None:
            return program
        read = [
            view
            for view in self.views
            if any(name.startswith(f"{view.name}__") for name in program.input_names)
        ]
        return self.store.online_features(program, read) if read else program

    def engine(self, deployment: Deployment, features: Any) -> Engine:
        """A warmed-up engine for a deployment. Raises ConfigError for options that Engine refuses."""
        options: dict[str, Any] = {**deployment.bundle.policy, **self.options}
        if self.monitor is not None:
            options["monitor"] = self.monitor
        return Engine(
            deployment.primary,
            fallback=deployment.fallback,
            default=default_of(deployment),
            features=features,
            version=str(deployment.bundle.version),
            warmup=deployment.rows,
            **options,
        )


class Service:
    """An engine behind an alias. Made by `engine.open`; thread-safe; close it, or use it as a context manager.

    `predict`, `predict_many`, `predict_async` and `predict_many_async` are the running engine's own methods: a call
    costs what it costs there. A new version of the same shape, program and policy is swapped inside the engine; any
    other gets an engine of its own, whose methods then take their place. So look them up on the service at each call:
    one that was kept goes on serving the version before, and is closed half a minute after nobody needs that.
    """

    predict: Callable[..., Answer]
    predict_many: Callable[..., Answers]
    predict_async: Callable[..., Awaitable[Answer]]
    predict_many_async: Callable[..., Awaitable[Answers]]

    def __init__(
        self,
        reference: str,
        parts: Parts,
        *,
        poll_ms: float | None,
        probation: Probation,
        on_event: Callable[[Event], Any] | None,
    ) -> None:
        self.reference = reference
        self._parts = parts
        self._probation = probation
        self._events = Events(parts.monitor, on_event)
        self._refused: dict[str, str] = {}
        self._residents = Residents(parts.features, parts.engine)
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._state: AliasState | None = None
        self._watch: Watch | None = None
        self._on_probation_until = 0.0
        self._before = self._at_flip = Counted()
        self._open_first()
        if self._state is not None:
            self._watch = parts.registry.watch(reference, generation=self._state.generation)
            if poll_ms is not None:
                self._thread = threading.Thread(
                    target=self._run, args=(poll_ms * 1e-3,), name="engine-service", daemon=True
                )
                self._thread.start()

    @property
    def engine(self) -> Engine:
        """The running engine."""
        return self._residents.live.engine

    @property
    def version(self) -> str:
        """What takes traffic: "name@7"."""
        return self._residents.live.version

    @property
    def events(self) -> list[Event]:
        """What happened, oldest first; the last 256."""
        return list(self._events)

    def status(self) -> dict[str, Any]:
        """What serves now, as a plain dict; never waits.

        reference, version, generation (of the alias as last seen; None for a fixed version), resident (versions that
        a rollback reaches without loading), following, on_probation, refused (version to reason), events (dicts).
        """
        live, *others = self._residents
        return {
            "reference": self.reference,
            "version": live.version,
            "generation": self._state.generation if self._state else None,
            "resident": [each.version for each in others],
            "following": self._thread is not None and self._thread.is_alive(),
            "on_probation": time.monotonic() < self._on_probation_until,
            "refused": dict(self._refused),
            "events": self._events.as_dicts(),
        }

    def stats(self) -> dict[str, Any]:
        """The running engine's `stats()`."""
        return self.engine.stats()

    def rollback(self, note: str = "") -> str:
        """Goes back to the version that the alias pointed at before: here at once, then in the registry, for all.

        Returns:
            The version that serves now, "name@6".

        Raises:
            RegistryError: there is no version before, or it can no longer be loaded. Or the registry could not be
                written: this process then serves the version before all the same, until the alias is flipped again.
        """
        with self._lock:
            self._go_back(note or "asked for", severity=None)
            return self.version

    def follow(self) -> None:
        """Looks at the alias once, and acts; what the service's own thread does all the time. Raises RegistryError."""
        if self._watch is None:
            return
        with self._lock:
            self._look(ask=True)
            self._check_probation()

    def close(self) -> None:
        """Stops following and closes the engines; requests under way are answered."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        with self._lock:
            if self._watch is not None:
                self._watch.close()
            self._residents.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Service({self.reference!r}, version={self.version!r})"

    def _open_first(self) -> None:
        """Serves the version asked for; where that is refused, the last good one that the alias pointed at."""
        bundle = self._parts.registry.resolve(self.reference)
        name, numbers = bundle.version.name, [bundle.version.number]
        if bundle.alias is not None:
            self._state = self._parts.registry.alias(name, bundle.alias)
            numbers = list(dict.fromkeys([self._state.number, *reversed(self._state.past)]))
        reasons = []
        for version in (f"{name}@{number}" for number in numbers):
            try:
                self._go_live(self._residents.prepare(self._parts.deployment(version)))
                return
            except RegistryError as error:
                reasons.append(str(error))
                self._refuse(version, error)
        raise RegistryError(f"{self.reference} has no version that can serve: {'; '.join(reasons)}")

    def _run(self, poll_s: float) -> None:
        failing, wait_s, probation_s = "", poll_s, 0.0
        kept = False
        while not self._stop.wait(wait_s):
            wait_s = poll_s
            try:
                with self._lock:
                    self._look()
                    if not kept:
                        kept = True
                        self._keep_previous()
                    if (now := time.monotonic()) >= probation_s:
                        probation_s = now + PROBATION_EVERY_S
                        self._check_probation()
                        self._residents.sweep()
                failing = ""
            except (
                Exception
            ) as error:  # a follower that died would leave the service behind for ever, in silence
                wait_s = max(poll_s, RETRY_S)
                if str(error) != failing:
                    failing = str(error)
                    self._events.say(
                        "error", "", f"following {self.reference}: {type(error).__name__}: {error}"
                    )

    def _look(self, *, ask: bool = False) -> None:
        """Serves what the alias points at now, unless it is refused; then what served before serves on."""
        assert self._watch is not None, "only an alias is followed"
        state = self._watch.poll(ask=ask)
        if state is None:
            return
        self._state = state
        version = f"{state.name}@{state.number}"
        if version == self.version:
            return
        try:
            self._go_live(self._ready(version))
        except EngineError as error:
            self._refuse(version, error)

    def _ready(self, version: str) -> Resident:
        """A resident of a version, loaded where it is none yet. Raises EngineError with the reason."""
        found = self._residents.find(version)
        return found or self._residents.prepare(self._parts.deployment(version))

    def _go_live(self, chosen: Resident, *, without: Resident | None = None) -> None:
        """Points the callers at a deployment. `without`: the one that served until now is not to come back."""
        before = self._residents.live if self._residents else None
        served = Counted.of(before.engine).since(self._at_flip) if before else Counted()
        self._residents.go_live(chosen, without=without)
        if before is None or before.engine is not chosen.engine:
            for verb in _VERBS:
                setattr(self, verb, getattr(chosen.engine, verb))
        self._before, self._at_flip = served, Counted.of(chosen.engine)
        # Whoever is gone back to has served before, and is not gone back from by itself.
        on_probation = before is not None and without is None
        self._on_probation_until = time.monotonic() + self._probation.seconds if on_probation else 0.0
        self._refused.pop(chosen.version, None)
        self._set_reference(chosen.deployment)
        self._events.say("serving", chosen.version, f"{chosen.version} serves {self.reference}")

    def _keep_previous(self) -> None:
        """Loads the version that a rollback would go to, so that it is one swap from the start."""
        if self._state is None or not self._state.past:
            return
        version = f"{self._state.name}@{self._state.past[-1]}"
        if self._residents.find(version) is None and version not in self._refused:
            try:
                self._residents.keep(self._ready(version))
            except EngineError as error:
                self._refused[version] = str(error)

    def _check_probation(self) -> None:
        if time.monotonic() >= self._on_probation_until:
            return
        found = Counted.of(self.engine).since(self._at_flip)
        reason = self._probation.verdict(found, self._before)
        if reason is None:
            return
        bad = self.version
        self._on_probation_until = 0.0  # whatever comes of it, it is tried once
        try:
            self._go_back(reason, severity="critical")
        except EngineError as error:
            # Somebody else was faster, the registry cannot be written, or there is nothing to go back to.
            self._events.say("error", bad, f"{bad}: {reason}; {error}", severity="critical")
        if self.version != bad:
            self._refused[bad] = reason

    def _go_back(self, reason: str, *, severity: str | None) -> None:
        state = self._state
        if state is None or not state.past:
            raise RegistryError(f"{self.reference}: there is no version before {self.version} to go back to")
        target, bad = f"{state.name}@{state.past[-1]}", self._residents.live
        if target != bad.version:
            self._go_live(self._ready(target), without=bad)
            message = f"{bad.version} was rolled back to {self.version}: {reason}"
            self._events.say("rolled_back", bad.version, message, severity=severity)
        try:
            self._state = self._parts.registry.rollback(
                state.name, state.alias, note=f"service: {reason}"[:1000], generation=state.generation
            )
        except RegistryError as error:
            with contextlib.suppress(RegistryError):
                now = self._parts.registry.alias(state.name, state.alias)
                if now.generation != state.generation and f"{now.name}@{now.number}" == target:
                    return  # another process saw the same and was faster
            raise RegistryError(
                f"{self.version} serves here, but the alias {self.reference} could not be flipped back: {error}"
            ) from error

    def _set_reference(self, deployment: Deployment) -> None:
        """Tells the monitor what to compare with from now on. Nothing that it does may stop a flip half-way."""
        monitor = self._parts.monitor
        # A reference that the user gave the monitor stays.
        set_reference = getattr(monitor, "set_version_reference", None) or getattr(
            monitor, "set_reference", None
        )
        if set_reference is None:
            return
        try:
            if (given := deployment.bundle.reference) is not None:
                set_reference(given)
        except Exception as error:
            version = str(deployment.bundle.version)
            self._events.say("error", version, f"the monitor's reference: {type(error).__name__}: {error}")

    def _refuse(self, version: str, error: Exception) -> None:
        self._refused[version] = str(error)
        serving = f"{self.version} serves on" if self._residents else "trying the version before"
        message = f"{version} does not take traffic, {serving}: {error}"
        self._events.say("refused", version, message, severity="critical")
