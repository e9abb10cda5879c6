"""A feature program: a fitted spec, frozen, compiled, and identified by the digest of all that affects its outputs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine._common import arguments, canonical, durable
from engine._common.tables import Columns
from engine.errors import InputError, InputTypeError, ProgramError
from engine.transform.batches import Batches, batches_of
from engine.transform.drawing import html_of
from engine.transform.fitting import columns_to_fit, fit_features, inputs_of, without_fold
from engine.transform.frozen import digest_of, parse_row, plain_loads
from engine.transform.functions import UserFunction
from engine.transform.onnx_export import to_onnx_model
from engine.transform.ops import one_of, whole
from engine.transform.plan import NUMBER, TEXT, NativeProgram, Plan
from engine.transform.sklearn_import import features_of
from engine.transform.sources import feature_from_json
from engine.transform.spec import Feature
from engine.transform.spec_file import load_spec
from engine.transform.table import Table

Spec = Sequence[Feature | Mapping[str, Any]] | str | os.PathLike[str]

FORMAT = "engine.features"
VERSION = 1


class FeatureProgram:
    """Turns raw inputs into float32 features, with the same bits for one row as for a table.

    Make one with `fit`, `load` or `from_sklearn`. A missing value (None, NaN, pandas.NA, pandas.NaT, or an absent key)
    is imputed if its feature has an op for that, and gives NaN otherwise. With `missing="error"` an absent key is an
    InputError instead. Keys of no input are ignored, unless a call says `unknown_keys="raise"`.

    Immutable and thread-safe. No method blocks on anything but the disk.

    Attributes:
        input_names: the inputs, in the order of a row that is a sequence.
        output_names: the columns of `row` and `batch`, in order.
        digest: sha256 of the frozen program, as 64 hex digits.
        features: the fitted features, in output order.
        missing: "impute" or "error", as fitted.
        capsule: the PyCapsule `engine.features.v1` through which `Engine` reads rows. It keeps the program alive.

    Args:
        features: fitted features, in output order.
        missing: "impute" or "error".
        inputs: (name, kind) of each input, in the order of a row that is a sequence. They may be more than the features
            read. None takes the inputs that the features read, in the order of their first use.

    Raises:
        ProgramError: a feature that is not fitted, two outputs of one name, no output, or inputs that do not belong to
            the features.
    """

    __slots__ = {
        "_body": "",
        "_columns": "",
        "_inputs": "",
        "_native": "",
        "capsule": "PyCapsule `engine.features.v1` through which `Engine` reads rows. It keeps the program alive.",
        "digest": "str: sha256 of the frozen program, as 64 hex digits.",
        "features": "tuple of Feature: the fitted features, in output order.",
        "input_names": "tuple of str: the inputs, in the order of a row that is a sequence.",
        "missing": "str: an absent key is a missing value (`impute`) or an InputError (`error`).",
        "output_names": "tuple of str: the columns of `row` and `batch`, in order.",
    }

    def __init__(
        self,
        features: Sequence[Feature],
        *,
        missing: str = "impute",
        inputs: Sequence[tuple[str, str]] | None = None,
    ) -> None:
        one_of("missing", missing, ("impute", "error"))
        self._inputs = _inputs_of(features, inputs)
        plan = Plan(self._inputs)
        # For each feature, its first output and the output after its last.
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

    @property
    def native(self) -> NativeProgram:
        """The compiled program, for scorers that run it in front of a model. Not public."""
        return self._native

    @property
    def inputs(self) -> tuple[tuple[str, str], ...]:
        """(name, kind) of each input, in order."""
        return tuple(self._inputs)

    @classmethod
    def fit(cls, spec: Spec, table: Any, *, missing: str = "impute") -> FeatureProgram:
        """Learn the constants of a spec from a table, and return the frozen program.

        Args:
            spec: features in output order, as `engine.transform` builds them or in their JSON form; or the path of a
                .json, .yaml or .yml file in that form.
            table: at least one row: a mapping of columns, a pandas or Polars data frame, a pyarrow Table, a NumPy
                structured array, or a list of mappings. Read, not kept. For more rows than memory holds: the path of a
                Parquet file or folder, a pyarrow dataset, a DuckDB relation, a RecordBatchReader, an iterator of
                tables, or a function without arguments that returns an iterable of tables, the same at each call.
            missing: the meaning of an absent key in later rows: "impute" makes it a missing value, "error" refuses it.

        Raises:
            ProgramError: a spec that is not valid, or a column that an op cannot learn from.
            InputError: no row, or a column that is absent or ragged.
            InputTypeError: no table, or a value of a type that its input cannot read.
            MissingDependencyError: the spec or the source needs a library that is not installed.
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
        """Fit a program, and return it with the rows to train a model on.

        The rows are those of `program.batch(table)`, except for target means: each is taken over the rows outside the
        row's own fold (row index modulo `folds`), so that no row sees its own label. All other constants are the
        program's.

        Args:
            spec: as for `fit`.
            table: as for `fit`, in memory or a DuckDB relation.
            missing: as for `fit`.
            folds: 2 to the number of rows.

        Returns:
            The program, and a new float32 [rows, n_outputs].

        Raises:
            ProgramError: as `fit`; also for another number of folds.
            InputError, InputTypeError, MissingDependencyError: as `fit`.
        """
        features = _features_of(spec)
        # Read once, because a DuckDB relation may give its rows in another order the next time.
        source = Table(table, columns_to_fit(features), refuse_missing=missing == "error")
        program = cls._fit(features, source, missing)
        rows = program._rows_of(source)
        if not any(label for feature in program.features for label in feature.labels()):
            return program, rows
        whole("folds", folds, 2, source.n_rows)
        for fold in range(folds):
            other = cls(without_fold(program.features, source, fold, folds), missing=missing)
            rows[fold::folds] = other._rows_of(source)[fold::folds]
        return program, rows

    @classmethod
    def from_sklearn(cls, transformer: Any, table: Any) -> FeatureProgram:
        """Return a program that computes what a fitted scikit-learn ColumnTransformer or Pipeline computes.

        It takes over the transformers that `pipeline_program` lists. Where an encoder refuses an unknown category
        (handle_unknown="error"), the program refuses the row too, by an InputError.

        Args:
            transformer: fitted on a data frame.
            table: a data frame. Every row of it is transformed both ways and compared: results may differ by 1e-5 plus
                1e-5 of the value.

        Raises:
            ProgramError: a transformer or an option that a program cannot reproduce, or a row with another result.
        """
        program = cls(features_of(transformer))
        ours, theirs = program.batch(table), _dense(transformer.transform(table))
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
        """Read a program that `save` wrote.

        Args:
            path: of the file.
            functions: the functions of your own that the program calls. The file holds their digests and no code, so a
                function with another source is refused.

        Raises:
            ProgramError: any other file, a file edited since, or a function that is absent or different.
            OSError: the file cannot be read.
        """
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"), functions=functions)
        except UnicodeDecodeError as error:
            raise ProgramError(f"{os.fspath(path)}: not a feature program: {error}") from None
        except ProgramError as error:
            raise ProgramError(f"{os.fspath(path)}: {error}") from None

    @classmethod
    def from_json(cls, text: str, *, functions: Iterable[UserFunction] = ()) -> FeatureProgram:
        """Read a program from the text that `to_json` gives.

        Args:
            text: the JSON.
            functions: as for `load`.

        Raises:
            ProgramError: any other text, content that does not match its digest, or a function that is absent or
                different.
        """
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
                inputs=_pairs_of(body.get("inputs")),
            )
        except RecursionError:
            raise ProgramError("features are nested too deeply") from None
        if program._body != body:
            raise ProgramError("inputs or outputs do not belong to these features")
        return program

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the program to a file as JSON.

        The file is whole or as it was before, whenever the process or the machine stops.

        Raises:
            OSError: the file cannot be written.
        """
        durable.write(Path(path), (self.to_json() + "\n").encode())

    def to_json(self) -> str:
        """Return the frozen program and its digest as canonical JSON: sorted keys, floats that read back exactly."""
        return canonical.to_bytes({**self._body, "digest": self.digest}).decode()

    def to_onnx(self, path: str | os.PathLike[str], *, missing_text: str = "<missing>") -> None:
        """Write the program as an ONNX graph (opset 17) for other runtimes.

        The graph has the program's inputs: float64 [rows, 1] for a number and [rows, size] for a vector, NaN where
        missing, and text [rows, 1] for a category. Its output `engine/features` is float32 [rows, n_outputs]. It has
        the bits of `batch`, except after log1p, power and cyclic: those are within 1e-6 of the value.

        Args:
            path: of the file; replaced whole.
            missing_text: the text that means a missing category, because ONNX has no missing text.

        Raises:
            ProgramError: an op that ONNX cannot express (hash, cross with buckets, tokens, length, timestamps,
                geo_distance, a function of your own), or a category that equals `missing_text`.
            MissingDependencyError: onnx is not installed.
            OSError: the file cannot be written.
        """
        model = to_onnx_model(self.features, self._inputs, self.output_names, self.digest, missing_text)
        durable.write(Path(path), model.SerializeToString())

    def row(
        self, row: Mapping[str, Any] | Sequence[Any], *, unknown_keys: str = "ignore"
    ) -> npt.NDArray[np.float32]:
        """Return the features of one row.

        Args:
            row: a mapping from input name to value, or a sequence of values in `input_names` order.
            unknown_keys: "raise" refuses a mapping with a key that names no input, such as a misspelt one.

        Returns:
            A new float32 [n_outputs].

        Raises:
            InputTypeError: a value of a type that its input cannot read; names the input, what was expected and what
                was got.
            InputError: a value out of range, a sequence of another length, an absent key with `missing="error"`, or
                a key of no input with `unknown_keys="raise"`; names the key and the nearest input.
        """
        if unknown_keys != "ignore":
            _require_policy(unknown_keys)
            self._native.check_keys(row)
        return self._native.row(row)

    def absent(self, row: Mapping[str, Any] | Sequence[Any]) -> tuple[str, ...]:
        """Return the inputs that a row has no key for, and that are therefore missing values.

        An input whose value is None or NaN is not absent.

        Args:
            row: as for `row`. A sequence has every input.

        Returns:
            Names, in `input_names` order.

        Raises:
            InputError, InputTypeError: as `row`.
        """
        return self._native.absent(row)

    def row_json(self, data: bytes | str) -> npt.NDArray[np.float32]:
        """Return the features of one row of JSON: the bits that `row` gives for it.

        Bytes of the common shapes (no escapes, no nesting, no timestamps) are read natively. All others, and text, are
        read by orjson if it is installed (extra `json`), else by the standard library.

        Args:
            data: a JSON object, or an array in `input_names` order.

        Returns:
            A new float32 [n_outputs].

        Raises:
            InputError: data that is no JSON (NaN and Infinity are not); and as `row`.
            InputTypeError: as `row`.
        """
        return self._native.row_json(data, parse_row)

    def batch(
        self, table: Any, *, out: npt.NDArray[np.float32] | None = None, unknown_keys: str = "ignore"
    ) -> npt.NDArray[np.float32]:
        """Return the features of every row of a table. Row i has the bits that `row` gives for it.

        Args:
            table: any table in memory that `fit` takes, or a DuckDB relation. It may have no rows. NumPy and Arrow
                columns are read in place, without the GIL.
            out: the array to write to: float32 [rows, n_outputs], C-contiguous, sharing no memory with the table. After
                an error it holds anything. None makes a new array.
            unknown_keys: "raise" refuses a column, or a key of a row, that names no input.

        Returns:
            float32 [rows, n_outputs]: `out`, or a new array.

        Raises:
            InputTypeError: as `row`, naming the row; no table; an `out` of another type.
            InputError: as `row`, naming the row; a column that is absent or of another length; a column of no input
                with `unknown_keys="raise"`; an `out` of another shape.
        """
        if unknown_keys != "ignore":
            _require_policy(unknown_keys)
            self._native.check_keys(dict.fromkeys(Columns(table).names))
        if isinstance(table, (list, tuple)) and table and isinstance(table[0], Mapping):
            return self._native.rows(table, out=out)
        return self._rows_of(Table(table, self.input_names, refuse_missing=self.missing == "error"), out=out)

    def _rows_of(self, source: Table, *, out: Any = None) -> npt.NDArray[np.float32]:
        columns = [source.column(name, kind) for name, kind in self._inputs]
        return self._native.batch(columns, source.n_rows, out=out)

    def explain(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Show how each feature of one row came about. For people, not for the hot path.

        Args:
            row: a mapping from input name to value.

        Returns:
            One dict for each feature: `inputs` (name -> the value read, None if absent), `feature` (its JSON form with
            the fitted constants), `outputs` (name -> float).

        Raises:
            InputError, InputTypeError: as `row`; also for a row that is no mapping.
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
        """The number of float32 values in a row of features."""
        return len(self.output_names)

    def to_html(self) -> str:
        """Return an HTML table: for each feature its outputs, its inputs and its ops. Notebooks show it by itself."""
        outputs = [self.output_names[first:end] for first, end in self._columns]
        return html_of(self.features, outputs, repr(self))

    _repr_html_ = to_html

    def __repr__(self) -> str:
        return (
            f"FeatureProgram(inputs={len(self.input_names)}, outputs={len(self.output_names)}, "
            f"digest={self.digest[:12]!r})"
        )


def _inputs_of(features: Sequence[Feature], given: Sequence[tuple[str, str]] | None) -> list[tuple[str, str]]:
    read = inputs_of(features)
    if given is None:
        return read
    kinds = dict(given)
    if len(kinds) != len(given) or any(kinds.get(name) != kind for name, kind in read):
        raise ProgramError("inputs or outputs do not belong to these features")
    read_names = {name for name, _ in read}
    for name, kind in given:
        if name not in read_names and (not isinstance(name, str) or kind not in (NUMBER, TEXT)):
            raise ProgramError(
                f"input {name!r}: one that no feature reads is a number or a category, got {kind!r}"
            )
    return list(given)


def _pairs_of(found: Any) -> list[tuple[str, str]]:
    """Return the inputs of a program's file. Raise ProgramError for anything but pairs of strings."""
    if not isinstance(found, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair)
        for pair in found
    ):
        raise ProgramError("inputs or outputs do not belong to these features")
    return [(pair[0], pair[1]) for pair in found]


def _features_of(spec: Any) -> list[Feature]:
    if isinstance(spec, (str, os.PathLike)):
        spec = load_spec(spec)
    if isinstance(spec, (Feature, Mapping)):
        raise ProgramError(f"a spec is a list of features, got one {type(spec).__name__}")
    features = [part if isinstance(part, Feature) else feature_from_json(part) for part in spec]
    if not features:
        raise ProgramError("a program needs at least one output, got a spec of no features")
    return features


def _dense(matrix: Any) -> npt.NDArray[np.float64]:
    return np.asarray(matrix.toarray() if hasattr(matrix, "toarray") else matrix, dtype=np.float64)


def _require_policy(unknown_keys: Any) -> None:
    arguments.one_of("unknown_keys", unknown_keys, ("ignore", "raise"))


def _require_distinct(names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ProgramError(
                f"two outputs are named {name!r}; give one of the features another name with .named(…)"
            )
        seen.add(name)
