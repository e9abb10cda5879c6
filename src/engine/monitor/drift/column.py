"""One column of a reference: its bins, their counts, and how its rows depend on each other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import MonitorError
from engine.monitor.drift.bins import (
    FIRST_WIDE,
    Bins,
    Scores,
    codes,
    look_like_codes,
    numeric,
    scores,
    with_roundings,
)
from engine.monitor.drift.dependence import INDEPENDENT, Dependence, allowance, dependence

# Windows into which a reference is divided to see how much its own windows differ.
WINDOWS = 16
STATISTICS = ("mean", "spread")


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a reference. Immutable.

    Attributes:
        name: as in the table.
        bins: how values become bins.
        counts: int64 [n_bins], rows of the reference in each bin.
        rows, missing, infinite: int, rows of the reference; how many are NaN; how many are infinite.
        mean, std, low, high: float, of the finite values; NaN where there are none.
        levels: tuple of str, the texts that the codes 0, 1, … stand for; empty for numbers.
        wide_ids: tuple of int, the ids that float32 does not hold, in the order of their codes (`engine.monitor._ids`).
        mean_dependence, spread_dependence, missing_dependence: Dependence of the rows in their order.
        window_factor: float, how many times larger the chi-square of consecutive rows is than that of independent ones.
        excursions: tuple of four floats, how high the charts (mean up, mean down, spread up, spread down) climb over
            the reference itself.
    """

    name: str
    bins: Bins
    counts: npt.NDArray[np.int64]
    rows: int
    missing: int
    infinite: int
    mean: float
    std: float
    low: float
    high: float
    levels: tuple[str, ...] = ()
    mean_dependence: Dependence = INDEPENDENT
    spread_dependence: Dependence = INDEPENDENT
    missing_dependence: Dependence = INDEPENDENT
    window_factor: float = 1.0
    excursions: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    wide_ids: tuple[int, ...] = ()

    @property
    def present(self) -> int:
        """Rows of the reference that are in a bin: all but the missing ones."""
        return int(self.counts.sum())

    def scores(self) -> Scores | None:
        """Return the scores of the bins; None for a column that the reference has no value of."""
        return scores(self.bins, self.counts) if self.present else None

    def dependence_of(self, statistic: str) -> Dependence:
        """Return the dependence of "mean" or "spread"."""
        return self.mean_dependence if statistic == "mean" else self.spread_dependence

    def stretches(self, factor: float) -> float:
        """Return how many independent stretches of this column the reference holds, where `factor` rows make one.

        Values that are missing in stretches are seen in fewer still.
        """
        share = self.present / self.rows if self.missing_dependence.factor > 1.0 else 1.0
        return max(self.present * share, 1.0) / factor

    def bin_names(self) -> list[str]:
        """Return what each bin of codes holds: a text, an id or a number; "others" for the rarest ones together."""
        assert self.bins.bin_of is not None
        names = [""] * self.bins.n_bins
        wide = {FIRST_WIDE - place: str(number) for place, number in enumerate(self.wide_ids)}
        roundings = {float(np.float32(number)) for number in self.wide_ids}
        ids = {place for code, place in self._code_bins() if code in wide}
        for code, place in self._code_bins():
            if code in roundings and place in ids:
                continue  # another name of the same bin
            name = wide.get(code, f"{code:.9g}")
            if self.levels and 0 <= code < len(self.levels):
                name = self.levels[int(code)]
            names[place] = "others" if names[place] else name
        return names

    def _code_bins(self) -> list[tuple[float, int]]:
        assert self.bins.bin_of is not None
        return list(zip(self.bins.cuts.tolist(), self.bins.bin_of.tolist(), strict=True))

    def to_json(self) -> dict[str, Any]:
        """Return everything as values that JSON has; NaN and infinity become None."""
        bin_of = self.bins.bin_of
        return {
            "name": self.name,
            "kind": "text" if self.levels else "code" if self.bins.discrete else "number",
            "cuts": self.bins.cuts.tolist(),
            "bin_of": None if bin_of is None else bin_of.tolist(),
            "n_bins": self.bins.n_bins,
            "counts": self.counts.tolist(),
            "rows": self.rows,
            "missing": self.missing,
            "infinite": self.infinite,
            "moments": [finite_or_none(value) for value in (self.mean, self.std, self.low, self.high)],
            "levels": list(self.levels),
            "dependence": [
                [d.factor, finite_or_none(d.freedom)]
                for d in (self.mean_dependence, self.spread_dependence, self.missing_dependence)
            ],
            "window_factor": self.window_factor,
            "excursions": list(self.excursions),
            **({"wide_ids": list(self.wide_ids)} if self.wide_ids else {}),
        }

    @classmethod
    def from_json(cls, made: dict[str, Any]) -> Column:
        """Return the column that `to_json` wrote. Raises MonitorError, which names the column and what is wrong."""
        try:
            column = cls._read(made)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            name = made.get("name", "?") if isinstance(made, dict) else "?"
            raise MonitorError(f"reference column {name!r}: {type(error).__name__}: {error}") from error
        cuts, bins = column.bins.cuts, column.bins
        if not (np.isfinite(cuts).all() and (np.diff(cuts) > 0).all()):
            raise MonitorError(f"reference column {column.name!r}: expected cuts that are finite and ascend")
        expected = bins.n_bins if bins.discrete else len(cuts) + 1
        wrong_codes = bins.bin_of is not None and (
            len(bins.bin_of) != len(cuts) or (bins.bin_of >= max(bins.n_bins, 1)).any()
        )
        if len(column.counts) != bins.n_bins or bins.n_bins != expected or wrong_codes or bins.n_bins > 4096:
            raise MonitorError(
                f"reference column {column.name!r}: {len(cuts)} cuts, {bins.n_bins} bins and {len(column.counts)} "
                f"counts do not match; fit it again"
            )
        if (column.counts < 0).any() or not 0 <= column.missing <= column.rows:
            raise MonitorError(f"reference column {column.name!r}: expected counts of at least 0")
        return column

    @classmethod
    def _read(cls, made: dict[str, Any]) -> Column:
        bin_of = made["bin_of"]
        bins = Bins(
            np.array(made["cuts"], dtype=np.float32),
            int(made["n_bins"]),
            None if bin_of is None else np.array(bin_of, dtype=np.uint16),
        )
        depends = [
            Dependence(float(factor), float("inf") if freedom is None else float(freedom))
            for factor, freedom in made["dependence"]
        ]
        if len(depends) != 3 or not all(1.0 <= d.factor < np.inf and d.freedom > 0 for d in depends):
            raise ValueError("expected three factors of dependence of at least 1")
        mean, std, low, high = (float("nan") if value is None else float(value) for value in made["moments"])
        return cls(
            name=str(made["name"]),
            bins=bins,
            counts=np.array(made["counts"], dtype=np.int64),
            rows=int(made["rows"]),
            missing=int(made["missing"]),
            infinite=int(made["infinite"]),
            mean=mean,
            std=std,
            low=low,
            high=high,
            levels=tuple(map(str, made["levels"])),
            mean_dependence=depends[0],
            spread_dependence=depends[1],
            missing_dependence=depends[2],
            window_factor=float(made["window_factor"]),
            excursions=tuple(map(float, made["excursions"])),
            wide_ids=tuple(map(int, made.get("wide_ids", ()))),
        )


def fit_column(
    name: str,
    values: npt.NDArray[np.float32],
    *,
    categorical: bool,
    levels: tuple[str, ...] = (),
    wide_ids: tuple[int, ...] = (),
    ordered: bool = True,
) -> Column:
    """Return the column of some values.

    Args:
        name: of the column.
        values: float32 [n] in the order the rows came; NaN is missing.
        categorical: whether values are codes. Few whole numbers without a gap count as codes anyway.
        levels: the texts that the codes 0, 1, … stand for.
        wide_ids: the ids that codes below -2^23 stand for.
        ordered: False where the order means nothing; rows then count as independent.
    """
    missing, infinite = np.isnan(values), np.isinf(values)
    finite = values[~missing & ~infinite]
    if len(finite) == 0:
        bins = Bins(np.zeros(0, dtype=np.float32), 1)
    elif categorical or look_like_codes(finite):
        bins = codes(finite)
        if wide_ids:
            bins = with_roundings(bins, wide_ids)
    else:
        bins = numeric(finite)
    index = bins.index(values)
    # An infinite value lies beyond the range; the native counter puts it into the same bin.
    counts = np.bincount(index[index >= 0], minlength=bins.n_bins).astype(np.int64)
    wide = finite.astype(np.float64)
    there = len(finite) > 0
    column = Column(
        name=name,
        bins=bins,
        counts=counts,
        rows=len(values),
        missing=int(missing.sum()),
        infinite=int(infinite.sum()),
        mean=float(wide.mean()) if there else float("nan"),
        std=float(wide.std()) if there else float("nan"),
        low=float(wide.min()) if there else float("nan"),
        high=float(wide.max()) if there else float("nan"),
        levels=levels,
        wide_ids=wide_ids,
    )
    return _with_dependence(column, index) if ordered else column


def _with_dependence(column: Column, index: npt.NDArray[np.int64]) -> Column:
    made = column.scores()
    share_missing = column.missing / column.rows
    absent = dependence(
        (index == -1) - share_missing if 0 < share_missing < 1 else np.zeros(len(index)),
        np.ones(len(index), dtype=bool),
    )
    if made is None:
        return replace(column, missing_dependence=absent)
    present = index >= 0
    found, excursions = [], []
    for statistic in STATISTICS:
        by_row = np.where(present, made.names[statistic][np.maximum(index, 0)], 0.0)
        by_row[present] -= by_row[present].mean()
        depends = dependence(by_row, present)
        found.append(depends)
        slack = allowance(statistic, depends, column.present)
        excursions += [_highest(sign * by_row[present] - slack) for sign in (1.0, -1.0)]
    return replace(
        column,
        mean_dependence=found[0],
        spread_dependence=found[1],
        missing_dependence=absent,
        window_factor=_window_factor(index[present], column.bins.n_bins),
        excursions=tuple(excursions),
    )


def _highest(steps: npt.NDArray[np.float64]) -> float:
    """Return how far a walk with these steps ever stands above its lowest point so far."""
    walk = np.cumsum(steps)
    return float((walk - np.minimum.accumulate(np.minimum(walk, 0.0))).max(initial=0.0))


def _window_factor(index: npt.NDArray[np.int64], n_bins: int) -> float:
    """Return how many times larger the chi-square of consecutive rows is than that of independent ones.

    The reference is divided into 16 consecutive windows, and each is tested against the others. The factor is the
    largest chi-square / degrees of freedom; 1 where chance explains all of them together. It is the largest and not the
    mean, because the worst day of a month comes again.
    """
    from scipy import stats

    rows = len(index) // WINDOWS
    if rows < 4 * 8:
        return 1.0
    total = np.bincount(index, minlength=n_bins)
    groups = groups_of(total, rows)
    if groups.max() == 0:
        return 1.0
    coarse = groups[index[: rows * WINDOWS]].reshape(WINDOWS, rows)
    n_groups = int(groups.max()) + 1
    windows = np.stack([np.bincount(window, minlength=n_groups) for window in coarse]).astype(np.float64)
    rest = windows.sum(axis=0) - windows
    statistic = two_sample_chi_square(windows, rest)
    freedom = n_groups - 1
    if statistic.sum() <= stats.chi2.isf(1e-4, freedom * WINDOWS):
        return 1.0
    return max(1.0, float(statistic.max()) / freedom)


def groups_of(counts: npt.NDArray[np.int64], rows: float, expected_min: float = 8.0) -> npt.NDArray[np.int64]:
    """Return the group of each bin, int64 [bins].

    Neighbouring bins share a group until at least `expected_min` of `rows` rows are expected in every group.
    """
    expected = counts * (rows / max(counts.sum(), 1))
    groups = np.zeros(len(counts), dtype=np.int64)
    group, held = 0, 0.0
    for i, here in enumerate(expected):
        if held >= expected_min:
            group, held = group + 1, 0.0
        groups[i] = group
        held += here
    if held < expected_min and group > 0:
        groups[groups == group] = group - 1
    return groups


def two_sample_chi_square(left: npt.NDArray[Any], right: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return chi-square, [...], of two samples' counts, [..., groups], whose totals may differ.

    Press et al., Numerical Recipes, 3rd ed. 2007, eq. 14.3.3. Degrees of freedom: groups - 1.
    """
    n_left, n_right = left.sum(axis=-1, keepdims=True), right.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.sqrt(n_right / n_left)
        terms = np.square(ratio * left - right / ratio) / (left + right)
    return np.nan_to_num(terms, nan=0.0, posinf=0.0).sum(axis=-1)


def finite_or_none(value: float) -> float | None:
    """Return None for NaN and infinity, which JSON does not have."""
    return float(value) if np.isfinite(value) else None
