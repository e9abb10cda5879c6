"""Reads ONNX models and runs them through ONNX Runtime: by its C API without the GIL, or by its Python API.

What is decided here: which input takes the rows, which output holds the scores, which files a model may bring. The
bindings in `engine.model._onnx` do the running. The C API needs the shared library that onnxruntime's wheels carry
(1.20, 1.23 and 1.32 were tried, 1.17 has none); the Python API serves where there is none.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from engine.errors import (
    ConfigError,
    InputTypeError,
    MissingDependencyError,
    ModelError,
    ModelFormatError,
    UnsupportedModelError,
)
from engine.model import _callable, _onnx
from engine.model.model import Model
from engine.model.python import CallableModel

FLOAT, DOUBLE, INT64, STRING = 1, 11, 7, 8
ELEMENTS = {FLOAT: "float", DOUBLE: "double", INT64: "int64", STRING: "string"}

Runtime = Literal["auto", "c-api", "python", "native"]


class OnnxModel(Model):
    """A `Model` run by ONNX Runtime's C API. Never takes the GIL; many threads may score at once.

    ONNX Runtime picks its matrix kernels by batch size, so the last bits of a row's score may depend on the rows
    beside it; everything else in this package gives the same bits at any batch size.
    """

    __slots__ = ()

    def predict(self, rows: npt.ArrayLike, *, threads: int = 1) -> npt.NDArray[np.float64]:
        """As `Model.predict`; a ModelError says what ONNX Runtime said."""
        try:
            return super().predict(rows, threads=threads)
        except ModelError as failure:
            raise ModelError(f"{failure}: {self.last_error()}") from None

    def last_error(self) -> str:
        """What ONNX Runtime said about the last call that failed, of any thread; "" where none did."""
        return _onnx.last_error(self.scorer)


@dataclass(frozen=True)
class _Port:
    """One input or output: element type (None for what is no tensor) and shape, -1 for a dynamic axis."""

    name: str
    element: int | None
    shape: tuple[int, ...]

    def __str__(self) -> str:
        kind = (
            "no tensor"
            if self.element is None
            else ELEMENTS.get(self.element, f"element type {self.element}")
        )
        axes = ", ".join("?" if size < 0 else str(size) for size in self.shape)
        return f"'{self.name}' ({kind} [{axes}])"


@dataclass(frozen=True)
class _Choice:
    """Which input takes the rows and which output holds the scores."""

    input: str
    input_element: int
    n_features: int
    output: str
    row_by_row: bool  # the model's batch axis is fixed at one
    labelled: bool  # there is a label output beside the scores: a classifier

    @property
    def probe_rows(self) -> int:
        return 1 if self.row_by_row else 2


@dataclass(frozen=True)
class _Columns:
    """Of an output of `total` columns the model answers [first, first + count)."""

    total: int
    first: int
    count: int


def load_onnx(
    source: str | os.PathLike[str] | bytes,
    *,
    intra_op_threads: int = 1,
    output: str | None = None,
    n_features: int | None = None,
    runtime: Runtime = "auto",
) -> Model:
    """Loads an ONNX model: one float (or double) input [batch, n_features], one output of scores.

    A classifier made by skl2onnx or onnxmltools answers (label, probabilities): the probabilities are taken, and of two
    classes the second's, which is what the training libraries' own `predict` gives for a binary model. Float32 rows
    are scored as they are.

    Args:
        source: path, or the model's bytes. Tensors kept in files of their own need a path, and must lie in its folder.
        intra_op_threads: threads that one call may use; 1 runs the model on the calling thread alone.
        output: name of the output that holds the scores, where the model has several that could.
        n_features: values a row, for a model that leaves that axis open.
        runtime: "c-api" or "python" insists on one way into ONNX Runtime; "auto" takes the C API and, where the
            installed library cannot be used so, the Python API. `describe()["runtime"]` says which it was.
            "native" reads a chain of dense layers (Gemm or MatMul and Add, batch norms, the usual activations) into a
            native net, which is ten times quicker for one row and answers within a few roundings of ONNX Runtime;
            "auto" does so too where ONNX Runtime is not installed.

    Returns:
        A model of format "onnx"; digest: sha256 of the bytes, or, with tensors in files of their own, of the
        bytes followed by each file's name and bytes in the order of their names.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
        ModelFormatError: damaged bytes.
        UnsupportedModelError: several inputs, an input that is not float [batch, n_features], a batch axis fixed at
            more than one row, scores in a ZipMap, no or several outputs that could hold the scores, external data
            outside the model's folder.
        ConfigError: an argument that makes no sense, or `runtime="c-api"` where that cannot be.
    """
    if runtime not in ("auto", "c-api", "python", "native"):
        raise ConfigError(f"expected runtime 'auto', 'c-api', 'python' or 'native', got {runtime!r}")
    if not 1 <= intra_op_threads <= 1024:
        raise ConfigError(f"expected intra_op_threads of 1 to 1024, got {intra_op_threads}")
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
    model = str(path) if files else content
    loaded = _Source(model, intra_op_threads, output, n_features, _digest(content, files), properties)
    if runtime == "python":
        return _load_by_python(loaded)
    try:
        return _load_by_c_api(loaded, folder)
    except _onnx.LibraryError as unusable:
        if runtime == "c-api":
            raise ConfigError(
                f"ONNX Runtime's C API cannot be used: {unusable}; runtime='python' may"
            ) from unusable
        return _load_by_python(loaded, str(unusable))


def _load_native(content: bytes, path: Path | None, output: str | None, n_features: int | None) -> Model:
    from engine.model.onnx_dense import load_onnx_dense

    locations, properties = _onnx.scan(content)
    if locations:
        raise UnsupportedModelError("a model with tensors in files of its own is read by ONNX Runtime alone")
    name = path.name if path is not None else "the model"
    digest = hashlib.sha256(content).hexdigest()
    model = load_onnx_dense(content, name, digest, output=output)
    if n_features not in (None, model.n_features):
        raise ConfigError(f"n_features={n_features} does not fit {name}, which has {model.n_features}")
    names = _feature_names(properties, model.n_features)
    return model if names is None else load_onnx_dense(content, name, digest, output=output, names=names)


@dataclass(frozen=True)
class _Source:
    model: bytes | str
    intra_op_threads: int
    output: str | None
    n_features: int | None
    digest: str
    properties: dict[str, str]


def _package_folder() -> Path:
    """Folder of the installed onnxruntime package, found without importing it."""
    found = importlib.util.find_spec("onnxruntime")
    if found is None or not found.submodule_search_locations:
        raise MissingDependencyError(
            "reading an ONNX model needs onnxruntime, which is not installed: pip install 'deadline-engine[onnx]'"
        )
    return Path(found.submodule_search_locations[0])


def _read(source: str | os.PathLike[str] | bytes) -> tuple[bytes, Path | None]:
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source), None
    if not isinstance(source, str | os.PathLike):
        raise InputTypeError(f"expected a path or the bytes of an ONNX model, got {type(source).__name__}")
    path = Path(source)
    return path.read_bytes(), path


def _external_files(locations: Sequence[str], path: Path | None) -> dict[str, Path]:
    """The files that hold a model's tensors, by the names it gives them; refused unless they lie in its folder."""
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


def _load_by_c_api(source: _Source, package: Path) -> Model:
    session, library = _open_session(source, package)
    choice = _choose(
        [_Port(name, element, tuple(shape)) for name, element, shape in session.inputs],
        [_Port(name, element, tuple(shape)) for name, element, shape in session.outputs],
        source,
    )
    way: dict[str, Any] = {
        "input": choice.input,
        "input_element": choice.input_element,
        "n_features": choice.n_features,
        "output": choice.output,
    }
    element, shape = session.probe(**way, n_rows=choice.probe_rows)
    columns = _columns(choice, _Port(choice.output, element, tuple(shape)))
    scorer = session.scorer(
        **way,
        n_columns=columns.total,
        first_column=columns.first,
        n_outputs=columns.count,
        row_by_row=choice.row_by_row,
    )
    return OnnxModel(
        scorer,
        format="onnx",
        digest=source.digest,
        feature_names=_feature_names(source.properties, choice.n_features),
        details={
            "runtime": "c-api",
            "runtime_version": _onnx.library_version(library),
            **_facts(choice, source),
        },
    )


def _open_session(source: _Source, package: Path) -> tuple[_onnx.Session, str]:
    """The session and the library it runs in: the first of the installed ones that can be used."""
    libraries = sorted(str(path) for path in (package / "capi").glob("libonnxruntime.so*"))
    reasons = [f"no libonnxruntime.so in {package / 'capi'}"]
    for library in libraries:
        try:
            return _onnx.Session(library, source.model, source.intra_op_threads), library
        except _onnx.LibraryError as unusable:
            reasons.append(str(unusable))
    raise _onnx.LibraryError("; ".join(reasons[1:] or reasons))


def _load_by_python(source: _Source, why: str | None = None) -> Model:
    session, version = _python_session(source)
    choice = _choose(_python_ports(session.get_inputs()), _python_ports(session.get_outputs()), source)
    dtype = np.float64 if choice.input_element == DOUBLE else np.float32

    def run(rows: npt.NDArray[Any]) -> Any:
        return session.run([choice.output], {choice.input: rows.astype(dtype, copy=False)})[0]

    try:
        probed = run(np.zeros((choice.probe_rows, choice.n_features), np.float32))
    except Exception as failure:  # ONNX Runtime's exceptions share no base
        raise UnsupportedModelError(f"this ONNX Runtime cannot run the model: {failure}") from failure
    element = {"float32": FLOAT, "float64": DOUBLE}.get(str(getattr(probed, "dtype", "")))
    columns = _columns(choice, _Port(choice.output, element, tuple(getattr(probed, "shape", ()))))

    def score(rows: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        answer = np.concatenate([run(row) for row in rows[:, None]]) if choice.row_by_row else run(rows)
        answer = answer[:, None] if answer.ndim == 1 else answer
        return answer[:, columns.first : columns.first + columns.count]

    details: dict[str, Any] = {"runtime": "python", "runtime_version": version, **_facts(choice, source)}
    if why is not None:
        details["runtime_reason"] = why
    return CallableModel(
        _callable.Callable(score, choice.n_features, columns.count),
        format="onnx",
        digest=source.digest,
        feature_names=_feature_names(source.properties, choice.n_features),
        details=details,
    )


def _python_session(source: _Source) -> tuple[Any, str]:
    try:
        import onnxruntime
    except ImportError as failure:
        raise MissingDependencyError(
            f"onnxruntime is installed and cannot be imported ({failure!r}), often for want of a version that fits "
            f"NumPy {np.__version__}: pip install --upgrade 'deadline-engine[onnx]'"
        ) from failure
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = source.intra_op_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    for pool in ("intra_op", "inter_op"):
        options.add_session_config_entry(f"session.{pool}.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(source.model, options, providers=["CPUExecutionProvider"])
    except Exception as failure:  # ONNX Runtime's exceptions share no base
        if type(failure).__name__ == "NotImplemented":
            raise UnsupportedModelError(f"this ONNX Runtime cannot run the model: {failure}") from failure
        raise ModelFormatError(f"not an ONNX model that can be loaded: {failure}") from failure
    return session, onnxruntime.__version__


def _python_ports(described: Sequence[Any]) -> list[_Port]:
    numbers = {f"tensor({name})": number for number, name in ELEMENTS.items()}
    return [
        _Port(
            port.name,
            numbers.get(port.type, 0) if port.type.startswith("tensor(") else None,
            tuple(size if isinstance(size, int) else -1 for size in port.shape or ()),
        )
        for port in described
    ]


def _choose(inputs: Sequence[_Port], outputs: Sequence[_Port], source: _Source) -> _Choice:
    given = _choose_input(inputs)
    scores = _choose_output(outputs, source.output)
    rows, features = given.shape
    if rows not in (-1, 1):
        raise UnsupportedModelError(
            f"input {given} takes exactly {rows} rows at once: export the model with a dynamic batch axis"
        )
    wanted = source.n_features
    if features < 1 and wanted is None:
        raise UnsupportedModelError(f"input {given} leaves the number of features open: pass n_features=")
    if wanted is not None and (wanted < 1 or features not in (-1, wanted)):
        raise ConfigError(f"n_features={wanted} does not fit input {given}")
    assert given.element is not None
    return _Choice(
        input=given.name,
        input_element=given.element,
        n_features=wanted or features,
        output=scores.name,
        row_by_row=rows == 1,
        labelled=any(port.element in (INT64, STRING) for port in outputs),
    )


def _choose_input(inputs: Sequence[_Port]) -> _Port:
    if len(inputs) != 1:
        raise UnsupportedModelError(
            f"expected one input of all features, got {len(inputs)}: {_listed(inputs)}; export the model with one "
            f"float tensor [batch, n_features]"
        )
    if inputs[0].element not in (FLOAT, DOUBLE) or len(inputs[0].shape) != 2:
        raise UnsupportedModelError(f"expected a float or double input [batch, n_features], got {inputs[0]}")
    return inputs[0]


def _choose_output(outputs: Sequence[_Port], name: str | None) -> _Port:
    candidates = [port for port in outputs if port.element in (FLOAT, DOUBLE)]
    if name is not None:
        named = [port for port in outputs if port.name == name]
        if not named:
            raise ConfigError(f"the model has no output {name!r}; it has {_listed(outputs)}")
        if named[0] not in candidates:
            raise UnsupportedModelError(f"expected a float or double tensor of scores, got {named[0]}")
        return named[0]
    if len(candidates) > 1:  # skl2onnx and onnxmltools call it so
        candidates = [port for port in candidates if port.name == "probabilities"] or candidates
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise UnsupportedModelError(
            f"several outputs could hold the scores: pass output= one of {_listed(candidates)}"
        )
    if any(port.element is None for port in outputs):
        raise UnsupportedModelError(
            f"no output is a tensor of scores, only {_listed(outputs)}: a ZipMap makes a dictionary of each row; "
            f"export with zipmap=False (skl2onnx: options={{'zipmap': False}})"
        )
    raise UnsupportedModelError(f"no output is a float or double tensor of scores: {_listed(outputs)}")


def _columns(choice: _Choice, probed: _Port) -> _Columns:
    shape = probed.shape
    if probed.element not in (FLOAT, DOUBLE) or len(shape) not in (1, 2) or shape[0] != choice.probe_rows:
        raise UnsupportedModelError(
            f"expected scores [batch] or [batch, n_outputs], got {probed} for {choice.probe_rows} rows"
        )
    total = shape[1] if len(shape) == 2 else 1
    if total < 1:
        raise UnsupportedModelError(f"output {probed} holds no scores")
    if choice.labelled and total == 2:
        return _Columns(total, first=1, count=1)
    return _Columns(total, first=0, count=total)


def _facts(choice: _Choice, source: _Source) -> dict[str, Any]:
    return {
        "input": choice.input,
        "output": choice.output,
        "batch": 1 if choice.row_by_row else "dynamic",
        "intra_op_threads": source.intra_op_threads,
    }


def _feature_names(properties: dict[str, str], n_features: int) -> list[str] | None:
    """The metadata entry `feature_names`, a JSON list of as many strings as there are features; else None."""
    try:
        names = json.loads(properties.get("feature_names", "null"))
    except ValueError:
        return None
    fits = (
        isinstance(names, list) and len(names) == n_features and all(isinstance(name, str) for name in names)
    )
    return names if fits else None


def _listed(ports: Sequence[_Port]) -> str:
    return ", ".join(str(port) for port in ports) or "none"
