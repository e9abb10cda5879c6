"""Fitted objects in files: skops, whose types are checked before any is built, and pickles that are trusted."""

from __future__ import annotations

import io
import pickle
import zipfile
from typing import Any

from engine.errors import EngineError, MissingDependencyError, ModelFormatError, UnsupportedModelError
from engine.model import fitted
from engine.model.model import Model

UNPACKED_BYTES_MAX = 2**31  # a small archive can claim to unpack to any size


def read_object(content: bytes, name: str, *, trust: bool) -> Any:
    """The object in a skops file or, where it is trusted, a pickle; errors as `read_skops` and `read_pickle`."""
    if content.startswith(b"PK"):
        return _load_skops(content, name, trust)
    if not trust:
        raise UnsupportedModelError(f"{name}: a pickle, which is read only with trust=True")
    return _load_pickle(content, name)


def read_skops(content: bytes, name: str, *, trust: bool) -> Model:
    """Reads a skops file; types that skops does not know are built only where the file is trusted.

    Among these are scikit-learn's trees, which believe the sizes that a file gives them: linear models and perceptrons
    need no trust, forests do.

    Raises:
        MissingDependencyError: skops is not installed.
        ModelFormatError: damaged, or it would unpack to over 2 GiB.
        UnsupportedModelError: unknown types without trust, or an object that is no model.
    """
    return _read(_load_skops(content, name, trust), name)


def _load_skops(content: bytes, name: str, trust: bool) -> Any:
    try:
        import skops.io
    except ImportError:
        raise MissingDependencyError(f"{name} is a skops file: pip install skops") from None
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > UNPACKED_BYTES_MAX:
            raise ValueError(f"it would unpack to {size:,} bytes")
        unknown = skops.io.get_untrusted_types(data=content)
        known = skops.io.loads(content, trusted=unknown) if trust or not unknown else None
    except Exception as error:  # whatever a damaged schema makes skops raise
        raise ModelFormatError(
            f"{name}: the skops file cannot be read: {type(error).__name__}: {error}"
        ) from error
    if unknown and not trust:
        raise UnsupportedModelError(
            f"{name}: the skops file names types that skops does not know, and building them runs code: "
            f"{', '.join(unknown)}; say trust=True if you would run a program from the same source"
        )
    return known


def read_pickle(content: bytes, name: str, *, trust: bool) -> Model:
    """Runs a trusted pickle, or one of joblib's, and reads the model in it.

    Raises:
        ModelFormatError: it cannot be read.
        UnsupportedModelError: not trusted, or an object that is no model.
    """
    return _read(read_object(content, name, trust=trust), name)


def _load_pickle(content: bytes, name: str) -> Any:
    try:
        return _unpickle(content)
    except Exception as error:  # whatever the pickled code raises
        raise ModelFormatError(
            f"{name}: the pickle cannot be read: {type(error).__name__}: {error}"
        ) from error


def _unpickle(content: bytes) -> Any:
    try:
        import joblib
    except ImportError:
        return pickle.loads(content)
    return joblib.load(io.BytesIO(content))  # plain pickles too


def _read(held: Any, name: str) -> Model:
    library = fitted.library_of(held)
    if library is None:
        raise UnsupportedModelError(
            f"{name}: expected a fitted model of {', '.join(fitted.LIBRARIES)}, got "
            f"{type(held).__module__}.{type(held).__name__}"
        )
    try:
        return fitted.read_fitted(held, library)
    except EngineError:
        raise
    except Exception as error:  # an object that lost an attribute on its way
        raise ModelFormatError(f"{name}: the object is damaged: {type(error).__name__}: {error}") from error
