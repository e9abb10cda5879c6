"""Any Python callable as a model. It takes the GIL, so it runs in the batch lane alone and is never a fallback."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from types import CodeType
from typing import Any

import numpy as np
import numpy.typing as npt

from engine._common import arguments
from engine.errors import ConfigError, InputTypeError, ModelError
from engine.model import _callable
from engine.model.model import Model


class CallableModel(Model):
    """A `Model` whose scorer calls a Python function. `last_error()` keeps the traceback of its last failure."""

    __slots__ = ("_callable",)

    def __init__(
        self,
        callable: _callable.Callable,
        *,
        format: str,
        digest: str,
        feature_names: Sequence[str] | None = None,
        details: Mapping[str, Any] | None = None,
        categories: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            callable.scorer(),
            format=format,
            digest=digest,
            feature_names=feature_names,
            details=details,
            categories=categories,
        )
        self._callable = callable

    def predict(self, rows: Any, *, threads: int = 1, strict: bool = False) -> npt.NDArray[np.float64]:
        """Score rows as `Model.predict` does; the function's own exception is the ModelError's `__cause__`.

        A KeyboardInterrupt or SystemExit inside the function is raised unchanged.
        """
        try:
            return super().predict(rows, threads=threads, strict=strict)
        except ModelError as failure:
            cause = self._callable.error
            if isinstance(cause, KeyboardInterrupt | SystemExit):
                raise cause from None
            detailed = ModelError(f"{failure}: {type(cause).__name__}: {cause}")
            detailed.add_note(self.last_error())
            raise detailed from cause

    def last_error(self) -> str:
        """Return the traceback of the last failed call, on any thread, as text; "" where none failed."""
        return self._callable.error_text

    def describe(self) -> dict[str, Any]:
        """Return the facts of `Model.describe`, and `last_error`: the last line of `last_error()`, or None."""
        lines = self.last_error().strip().splitlines()
        return {**super().describe(), "last_error": lines[-1] if lines else None}


def from_callable(
    fn: Callable[..., Any],
    n_features: int,
    n_outputs: int = 1,
    *,
    dtype: npt.DTypeLike = np.float32,
    feature_names: Sequence[str] | None = None,
) -> CallableModel:
    """Make a model of a Python callable.

    Args:
        fn: takes `dtype` [n, n_features], a fresh C-contiguous array that it may keep or change. Returns [n] (for one
            output) or [n, n_outputs], as anything that `numpy.asarray` turns into real numbers. The engine calls it
            under the GIL, on its own threads, one call at a time. An exception, a wrong shape and values that are not
            real numbers become a failed score; NaN is passed on, and a masked value is NaN.
        n_features: int from 1, values a row.
        n_outputs: int from 1, values an answer.
        dtype: float32 or float64, of the rows that `fn` gets.
        feature_names: names of the columns in order, for rows that have names.

    Returns:
        A model of format "python". Its digest covers the qualified name and, for a plain function, the code, constants
        and default arguments. It covers neither variables that the function closes over nor globals. For any other
        callable it covers the name and the object's identity, so it means nothing outside this process.
        `describe()["digest_covers"]` says which.

    Raises:
        InputTypeError: `fn` cannot be called.
        ConfigError: a size is no int, or below 1; another dtype; another number of names than of features.
    """
    if not callable(fn):
        raise InputTypeError(f"expected a callable, got {type(fn).__name__}")
    n_features = arguments.whole("n_features", n_features, 1, 2**32 - 1, error=ConfigError)
    n_outputs = arguments.whole("n_outputs", n_outputs, 1, 2**32 - 1, error=ConfigError)
    double = _is_double(dtype)
    names = checked_names(feature_names, n_features) if feature_names is not None else None
    digest, covers = _digest(fn)
    details = {
        "callable": _qualified_name(fn),
        "digest_covers": covers,
        "runtime": "python",
        "dtype": "float64" if double else "float32",
    }
    return CallableModel(
        _callable.Callable(fn, n_features, n_outputs, double),
        format="python",
        digest=digest,
        feature_names=names,
        details=details,
    )


def checked_names(names: Sequence[str], n_features: int) -> tuple[str, ...]:
    """Return names of columns as a tuple. Raises ConfigError unless they are `n_features` different strings."""
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"feature_names must be a sequence of str, got {names!r:.80}")
    if len(names) != n_features or len(set(names)) != n_features:
        raise ConfigError(
            f"feature_names must be {n_features} different names, got {len(set(names))} different of {len(names)}"
        )
    return tuple(names)


def _is_double(dtype: npt.DTypeLike) -> bool:
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = np.dtype(object)
    if found not in (np.float32, np.float64):
        raise ConfigError(f"dtype must be float32 or float64, got {dtype!r}")
    return bool(found == np.float64)


def _qualified_name(fn: Any) -> str:
    named = fn if hasattr(fn, "__qualname__") else type(fn)
    return f"{getattr(named, '__module__', '?')}.{named.__qualname__}"


def _digest(fn: Any) -> tuple[str, str]:
    sha = hashlib.sha256(_qualified_name(fn).encode())
    code = getattr(fn, "__code__", None)
    if not isinstance(code, CodeType) or hasattr(fn, "__self__"):
        sha.update(str(id(fn)).encode())
        return sha.hexdigest(), "name and identity in this process"
    _add_code(sha, code)
    sha.update(repr((fn.__defaults__, fn.__kwdefaults__)).encode())
    return sha.hexdigest(), "name, code, constants and defaults"


def _add_code(sha: Any, code: CodeType) -> None:
    sha.update(code.co_code)
    sha.update(repr((code.co_names, code.co_varnames, code.co_freevars)).encode())
    for constant in code.co_consts:
        if isinstance(constant, CodeType):  # its repr would hold an address
            _add_code(sha, constant)
        elif isinstance(constant, frozenset):  # whose order changes from process to process
            sha.update(repr(sorted(map(repr, constant))).encode())
        else:
            sha.update(repr(constant).encode())
