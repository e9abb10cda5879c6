"""Models into bytes and back, each in its own library's text or binary format, never as a pickle.

Bytes come here only after their digest was checked. The package's own readers read them. They load no training library
except scikit-learn, for skops.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine._common.optional import need
from engine.errors import EngineError, ModelFormatError, RegistryError
from engine.model import Model
from engine.model import load as readers
from engine.model.fitted import library_of
from engine.model.formats import ONNX, PICKLE, SKOPS, sniff
from engine.registry.files import BLOB_BYTES_MAX
from engine.transform import FeatureProgram


def to_bytes(role: str, model: Any, *, trust: bool) -> tuple[bytes, str]:
    """Return the bytes to store for a model, and their format.

    Args:
        role: "primary" or "fallback", for error texts.
        model: a path, the bytes of such a file, or a fitted LightGBM, XGBoost, CatBoost or scikit-learn object.
        trust: accept pickles, and skops files of types that skops does not know.

    Raises:
        RegistryError: a Python callable, a loaded Model, or a file that could not be read back.
    """
    name: str
    if isinstance(model, bytes):
        content, name = model, role
    elif isinstance(model, str | os.PathLike):
        content, name = read_file(role, Path(model)), str(os.fspath(model))
    else:
        content = _of_object(role, model)
        name = f"{type(model).__module__}.{type(model).__name__}"
    try:
        kind = sniff(content, name, trust=trust)
        _require_readable(kind, content, trust)
    except EngineError as error:
        raise RegistryError(f"the {role} cannot be stored: {error}") from error
    return content, kind


def from_bytes(name: str, content: bytes, *, trust: bool) -> Model:
    """Return the model in bytes whose digest has been checked. Raises RegistryError if it cannot be read."""
    try:
        kind = sniff(content, name, trust=trust)
        if kind == ONNX:
            from engine.model.onnx import load_onnx

            return load_onnx(content)
        if kind in (SKOPS, PICKLE):
            from engine.model import objects

            read = objects.read_skops if kind == SKOPS else objects.read_pickle
            return read(content, name, trust=trust)
        return readers.read_native(content, kind, name)
    except EngineError as error:
        raise RegistryError(f"{name} cannot be loaded: {error}") from error


def program_text(program: Any) -> bytes:
    """Return the bytes to store for a feature program: a FeatureProgram, a path, or JSON text.

    Raises:
        RegistryError: anything else, or a file that cannot be read.
    """
    if isinstance(program, FeatureProgram):
        return program.to_json().encode()
    if isinstance(program, os.PathLike):
        return read_file("feature program", Path(program))
    if isinstance(program, str):
        return (
            program.encode()
            if program.lstrip().startswith("{")
            else read_file("feature program", Path(program))
        )
    raise RegistryError(
        f"the program must be a FeatureProgram, a path or its JSON text, got {type(program).__name__}"
    )


def read_file(role: str, path: Path) -> bytes:
    """Return the bytes of a caller's file, at most BLOB_BYTES_MAX. Raises RegistryError.

    Args:
        role: the subject of an error.
    """
    try:
        with path.open("rb") as opened:
            found = os.fstat(opened.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise RegistryError(f"the {role} must be a plain file, got {path}")
            if found.st_size > BLOB_BYTES_MAX:
                raise RegistryError(
                    f"the {role} {path} has {found.st_size:,} bytes; at most {BLOB_BYTES_MAX:,} are stored"
                )
            return opened.read()
    except OSError as error:
        raise RegistryError(f"the {role} {path} cannot be read: {error.strerror}") from None


def _require_readable(kind: str, content: bytes, trust: bool) -> None:
    """Raise for a file that could not be loaded later, as far as that shows without building the model."""
    if kind == ONNX:
        from engine.model import _onnx

        files, _ = _onnx.scan(content)
        if files:
            raise ModelFormatError(
                f"the ONNX model keeps tensors in separate files ({', '.join(sorted(set(files))[:3])}); save it with "
                f"its tensors inside"
            )
    elif kind == SKOPS and not trust and (unknown := _unknown_types(content)):
        raise ModelFormatError(
            f"reading it back would build types that skops does not know ({', '.join(unknown[:4])}): use "
            f"ModelRegistry(…, trust=True), or convert the model to ONNX"
        )


def _of_object(role: str, model: Any) -> bytes:
    if isinstance(model, Model):
        raise RegistryError(
            f"the {role} is a loaded Model, which does not keep the bytes of its file: register the file or the fitted "
            f"object"
        )
    library = library_of(model)
    if library is None:
        reason = (
            "a Python callable: its code lives in your program and cannot be stored safely (loading a pickle runs "
            "the code in it); export it to ONNX"
            if callable(model)
            else f"{type(model).__module__}.{type(model).__name__}"
        )
        raise RegistryError(
            f"the {role} must be a path or a fitted lightgbm, xgboost, catboost or sklearn model, got {reason}"
        )
    try:
        return _WRITERS[library](model)
    except EngineError:
        raise
    except Exception as error:  # a library may raise anything for an object that was not fitted
        raise RegistryError(
            f"the {role}, a {library} {type(model).__name__}, cannot be saved: {type(error).__name__}: {error}"
        ) from error


def _lightgbm(model: Any) -> bytes:
    booster = model if hasattr(model, "model_to_string") else model.booster_
    return str(booster.model_to_string()).encode()


def _xgboost(model: Any) -> bytes:
    booster = model
    if not hasattr(model, "save_raw"):
        booster = model.get_booster()
        # A wrapper's predict stops at the best iteration; a Booster's uses every tree.
        with contextlib.suppress(AttributeError):
            booster = booster[: int(model.best_iteration) + 1]
    return bytes(booster.save_raw("ubj"))


def _catboost(model: Any) -> bytes:
    with tempfile.TemporaryDirectory() as folder:  # CatBoost writes JSON only to files
        path = Path(folder, "model.json")
        model.save_model(str(path), format="json")
        return path.read_bytes()


def _sklearn(model: Any) -> bytes:
    return bytes(_skops().dumps(model))


def _unknown_types(content: bytes) -> Sequence[str]:
    return list(_skops().get_untrusted_types(data=content))


def _skops() -> Any:
    return need("skops.io", "storing a scikit-learn model")


_WRITERS = {"lightgbm": _lightgbm, "xgboost": _xgboost, "catboost": _catboost, "sklearn": _sklearn}
