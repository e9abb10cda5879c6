"""What an engine is put together from: checked, and turned into the models and numbers that the core takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from engine.errors import ConfigError
from engine.model import Model, _scorer, load_model
from engine.serving._rows import checked_default

if TYPE_CHECKING:
    from typing_extensions import CapsuleType

Default = float | npt.ArrayLike | Callable[[], Any] | None

BREAKER = {
    "calls_in_a_row": 10,
    "rows_share": 0.5,
    "rows_min": 100,
    "window_ms": 10_000.0,
    "rest_ms": 100.0,
    "rest_ms_max": 5_000.0,
}


class Features(Protocol):
    """What an Engine needs of a feature program: `FeatureProgram` has it, and so may anything else.

    One that also looks up online features has

    - `fetch(request, deadline_ns) -> (mapping, names)`: the request with what was found, and the names of the columns
      that are missing; back by deadline_ns (time.monotonic_ns) and never raising but for the caller's own mistakes;
    - `fetch_many(requests, deadline_ns)`: a list of such pairs, by one look-up for all;
    - `blocking`: True where fetch waits for a network; then `fetch_async`, the same as a coroutine, is used on loops.
    """

    @property
    def capsule(self) -> CapsuleType: ...


class Monitor(Protocol):
    """What an Engine needs of a monitor: a capsule of csrc/include/engine/observer.h, shown every answer."""

    @property
    def observer(self) -> CapsuleType: ...


def models(primary: Any, fallback: Any) -> tuple[Model, Model | None]:
    """Both as Models that fit each other, the fallback None where none is given."""
    model = primary if isinstance(primary, Model) else _load("primary", primary)
    if fallback is None:
        return model, None
    spare = fallback if isinstance(fallback, Model) else _load("fallback", fallback)
    if not spare.native:
        raise ConfigError(
            f"the fallback must be native (a forest, a linear or a dense model), got format {spare.format!r}: it runs "
            f"when time is nearly up, so it may neither take the GIL nor wait"
        )
    for what in ("n_features", "n_outputs"):
        if getattr(model, what) != getattr(spare, what):
            raise ConfigError(
                f"primary and fallback must agree in {what}, got {getattr(model, what)} and {getattr(spare, what)}"
            )
    return model, spare


def _load(role: str, source: Any) -> Model:
    if callable(source) and not hasattr(source, "predict") and not isinstance(source, str | PathLike):
        raise ConfigError(
            f"the {role} is a Python callable, whose width is not known: pass "
            f"engine.load_model(fn, n_features=…, n_outputs=…)"
        )
    return load_model(source)


def takes_gil(model: Model) -> bool:
    return _scorer.describe(model.scorer)["takes_gil"]


def checked_features(features: Features | None) -> Features | None:
    if features is not None and not hasattr(features, "capsule"):
        raise ConfigError(f"features must be a FeatureProgram, got {type(features).__name__}")
    return features


def observer(monitor: Monitor | None) -> Any:
    if monitor is None:
        return None
    if not hasattr(monitor, "observer"):
        raise ConfigError(f"monitor must be a ModelMonitor, got {type(monitor).__name__}")
    return monitor.observer


def default(value: Default, n_outputs: int) -> Any:
    """A number, n_outputs numbers, or a function of nothing, as the core takes them."""
    if value is None:
        return checked_default(float("nan"), n_outputs)
    if callable(value):
        return value
    try:
        return checked_default(value, n_outputs)
    except (TypeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"the default must be a number or a function of nothing, got {value!r:.60}"
        ) from None


def warm_rows(given: npt.ArrayLike | None, n_features: int, n_rows: int) -> npt.NDArray[Any]:
    """Rows to calibrate on: those given, repeated as often as it takes, or made-up ones."""
    n_rows = min(n_rows, 4096)
    if given is None:
        # Values that take different branches from row to row: rows of zeros would time a perfectly predicted tree.
        return np.random.default_rng(0).standard_normal((n_rows, n_features))
    rows = np.asarray(given)
    if rows.ndim != 2 or rows.shape[1] != n_features or len(rows) == 0:
        raise ConfigError(
            f"warmup must be at least one row of {n_features} features, got shape {list(rows.shape)}"
        )
    return np.resize(rows, (n_rows, n_features))


def breaker(given: bool | Mapping[str, float]) -> dict[str, Any]:
    """The breaker's limits in the core's units, from True, False or a mapping of some of BREAKER's keys."""
    limits: dict[str, Any] = dict(BREAKER)
    if isinstance(given, Mapping):
        unknown = set(given) - set(BREAKER)
        if unknown:
            raise ConfigError(f"breaker has no {sorted(unknown)}; it has {', '.join(BREAKER)}")
        limits |= {
            name: between(f"breaker[{name!r}]", value, 0.0, float("inf")) for name, value in given.items()
        }
    elif not isinstance(given, bool):
        raise ConfigError(f"breaker must be True, False or a mapping of its limits, got {given!r:.60}")
    return {
        "enabled": given is not False,
        "calls_in_a_row": int(min(limits["calls_in_a_row"], 2**31)),
        "rows_share": limits["rows_share"],
        "rows_min": int(min(limits["rows_min"], 2**31)),
        **{
            name.replace("_ms", "_ns"): int(min(limits[name] * 1e6, 2**60))
            for name in ("window_ms", "rest_ms", "rest_ms_max")
        },
    }


def whole(name: str, value: Any, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value <= most:
        raise ConfigError(f"{name} must be a whole number from {least} to {most}, got {value!r}")
    return int(value)


def between(name: str, value: Any, above: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not above < value <= most:
        raise ConfigError(f"{name} must be a number above {above:g} and at most {most:g}, got {value!r}")
    return float(value)


def one_of(name: str, value: Any, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise ConfigError(f"{name} must be one of {', '.join(choices)}, got {value!r:.60}")
    return value
