"""Models into bytes and back, each in its own library's text or binary format, never as a pickle.

Bytes come here only after their digest was checked. The package's own readers read them. They load no training library
except scikit-learn, for skops.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import stat
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
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

FILE = "file:"  # begins the role of an artifact of the caller's own
ARTIFACT_NAME_MAX = 256


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


def attached(given: Mapping[str, Any] | None) -> dict[str, tuple[bytes, str]]:
    """Return the bytes and the format of a caller's own artifacts, by role: "file:" and the name.

    Args:
        given: bytes or paths by name; a folder stands for the files in it and below, as `name/path`.

    Raises:
        RegistryError: a name that is not allowed, or something that cannot be read or is neither bytes nor a path.
    """
    found: dict[str, tuple[bytes, str]] = {}
    for name, value in sorted(dict(given or {}).items()):
        if isinstance(value, bytes | bytearray | memoryview):
            content = {name: bytes(value)}
        elif not isinstance(value, str | os.PathLike):
            raise RegistryError(f"artifact {name!r:.80} must be bytes or a path, got {type(value).__name__}")
        elif (path := Path(value)).is_dir():
            files = sorted(each for each in path.rglob("*") if each.is_file())
            content = {
                f"{name}/{each.relative_to(path).as_posix()}": read_file("artifact", each) for each in files
            }
        else:
            content = {name: read_file("artifact", path)}
        for each, data in content.items():
            if len(data) > BLOB_BYTES_MAX:
                raise RegistryError(
                    f"artifact {each!r:.80} has {len(data):,} bytes; at most {BLOB_BYTES_MAX:,} are stored"
                )
            role = FILE + checked_artifact(each)
            if role in found:
                raise RegistryError(f"two artifacts would be called {each!r:.80}")
            found[role] = data, "file"
    return found


def checked_artifact(name: object) -> str:
    """Return the name of an artifact: parts between '/', none of which is empty, '.' or '..'. Raises RegistryError."""
    parts = name.split("/") if isinstance(name, str) else [""]
    plain = all(part not in ("", ".", "..") and part.isprintable() and "\\" not in part for part in parts)
    if not plain or len(str(name)) > ARTIFACT_NAME_MAX:
        raise RegistryError(
            f"the name of an artifact must be 1 to {ARTIFACT_NAME_MAX} printable characters, with '/' between parts, "
            f"none of them empty, '.' or '..'; got {name!r:.160}"
        )
    return str(name)


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
    return _same_each_time(bytes(_skops().dumps(model)))


def _same_each_time(content: bytes) -> bytes:
    """Return a skops file without the traces of the process that wrote it, so that equal models have equal bytes.

    skops names objects by their addresses, in its schema and in its file names, and a zip file keeps the time. Here
    objects are numbered in the order of the schema, and every file has the first date that a zip file can have.
    """
    numbers: dict[Any, int] = {}

    def renamed(name: str) -> str:
        stem, dot, kind = name.partition(".")
        return f"{numbers[int(stem)]}{dot}{kind}" if stem.isdigit() and int(stem) in numbers else name

    def number(node: Any) -> None:
        if isinstance(node, dict):
            if isinstance(node.get("__id__"), int):
                node["__id__"] = numbers.setdefault(node["__id__"], len(numbers) + 1)
            for child in node.values():
                number(child)
        elif isinstance(node, list):
            for child in node:
                number(child)

    def rename(node: Any) -> None:
        if isinstance(node, dict):
            if isinstance(node.get("file"), str):
                node["file"] = renamed(node["file"])
            for child in node.values():
                rename(child)
        elif isinstance(node, list):
            for child in node:
                rename(child)

    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as given, zipfile.ZipFile(out, "w") as made:
        schema = json.loads(given.read("schema.json"))
        number(schema)
        rename(schema)
        for entry in given.infolist():
            is_schema = entry.filename == "schema.json"
            body = json.dumps(schema, indent=2).encode() if is_schema else given.read(entry)
            fixed = zipfile.ZipInfo(renamed(entry.filename))  # of 1980, the default
            fixed.compress_type = entry.compress_type
            made.writestr(fixed, body)
    return out.getvalue()


def _unknown_types(content: bytes) -> Sequence[str]:
    from engine.model.objects import HARMLESS

    return [name for name in _skops().get_untrusted_types(data=content) if name not in HARMLESS]


def _skops() -> Any:
    return need("skops.io", "storing a scikit-learn model")


_WRITERS = {"lightgbm": _lightgbm, "xgboost": _xgboost, "catboost": _catboost, "sklearn": _sklearn}
