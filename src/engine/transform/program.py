"""A feature program: a fitted spec, frozen, compiled, and named by the digest of everything that affects its
outputs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import InputError, InputTypeError, ProgramError
from engine.transform.batches import Batches, batches_of
from engine.transform.drawing import html_of
from engine.transform.fitting import columns_to_fit, fit_features, inputs_of, without_fold
from engine.transform.frozen import canonical, digest_of, parse_row, plain_loads, replace_file
from engine.transform.functions import UserFunction
from engine.transform.onnx_export import to_onnx_model
from engine.transform.plan import Plan
from engine.transform.sklearn_import import features_of
from engine.transform.sources import feature_from_json
from engine.transform.spec import Feature
from engine.transform.spec_file import load_spec
from engine.transform.table import Table

Spec = Sequence[Feature | Mapping[str, Any]] | str | os.PathLike[str]

FORMAT = "engine.features"
VERSION = 1


class FeatureProgram:
    """Turns raw inputs into float32 features, the same bits for one row and for a table. Immutable,
    thread-safe.

    Made by `fit` or `load`. A missing value (None, NaN, pandas.NA, and an absent key) is imputed where the
    feature says how, and is NaN otherwise; with `missing="error"` an absent key is refused instead. Keys of
    no input are ignored.

    Attributes:
        input_names: the inputs in order: the order in which a sequence is read.
        output_names: the columns of `row` and `batch`, in order.
        digest: sha256 of the frozen program as 64 hex digits.
        features: the fitted features.
        capsule: the PyCapsule `engine.features.v1` that `Engine` reads rows through.
    """

    __slots__ = (
        "_body",
        "_columns",
        "_inputs",
        "_native",
        "capsule",
        "digest",
        "features",
        "input_names",
        "missing",
        "output_names",
    )

    def __init__(self, features: Sequence[Feature], *, missing: str = "impute") -> None:
        if missing not in ("impute", "error"):
            raise ProgramError(f"missing is 'impute' or 'error', got {missing!r}")
        self._inputs = inputs_of(features)
        plan = Plan(self._inputs)
        # Of each feature: its first output and the one after its last.
        self._columns: list[tuple[int, int]] = []
        for feature in features:
            first = len(plan.output_names)
            feature.emit(plan)
            self._columns.append((first, len(plan.output_names)))
        _require_distinct(plan.output_names)
        self._native = plan.build(refuse_missing=missing == "error")
        self.capsule: Any = self._native.capsule
        self.features = tuple(features)
        self.missing = missing
        self.input_names = tuple(name for name, _ in self._inputs)
        self.output_names = tuple(plan.output_names)
        self._body: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "missing": missing,
            "inputs": [list(pair) for pair in self._inputs],
            "features": [feature.to_json() for feature in features],
            "outputs": plan.output_names,
        }
        self.digest = digest_of(self._body)

    @classmethod
    def fit(cls, spec: Spec, table: Any, *, missing: str = "impute") -> FeatureProgram:
        """Learns the constants of a spec from a table and freezes it.

        Args:
            spec: features as `engine.transform` builds them, or their JSON form, in output order; or the path of a
                .json, .yaml or .yml file of that form.
            table: a mapping of columns, a pandas or Polars data frame, a pyarrow Table, a structured array,
                or a list of mappings; one row at least. Not kept. For more rows than memory holds: the path of a
                Parquet file or folder, a pyarrow dataset, a DuckDB relation, a RecordBatchReader, an iterator of
                tables, or a function without arguments that returns an iterable of tables, the same at each call.
            missing: what an absent key means later: "impute" (a missing value) or "error".

        Raises:
            ProgramError: a spec that makes no sense, or a column there is nothing to learn from.
            InputError, InputTypeError: a column that is absent, ragged or of the wrong type.
        """
        features = _features_of(spec)
        names, options = columns_to_fit(features), {"refuse_missing": missing == "error"}
        batches = batches_of(table, names)
        source = Table(table, names, **options) if batches is None else Batches(batches, names, **options)
        return cls._fit(features, source, missing)

    @classmethod
    def fit_batch(
        cls,
        spec: Spec,
        table: Any,
        *,
        missing: str = "impute",
        folds: int = 5,
    ) -> tuple[FeatureProgram, npt.NDArray[np.float32]]:
        """Fits a program and gives the rows to train a model on.

        They are `program.batch(table)`, except that a target mean is taken over the rows outside the row's
        own fold (row index modulo `folds`), so that no row has seen its own label. Every other constant is
        the program's.

        Args:
            spec, missing: as `fit`.
            table: in memory, or a DuckDB relation.
            folds: 2 to the number of rows.

        Returns:
            The program, and float32 [rows, n_outputs].

        Raises:
            As `fit`, and ProgramError for another number of folds.
        """
        features = _features_of(spec)
        # Read once: a DuckDB relation may give its rows in another order at the next asking.
        source = Table(table, columns_to_fit(features), refuse_missing=missing == "error")
        program = cls._fit(features, source, missing)
        rows = program._rows_of(source)
        if not any(label for feature in program.features for label in feature.labels()):
            return program, rows
        if isinstance(folds, bool) or not isinstance(folds, int) or not 2 <= folds <= source.n_rows:
            raise ProgramError(f"folds: expected 2 to {source.n_rows} (the rows), got {folds!r}")
        for fold in range(folds):
            other = cls(without_fold(program.features, source, fold, folds), missing=missing)
            rows[fold::folds] = other._rows_of(source)[fold::folds]
        return program, rows

    @classmethod
    def from_sklearn(cls, transformer: Any, table: Any) -> FeatureProgram:
        """The program that computes what a fitted scikit-learn ColumnTransformer or Pipeline computes.

        Known are SimpleImputer, StandardScaler, MinMaxScaler, RobustScaler, KBinsDiscretizer, OneHotEncoder and
        OrdinalEncoder. An unknown category, which some encoders refuse, is all zeros or the declared code.

        Args:
            transformer: fitted on a data frame.
            table: a data frame to compare on, row by row: within 1e-5 of the value, or of 1 below that.

        Raises:
            ProgramError: a transformer or an option without a like, or a row that came out different.
        """
        program = cls(features_of(transformer))
        ours, theirs = program.batch(table), np.asarray(transformer.transform(table), dtype=np.float64)
        if ours.shape != theirs.shape:
            raise ProgramError(
                f"scikit-learn makes shape {list(theirs.shape)}, the program {list(ours.shape)}"
            )
        different = ~np.isclose(ours, theirs, rtol=1e-5, atol=1e-5, equal_nan=True)
        if different.any():
            row, column = (int(place) for place in np.argwhere(different)[0])
            raise ProgramError(
                f"row {row}, output {program.output_names[column]!r}: scikit-learn gives {theirs[row, column]!r}, "
                f"the program {ours[row, column]!r}"
            )
        return program

    @classmethod
    def _fit(cls, features: list[Feature], source: Table | Batches, missing: str) -> FeatureProgram:
        if source.n_rows == 0:
            raise InputError("fitting needs at least one row, got an empty table")
        return cls(fit_features(features, source), missing=missing)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, functions: Iterable[UserFunction] = ()) -> FeatureProgram:
        """Reads what `save` wrote. Raises ProgramError for any other file, and for one edited since.

        Args:
            functions: those of the user's own that the program calls. The file names them by digest and holds no
                code; another source than the one it was fitted with is refused.
        """
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"), functions=functions)
        except UnicodeDecodeError as error:
            raise ProgramError(f"{os.fspath(path)}: not a feature program: {error}") from None
        except ProgramError as error:
            raise ProgramError(f"{os.fspath(path)}: {error}") from None

    @classmethod
    def from_json(cls, text: str, *, functions: Iterable[UserFunction] = ()) -> FeatureProgram:
        """A program from `to_json`. Raises ProgramError where the digest does not match the content."""
        known = {function.name: function for function in functions}
        try:
            body = plain_loads(text)
        except (ValueError, RecursionError) as error:
            raise ProgramError(f"not a feature program: {error}") from None
        if not isinstance(body, dict) or body.get("format") != FORMAT:
            raise ProgramError(f"not a feature program: expected an object with format {FORMAT!r}")
        if body.get("version") != VERSION:
            raise ProgramError(f"version {body.get('version')!r} of the format; this build reads {VERSION}")
        digest = body.pop("digest", None)
        if digest != digest_of(body):
            raise ProgramError(
                f"the content is not what was frozen: digest {digest_of(body)}, expected {digest}; fit again"
            )
        if not isinstance(body.get("features"), list):
            raise ProgramError("expected a list of features")
        try:
            program = cls(
                [feature_from_json(found, known) for found in body["features"]],
                missing=body.get("missing", ""),
            )
        except RecursionError:
            raise ProgramError("features are nested too deeply") from None
        if program._body != body:
            raise ProgramError("inputs or outputs do not belong to these features")
        return program

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the program as JSON; an existing file is replaced in one step."""
        replace_file(Path(path), (self.to_json() + "\n").encode())

    def to_json(self) -> str:
        """The frozen program, canonical: sorted keys, floats that read back to the same bits, and its
        digest."""
        return canonical({**self._body, "digest": self.digest})

    def to_onnx(self, path: str | os.PathLike[str], *, missing_text: str = "<missing>") -> None:
        """Writes the program as an ONNX graph (opset 17), so that others can run it.

        Its inputs are those of the program: float64 [rows, 1] for a number, [rows, size] for a vector, NaN where
        missing; text [rows, 1] for a category. Its output `engine/features` is float32 [rows, n_outputs]: the bits of
        `batch`, but within 1e-6 of the value for log1p, power and cyclic.

        Args:
            missing_text: what a missing category is written as, for ONNX has no missing text.

        Raises:
            ProgramError: an op that ONNX has no like of (hashes, tokens, text length, dates, distances, functions of
                your own), or a category that reads `missing_text`.
            MissingDependencyError: without onnx.
        """
        model = to_onnx_model(self.features, self._inputs, self.output_names, self.digest, missing_text)
        replace_file(Path(path), model.SerializeToString())

    def row(self, row: Mapping[str, Any] | Sequence[Any]) -> npt.NDArray[np.float32]:
        """Features of one row.

        Args:
            row: a mapping from input name to value, or a sequence of values in `input_names` order.

        Returns:
            A new float32 [n_outputs].

        Raises:
            InputTypeError: a value of a type that its input cannot read; names the input, what was expected
                and got.
            InputError: a value out of range, a sequence of another length, or an absent key with
                `missing="error"`.
        """
        return self._native.row(row)

    def row_json(self, data: bytes | str) -> npt.NDArray[np.float32]:
        """Features of one row as a JSON object (or an array in `input_names` order): what `row` gives for it.

        Bytes of the common shapes (no escapes, no nesting, no timestamps) are read natively, all others by orjson
        where it is installed (extra `json`) or by the standard library, to the same bits.

        Raises:
            InputError: bytes that are no JSON; NaN and Infinity are none.
            InputError, InputTypeError: as `row`.
        """
        return self._native.row_json(data, parse_row)

    def batch(self, table: Any, *, out: npt.NDArray[np.float32] | None = None) -> npt.NDArray[np.float32]:
        """Features of every row of a table; row i has the bits that `row` gives for it.

        Args:
            table: what `fit` takes; no row at all gives a [0, n_outputs] array. NumPy and Arrow columns are
                read in place.
            out: where to write: float32 [rows, n_outputs], C-contiguous, no part of the table; None makes a new
                array. It holds anything after an error.

        Returns:
            float32 [rows, n_outputs]: `out`, or a new array.

        Raises:
            InputError, InputTypeError: as `row`, naming the row; a column that is absent or of another
            length.
        """
        if isinstance(table, (list, tuple)) and table and isinstance(table[0], Mapping):
            return self._native.rows(table, out=out)
        return self._rows_of(Table(table, self.input_names, refuse_missing=self.missing == "error"), out=out)

    def _rows_of(self, source: Table, *, out: Any = None) -> npt.NDArray[np.float32]:
        columns = [source.column(name, kind) for name, kind in self._inputs]
        return self._native.batch(columns, source.n_rows, out=out)

    def explain(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        """How each feature of one row came about: for looking at, not for the hot path.

        Returns:
            One dict a feature: `inputs` (name to the raw value read, None where it is absent), `feature`
            (its JSON form with the fitted constants), `outputs` (name to float).

        Raises:
            InputError, InputTypeError: as `row`.
        """
        if not isinstance(row, Mapping):
            raise InputTypeError(
                f"explain takes a mapping from input name to value, got {type(row).__name__}"
            )
        values = self.row(row).tolist()
        return [
            {
                "inputs": {name: row.get(name) for name, _ in feature.inputs()},
                "feature": feature.to_json(),
                "outputs": dict(zip(self.output_names[first:end], values[first:end], strict=True)),
            }
            for feature, (first, end) in zip(self.features, self._columns, strict=True)
        ]

    @property
    def n_outputs(self) -> int:
        """float32 values a row."""
        return len(self.output_names)

    def to_html(self) -> str:
        """The way from the inputs to each output as an HTML table; notebooks show it for the program itself."""
        outputs = [self.output_names[first:end] for first, end in self._columns]
        return html_of(self.features, outputs, repr(self))

    _repr_html_ = to_html

    def __repr__(self) -> str:
        return (
            f"FeatureProgram(inputs={len(self.input_names)}, outputs={len(self.output_names)}, "
            f"digest={self.digest[:12]!r})"
        )


def _features_of(spec: Any) -> list[Feature]:
    if isinstance(spec, (str, os.PathLike)):
        spec = load_spec(spec)
    if isinstance(spec, (Feature, Mapping)):
        raise ProgramError(f"a spec is a list of features, got one {type(spec).__name__}")
    features = [part if isinstance(part, Feature) else feature_from_json(part) for part in spec]
    if not features:
        raise ProgramError("a program needs at least one output, got a spec of no features")
    return features


def _require_distinct(names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ProgramError(
                f"two outputs are named {name!r}; name one of the features otherwise with .named(…)"
            )
        seen.add(name)
