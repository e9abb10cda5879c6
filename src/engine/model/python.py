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
    ) -> None:
        super().__init__(
            callable.scorer(), format=format, digest=digest, feature_names=feature_names, details=details
        )
        self._callable = callable

    def predict(self, rows: npt.ArrayLike, *, threads: int = 1) -> npt.NDArray[np.float64]:
        """Score rows as `Model.predict` does; the function's own exception is the ModelError's `__cause__`.

        A KeyboardInterrupt or SystemExit inside the function is raised unchanged.
        """
        try:
            return super().predict(rows, threads=threads)
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


def from_callable(fn: Callable[..., Any], n_features: int, n_outputs: int = 1) -> CallableModel:
    """Make a model of a Python callable.

    Args:
        fn: takes float32 [n, n_features], a fresh C-contiguous array that it may keep or change. Returns [n] (for one
            output) or [n, n_outputs], as anything that `numpy.asarray` turns into real numbers. The engine calls it
            under the GIL, on its own threads, one call at a time. An exception, a wrong shape and values that are not
            real numbers become a failed score; NaN is passed on.
        n_features: int from 1, values a row.
        n_outputs: int from 1, values an answer.

    Returns:
        A model of format "python". Its digest covers the qualified name and, for a plain function, the code, constants
        and default arguments. It covers neither variables that the function closes over nor globals. For any other
        callable it covers the name and the object's identity, so it means nothing outside this process.
        `describe()["digest_covers"]` says which.

    Raises:
        InputTypeError: `fn` cannot be called.
        ConfigError: a size is no int, or below 1.
    """
    if not callable(fn):
        raise InputTypeError(f"expected a callable, got {type(fn).__name__}")
    for name, size in (("n_features", n_features), ("n_outputs", n_outputs)):
        arguments.whole(
            name, int(size) if isinstance(size, np.integer) else size, 1, 2**32 - 1, error=ConfigError
        )
    digest, covers = _digest(fn)
    details = {"callable": _qualified_name(fn), "digest_covers": covers, "runtime": "python"}
    return CallableModel(
        _callable.Callable(fn, n_features, n_outputs), format="python", digest=digest, details=details
    )


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
