"""The parts of an engine, checked and turned into the models, arrays and limits that the compiled core takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from engine._common.options import BREAKER_LIMITS
from engine.errors import ConfigError, InputError
from engine.model import Model, _scorer, load_model
from engine.model import rows as by_name
from engine.model.golden import Given, Golden
from engine.serving._rows import checked_default
from engine.serving.columns import Columns, order_of

if TYPE_CHECKING:
    from typing_extensions import CapsuleType

    from engine.serving._deployment import Deployment

COUNT_MAX = 2**31
FAR_NS = 2**60  # longer than any machine runs; leaves room to add an instant
WARM_ROWS_MAX = 4096

Default = float | npt.ArrayLike | Callable[[], Any] | None


class Features(Protocol):
    """The features that an Engine accepts: a `FeatureProgram`, or any object with the same members.

    An object that also looks up online features has

    - `fetch(request, deadline_ns) -> (mapping, names)`: the request with the features that were found, and a tuple of
      the names of missing columns. It returns by deadline_ns, an instant of `time.monotonic_ns()`, and raises only for
      mistakes of the caller;
    - `fetch_many(requests, deadline_ns)`: a list of such pairs, by one look-up for all;
    - `blocking`: True if fetch waits for a network. Event loops then await `fetch_async(request, deadline_ns)`;
    - `known_keys`: names of the keys that it takes beside the program's inputs, for `Engine(unknown_keys="raise")`.
    """

    @property
    def capsule(self) -> CapsuleType:
        """A capsule of csrc/include/engine/features.h."""
        ...


class Monitor(Protocol):
    """The monitor that an Engine accepts: a `ModelMonitor`, or any object with an observer."""

    @property
    def observer(self) -> CapsuleType:
        """A capsule of csrc/include/engine/observer.h, which is shown every answer."""
        ...


def models(primary: Any, fallback: Any) -> tuple[Model, Model | None]:
    """Return both as Models that fit each other; the fallback is None if none is given. Raise ConfigError otherwise."""
    model = primary if isinstance(primary, Model) else _load("primary", primary)
    if fallback is None:
        return model, None
    spare = fallback if isinstance(fallback, Model) else _load("fallback", fallback)
    if not spare.native:
        raise ConfigError(
            f"the fallback must be native (a forest, a linear or a dense model), got format {spare.format!r}: it runs "
            f"when time is nearly up, so it may neither take the GIL nor wait"
        )
    for width in ("n_features", "n_outputs"):
        if getattr(model, width) != getattr(spare, width):
            raise ConfigError(
                f"primary and fallback must agree in {width}, "
                f"got {getattr(model, width)} and {getattr(spare, width)}"
            )
    return model, spare


def _load(role: str, source: Any) -> Model:
    if callable(source) and not hasattr(source, "predict") and not isinstance(source, str | PathLike):
        raise ConfigError(
            f"the {role} is a Python callable, whose width is not known: pass "
            f"engine.load_model(fn, n_features=…, n_outputs=…)"
        )
    return load_model(source)


def version(name: str | None, model: Model) -> str:
    """The name of a version: as given, or by the model's digest. Raise ConfigError for a name that is no str."""
    if name is None:
        return model.digest[:12]
    if not isinstance(name, str):
        raise ConfigError(f"version must be a str, got {type(name).__name__} {name!r:.60}")
    return name


def takes_gil(model: Model) -> bool:
    """Whether the model needs the GIL to score rows."""
    return _scorer.describe(model.scorer)["takes_gil"]


def checked_features(features: Features | None) -> Features | None:
    """Return `features`. Raise ConfigError if it has no capsule."""
    if features is not None and not hasattr(features, "capsule"):
        raise ConfigError(f"features must be a FeatureProgram, got {type(features).__name__}")
    return features


def observer(monitor: Monitor | None) -> Any:
    """The monitor's capsule, None without a monitor. Raise ConfigError if it has none."""
    if monitor is None:
        return None
    if not hasattr(monitor, "observer"):
        raise ConfigError(f"monitor must be a ModelMonitor, got {type(monitor).__name__}")
    return monitor.observer


def default(value: Default, n_outputs: int) -> Any:
    """The default as the core takes it: a float, a float64 array [n_outputs], or a function of nothing."""
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


def warm_rows(given: Any, model: Model, columns: Columns, n_rows: int) -> npt.NDArray[Any]:
    """Rows in the engine's layout to calibrate on, [n_rows, n_features]: the given ones repeated, or made-up ones."""
    n_rows, n_features = min(n_rows, WARM_ROWS_MAX), model.n_features
    given = model.probe_rows if given is None else given  # some models do not take any row
    if given is None:
        # Random values take other branches in each row. Rows of zeros would time perfectly predicted branches.
        return np.random.default_rng(0).standard_normal((n_rows, n_features))
    try:
        rows = by_name.matched(given, model.feature_names, n_features=n_features, categories=model.categories)
    except InputError as error:
        raise ConfigError(f"warmup: {error}") from None
    if rows.ndim != 2 or rows.shape[1] != n_features or len(rows) == 0:
        raise ConfigError(
            f"warmup must be at least one row of {n_features} features, got shape {list(rows.shape)}"
        )
    return in_layout(np.resize(rows, (n_rows, n_features)), model, columns)


def golden(given: Given | None, model: Model, deployment: Deployment) -> Golden | None:
    """Golden rows in the model's own order of columns, from (rows, values) as a caller gives them."""
    if given is None:
        return None
    try:
        rows, values = given
    except (TypeError, ValueError):
        raise ConfigError(
            f"golden must be (rows, values), got {type(given).__name__} {given!r:.60}"
        ) from None
    if deployment.parts[3] is not None and by_name.named(rows):  # inputs of the feature program
        rows = deployment.read_rows(rows)
        order = order_of(model, "primary", deployment.columns, strict=False)
        rows = rows if order is None else rows[:, order]
    try:
        rows = by_name.matched(
            rows, model.feature_names, n_features=model.n_features, categories=model.categories
        )
    except InputError as error:
        raise ConfigError(f"golden rows: {error}") from None
    if rows.ndim != 2 or rows.shape[1] != model.n_features:
        raise ConfigError(f"golden rows must be [n, {model.n_features}], got shape {list(rows.shape)}")
    return Golden.of(rows, values, error=ConfigError)


def in_layout(rows: npt.NDArray[Any], model: Model, columns: Columns) -> npt.NDArray[Any]:
    """Rows in the model's own order of columns, in the engine's."""
    order = order_of(model, "primary", columns, strict=False)
    return rows if order is None else rows[:, np.argsort(order)]


def breaker(given: bool | Mapping[str, float]) -> dict[str, Any]:
    """The breaker's limits in the core's units, from a value that the options' table has checked."""
    limits = {name: limit.default for name, limit in BREAKER_LIMITS.items()}
    if isinstance(given, Mapping):
        limits |= given
    return {
        "enabled": given is not False,
        "calls_in_a_row": int(min(limits["calls_in_a_row"], COUNT_MAX)),
        "rows_share": limits["rows_share"],
        "rows_min": int(min(limits["rows_min"], COUNT_MAX)),
        **{
            name.replace("_ms", "_ns"): int(min(limits[name] * 1e6, FAR_NS))
            for name in ("window_ms", "rest_ms", "rest_ms_max")
        },
    }
