"""The service: follows an alias, activates the version that it points at, and rolls back a version that fails."""

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
from engine.rollout.loaded import LoadedVersion, LoadedVersions, default_of
from engine.rollout.probation import Counted, Probation
from engine.serving import Engine
from engine.serving._answers import Answer, Answers

RETRY_S = 1.0  # between looks at a registry that could not be read
CHECK_EVERY_S = 0.05  # reading an engine's counters takes about 60 us
_VERBS = ("predict", "predict_many", "predict_async", "predict_many_async")


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a service; see `engine.open`."""

    registry: ModelRegistry
    store: Any
    views: tuple[Any, ...]
    monitor: Any
    functions: tuple[Any, ...]
    options: dict[str, Any]

    def deployment(self, version: str) -> Deployment:
        """Load and try a version. Raise RegistryError, with the reason, if it cannot serve."""
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
        """The reader of a deployment's rows: its program, with the store's online features if the program uses some."""
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
        """A warmed-up engine for a deployment. Raise ConfigError for options that Engine refuses."""
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
    """An engine behind an alias. Made by `engine.open`; close it, or use it as a context manager. Thread-safe.

    `predict`, `predict_many`, `predict_async` and `predict_many_async` are the methods of the running Engine, with the
    same arguments, results and cost. A new version of the same shape, inputs and policy is swapped inside the engine.
    Any other version gets an engine of its own, whose methods replace the four. Look them up on the service at each
    call: a method that you stored serves the version before, and its engine is closed after half a minute.

    Attributes:
        reference: as given to `engine.open`.
        predict, predict_many, predict_async, predict_many_async: as in `Engine`.
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
        self._loaded = LoadedVersions(parts.features, parts.engine)
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._state: AliasState | None = None
        self._watch: Watch | None = None
        self._bakes_until = 0.0
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
        """The Engine that takes traffic now."""
        return self._loaded.active.engine

    @property
    def version(self) -> str:
        """The version that takes traffic now, "name@7"."""
        return self._loaded.active.version

    @property
    def events(self) -> list[Event]:
        """The last 256 `Event`s, oldest first."""
        return list(self._events)

    def status(self) -> dict[str, Any]:
        """The state of the service as a plain dict. Does not block.

        - reference: as given to `engine.open`; version: takes traffic, "name@7".
        - generation: of the alias as last seen; None for a fixed version.
        - resident: loaded versions, which a rollback reaches by one swap.
        - following: whether the service's own thread looks at the alias.
        - on_probation: whether the version may still be rolled back automatically.
        - refused: version -> reason; events: dicts as in `Event`.
        """
        active, *others = self._loaded
        return {
            "reference": self.reference,
            "version": active.version,
            "generation": self._state.generation if self._state else None,
            "resident": [each.version for each in others],
            "following": self._thread is not None and self._thread.is_alive(),
            "on_probation": time.monotonic() < self._bakes_until,
            "refused": dict(self._refused),
            "events": self._events.as_dicts(),
        }

    def stats(self) -> dict[str, Any]:
        """The running engine's `stats()`. Counters begin anew when a version gets an engine of its own."""
        return self.engine.stats()

    def rollback(self, note: str = "") -> str:
        """Go back to the version that the alias pointed at before: here at once, then in the registry for all.

        Args:
            note: reason, for the registry's audit log and the event.

        Returns:
            The version that takes traffic now, "name@6".

        Raises:
            RegistryError: there is no version before, or it can no longer be loaded. Also if the registry could not be
                written: this process then serves the version before all the same, until the alias is flipped again.

        Blocks while the registry is written, and while the version is loaded if it was not. Thread-safe.
        """
        with self._lock:
            self._go_back(note or "asked for", severity=None)
            return self.version

    def follow(self) -> None:
        """Look at the alias once, and activate the version that it points at; the service's own thread does the same.

        Raises:
            RegistryError: the registry cannot be read.

        Blocks while a new version is loaded. Does nothing for a fixed version. Thread-safe.
        """
        if self._watch is None:
            return
        with self._lock:
            self._look(ask=True)
            self._check_bake()

    def close(self) -> None:
        """Stop following and close the engines. Requests under way are answered. A second call does nothing.

        Blocks until the service's thread and those of its engines have ended.
        """
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        with self._lock:
            if self._watch is not None:
                self._watch.close()
            self._loaded.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Service({self.reference!r}, version={self.version!r})"

    def _open_first(self) -> None:
        """Activate the version of the reference, or the last good version that the alias pointed at."""
        bundle = self._parts.registry.resolve(self.reference)
        name, numbers = bundle.version.name, [bundle.version.number]
        if bundle.alias is not None:
            self._state = self._parts.registry.alias(name, bundle.alias)
            numbers = list(dict.fromkeys([self._state.number, *reversed(self._state.past)]))
        reasons = []
        for version in (f"{name}@{number}" for number in numbers):
            try:
                self._activate(self._loaded.prepare(self._parts.deployment(version)))
                return
            except RegistryError as error:
                reasons.append(str(error))
                self._refuse(version, error)
        raise RegistryError(f"{self.reference} has no version that can serve: {'; '.join(reasons)}")

    def _run(self, poll_s: float) -> None:
        failing, wait_s, check_s = "", poll_s, 0.0
        preloaded = False
        while not self._stop.wait(wait_s):
            wait_s = poll_s
            try:
                with self._lock:
                    self._look()
                    if not preloaded:
                        preloaded = True
                        self._preload_previous()
                    if (now := time.monotonic()) >= check_s:
                        check_s = now + CHECK_EVERY_S
                        self._check_bake()
                        self._loaded.sweep()
                failing = ""
            except Exception as error:  # a thread that ended here would stop following without a word
                wait_s = max(poll_s, RETRY_S)
                if str(error) != failing:
                    failing = str(error)
                    self._events.say(
                        "error", "", f"following {self.reference}: {type(error).__name__}: {error}"
                    )

    def _look(self, *, ask: bool = False) -> None:
        """Activate the version that the alias points at now. If it is refused, the version before serves on."""
        assert self._watch is not None, "only an alias is followed"
        state = self._watch.poll(ask=ask)
        if state is None:
            return
        self._state = state
        version = f"{state.name}@{state.number}"
        if version == self.version:
            return
        try:
            self._activate(self._ready(version))
        except EngineError as error:
            self._refuse(version, error)

    def _ready(self, version: str) -> LoadedVersion:
        """The version, loaded if it was not yet. Raise EngineError, with the reason, if it cannot serve."""
        found = self._loaded.find(version)
        return found or self._loaded.prepare(self._parts.deployment(version))

    def _activate(self, chosen: LoadedVersion, *, without: LoadedVersion | None = None) -> None:
        """Let a version take traffic. `without`: the version that it replaces, if that one is rolled back."""
        before = self._loaded.active if self._loaded else None
        served = Counted.of(before.engine).since(self._at_flip) if before else Counted()
        self._loaded.activate(chosen, without=without)
        if before is None or before.engine is not chosen.engine:
            for verb in _VERBS:
                setattr(self, verb, getattr(chosen.engine, verb))
        self._before, self._at_flip = served, Counted.of(chosen.engine)
        # Never roll back automatically from the first version, nor from a version that we rolled back to.
        bakes = before is not None and without is None
        self._bakes_until = time.monotonic() + self._probation.seconds if bakes else 0.0
        self._refused.pop(chosen.version, None)
        self._set_reference(chosen.deployment)
        self._events.say("serving", chosen.version, f"{chosen.version} serves {self.reference}")

    def _preload_previous(self) -> None:
        """Load the version that a rollback would go to, so that the first rollback is one swap too."""
        if self._state is None or not self._state.past:
            return
        version = f"{self._state.name}@{self._state.past[-1]}"
        if self._loaded.find(version) is None and version not in self._refused:
            try:
                self._loaded.preload(self._ready(version))
            except EngineError as error:
                self._refused[version] = str(error)

    def _check_bake(self) -> None:
        if time.monotonic() >= self._bakes_until:
            return
        found = Counted.of(self.engine).since(self._at_flip)
        reason = self._probation.verdict(found, self._before)
        if reason is None:
            return
        bad = self.version
        self._bakes_until = 0.0  # one try, whether it succeeds or not
        try:
            self._go_back(reason, severity="critical")
        except EngineError as error:
            # Another process was faster, the registry cannot be written, or there is no version before.
            self._events.say("error", bad, f"{bad}: {reason}; {error}", severity="critical")
        if self.version != bad:
            self._refused[bad] = reason

    def _go_back(self, reason: str, *, severity: str | None) -> None:
        state = self._state
        if state is None or not state.past:
            raise RegistryError(f"{self.reference}: there is no version before {self.version} to go back to")
        target, bad = f"{state.name}@{state.past[-1]}", self._loaded.active
        if target != bad.version:
            self._activate(self._ready(target), without=bad)
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
                    return  # another process rolled back first
            raise RegistryError(
                f"{self.version} serves here, but the alias {self.reference} could not be flipped back: {error}"
            ) from error

    def _set_reference(self, deployment: Deployment) -> None:
        """Give the monitor the version's reference. An error of the monitor must not stop an activation half-way."""
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
        serving = f"{self.version} serves on" if self._loaded else "trying the version before"
        message = f"{version} does not take traffic, {serving}: {error}"
        self._events.say("refused", version, message, severity="critical")
