"""The facts of a model file, found without running any code of the file or of the library that wrote it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import UnsupportedModelError
from engine.model import formats, load
from engine.model.model import Model


@dataclass(frozen=True)
class Facts:
    """The facts that `inspect` found.

    A field is None where the file does not say, or where only running the model would tell. `print` shows the other
    fields, one a line.

    Attributes:
        path: str, the file.
        format: str, its format by content, as `Model.format`.
        size_bytes: int, size of the file.
        digest: str, sha256 as `Model.digest`; None for ONNX, which may keep tensors in other files.
        n_features: int, values a row.
        n_outputs: int, values an answer.
        feature_names: tuple of str, columns in order.
        objective: str, the training library's name for it.
        trees: int, trees of a forest; a tree of several outputs counts once for each output.
        trees_used, trees_total: int, trees in use and in the file, each counted once.
        best_iteration: int, the best round of early stopping, counted from 0.
        leaves: int, leaves of all trees.
        depth: int, splits on the longest path.
        us_row_1: float, microseconds for one row here, measured when `inspect` loaded the model. Native code alone, in
            the fastest layout, on rows of the loader's own.
        us_row_64: float, the same a row, for 64 rows together.
        notes: tuple of str: what was left out and why; of ONNX, its metadata.
    """

    path: str
    format: str
    size_bytes: int
    digest: str | None = None
    n_features: int | None = None
    n_outputs: int | None = None
    feature_names: tuple[str, ...] | None = None
    objective: str | None = None
    trees: int | None = None
    trees_used: int | None = None
    trees_total: int | None = None
    best_iteration: int | None = None
    leaves: int | None = None
    depth: int | None = None
    us_row_1: float | None = None
    us_row_64: float | None = None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [("file", f"{self.path} ({self.size_bytes:,} bytes)"), ("format", self.format)]
        shown = ("objective", "trees", "leaves", "depth", "best_iteration", "n_features", "n_outputs")
        for name in shown:
            value = getattr(self, name)
            if value is not None:
                lines.append((name, value if isinstance(value, str) else f"{value:,}"))
        if self.feature_names:
            more = f" and {len(self.feature_names) - 8} more" if len(self.feature_names) > 8 else ""
            lines.append(("feature_names", ", ".join(self.feature_names[:8]) + more))
        if self.us_row_1 is not None and self.us_row_64 is not None:
            text = f"{self.us_row_1:.3g} us for one row, {self.us_row_64:.3g} us a row for 64"
            lines.append(("speed here", text))
        lines += [("digest", self.digest)] if self.digest else []
        lines += [("note", note) for note in self.notes]
        return "\n".join(f"{name:<14}{text}" for name, text in lines)


def inspect(path: str | os.PathLike[str]) -> Facts:
    """Return the facts of a model file without running any code of it.

    Our own readers load the formats that they read. Of ONNX, `inspect` only walks the bytes: it makes no session and
    needs no onnxruntime. It never opens a pickle or a skops file.

    Args:
        path: str or path-like, the file.

    Returns:
        `Facts`; print them for a table.

    Raises:
        FileNotFoundError: no such file.
        ModelFormatError: the file is truncated, damaged or of no known format.
        UnsupportedModelError: the format is known and not read; the message says why.

    Example:
        >>> print(inspect("model.txt"))                          # doctest: +SKIP
    """
    path = Path(path)
    content = load.read_file(path)
    kind = formats.sniff(content, path.name)
    if kind == formats.ONNX:
        return _inspect_onnx(path, content)
    if kind == formats.CATBOOST_BINARY:
        raise UnsupportedModelError(
            f"{path.name}: CatBoost's binary format, which only catboost can read; use load_model"
        )
    if kind == formats.SKOPS:
        raise UnsupportedModelError(
            f"{path.name}: a skops file, which only skops and scikit-learn can read; use load_model"
        )
    return _of_model(path, len(content), load.read_native(content, kind, path.name, library=False))


def _of_model(path: Path, size_bytes: int, model: Model) -> Facts:
    found: dict[str, Any] = model.describe()
    times = found.get("calibration_us_row")
    return Facts(
        path=str(path),
        format=model.format,
        size_bytes=size_bytes,
        digest=model.digest,
        n_features=model.n_features,
        n_outputs=model.n_outputs,
        feature_names=model.feature_names,
        objective=found.get("objective"),
        trees=found.get("trees"),
        trees_used=found.get("trees_used"),
        trees_total=found.get("trees_total"),
        best_iteration=found.get("best_iteration"),
        leaves=found.get("leaves"),
        depth=found.get("depth"),
        notes=_early_stopping(found),
        us_row_1=times[found["layout_single"]][0] if times else None,
        us_row_64=times[found["layout_batch"]][1] if times else None,
    )


def _early_stopping(found: dict[str, Any]) -> tuple[str, ...]:
    used, total, best = (found.get(key) for key in ("trees_used", "trees_total", "best_iteration"))
    if used == total:
        return ()
    return (
        f"{used} of {total} trees are used, up to the best iteration, {best}; iteration_range=(0, 0) uses all",
    )


def _inspect_onnx(path: Path, content: bytes) -> Facts:
    from engine.model import _onnx

    external, properties = _onnx.scan(content)
    notes = [f"tensors in {name}" for name in sorted(set(external))]
    notes += [f"{key}: {value[:80]}" for key, value in sorted(properties.items())]
    notes.append("inputs, outputs and speed need ONNX Runtime: load_model(path).describe()")
    return Facts(path=str(path), format="onnx", size_bytes=len(content), notes=tuple(notes))
