"""`engine.open`: composes a service in one call."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from engine._common.options import OPTIONS
from engine.errors import ConfigError, InputTypeError
from engine.registry import ModelRegistry
from engine.rollout.events import Event
from engine.rollout.probation import Probation
from engine.rollout.service import Parts, Service


def open(
    reference: str,
    *,
    registry: ModelRegistry | str | os.PathLike[str],
    store: Any = None,
    views: Sequence[Any] = (),
    monitor: Any = None,
    functions: Iterable[Any] = (),
    poll_ms: float | None = 5.0,
    probation: Probation | None = None,
    on_event: Callable[[Event], Any] | None = None,
    **options: Any,
) -> Service:
    """Serve `name@alias`, and follow the alias when any process flips it.

    A new version is loaded, checked against its golden rows and warmed up beside the running one, and then takes its
    place between two requests. A version that is damaged, does not fit or answers wrongly never takes traffic: the
    version before serves on, and an event, the log and the monitor's alert say why. A version that fails on live
    traffic is rolled back automatically, here and in the registry. The version before stays loaded, so a rollback is
    one swap.

    Args:
        reference: `name@alias`. `name@7` or `name@sha256:…` serves that version and follows nothing.
        registry: a ModelRegistry, or the path of one.
        store: a FeatureStore; each request reads the online features that the version's program needs.
        views: the feature views that the program's inputs come from; needed with a store.
        monitor: a ModelMonitor: it is shown every answer, gets the version's reference, and alerts on failures.
        functions: user functions that feature programs call.
        poll_ms: milliseconds between looks at the alias, above 0 and at most 60,000; a look costs about 10 us. None
            looks only when `follow()` is called.
        probation: when a new version is rolled back automatically.
        on_event: called with each `Event`, on the thread on which it happened.
        **options: options of Engine (deadline_ms, lane, …); each overrides the version's own policy.

    Returns:
        A running `Service`.

    Raises:
        RegistryError: no such version, or no version that the alias ever pointed at can serve; the message says why.
        ConfigError: an option that Engine refuses, or a store without views.
        InputTypeError: an option that Engine does not have.

    Blocks until the first version is loaded and warmed up.

    Example:
        >>> with engine.open("flight-delay@production", registry="registry") as service:   # doctest: +SKIP
        ...     service.predict({"distance": 1400.0}).version
        'flight-delay@7'
    """
    if poll_ms is not None and not 0.0 < poll_ms <= 60_000.0:
        raise ConfigError(f"poll_ms must be above 0 and at most 60,000, or None, got {poll_ms!r}")
    if store is not None and not views:
        raise ConfigError("a store needs views=[…]: the feature views that the program's inputs come from")
    if unknown := sorted(set(options) - set(OPTIONS)):
        raise InputTypeError(f"Engine has no option {', '.join(unknown)}; it has: {', '.join(OPTIONS)}")
    opened = registry if isinstance(registry, ModelRegistry) else ModelRegistry(registry)
    parts = Parts(opened, store, tuple(views), monitor, tuple(functions), options)
    return Service(reference, parts, poll_ms=poll_ms, probation=probation or Probation(), on_event=on_event)
