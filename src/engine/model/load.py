"""Loads models: tells what the source is, and hands it to the reader for it.

No training library is imported here unless the object given comes from it, and ONNX Runtime only for ONNX.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import ConfigError, ModelFormatError, UnsupportedModelError
from engine.model import fitted, formats, iterations
from engine.model.iterations import Range
from engine.model.model import Model


def load_model(
    source: str | os.PathLike[str] | Callable[..., Any] | object,
    *,
    n_features: int | None = None,
    n_outputs: int | None = None,
    trust: bool = False,
    dtype: npt.DTypeLike | None = None,
    feature_names: Sequence[str] | None = None,
    output: str | None = None,
    iteration_range: tuple[int, int] | None = None,
    num_trees: int | None = None,
    device: str = "cpu",
) -> Model:
    """Load a model that then scores without the library that trained it.

    Blocks for the time of reading, plus some 20 ms for a forest, whose layouts are timed on this machine.

    Args:
        source: one of
            a path to LightGBM text, XGBoost JSON or UBJSON, CatBoost JSON or cbm, a treelite checkpoint, ONNX or
            skops; the content tells the format, not the suffix;
            a fitted LightGBM, XGBoost or CatBoost model, or its scikit-learn wrapper. A classifier gives
            probabilities, of class 1 where there are two;
            a fitted scikit-learn estimator or Pipeline: natively where a reader takes it, else by scikit-learn itself,
            which `describe()["native_reason"]` then explains;
            a treelite Model;
            a Python callable, [n, n_features] of `dtype` -> [n] or [n, n_outputs] (batch lane only);
            a `Model`, which is returned as it is.
        n_features: int from 1, values a row. Required for a callable; checked against any other source.
        n_outputs: int from 1, values an answer. 1 for a callable by default; checked against any other source.
        trust: True reads pickles (and joblib's), and skops files with types that skops does not know. Such a file runs
            any code it likes: trust only files that you would run as a program. A child process reads the file first,
            so a damaged file ends the child and not this process.
        dtype: float32 (the default) or float64, of the rows that a callable gets. Only for callables.
        feature_names: names of the columns in order, for a source that knows none, or to replace its own.
        output: name of the output that holds the scores, of an ONNX model with several.
        iteration_range: (first, end), rounds to use of a LightGBM, XGBoost or CatBoost model; an end of 0 is the last.
            By default a model that stopped early is used up to its best iteration, as a file and as an object, which is
            what the high-level `predict` of its library does; others are used whole. `describe()` has `trees_used`,
            `trees_total` and `best_iteration`.
        num_trees: the same as iteration_range=(0, num_trees).
        device: "cpu", "gpu:0" with the GPU's number, or "auto": each batch goes where it is answered sooner, as
            measured now; `describe()` has `break_even_rows`. Forests and dense nets have the same bits on both.

    Returns:
        An immutable `Model`. Its `predict` gives what the training library's `predict` gives.

    Raises:
        FileNotFoundError: no such file.
        ModelFormatError: the file is truncated, damaged or of no known format.
        UnsupportedModelError: the model is understood, but cannot be represented exactly; the message says why.
        ConfigError: n_features is missing for a callable, or n_features or n_outputs is not the model's; an option that
            the source has no use for; rounds that the model does not have.
        MissingDependencyError: ONNX without onnxruntime installed, skops without skops, CatBoost's cbm without
        catboost, "gpu:0" without NVIDIA's driver.
        ResourceError: the model does not fit the GPU's memory.

    Example:
        >>> model = load_model("model.txt")                      # doctest: +SKIP
        >>> model.predict([[0.5, 1.0, float("nan")]])            # doctest: +SKIP
        array([0.27])
    """
    rounds = iterations.asked(iteration_range, num_trees)
    model = _load(source, n_features, n_outputs, trust, dtype, output, rounds)
    for what, wanted, got in (
        ("features", n_features, model.n_features),
        ("outputs", n_outputs, model.n_outputs),
    ):
        if wanted is not None and wanted != got:
            raise ConfigError(f"expected a model with {wanted} {what}, got {got} from {_name(source)}")
    if feature_names is not None:
        from engine.model.python import checked_names

        names = checked_names(feature_names, model.n_features)
        if model.feature_names != names:
            model = model.renamed(names)
    if device == "cpu":
        return model
    from engine.model.gpu import place

    return place(model, device)


def _load(
    source: Any,
    n_features: int | None,
    n_outputs: int | None,
    trust: bool,
    dtype: npt.DTypeLike | None,
    output: str | None,
    rounds: Range,
) -> Model:
    is_path = isinstance(source, str | os.PathLike)
    library = fitted.library_of(source)
    is_function = not isinstance(source, Model) and not is_path and library is None and callable(source)
    for name, given, fits, of in (
        ("dtype=", dtype, is_function, "a Python callable's rows"),
        ("output=", output, is_path, "an ONNX file"),
        ("iteration_range= or num_trees=", rounds, is_path or library is not None, "a boosted model"),
    ):
        if given is not None and not fits:
            raise ConfigError(f"{name} is for {of}, got {_name(source)}")
    if isinstance(source, Model):
        return source
    if is_path:
        return load_path(source, trust=trust, n_features=n_features, output=output, rounds=rounds)
    if library is not None:
        return fitted.read_fitted(source, library, rounds)
    if is_function:
        if n_features is None:
            raise ConfigError("a Python callable needs n_features: load_model(fn, n_features=32)")
        from engine.model.python import from_callable

        dtype = np.float32 if dtype is None else dtype
        return from_callable(source, n_features, n_outputs if n_outputs is not None else 1, dtype=dtype)
    raise UnsupportedModelError(
        f"expected a path, a callable or a fitted model of {', '.join(fitted.LIBRARIES)}, got {_name(source)}"
    )


def load_path(
    path: str | os.PathLike[str],
    *,
    trust: bool,
    probed: bool = False,
    n_features: int | None = None,
    output: str | None = None,
    rounds: Range = None,
) -> Model:
    """Load a file. Args and errors as `load_model`; `rounds` as `iterations.asked` returns them.

    A child process first reads files that run code of their own (trusted pickles and skops files), unless `probed` says
    that it has.
    """
    path = Path(path)
    content = read_file(path)
    kind = formats.sniff(content, path.name, trust=trust)
    if output is not None and kind != formats.ONNX:
        raise ConfigError(f"output= is for ONNX models; {path.name} is not one")
    if kind in (formats.PICKLE, formats.SKOPS):
        from engine.model import isolation, objects

        if trust and not probed:
            isolation.probe(path, trust=trust)
        read = objects.read_pickle if kind == formats.PICKLE else objects.read_skops
        return read(content, path.name, trust=trust, rounds=rounds)
    if kind == formats.CATBOOST_BINARY:
        from engine.model import isolation

        if not probed:  # CatBoost's own parser reads it
            isolation.probe(path)
        return fitted.read_catboost_binary(content, path.name, rounds)
    if kind == formats.ONNX:
        from engine.model.onnx import load_onnx

        if rounds is not None:
            raise ConfigError(fitted.NO_ROUNDS.format("ONNX"))
        # The path, not the bytes: weights may lie in files beside it.
        return load_onnx(path, n_features=n_features, output=output)
    return read_native(content, kind, path.name, rounds)


def read_file(path: Path) -> bytes:
    """Return the bytes of a model file. Raise ModelFormatError for a directory."""
    if path.is_dir():
        raise ModelFormatError(f"{path}: expected a model file, got a directory")
    return path.read_bytes().removeprefix(
        b"\xef\xbb\xbf"
    )  # the mark that some editors put before text in UTF-8


def read_native(content: bytes, kind: str, name: str, rounds: Range = None, *, library: bool = True) -> Model:
    """Read a file of our own readers' formats: `kind` is the result of `formats.sniff`, and not ONNX, skops or pickle.

    `library`: the library that trained it may run, for what no reader represents. Raises ModelFormatError and
    UnsupportedModelError as the readers do; `name` stands for the file in messages.
    """
    if kind == formats.LIGHTGBM:
        from engine.model.readers.lightgbm import read_lightgbm

        return read_lightgbm(content, name, rounds, library=library)
    if kind == formats.CATBOOST:
        from engine.model.readers.catboost import read_catboost

        return read_catboost(content, name, rounds)
    if kind == formats.TREELITE:
        from engine.model.readers.treelite import read_treelite

        if rounds is not None:
            raise ConfigError(fitted.NO_ROUNDS.format("treelite"))
        return read_treelite(content, name)
    from engine.model.readers.xgboost import read_xgboost_json, read_xgboost_ubjson

    return (read_xgboost_json if kind == formats.XGBOOST_JSON else read_xgboost_ubjson)(content, name, rounds)


def _name(source: Any) -> str:
    return (
        str(source)
        if isinstance(source, str | os.PathLike)
        else f"{type(source).__module__}.{type(source).__name__}"
    )
