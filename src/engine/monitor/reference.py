"""The reference that live rows are compared with: histograms of the rows a model was trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import MonitorError
from engine.monitor._ids import WideIds
from engine.monitor._table import as_columns, encode, known_columns, named_outputs
from engine.monitor.drift.bins import UNKNOWN_CODE
from engine.monitor.drift.column import Column
from engine.monitor.drift.companions import with_companions
from engine.monitor.drift.fitting import fit_column
from engine.monitor.drift.pairs import Pairs, fit_pairs, pair_scores
from engine.monitor.drift.together import groups
from engine.monitor.performance import Baseline

# Written into every reference; another format is refused.
FORMAT = "engine.monitor.reference/1"
ROWS_MIN = 100


class Reference:
    """Histograms of every feature and output, and how much consecutive rows depend on each other. Immutable.

    `Reference.fit` makes one; `to_json` and `from_json` keep it as a small JSON text.

    Attributes:
        features: tuple of columns, in the order of a row.
        outputs: tuple of columns, in the order of an answer's outputs; empty where none were given.
        rows: int, rows it was fitted on.
        together: tuple of tuples of str, features that move together: ranks that correlate by 0.6 or more, directly or
            through others. Alerts of a group that begin together are one incident.
        pairs: Pairs, the correlations of the features; None where there are none to watch.
        performance: Baseline of the outputs' errors; None where it was fitted without labels.
    """

    __slots__ = (
        "_levels", "_names", "_plain", "_wide", "_wide_places",
        "features", "outputs", "pairs", "performance", "rows", "together",
    )  # fmt: skip

    def __init__(
        self,
        features: Sequence[Column],
        outputs: Sequence[Column] = (),
        together: Sequence[Sequence[str]] = (),
        pairs: Pairs | None = None,
        performance: Baseline | None = None,
    ) -> None:
        """Take columns that were fitted. Raises MonitorError where two features have one name."""
        self.pairs = pairs
        self.performance = performance
        self.together = tuple(tuple(map(str, group)) for group in together)
        self.features = tuple(features)
        self.outputs = tuple(outputs)
        self.rows = max((column.rows for column in (*self.features, *self.outputs)), default=0)
        self._names = tuple(column.name for column in self.features)
        if len(set(self._names)) != len(self._names):
            raise MonitorError(f"feature names must differ, got {list(self._names)}")
        self._wide = {column.name: WideIds(column.wide_ids) for column in self.features if column.wide_ids}
        self._wide_places = [
            (i, self._wide[name]) for i, name in enumerate(self._names) if name in self._wide
        ]
        self._levels: list[dict[str, float] | WideIds] = [
            self._wide.get(column.name) or {text: float(code) for code, text in enumerate(column.levels)}
            for column in self.features
        ]
        self._plain = not any(self._levels)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the features, in the order of a row."""
        return self._names

    @classmethod
    def fit(
        cls,
        table: Any,
        names: Sequence[str] | None = None,
        *,
        outputs: Any = None,
        labels: Any = None,
        categorical: Sequence[str] = (),
        ordered: bool = True,
    ) -> Reference:
        """Return the reference of some rows, given **in the order they came**.

        The order shows how much neighbouring rows have in common: the variance of long batches' means, by the method of
        batch means (`engine.monitor.drift.dependence` has the formulas). Scores are normal scores of the histograms'
        bins (`engine.monitor.drift.bins`).

        Args:
            table: a matrix [n, n_features]; a mapping of columns; a pandas or Polars data frame; a pyarrow Table; a
                structured array; a DuckDB relation; or a sequence of mappings, one a row. At least 100 rows. None and
                NaN are missing. Columns of text are kept as codes.
            names: of a matrix's columns ("f0", "f1", … where None); or which columns of a table, in that order.
            outputs: what the model answered to these rows: [n], [n, n_outputs], or a mapping of name to [n].
            labels: the truth of these rows, [n], for rows that the model did not learn from. The performance of live
                answers is then compared with that of `outputs`; without labels the first 500 live ones tell.
            categorical: names of columns whose numbers are codes. A value that the reference does not have is then a
                new category. Whole numbers beyond 2^24, which float32 does not hold, are told apart. Up to 40 whole
                numbers 0, 1, 2, … without a gap count as codes anyway.
            ordered: False to count rows as independent, whatever their order shows. Every lasting difference then
                raises an alert within hundreds of rows, even one that each hour or day brings.

        Raises:
            MonitorError: fewer than 100 rows, columns of different lengths, a name that is not there, two columns of
                one name, or a value that is no number.
        """
        columns, wide = as_columns(table, names, categorical)
        answered = named_outputs(outputs)
        for name in categorical:
            if name not in columns and name not in answered:
                raise MonitorError(f"categorical: no column {name!r}; there are {', '.join(columns)}")
        lengths = {name: len(values) for name, (values, _) in {**columns, **answered}.items()}
        if len(set(lengths.values())) > 1:
            raise MonitorError(f"columns of different lengths: {lengths}")
        if not lengths or next(iter(lengths.values())) < ROWS_MIN:
            raise MonitorError(
                f"a reference needs at least {ROWS_MIN} rows and one column, got {lengths or 'none'}; give it the rows "
                f"that the model was trained on"
            )
        made = [
            [
                fit_column(
                    name,
                    values,
                    categorical=name in categorical or bool(levels),
                    levels=levels,
                    wide_ids=tuple(wide.get(name, ())) if part is columns else (),
                    ordered=ordered,
                )
                for name, (values, levels) in part.items()
            ]
            for part in (columns, answered)
        ]
        plain = {name: values for name, (values, _) in columns.items()}
        together = groups(plain)
        features = with_companions(made[0], plain, together) if ordered else made[0]
        return cls(features, made[1], together, fit_pairs(features, plain), _baseline_of(answered, labels))

    def row(self, features: Mapping[str, Any] | Sequence[Any] | npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return one row as float32 [n_features]; text becomes codes, and None becomes NaN.

        Args:
            features: a mapping by name (an absent key is a missing value, other keys are ignored), or values in the
                reference's order. A text that the reference does not have is a new category.

        Raises:
            MonitorError: a row of another width, or a value that is no number.
        """
        return encode(features, self._names, self._levels, self._wide_places)

    def raw_row(
        self, features: Mapping[str, Any] | Sequence[Any] | npt.NDArray[Any]
    ) -> npt.NDArray[np.float32] | npt.NDArray[np.float64]:
        """Return one row as `row` does, or as the float64 [n_features] that it is, which the native counter rounds.

        Raises:
            MonitorError: as `row`.
        """
        if self._plain and type(features) is dict:
            get = features.get
            try:
                row = np.array([get(name) for name in self._names], dtype=np.float64)
            except (TypeError, ValueError, OverflowError):
                return self.row(features)  # which says what is wrong, or reads pandas.NA
            return row if row.ndim == 1 else self.row(features)
        if (
            isinstance(features, np.ndarray)
            and features.dtype == np.float64
            and features.shape == (len(self._names),)
            and not self._wide_places
        ):
            return np.ascontiguousarray(features)
        return self.row(features)

    def matrix(self, rows: Any) -> npt.NDArray[np.float32]:
        """Return rows as float32 [n, n_features]; text becomes codes, and missing values become NaN.

        Args:
            rows: a table or matrix as in `fit`, a sequence of rows as in `row`, or one row. A feature that a table does
                not have is missing in every row.

        Raises:
            MonitorError: rows of another width, or a value that is no number.
        """
        if isinstance(rows, np.ndarray) and rows.dtype.kind in "fiub":
            found = np.atleast_2d(rows)
            self._check_width(found.shape[-1] if found.ndim == 2 else rows.shape)
            with np.errstate(over="ignore"):
                matrix = np.ascontiguousarray(found, dtype=np.float32)
            if self._wide_places and np.shares_memory(matrix, rows):
                matrix = matrix.copy()
            for place, ids in self._wide_places:
                matrix[:, place] = ids.codes(found[:, place], matrix[:, place])
            return matrix
        if isinstance(rows, Mapping) and not any(_is_column(value) for value in rows.values()):
            return self.row(rows)[None, :]
        if isinstance(rows, Sequence) and not isinstance(rows, str):
            if rows and not isinstance(rows[0], (Mapping, Sequence, np.ndarray)):
                return self.row(rows)[None, :]
            return (
                np.stack([self.row(row) for row in rows])
                if rows
                else np.empty((0, len(self._names)), np.float32)
            )
        columns = known_columns(rows, self._names, self._wide)
        n = max((len(values) for values, _ in columns.values()), default=0)
        missing = np.full(n, np.nan, dtype=np.float32)
        out = []
        for name, levels in zip(self._names, self._levels, strict=True):
            values, own = columns.get(name, (missing, ()))
            if own:
                if isinstance(levels, WideIds):
                    raise MonitorError(f"feature {name!r}: expected numbers, as in the reference, got text")
                # The table's own codes become the reference's.
                codes = np.array(
                    [levels.get(text, UNKNOWN_CODE) for text in own] + [np.nan], dtype=np.float32
                )
                values = codes[np.where(np.isnan(values), len(own), values).astype(np.int64)]
            out.append(values)
        return np.ascontiguousarray(np.stack(out, axis=1)) if out else np.empty((n, 0), np.float32)

    def _check_width(self, width: Any) -> None:
        if width != len(self._names):
            raise MonitorError(
                f"expected rows of {len(self._names)} features ({', '.join(self._names[:6])}"
                f"{', …' if len(self._names) > 6 else ''}), got {width}"
            )

    def to_json(self) -> str:
        """Return everything as JSON text. `from_json` reads it back, and tests then decide the same."""
        body = {
            "format": FORMAT,
            "features": [column.to_json() for column in self.features],
            "outputs": [column.to_json() for column in self.outputs],
            **({"together": [list(group) for group in self.together]} if self.together else {}),
            **({"pairs": self.pairs.to_json()} if self.pairs is not None else {}),
            **({"performance": self.performance.to_json()} if self.performance is not None else {}),
        }
        return json.dumps(body, allow_nan=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, made: str | bytes | Mapping[str, Any]) -> Reference:
        """Return the reference of `to_json`'s text, or of what a JSON parser made of that text.

        Raises:
            MonitorError: no reference, a reference of another format, or a damaged one; the message names the column.
        """
        if isinstance(made, (str, bytes)):
            try:
                made = json.loads(made)
            except (ValueError, RecursionError) as error:
                raise MonitorError(f"not a reference: {error}") from None
        if not isinstance(made, Mapping) or made.get("format") != FORMAT:
            found = made.get("format") if isinstance(made, Mapping) else type(made).__name__
            raise MonitorError(f"expected a reference of format {FORMAT!r}, got {found!r}; fit it again")
        parts = [made.get("features"), made.get("outputs", [])]
        if not all(isinstance(part, list) for part in parts):
            raise MonitorError(
                "a reference holds two lists of columns, 'features' and 'outputs'; fit it again"
            )
        together = made.get("together", [])
        if not isinstance(together, list) or not all(isinstance(group, list) for group in together):
            raise MonitorError("a reference holds lists of features in 'together'; fit it again")
        columns = [[Column.from_json(column) for column in part] for part in parts if part is not None]
        pairs, performance = _pairs_of(made, columns[0]), _performance_of(made)
        return cls(columns[0], columns[1] if len(columns) > 1 else [], together, pairs, performance)

    def __repr__(self) -> str:
        return f"Reference({len(self.features)} features, {len(self.outputs)} outputs, {self.rows} rows)"


def _is_column(value: Any) -> bool:
    return not isinstance(value, (str, bytes)) and hasattr(value, "__len__")


def _pairs_of(made: Mapping[str, Any], features: Sequence[Column]) -> Pairs | None:
    """Return the correlations that a reference's JSON holds. Raises MonitorError where they are damaged."""
    found = made.get("pairs")
    if found is None:
        return None
    usable = {column.name for column in features if pair_scores(column) is not None}
    try:
        pairs = Pairs.from_json(found)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MonitorError(f"the correlations of a reference are damaged: {error}; fit it again") from None
    if not usable.issuperset(pairs.names):
        raise MonitorError("a reference holds correlations of columns that it does not have; fit it again")
    return pairs


def _performance_of(made: Mapping[str, Any]) -> Baseline | None:
    """Return the performance that a reference's JSON holds. Raises MonitorError where it is damaged."""
    if (found := made.get("performance")) is None:
        return None
    try:
        return Baseline.from_json(found)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MonitorError(f"the performance of a reference is damaged: {error}; fit it again") from None


def _baseline_of(
    answered: Mapping[str, tuple[npt.NDArray[np.float32], tuple[str, ...]]], labels: Any
) -> Baseline | None:
    """Return the performance of the reference's outputs. Raises MonitorError where labels do not fit them."""
    if labels is None:
        return None
    try:
        truth = np.asarray(labels, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise MonitorError(f"labels: expected numbers, got {type(labels).__name__}: {error}") from None
    rows = len(next(iter(answered.values()))[0]) if answered else 0
    if truth.shape != (rows,) or not rows:
        raise MonitorError(
            f"labels: expected one for each of the {rows} rows of outputs, got shape {list(truth.shape)}"
            if rows
            else "labels need outputs to compare them with; give outputs= too"
        )
    outputs = np.stack([values for values, _ in answered.values()], axis=1).astype(np.float64)
    taken = np.isfinite(outputs).all(axis=1) & np.isfinite(truth)
    return Baseline.fit(outputs[taken], truth[taken])
