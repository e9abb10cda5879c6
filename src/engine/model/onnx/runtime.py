"""Runs ONNX models in ONNX Runtime: by its C API, which needs no GIL, or by its Python API.

The C API needs the shared library in onnxruntime's wheels. Releases 1.20, 1.23 and 1.32 were tried and have it; 1.17
has none, and is served by the Python API.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine._common import optional
from engine.errors import ModelError, ModelFormatError, UnsupportedModelError
from engine.model import _callable, _onnx
from engine.model.model import Model
from engine.model.onnx import ports
from engine.model.onnx.ports import Choice, Port
from engine.model.python import CallableModel


class OnnxModel(Model):
    """A `Model` run by ONNX Runtime's C API. It never takes the GIL; many threads may score at once.

    ONNX Runtime picks its matrix kernels by batch size, so the last bits of a row's score may depend on the rows
    beside it. Every other kind of model in this package gives the same bits at any batch size.
    """

    __slots__ = ()

    def predict(self, rows: Any, *, threads: int = 1, strict: bool = False) -> npt.NDArray[np.float64]:
        """Score rows as `Model.predict` does; a ModelError carries ONNX Runtime's own message."""
        try:
            return super().predict(rows, threads=threads, strict=strict)
        except ModelError as failure:
            raise ModelError(f"{failure}: {self.last_error()}") from None

    def last_error(self) -> str:
        """ONNX Runtime's message for the last call that failed, on any thread; "" where none failed."""
        return _onnx.last_error(self.scorer)


@dataclass(frozen=True)
class Source:
    """A model to be opened: its bytes, or the path of a model with tensors in files of their own."""

    model: bytes | str
    intra_op_threads: int
    output: str | None
    n_features: int | None
    digest: str
    properties: dict[str, str]


def open_by_c_api(source: Source, package: Path) -> Model:
    """Open the model in the shared library of the onnxruntime package at `package`.

    Raises:
        _onnx.LibraryError: no library there can be used.
        ModelFormatError, UnsupportedModelError, ConfigError: as `load_onnx`.
    """
    session, library = _open_session(source, package)
    choice = _choose(
        [Port(name, element, tuple(shape)) for name, element, shape in session.inputs],
        [Port(name, element, tuple(shape)) for name, element, shape in session.outputs],
        source,
    )
    way: dict[str, Any] = {
        "input": choice.input,
        "input_element": choice.input_element,
        "n_features": choice.n_features,
        "output": choice.output,
    }
    element, shape = session.probe(**way, n_rows=choice.probe_rows)
    columns = ports.columns(choice, Port(choice.output, element, tuple(shape)))
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
        feature_names=ports.feature_names(source.properties, choice.n_features),
        details={
            "runtime": "c-api",
            "runtime_version": _onnx.library_version(library),
            **_facts(choice, source),
        },
    )


def _open_session(source: Source, package: Path) -> tuple[_onnx.Session, str]:
    """The session and the path of its library: the first installed library that can be used."""
    libraries = sorted(str(path) for path in (package / "capi").glob("libonnxruntime.so*"))
    reasons = [f"no libonnxruntime.so in {package / 'capi'}"]
    for library in libraries:
        try:
            return _onnx.Session(library, source.model, source.intra_op_threads), library
        except _onnx.LibraryError as unusable:
            reasons.append(str(unusable))
    raise _onnx.LibraryError("; ".join(reasons[1:] or reasons))


def open_by_python(source: Source, why: str | None = None) -> Model:
    """Open the model through ONNX Runtime's Python API, as a callable: batch lane only.

    Args:
        source: the model.
        why: the reason why the C API is not used, for `describe()["runtime_reason"]`.

    Raises:
        MissingDependencyError: onnxruntime cannot be imported.
        ModelFormatError, UnsupportedModelError, ConfigError: as `load_onnx`.
    """
    session, version = _python_session(source)
    choice = _choose(_python_ports(session.get_inputs()), _python_ports(session.get_outputs()), source)
    dtype = np.float64 if choice.input_element == ports.DOUBLE else np.float32

    def run(rows: npt.NDArray[Any]) -> Any:
        return session.run([choice.output], {choice.input: rows.astype(dtype, copy=False)})[0]

    try:
        probed = run(np.zeros((choice.probe_rows, choice.n_features), np.float32))
    except Exception as failure:  # ONNX Runtime's exceptions share no base
        raise UnsupportedModelError(f"this ONNX Runtime cannot run the model: {failure}") from failure
    element = {"float32": ports.FLOAT, "float64": ports.DOUBLE}.get(str(getattr(probed, "dtype", "")))
    columns = ports.columns(choice, Port(choice.output, element, tuple(getattr(probed, "shape", ()))))

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
        feature_names=ports.feature_names(source.properties, choice.n_features),
        details=details,
    )


def _python_session(source: Source) -> tuple[Any, str]:
    try:
        import onnxruntime
    except ImportError as failure:
        missing = optional.missing(
            "onnxruntime",
            f"reading an ONNX model (the installed onnxruntime cannot be imported: {failure!r})",
            "onnx",
        )
        missing.add_note(f"Often its version does not fit NumPy {np.__version__}: try pip's --upgrade.")
        raise missing from failure
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


def _python_ports(described: Sequence[Any]) -> list[Port]:
    numbers = {f"tensor({name})": number for number, name in ports.ELEMENTS.items()}
    return [
        Port(
            port.name,
            numbers.get(port.type, 0) if port.type.startswith("tensor(") else None,
            tuple(size if isinstance(size, int) else -1 for size in port.shape or ()),
        )
        for port in described
    ]


def _choose(inputs: Sequence[Port], outputs: Sequence[Port], source: Source) -> Choice:
    return ports.choose(inputs, outputs, output=source.output, n_features=source.n_features)


def _facts(choice: Choice, source: Source) -> dict[str, Any]:
    return {
        "input": choice.input,
        "output": choice.output,
        "batch": 1 if choice.row_by_row else "dynamic",
        "intra_op_threads": source.intra_op_threads,
    }
