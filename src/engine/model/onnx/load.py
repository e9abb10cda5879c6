"""Loads ONNX models: which bytes, which files beside them, and which runtime; `ports` and `runtime` do the rest."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from engine._common import arguments, optional
from engine.errors import (
    ConfigError,
    InputTypeError,
    MissingDependencyError,
    UnsupportedModelError,
)
from engine.model import _onnx
from engine.model.model import Model
from engine.model.onnx.dense import load_onnx_dense
from engine.model.onnx.ports import feature_names
from engine.model.onnx.rewire import rewired
from engine.model.onnx.runtime import Source, open_by_c_api, open_by_python

Runtime = Literal["auto", "c-api", "python", "native"]


def load_onnx(
    source: str | os.PathLike[str] | bytes,
    *,
    intra_op_threads: int = 1,
    output: str | None = None,
    n_features: int | None = None,
    runtime: Runtime = "auto",
) -> Model:
    """Load an ONNX model with inputs of numbers, [batch, columns] each, and one output of scores.

    Several inputs become the columns of one row in their order, and their names `feature_names`. Probabilities in
    a ZipMap are taken as the tensor that it maps.

    A classifier made by skl2onnx or onnxmltools answers (label, probabilities). Its probabilities are taken; of two
    classes, the second's alone, which is what the training libraries' own `predict` gives for a binary model. Float32
    rows are scored as they are.

    Args:
        source: path, or the model's bytes. A model that keeps tensors in files of their own needs a path, and its files
            must lie in its folder.
        intra_op_threads: threads that one call may use, 1 to 1,024; 1 runs the model on the calling thread alone.
        output: name of the output that holds the scores, where several could.
        n_features: values a row, for a model that leaves that axis open.
        runtime: "auto" takes ONNX Runtime's C API, or its Python API where the installed library has no usable C API.
            `describe()["runtime"]` names the one in use. "c-api" and "python" insist on one of them. "native" reads a
            chain of dense layers (Gemm or MatMul and Add, batch norms, the usual activations) into a native net. That
            is ten times quicker for one row, and answers within a few roundings of ONNX Runtime. "auto" does so too
            where ONNX Runtime is not installed.

    Returns:
        A model of format "onnx". Its digest is the sha256 of the bytes. With tensors in files of their own, each
        file's name and bytes follow, in order of the names.

    Raises:
        FileNotFoundError: no such file.
        InputTypeError: neither a path nor bytes.
        MissingDependencyError: onnxruntime is not installed.
        ModelFormatError: damaged bytes.
        UnsupportedModelError: an input of text, or not of numbers [batch, columns]; a batch axis fixed at more than one
            row; no output, or several, that could hold the scores; tensors in files
            outside the model's folder.
        ConfigError: an argument out of range, or `runtime="c-api"` where the C API cannot be used.
    """
    arguments.one_of("runtime", runtime, get_args(Runtime), error=ConfigError)
    arguments.whole("intra_op_threads", intra_op_threads, 1, 1024, error=ConfigError)
    content, path = _read(source)
    if runtime == "native":
        return _load_native(content, path, output, n_features)
    try:
        folder = _package_folder()
    except MissingDependencyError as missing:
        if runtime == "auto":
            try:
                return _load_native(content, path, output, n_features)
            except UnsupportedModelError as unsupported:
                missing.add_note(f"Without it only chains of dense layers are read: {unsupported}")
        raise
    locations, properties = _onnx.scan(content)
    files = _external_files(locations, path)
    # The bytes that were hashed are the bytes that are loaded; only external data needs the file itself.
    model = str(path) if files else rewired(content, properties)
    opened = Source(model, intra_op_threads, output, n_features, _digest(content, files), properties)
    if runtime == "python":
        return open_by_python(opened)
    try:
        return open_by_c_api(opened, folder)
    except _onnx.LibraryError as unusable:
        if runtime == "c-api":
            raise ConfigError(
                f"ONNX Runtime's C API cannot be used: {unusable}; runtime='python' may"
            ) from unusable
        return open_by_python(opened, str(unusable))


def _load_native(content: bytes, path: Path | None, output: str | None, n_features: int | None) -> Model:
    locations, properties = _onnx.scan(content)
    if locations:
        raise UnsupportedModelError("only ONNX Runtime reads a model with tensors in files of their own")
    name = path.name if path is not None else "the model"
    digest = hashlib.sha256(content).hexdigest()
    model = load_onnx_dense(content, name, digest, output=output)
    if n_features not in (None, model.n_features):
        raise ConfigError(f"n_features={n_features} does not fit {name}, which has {model.n_features}")
    names = feature_names(properties, model.n_features)
    return model if names is None else load_onnx_dense(content, name, digest, output=output, names=names)


def _package_folder() -> Path:
    """Folder of the installed onnxruntime package, found without importing it."""
    found = importlib.util.find_spec("onnxruntime")
    if found is None or not found.submodule_search_locations:
        raise optional.missing("onnxruntime", "reading an ONNX model", "onnx")
    return Path(found.submodule_search_locations[0])


def _read(source: str | os.PathLike[str] | bytes) -> tuple[bytes, Path | None]:
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source), None
    if not isinstance(source, str | os.PathLike):
        raise InputTypeError(f"expected a path or the bytes of an ONNX model, got {type(source).__name__}")
    path = Path(source)
    return path.read_bytes(), path


def _external_files(locations: Sequence[str], path: Path | None) -> dict[str, Path]:
    """The files that hold a model's tensors, by the names in the model. Each must lie in the model's folder."""
    if locations and path is None:
        raise UnsupportedModelError(
            f"the model keeps tensors in {sorted(set(locations))}, which bytes alone cannot bring: load it from a "
            f"path, or save it with its tensors inside"
        )
    files = {}
    for location in sorted(set(locations)):
        assert path is not None
        folder = path.parent.resolve()
        file = (folder / location).resolve() if "\0" not in location else folder
        if os.path.isabs(location) or not file.is_relative_to(folder) or not file.is_file():
            raise UnsupportedModelError(
                f"model '{path}' keeps tensors in {location!r}, which is not a file inside its folder {folder}"
            )
        files[location] = file
    return files


def _digest(content: bytes, files: dict[str, Path]) -> str:
    sha = hashlib.sha256(content)
    for location, file in files.items():
        sha.update(location.encode("utf-8", "surrogateescape"))
        with file.open("rb") as opened:
            while block := opened.read(1 << 20):
                sha.update(block)
    return sha.hexdigest()
