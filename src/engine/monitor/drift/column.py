"""One column of a reference: its bins, their counts, and how its rows depend on each other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import MonitorError
from engine.monitor.drift.bins import CODES_MAX, FIRST_WIDE, Bins, Scores, scores
from engine.monitor.drift.calibration import Calibration
from engine.monitor.drift.dependence import INDEPENDENT, Dependence

# n log n of counts up to here is looked up, where there are enough of them.
TABLE_SIZE = 1 << 16
TABLE_FROM = 256
# Lengths of the windows whose shapes are compared, in rows: each twice the one before.
WINDOW_ROWS = tuple(500 * 2**i for i in range(5))


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
        window_factors: tuple of floats, one for each of WINDOW_ROWS: how many times larger the chi-square of
            consecutive rows is than that of independent ones; infinite where the reference is too short to tell.
        singletons: int, codes that the reference has once.
        calibration: Calibration; None where rows count as independent.
        former: what a reference of 0.1.0 has in place of the last ones; None for others.
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
    window_factors: tuple[float, ...] = (1.0,) * len(WINDOW_ROWS)
    wide_ids: tuple[int, ...] = ()
    singletons: int = 0
    calibration: Calibration | None = None
    former: dict[str, Any] | None = None

    @property
    def others(self) -> int | None:
        """The bin that the rarest codes share; None where each code has its own."""
        shared = self.bins.bin_of is not None and len(self.bins.cuts) > CODES_MAX
        return self.bins.n_bins - 1 if shared else None

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
            **(self.former or self._order_to_json()),
            **({"wide_ids": list(self.wide_ids)} if self.wide_ids else {}),
        }

    def _order_to_json(self) -> dict[str, Any]:
        return {
            "window_factors": [finite_or_none(factor) for factor in self.window_factors],
            "singletons": self.singletons,
            "calibration": None if self.calibration is None else self.calibration.to_json(),
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
            wide_ids=tuple(map(int, made.get("wide_ids", ()))),
            singletons=int(made.get("singletons", 0)),
            **cls._read_order(made),
        )

    @staticmethod
    def _read_order(made: dict[str, Any]) -> dict[str, Any]:
        """Return what the order of the rows showed; a reference of 0.1.0 has one factor of windows and four heights."""
        if "window_factors" not in made:
            factor = float(made["window_factor"])
            excursions = tuple(float(climbed) for climbed in made["excursions"])
            if len(excursions) != 4:
                raise ValueError("expected the excursions of four charts")
            longer = tuple(
                factor if factor == 1.0 else factor * (1.0 + rows / 1000.0) for rows in WINDOW_ROWS
            )
            return {
                "window_factors": longer,
                "former": {"window_factor": made["window_factor"], "excursions": list(excursions)},
            }
        factors = tuple(
            float("inf") if factor is None else float(factor) for factor in made["window_factors"]
        )
        if len(factors) != len(WINDOW_ROWS) or not all(factor >= 1.0 for factor in factors):
            raise ValueError(f"expected {len(WINDOW_ROWS)} factors of windows of at least 1")
        calibration = made["calibration"]
        return {
            "window_factors": factors,
            "calibration": None if calibration is None else Calibration.from_json(calibration),
        }


def groups_of(counts: npt.NDArray[np.int64], rows: float, expected_min: float = 8.0) -> npt.NDArray[np.int64]:
    """Return the group of each bin, int64 [bins].

    Neighbouring bins share a group until at least `expected_min` of `rows` rows are expected in every group, and the
    reference has as many there.
    """
    expected = counts * (min(rows, float(counts.sum())) / max(counts.sum(), 1))
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


def n_log_n(counts: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return n log n of each count, float64 [...]; 0 for 0. Counts are whole numbers."""
    from scipy.special import xlogy

    if counts.size < TABLE_FROM or counts.max() >= TABLE_SIZE:
        found: npt.NDArray[np.float64] = xlogy(counts, counts)
        return found
    return _table()[counts.astype(np.int64)]


@cache
def _table() -> npt.NDArray[np.float64]:
    from scipy.special import xlogy

    numbers = np.arange(TABLE_SIZE, dtype=np.float64)
    made: npt.NDArray[np.float64] = xlogy(numbers, numbers)
    return made


def two_sample_chi_square(left: npt.NDArray[Any], right: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the likelihood-ratio chi-square, [...], of two samples' counts, [..., groups], whose totals may differ.

    2 sum(count ln(count / expected)) (Wilks, Ann. Math. Statist. 9, 1938). Degrees of freedom: groups - 1. Far out it
    is nearer to the truth than Pearson's where few rows are expected.
    """
    n_left, n_right = left.sum(axis=-1), right.sum(axis=-1)
    terms = (n_log_n(left) - n_log_n(left + right)).sum(axis=-1) + n_log_n(right).sum(axis=-1)
    terms += n_log_n(n_left + n_right) - n_log_n(n_left) - n_log_n(n_right)
    found: npt.NDArray[np.float64] = np.where((n_left > 0) & (n_right > 0), np.maximum(2.0 * terms, 0.0), 0.0)
    return found


def finite_or_none(value: float) -> float | None:
    """Return None for NaN and infinity, which JSON does not have."""
    return float(value) if np.isfinite(value) else None
