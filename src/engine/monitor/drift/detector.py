"""Compares the columns of one side, features or outputs, with the reference.

Each lasting change of a column is one episode, however many tests see it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.monitor.drift.charts import Charts, LocationCharts, RateCharts
from engine.monitor.drift.column import Column, finite_or_none
from engine.monitor.drift.windows import POOLED, Windows

# A change is over when no test has seen it for this many windows and this many independent stretches of its column (at
# most as many rows as the reference has), and the pool of the last windows is like the reference. A cool day in July
# does not end the summer.
CLEAR_WINDOWS = 4
CLEAR_STRETCHES = 200
# The windows' share of the acceptable false alarms; the charts have the rest.
WINDOWS_PART = 0.1
# Four of LocationCharts and two of RateCharts.
CHARTS_A_COLUMN = 6
# Blocks whose sums are kept, for the evidence.
BLOCKS_KEPT = 64


@dataclass(slots=True)
class Episode:
    """One lasting change of a column. Rows count from the detector's first one.

    Attributes:
        column: str, its name.
        started_row: int, the row at which the change began, estimated: where the first test to see it last stood at 0.
        detected_row: int, the row at which it was certain.
        ended_row: int, the row at which it was last seen; None while it lasts.
        evidence: dict of plain values: "seen_by", the tests that saw it, and the figures of `DriftDetector.evidence`.
    """

    column: str
    started_row: int
    detected_row: int
    ended_row: int | None = None
    evidence: dict[str, Any] = field(default_factory=dict)


class DriftDetector:
    """Sequential and windowed tests of all columns of one side. Not thread-safe.

    Args:
        columns: of the reference.
        bins_max: width of the counts that `observe` takes.
        rows_window: rows of a window.
        rows_block: rows that are tested together. What `observe` is given waits until they are complete, so that the
            same rows are tested in the same blocks, however they came.
        false_alarms_per_100k: acceptable false alarms in 100,000 rows, over all columns.
        rows_before: rows that an earlier detector saw.

    Attributes:
        columns: tuple of Column.
        rows: int, rows seen. It includes rows of earlier detectors and rows that wait.
        open: dict of column name -> Episode that has not ended.
        windows: Windows, the tests of windows.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        bins_max: int,
        *,
        rows_window: int = 1000,
        rows_block: int = 1,
        false_alarms_per_100k: float = 1.0,
        rows_before: int = 0,
    ) -> None:
        self.columns = tuple(columns)
        self.rows = rows_before
        self._rows_block = rows_block
        self._since_block = 0
        self._waiting: tuple[int, list[npt.NDArray[Any]]] | None = None
        self.open: dict[str, Episode] = {}
        chance = false_alarms_per_100k / 100_000
        n_charts = max(CHARTS_A_COLUMN * len(self.columns), 1)
        self.windows = Windows(self.columns, bins_max, rows_window, chance * WINDOWS_PART * rows_window)
        self._location = LocationCharts(self.columns, bins_max, chance * (1 - WINDOWS_PART) / n_charts)
        self._rates = RateCharts(self.columns, chance * (1 - WINDOWS_PART) / n_charts)
        stretches = [
            min(CLEAR_STRETCHES * column.mean_dependence.factor, column.rows) for column in self.columns
        ]
        self._clear_rows = np.maximum(CLEAR_WINDOWS * rows_window, stretches)
        self._seen_row = np.zeros(len(self.columns), dtype=np.int64)
        self._pooled_row = np.zeros(len(self.columns), dtype=np.int64)
        self._is_open = np.zeros(len(self.columns), dtype=bool)
        # The latest blocks: the row count at their end, and [columns, (rows, missing, strange, sum, sum of squares)].
        self._recent: deque[tuple[int, npt.NDArray[np.float64]]] = deque(maxlen=BLOCKS_KEPT)

    def observe(
        self,
        rows: int,
        counts: npt.NDArray[Any],
        missing: npt.NDArray[Any],
        infinite: npt.NDArray[Any],
        unseen: npt.NDArray[Any],
        sums: npt.NDArray[np.float64],
    ) -> list[Episode]:
        """Add rows, and return the episodes that began or ended with them.

        Rows wait until they end a block. More than a block may come at once, and are then tested together.

        Args:
            rows: how many rows.
            counts: [columns, bins_max].
            missing, infinite, unseen: [columns].
            sums: float64 [columns, 2], sum and sum of squares of the finite values.
        """
        if rows == 0 or not self.columns:
            return []
        self.rows += rows
        self._since_block += rows
        given = [counts, missing, infinite, unseen, sums]
        if self._waiting is not None:
            rows += self._waiting[0]
            given = [old + new for old, new in zip(self._waiting[1], given, strict=True)]
        self._waiting = rows, given
        if self._since_block % self._rows_block:
            return []
        return self.finish()

    def finish(self) -> list[Episode]:
        """Test the rows that wait for their block, and return the episodes that began or ended with them."""
        if self._waiting is None:
            return []
        rows, given = self._waiting
        self._waiting = None
        self._since_block = 0
        return self._test(rows, *given)

    def _test(
        self,
        rows: int,
        counts: npt.NDArray[Any],
        missing: npt.NDArray[Any],
        infinite: npt.NDArray[Any],
        unseen: npt.NDArray[Any],
        sums: npt.NDArray[np.float64],
    ) -> list[Episode]:
        # An infinite code is counted as unseen and as infinite.
        strange = np.maximum(unseen, infinite)
        before = self.rows - rows
        self._location.observe(counts, before)
        self._rates.observe(missing, strange, rows, before)
        self.windows.observe(counts, rows)
        self._recent.append((self.rows, _sums_of(rows, *(missing, infinite, unseen, sums))))
        alarmed = self.windows.alarmed.copy()
        for charts in self._charts():
            alarmed |= charts.alarmed.any(axis=0)
        if not self.open and not alarmed.any():
            return []
        self._seen_row[alarmed] = self.rows
        changed = [self._begin(place) for place in np.flatnonzero(alarmed & ~self._is_open).tolist()]
        over = self._is_open & (self.rows - self._seen_row >= self._clear_rows)
        if over.any():
            lasts = over & self.windows.differs()
            # Somewhere in the pool the change was still there: its middle is the estimate.
            pooled = self.rows - POOLED * self.windows.rows_window // 2
            self._pooled_row[lasts] = np.maximum(self._pooled_row[lasts], pooled)
            over &= ~lasts
        return changed + [self._end(place) for place in np.flatnonzero(over).tolist()]

    def saved(self) -> dict[str, Any]:
        """Return a copy of what `restore` takes, in plain values and arrays of float64."""
        rows, given = self._waiting if self._waiting is not None else (0, [])
        return {
            "rows": self.rows,
            "charts": [charts.saved() for charts in self._charts()],
            "windows": self.windows.saved(),
            "seen_row": self._seen_row.astype(float),
            "open": [asdict(episode) for episode in self.open.values()],
            "recent": [[end for end, _ in self._recent], np.array([sums for _, sums in self._recent])],
            "waiting": [rows, [part.astype(float) for part in given]],
        }

    def restore(self, saved: Mapping[str, Any], same_reference: bool) -> None:
        """Go on from what `saved` returned; with another reference only with its rows and open episodes.

        Raises ValueError, KeyError or TypeError where it is not of such a detector.
        """
        places = {column.name: place for place, column in enumerate(self.columns)}
        self.rows = int(saved["rows"])
        for episode in (Episode(**made) for made in saved["open"]):
            if episode.column in places:
                self.open[episode.column] = episode
                self._is_open[places[episode.column]] = True
        self._seen_row[self._is_open] = self.rows
        if not same_reference:
            return
        for charts, made in zip(self._charts(), saved["charts"], strict=True):
            charts.restore(made)
        self.windows.restore(saved["windows"])
        self._seen_row = saved["seen_row"].astype(np.int64)
        self._recent.extend((int(end), sums) for end, sums in zip(*saved["recent"], strict=True))
        rows, given = saved["waiting"]
        if rows:
            self._waiting = int(rows), given

    def go_on_from(self, before: DriftDetector) -> list[Episode]:
        """Take over the open episodes of a detector that had another reference; return those of columns that are gone.

        An episode goes on until the tests against this reference no longer see a change.
        """
        places = {column.name: place for place, column in enumerate(self.columns)}
        gone = []
        for name, episode in before.open.items():
            if name not in places:
                episode.ended_row = self.rows
                gone.append(episode)
                continue
            self.open[name] = episode
            self._is_open[places[name]] = True
            self._seen_row[places[name]] = self.rows
        return gone

    @property
    def recent_counts(self) -> npt.NDArray[np.float64]:
        """Counts, float64 [columns, bins_max], of the last whole window and of the rows after it."""
        waiting = 0 if self._waiting is None else self._waiting[1][0]
        return self.windows.counts + self.windows.gathered + waiting

    def _charts(self) -> tuple[Charts, Charts]:
        return self._location.charts, self._rates.charts

    def _begin(self, place: int) -> Episode:
        column = self.columns[place]
        seen, since = [], self.rows
        for charts in self._charts():
            for chart in np.flatnonzero(charts.alarmed[:, place]):
                seen.append(charts.names[chart])
                since = min(since, int(charts.since[chart, place]))
        if self.windows.alarmed[place]:
            seen.append("shape")
            since = min(since, max(self.rows - self.windows.rows_window, 0))
        episode = Episode(
            column.name, since, self.rows, evidence={"seen_by": seen, **self.evidence(place, since)}
        )
        self.open[column.name] = episode
        self._is_open[place] = True
        return episode

    def _end(self, place: int) -> Episode:
        episode = self.open.pop(self.columns[place].name)
        episode.ended_row = int(max(self._seen_row[place], self._pooled_row[place]))
        self._is_open[place] = False
        return episode

    def evidence(self, place: int, since: int = 0) -> dict[str, Any]:
        """Return plain figures of one column: of the rows after `since`, as far as they are kept, and the reference's.

        Keys: rows; codes, whether values are codes; mean and std of the finite values; missing_share; unseen_share, of
        new codes or infinite values; psi, ks_distance and p_value of the last window; rows_dependent, how many rows
        tell as much as one independent row. The reference's figures have the suffix _reference.
        """
        column = self.columns[place]
        blocks = list(self._recent)
        if self._waiting is not None:
            rows_waiting, (_, *sums) = self._waiting
            blocks.append((self.rows, _sums_of(rows_waiting, *sums)))
        kept = [block[place] for end, block in blocks if end > since] or [blocks[-1][1][place]]
        rows, missing, strange, total, squares = np.sum(kept, axis=0).tolist()
        finite = rows - missing - (0.0 if column.bins.discrete else strange)
        mean = total / finite if finite > 0 else None
        variance = max(squares / finite - mean * mean, 0.0) if mean is not None else None
        return {
            "rows": int(rows),
            "codes": column.bins.discrete,
            "mean": _steady(mean),
            "mean_reference": finite_or_none(column.mean),
            "std": None if variance is None else _steady(variance**0.5),
            "std_reference": finite_or_none(column.std),
            "missing_share": missing / rows,
            "missing_share_reference": column.missing / column.rows,
            "unseen_share": strange / rows,
            "psi": float(self.windows.psi[place]),
            "ks_distance": float(self.windows.distance[place]),
            "p_value": float(self.windows.p_values[place]),
            "rows_dependent": column.mean_dependence.factor,
        }

    def state(self) -> Iterator[tuple[Column, dict[str, Any]]]:
        """Yield every column with its figures: drifted, nearest_alarm (1 is an alarm), and those of `evidence`."""
        near = np.maximum(*(charts.level.max(axis=0) for charts in self._charts()))
        for place, column in enumerate(self.columns):
            figures = self.evidence(place) if self._recent or self._waiting else {}
            yield (
                column,
                {"drifted": bool(self._is_open[place]), "nearest_alarm": float(near[place]), **figures},
            )


def _sums_of(
    rows: int,
    missing: npt.NDArray[Any],
    infinite: npt.NDArray[Any],
    unseen: npt.NDArray[Any],
    sums: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Return float64 [columns, 5]: rows, missing, strange values, sum and sum of squares."""
    # An infinite code is counted as unseen and as infinite.
    found = np.empty((len(missing), 5))
    found[:, 0], found[:, 1], found[:, 2], found[:, 3:] = rows, missing, np.maximum(unseen, infinite), sums
    return found


def _steady(value: float | None) -> float | None:
    """Round to nine digits: the last ones depend on the order of additions, which depends on how the rows came."""
    return None if value is None else float(f"{value:.9g}")
