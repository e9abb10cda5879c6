"""The leak check: features that know the label too well, and columns that only tell the rows apart.

Each input column of the feature program is judged on its own, because a leak is one column far more often than a
combination. A finding is a sentence for a person. It changes nothing in the model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from engine.training.evaluate import auc
from engine.training.signals import Stop

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_MAX = 20_000  # rows that a column is judged by, taken evenly
ROWS_MIN = 30  # fewer rows agree with anything by chance
BINS = 200  # quantiles of a column, each of them one answer
NEARLY_PERFECT = 0.99  # AUC, accuracy or R2 of one column alone
MONOTONE = 0.9995  # rank correlation with the order of the rows
_KEY = re.compile(r"(?i)(^|_)(id|ids|key|uuid|guid|rowid|index)$")

Array = npt.NDArray[np.float64]


def warnings(
    learn: pa.Table,
    judge: pa.Table,
    columns: Sequence[str],
    learn_labels: Array,
    judge_labels: Array,
    *,
    classes: bool,
    positions: npt.NDArray[np.int64],
    stop: Stop,
) -> list[str]:
    """Return one sentence for each column that may leak the label, and for each that is no property of its row.

    Args:
        learn, judge: the rows before and after the split.
        columns: the input columns of the feature program.
        learn_labels, judge_labels: float64 [rows]; codes from 0 where the labels are classes.
        classes: whether the labels are classes.
        positions: int64 [rows], the place of each row of `learn` in the dataset as it was given.
        stop: called before each column.
    """
    found: list[str] = []
    if len(learn) < ROWS_MIN:
        return found
    some, others = _evenly(len(learn)), _evenly(len(judge))
    positions = positions[some]
    for name in columns:
        stop()
        if name not in learn.column_names:
            continue
        column, of_judge = learn[name].take(some), judge[name].take(others)
        values, text = _numbers(column)
        if values is None:
            continue
        if sentence := _about_rows(name, values, text, positions, learn[name]):
            found.append(sentence)
        if len(of_judge) < ROWS_MIN:
            continue
        both = _numbers_of_both(column, of_judge) if text else (values, _numbers(of_judge)[0])
        if both[1] is None:
            continue
        skill = _alone(both[0], learn_labels[some], both[1], judge_labels[others], classes=classes, text=text)
        if skill:
            found.append(
                f"feature {name!r} alone predicts the label nearly perfectly ({skill} on rows that it was not fitted "
                f"to); check that its value is known at the instant of the prediction"
            )
    return found


def _about_rows(
    name: str, values: Array, text: bool, positions: npt.NDArray[np.int64], column: pa.ChunkedArray
) -> str | None:
    """Return a sentence about a column that is a key, a time, or monotone with the order of the rows.

    Args:
        values, positions: of the sample.
        text: whether the values are codes of texts.
        column: of all rows. It is read only if all values of the sample are distinct.
    """
    known = np.isfinite(values)
    if known.sum() < ROWS_MIN:
        return None
    distinct = len(np.unique(values[known]))
    whole = text or bool((values[known] == np.floor(values[known])).all())
    if not text and distinct >= ROWS_MIN:
        in_time, as_given = np.arange(len(values), dtype=np.float64), positions.astype(np.float64)
        for order, words in ((in_time, "in order of time"), (as_given, "as the dataset gives them")):
            if abs(_rank_correlation(values, order)) >= MONOTONE:
                return (
                    f"feature {name!r} is monotone with the row order ({words}): a time, a counter or an index, whose "
                    f"later values the model has never seen; leave it out, or derive a feature from it"
                )
    named = _KEY.search(name) is not None and 2 * distinct > len(values)
    rows = len(values)
    if whole and distinct == rows < len(column):
        import pyarrow.compute as pc

        distinct, rows = int(pc.count_distinct(column).as_py()), len(column)
    if whole and (distinct == rows or named):
        return (
            f"feature {name!r} looks like a key ({distinct:,} distinct values in {rows:,} rows): it names "
            f"the row and says nothing about others; leave it out"
        )
    return None


def _alone(
    values: Array, labels: Array, judge: Array, judge_labels: Array, *, classes: bool, text: bool
) -> str:
    """Return how well one column predicts the label by itself, in words; "" unless nearly perfectly."""
    binary = classes and bool(np.isin(judge_labels, (0.0, 1.0)).all() and np.isin(labels, (0.0, 1.0)).all())
    if binary and not text:
        known = np.isfinite(judge)
        if known.mean() >= 0.5:
            area = auc(judge_labels[known], judge[known])
            if max(area, 1.0 - area) >= NEARLY_PERFECT:
                return f"AUC {max(area, 1.0 - area):.4f}"
    cells, of_judge = _cells(values, judge, text)
    n_cells = int(max(cells.max(initial=0), of_judge.max(initial=0))) + 1
    if classes:
        counts = np.zeros((n_cells, int(labels.max(initial=0.0)) + 1))
        np.add.at(counts, (cells, labels.astype(int)), 1.0)
        counts += (
            counts.sum(axis=0) / (counts.sum() + 1.0) * 1e-6
        )  # an empty cell answers the commonest class
        usual = float((judge_labels == counts.sum(axis=0).argmax()).mean())
        right = float((judge_labels == counts.argmax(axis=1)[of_judge]).mean())
        # Half of the errors of the usual answer and more must go, or rare classes would call every column a leak.
        return (
            f"accuracy {right:.4f}" if right >= NEARLY_PERFECT and 1.0 - right < 0.2 * (1.0 - usual) else ""
        )
    sizes = np.bincount(cells, minlength=n_cells)
    means = np.bincount(cells, labels, minlength=n_cells) / np.maximum(sizes, 1)
    means[sizes == 0] = labels.mean()
    spread = float(judge_labels.var())
    explained = 1.0 - float(((means[of_judge] - judge_labels) ** 2).mean()) / spread if spread else 0.0
    return f"R2 {explained:.4f}" if explained >= NEARLY_PERFECT else ""


def _cells(values: Array, judge: Array, text: bool) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the cell of each value: its code for texts, else its quantile. Missing values have a cell of their own."""
    if text:
        return values.astype(np.int64), judge.astype(np.int64)
    known = values[np.isfinite(values)]
    edges = (
        np.unique(np.quantile(known, np.linspace(0.0, 1.0, BINS + 1)[1:-1])) if len(known) else np.zeros(0)
    )
    return tuple(  # type: ignore[return-value]
        np.where(np.isfinite(each), np.searchsorted(edges, each, side="right"), len(edges) + 1)
        for each in (values, judge)
    )


def _numbers(column: Any) -> tuple[Array | None, bool]:
    """Return a column as float64, NaN for null, and whether it holds text, whose values become codes."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_dictionary(column.type):
        column = pc.cast(column, kind)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        codes = column.combine_chunks().dictionary_encode()
        codes = codes.combine_chunks() if isinstance(codes, pa.ChunkedArray) else codes
        return pc.cast(codes.indices, pa.float64()).to_numpy(zero_copy_only=False), True
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return pc.cast(column, pa.float64(), safe=False).to_numpy(), False
    return None, False


def _numbers_of_both(learn: Any, judge: Any) -> tuple[Array, Array]:
    """Return the codes of two columns of texts by one dictionary; nulls have a code of their own."""
    import pyarrow as pa

    together = pa.chunked_array([*_plain(learn).chunks, *_plain(judge).chunks], pa.large_string())
    codes = _numbers(together)[0]
    assert codes is not None, "texts have codes"
    codes = np.where(np.isfinite(codes), codes, np.nanmax(codes, initial=-1.0) + 1.0)
    return codes[: len(learn)], codes[len(learn) :]


def _plain(column: Any) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.cast(column, pa.large_string())


def _rank_correlation(one: Array, other: Array) -> float:
    """Return Spearman's rank correlation of the rows where `one` is known; 0 if either is constant."""
    known = np.isfinite(one)
    if known.sum() < ROWS_MIN:
        return 0.0
    first, second = _ranks(one[known]), _ranks(other[known])
    if first.std() == 0.0 or second.std() == 0.0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def _ranks(values: Array) -> Array:
    """Return mean ranks: equal values share theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2.0)[place], dtype=np.float64)


def _evenly(n: int) -> npt.NDArray[np.int64]:
    return np.unique(np.linspace(0, max(n - 1, 0), min(n, ROWS_MAX)).astype(np.int64))
