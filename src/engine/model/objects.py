"""Fitted objects in files: skops, which checks types before it builds any, and trusted pickles."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import warnings
import zipfile
import zlib
from typing import Any

from engine._common import optional
from engine.errors import EngineError, ModelFormatError, UnsupportedModelError
from engine.model import fitted, formats
from engine.model.iterations import Range
from engine.model.model import Model

# Types that skops does not list and that run no code of a file's: imputers and encoders hold the dtype they were given.
HARMLESS = frozenset({"numpy.dtype"})
UNPACKED_BYTES_MAX = 2**31  # a small archive can claim to unpack to any size


def read_object(content: bytes, name: str, *, trust: bool) -> Any:
    """Return the object in a skops file or a trusted pickle. Errors as `read_skops` and `read_pickle`."""
    if content.startswith(b"PK"):
        return _load_skops(content, name, trust)
    if not trust:
        raise UnsupportedModelError(f"{name}: a pickle, which is read only with trust=True")
    return _load_pickle(content, name)


def read_skops(content: bytes, name: str, *, trust: bool, rounds: Range = None) -> Model:
    """Read the model in a skops file. Types that skops does not know are built only with `trust`.

    scikit-learn's trees are among those types, because they believe the sizes that a file gives them. So linear models
    and perceptrons need no trust, and forests do.

    Raises:
        MissingDependencyError: skops is not installed.
        ModelFormatError: the file is damaged, or would unpack to over 2 GiB.
        UnsupportedModelError: unknown types without trust, or an object that is no model.
    """
    return _read(_load_skops(content, name, trust), name, rounds)


def _load_skops(content: bytes, name: str, trust: bool) -> Any:
    skops_io = optional.need("skops.io", f"{name}, a skops file,")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > UNPACKED_BYTES_MAX:
            raise ValueError(f"it would unpack to {size:,} bytes")
        listed = skops_io.get_untrusted_types(data=content)
        unknown = [name for name in listed if name not in HARMLESS]
        known = skops_io.loads(content, trusted=listed) if trust or not unknown else None
    except Exception as error:  # a damaged schema makes skops raise anything
        raise ModelFormatError(
            f"{name}: the skops file cannot be read: {type(error).__name__}: {error}"
        ) from error
    if unknown and not trust:
        raise UnsupportedModelError(
            f"{name}: the skops file names types that skops does not know, and building them runs code: "
            f"{', '.join(unknown)}; say trust=True if you would run a program from the same source"
        )
    return known


def read_pickle(content: bytes, name: str, *, trust: bool, rounds: Range = None) -> Model:
    """Run a trusted pickle, or one of joblib's, and read the model in it.

    Raises:
        ModelFormatError: the pickle cannot be read.
        UnsupportedModelError: not trusted, or an object that is no model.
    """
    return _read(read_object(content, name, trust=trust), name, rounds)


def _load_pickle(content: bytes, name: str) -> Any:
    try:
        return _unpickle(content)
    except (ImportError, AttributeError) as error:  # a healthy file, whose classes are not here
        raise ModelFormatError(
            f"{name}: the pickle cannot be read here, because it names what this process does not have: {error}; "
            f"install or import it first, in the version that wrote the file"
        ) from error
    except Exception as error:  # pickled code raises anything
        raise ModelFormatError(
            f"{name}: the pickle cannot be read: {type(error).__name__}: {error}"
        ) from error


def _unpickle(content: bytes) -> Any:
    with warnings.catch_warnings():
        # joblib warns that it cannot map a compressed file into memory, which nobody asked for.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            import joblib
        except ImportError:
            return pickle.loads(_decompressed(content))
        return joblib.load(io.BytesIO(content))  # plain pickles too


def _decompressed(content: bytes) -> bytes:
    if content.startswith(b"\x1f\x8b"):
        return gzip.decompress(content)
    if content.startswith(b"BZh"):
        return bz2.decompress(content)
    if content.startswith((b"\xfd7zXZ", b"\x5d\0\0")):
        return lzma.decompress(content)
    return zlib.decompress(content) if formats.COMPRESSED.match(content) else content


def _read(held: Any, name: str, rounds: Range) -> Model:
    library = fitted.library_of(held)
    if library is None:
        raise UnsupportedModelError(
            f"{name}: expected a fitted model of {', '.join(fitted.LIBRARIES)}, got "
            f"{type(held).__module__}.{type(held).__name__}"
        )
    try:
        return fitted.read_fitted(held, library, rounds)
    except EngineError:
        raise
    except Exception as error:  # an object that lost an attribute on its way
        raise ModelFormatError(
            f"{name}: the installed {library} does not know the object as it is: {type(error).__name__}: {error}; load "
            f"it with the version of {library} that wrote it, and save it again"
        ) from error
