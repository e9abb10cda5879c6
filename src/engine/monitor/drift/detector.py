"""Compares the columns of one side, features or outputs, with the reference.

Each lasting change of a column is one episode, however many tests see it. An episode begins at the level that the
budget of false alarms controls. It goes on at a lower one, and ends when the latest four windows together match the
reference again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.monitor._charts import Evidence
from engine.monitor.drift.calibration import BLOCK_ROWS, SPANS, span_variances
from engine.monitor.drift.charts import CHARTS, CLEARED, NAMES, RATES, law_of, steps_of, thresholds_of
from engine.monitor.drift.column import Column, finite_or_none
from engine.monitor.drift.companions import movement
from engine.monitor.drift.pairs import Changed, Pairs, PairTests, named
from engine.monitor.drift.windows import Windows

# A change of a column whose rows depend on each other is over when nothing has seen it for this many independent
# stretches, at most as many rows as the reference has. A cool day in July does not end the summer.
CLEAR_STRETCHES = 200
# The windows' and the correlations' shares of the acceptable false alarms; the charts have the rest.
WINDOWS_PART = 0.15
PAIRS_PART = 0.05
# Blocks whose sums are kept, and how many of them are the latest rows of the evidence.
BLOCKS_KEPT = 256
BLOCKS_SHOWN = 64
# Charts of sums of scores, which dependent rows raise, and those of shares that must not change.
SCORES = np.array([chart.statistic not in ("missing", "strange") for chart in CHARTS] + [False])
# Charts whose alarm says that a change still lasts; of the others the latest windows say it.
LASTING = np.array([chart.statistic in RATES for chart in CHARTS] + [True])
FROZEN = "frozen value"
CORRELATION = "correlation changed"
SHOWN = (*NAMES, FROZEN)
# From this share on all values are missing.
ALL_MISSING = 0.99
# The problem that each of these charts shows.
PROBLEMS = {
    "missing values": "missing values",
    "fewer missing values": "fewer missing values",
    "out of range": "impossible values",
    "unseen values": "new values",
}
# A value is frozen after twice the longest run of the reference and this many rows more.
RUN_ROWS = 60
RUN_ROWS_MIN = 100
# Where another test has seen a change, a column is frozen after this many rows of one value, or after this many times
# the longest run of the reference.
RUN_ROWS_SEEN = 40
RUN_TIMES = 3.0
# Chance a row that a run of an independent column gets that long.
RUN_CHANCE = 1e-9
# Arrays of the charts, and row numbers, that the state keeps.
CHART_ARRAYS = ("level", "alarmed", "since", "until", "gathered", "sums", "steps", "ends")
ROW_ARRAYS = ("_seen_row", "_begun_row", "_window_row", "_unsure")
# A live column depends more on its order than the reference says where its sums vary so many standard errors more.
SPAN_ERRORS = 5.0
# From this ratio on a reference whose rows depend on each other was thinned.
THINNED = 4.0
# A reference with a larger factor of dependence has its order; a thinned one may have a little left.
ORDERED = 4.0
# Scores wait for this many blocks after the start, because fewer do not show how live rows depend on each other.
BLOCKS_MIN = 20
# They are sure earlier where they pass their threshold this many times over.
EARLY = 20.0
# Look at an alarm that was not sure again after this many blocks.
UNSURE_BLOCKS = 2
# Charts of the mean, of the spread and of impossible values.
MEAN, SPREAD, BEYOND = 2, 6, 11


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
        merged: rows come from several processes, in parts that need not add up to whole blocks. A block is then
            tested as soon as it has `rows_block` rows or more.
        together: names of columns that move together.
        pairs: correlations of some of the columns; None where they are not watched.

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
        pairs: Pairs | None = None,
        merged: bool = False,
        together: Sequence[Sequence[str]] = (),
    ) -> None:
        self.columns = tuple(columns)
        self.rows = rows_before
        self._rows_block = rows_block
        self._merged = merged
        self._since_block = 0
        self._waiting: tuple[int, list[npt.NDArray[Any]]] | None = None
        self.open: dict[str, Episode] = {}
        n = len(self.columns)
        chance = false_alarms_per_100k / 100_000
        self.windows = Windows(self.columns, bins_max, rows_window, chance * WINDOWS_PART)
        part = 1.0 - WINDOWS_PART - (PAIRS_PART if pairs is not None else 0.0)
        self._evidence = _evidence_of(self.columns, bins_max, chance * part / max(n, 1))
        self._pairs: PairTests | None = None
        if pairs is not None:
            self._pairs = PairTests(self.columns, pairs, rows_window, chance * PAIRS_PART)
        places = {column.name: place for place, column in enumerate(self.columns)}
        # Columns whose long runs of one value their companions explain: place -> (limit, places of the companions).
        self._companions: dict[int, tuple[float, list[int]]] = {}
        for group in together:
            here = [places[name] for name in group if name in places]
            for place in here:
                calibration = self.columns[place].calibration
                if calibration is not None and calibration.moved > 0.0:
                    self._companions[place] = calibration.moved, [other for other in here if other != place]
        # Pairs of open episodes that began with a correlation: place -> the other column.
        self._partner: dict[int, int] = {}
        # A reference that shows how its rows depend on each other was not shuffled.
        self._has_order = np.array(
            [
                column.mean_dependence.factor > ORDERED
                or (column.calibration is not None and column.calibration.period > 0.0)
                for column in self.columns
            ],
            dtype=bool,
        )
        self._beyond = self._evidence.weights[:, :, BEYOND].max(axis=1, initial=0.0)
        self._rows_part = 0
        self._part_since = 0  # blocks
        stretches = [
            min(CLEAR_STRETCHES * column.mean_dependence.factor, column.rows) for column in self.columns
        ]
        self._clear_rows = np.array(stretches) - self.windows.rows_pooled
        self._seen_row = np.zeros(n, dtype=np.int64)
        self._begun_row = np.zeros(n, dtype=np.int64)
        self._window_row = np.zeros(n, dtype=np.int64)
        self._is_open = np.zeros(n, dtype=bool)
        self._unsure = np.zeros(n, dtype=np.int64)  # block up to which an alarm is not looked at again

    def observe(
        self,
        rows: int,
        counts: npt.NDArray[Any],
        missing: npt.NDArray[Any],
        infinite: npt.NDArray[Any],
        unseen: npt.NDArray[Any],
        runs: npt.NDArray[Any],
        sums: npt.NDArray[np.float64],
        pair_rows: int = 0,
        pair_sums: npt.NDArray[np.float32] | None = None,
    ) -> list[Episode]:
        """Add rows, and return the episodes that began or ended with them.

        Rows wait until they end a block. More than a block may come at once, and are then tested together.

        Args:
            rows: how many rows.
            counts: uint32 [columns, bins_max].
            missing, infinite, unseen: uint32 [columns].
            runs: uint32 [columns], the longest run of one value that ends in these rows.
            sums: float64 [columns, 2], sum and sum of squares of the finite values.
            pair_rows, pair_sums: as of `Sketch.take`; needed where the detector has `pairs`.
        """
        if rows == 0 or not self.columns:
            return []
        self.rows += rows
        self._since_block += rows
        given = [counts, missing, infinite, unseen, runs, sums]
        if self._pairs is not None and pair_sums is not None:
            self._pairs.add(pair_rows, pair_sums)
        if self._waiting is not None:
            rows += self._waiting[0]
            given = [old + new for old, new in zip(self._waiting[1], given, strict=True)]
            given[4] = np.maximum(self._waiting[1][4], runs)
        short = self._since_block < self._rows_block
        if short if self._merged else self._since_block % self._rows_block:
            self._waiting = rows, given
            return []
        self._waiting = None
        self._since_block = 0
        return self._test(rows, given)

    def finish(self) -> list[Episode]:
        """Test the rows that wait for their block, and return the episodes that began or ended with them."""
        if self._waiting is None:
            return []
        rows, given = self._waiting
        self._waiting = None
        self._since_block = 0
        return self._test(rows, given)

    def _test(self, rows: int, given: list[npt.NDArray[Any]]) -> list[Episode]:
        counts, missing, infinite, unseen, runs, sums = given
        any_chart = self._evidence.observe(
            counts, missing, infinite, unseen, runs, sums, rows, self.rows - rows
        )
        if self._companions:
            any_chart |= self._look_at_companions()
        self._rows_part += rows
        whole = self._rows_part >= self.windows.rows_part
        if whole:
            self._end_part()
        paired = self._pairs.changed if whole and self._pairs is not None else []
        if not any_chart and not self.open and not paired and not (whole and self.windows.alarmed.any()):
            return []
        alarmed = self._evidence.alarmed.any(axis=1)
        if whole:
            alarmed |= self.windows.alarmed
            self._window_row[self.windows.alarmed_now] = self.rows
        changed = []
        for place in np.flatnonzero(
            alarmed & ~self._is_open & (self._unsure < self._evidence.blocks)
        ).tolist():
            if self._is_sure(place):
                changed.append(self._begin(place))
            else:
                self._unsure[place] = self._evidence.blocks + UNSURE_BLOCKS
        if paired and self._evidence.blocks >= BLOCKS_MIN:
            changed += self._begin_pairs(paired, set(np.flatnonzero(alarmed).tolist()))
        if whole and self.open:
            lasts = self.windows.differs() | (self._evidence.alarmed[:, LASTING] > 0).any(axis=1)
            if self._pairs is not None:
                for place, other in self._partner.items():
                    lasts[place] |= self._pairs.differs(place, other)
            self._seen_row[lasts] = self.rows
            over = self._is_open & ~lasts & (self.rows - self._begun_row >= self.windows.rows_pooled)
            over &= self.rows - self._seen_row >= self._clear_rows
            changed += [self._end(place) for place in np.flatnonzero(over).tolist()]
        return changed

    def _end_part(self) -> None:
        blocks = self._evidence.latest(self._evidence.blocks - self._part_since)
        strange = self._evidence.sums[blocks, :, 2].sum(axis=0)
        self.windows.observe(self._evidence.gathered, strange, self._rows_part, self.rows)
        self._evidence.gathered[...] = 0.0
        self._rows_part = 0
        if self._pairs is not None:
            self._pairs.end_part(self.windows.whole)
        self._part_since = self._evidence.blocks
        for place in np.flatnonzero((self.windows.raised > 1.0) & ~self._is_open).tolist():
            # Chance, or a change that is over, may have raised them.
            if (ratio := self._dependence_ratio(place)) < self.windows.raised[place]:
                self._raise(place, ratio)

    def _look_at_companions(self) -> bool:
        """Alarm the columns that keep one value while their companions move; return whether there are any."""
        evidence, found = self._evidence, False
        runs = evidence.sums[evidence.latest(1)[0], :, 5]
        for place, (limit, others) in self._companions.items():
            if runs[place] < RUN_ROWS_MIN or self._is_open[place]:
                continue
            latest = self._constant(place)
            if len(latest) >= 2 and max(self._movement(other, latest) for other in others) > limit:
                evidence.level[place, -1], evidence.alarmed[place, -1] = 1.0, 1
                evidence.until[place, -1] = self.rows
                found = True
        return found

    def _constant(self, place: int) -> npt.NDArray[np.int64]:
        """Return the places of the latest blocks in which a column had one value, the same in all of them."""
        latest = self._evidence.latest(BLOCKS_KEPT)
        rows, missing, _, total, squares = self._evidence.sums[latest, place, :5].T
        mean = total / np.maximum(rows - missing, 1.0)
        varies = squares - total * mean > 1e-9 * np.maximum(squares, 1e-30)
        other = varies | (np.abs(mean - mean[-1]) > 1e-6 * abs(mean[-1]))
        last = np.flatnonzero(other & (rows > missing))
        return latest[last[-1] + 1 :] if len(last) else latest

    def _movement(self, place: int, blocks: npt.NDArray[np.int64]) -> float:
        """Return how far the mean score of a column moved over some blocks."""
        evidence = self._evidence
        threshold = evidence.thresholds[place, MEAN]
        if not np.isfinite(threshold):
            return 0.0
        present = evidence.sums[blocks, place, 0] - evidence.sums[blocks, place, 1]
        steps = evidence.steps[blocks, place, MEAN] * threshold
        return movement(np.where(present > 0.0, steps / np.maximum(present, 1.0), np.nan))

    def _begin_pairs(self, paired: list[Changed], alarmed: set[int]) -> list[Episode]:
        """Begin the episodes of columns whose correlation alone has changed."""
        assert self._pairs is not None
        sure = []
        for pair in paired:
            both = [pair.first, pair.second]
            # A change of one of the columns explains it.
            if alarmed.intersection(both) or self._is_open[both].any():
                continue
            ratio = max(self._dependence_ratio(place) for place in both)
            if ratio == 1.0 or self._pairs.stands(pair, ratio):
                sure.append(pair)
        return [self._begin_pair(place, pairs) for place, pairs in named(sure).items()]

    def _begin_pair(self, place: int, pairs: list[Changed]) -> Episode:
        others = [pair.second if pair.first == place else pair.first for pair in pairs]
        since = max(self.rows - max(pair.rows for pair in pairs), 0)
        figures = {
            "seen_by": ["correlation"],
            **self.evidence(place, since),
            "problem": CORRELATION,
            "with": [self.columns[other].name for other in others],
            "correlation": pairs[0].correlation,
            "correlation_reference": pairs[0].reference,
        }
        episode = Episode(self.columns[place].name, since, self.rows, evidence=figures)
        self._open_again(place, episode)
        self._partner[place] = others[0]
        return episode

    def _is_sure(self, place: int) -> bool:
        """Return whether an alarm stands when the live rows depend on each other more than the reference's did.

        The thresholds of such a column are raised, and its charts have to reach them. A thinned or shuffled reference
        cannot show how its rows hang together, but live rows do: their sums over blocks vary more.
        """
        evidence = self._evidence
        if evidence.alarmed[place, -1]:
            self._allow_runs(place)
        if evidence.alarmed[place, ~SCORES].any():
            return True
        last = evidence.latest(1)[0]
        height = evidence.thresholds[place, BEYOND]
        hits = evidence.steps[last, place, BEYOND] * height if np.isfinite(height) else 0.0
        if hits > 0.5 * evidence.sums[last, place, 0] * self._beyond[place]:
            # Most values of the block are impossible.
            return True
        if evidence.blocks < BLOCKS_MIN and not self._has_order[place]:
            latest = evidence.latest()
            return bool(evidence.steps[latest, place].sum(axis=0).max() >= EARLY)
        ratio = self._dependence_ratio(place)
        if ratio > self.windows.raised[place]:
            self._raise(place, ratio)
            self.windows.alarmed[place] = False
        return bool(evidence.alarmed[place].any() or self.windows.alarmed[place])

    def _raise(self, place: int, ratio: float) -> None:
        """Multiply the thresholds of a column, as the reference gave them, by `ratio`."""
        thresholds = self._evidence.thresholds.copy()
        thresholds[place, SCORES] *= ratio / self.windows.raised[place]
        self._evidence.set_thresholds(thresholds)
        self.windows.raised[place] = ratio

    def _allow_runs(self, place: int) -> None:
        """Raise the limit of runs to four times what the column had before the current run."""
        evidence = self._evidence
        latest = evidence.latest(BLOCKS_SHOWN)
        runs = evidence.sums[latest, place, 5]
        before = runs[evidence.ends[latest] <= evidence.since[place, -1]]
        limit = 4.0 * float(np.median(before)) + RUN_ROWS if len(before) else 0.0
        if limit > evidence.thresholds[place, -1]:
            thresholds = evidence.thresholds.copy()
            thresholds[place, -1] = limit
            evidence.set_thresholds(thresholds)

    def _dependence_ratio(self, place: int) -> float:
        """Return how many times more the sums of live scores vary than the reference says; 1 where chance explains it.

        Scores of the mean and of the spread over 1, 5 and 20 blocks. The median of squared differences does not see one
        change of level, however large.
        """
        column, evidence = self.columns[place], self._evidence
        if column.calibration is None or column.calibration.period:
            # A reference that shows a cycle has its order, and part of a cycle varies more than the whole.
            return 1.0
        latest = evidence.latest()
        rows = evidence.sums[latest, place, 0]
        usual_rows = float(np.median(rows))
        whole = latest[rows == usual_rows]
        largest = 1.0
        for which, chart in enumerate((MEAN, SPREAD)):
            threshold = evidence.thresholds[place, chart]
            if not np.isfinite(threshold):
                continue
            found = span_variances(evidence.steps[whole, place, chart] * threshold, 4)
            present = max(1.0 - column.missing / column.rows, 0.01)
            usual = usual_rows * np.maximum(
                column.calibration.spans[which] / BLOCK_ROWS, np.array(SPANS) * present
            )
            n = np.maximum(len(whole) / np.array(SPANS), 1.0)
            least = 1.0 + SPAN_ERRORS * 1.6 / n**0.5
            if self._has_order[place]:
                # The reference has its order, though perhaps not every row. Long sums differ by season.
                least = np.array([max(least[0], THINNED), *[np.inf] * (len(SPANS) - 1)])
            ratio = np.where(found > usual * least, found / usual, 1.0)
            largest = max(largest, float(ratio.max()))
        return largest

    def saved(self) -> dict[str, Any]:
        """Return a copy of what `restore` takes, in plain values and arrays of float64."""
        rows, given = self._waiting if self._waiting is not None else (0, [])
        evidence = self._evidence
        return {
            "rows": self.rows,
            "charts": {name: getattr(evidence, name).astype(float) for name in CHART_ARRAYS},
            "blocks": [evidence.blocks, self._part_since, self._rows_part],
            "thresholds": np.where(np.isfinite(evidence.thresholds), evidence.thresholds, -1.0),
            "windows": self.windows.saved(),
            "pairs": None if self._pairs is None else self._pairs.saved(),
            "partners": [list(pair) for pair in self._partner.items()],
            "rows_of": {name: getattr(self, name).astype(float) for name in ROW_ARRAYS},
            "open": [asdict(episode) for episode in self.open.values()],
            "waiting": [rows, [part.astype(float) for part in given]],
        }

    def restore(self, saved: Mapping[str, Any], same_reference: bool) -> None:
        """Go on from what `saved` returned; with another reference only with its rows and open episodes.

        Raises ValueError, KeyError or TypeError where it is not of such a detector.
        """
        places = {column.name: place for place, column in enumerate(self.columns)}
        self.rows = int(saved["rows"])
        self.open.clear()
        self._is_open[...] = False
        for episode in (Episode(**made) for made in saved["open"]):
            if episode.column in places:
                self._open_again(places[episode.column], episode)
        if not same_reference:
            return
        evidence = self._evidence
        arrays = {name: saved["charts"][name] for name in CHART_ARRAYS}
        if any(arrays[name].shape != getattr(evidence, name).shape for name in CHART_ARRAYS):
            raise ValueError(
                f"expected charts {list(evidence.level.shape)}, got {list(arrays['level'].shape)}"
            )
        thresholds = saved["thresholds"]
        evidence.set_thresholds(np.where(thresholds < 0.0, np.inf, thresholds))
        for name, made in arrays.items():
            getattr(evidence, name)[...] = made.astype(getattr(evidence, name).dtype)
        evidence.level[...] = np.clip(evidence.level, 0.0, 1.0)
        evidence.blocks, self._part_since, self._rows_part = (int(number) for number in saved["blocks"])
        self.windows.restore(saved["windows"])
        if self._pairs is not None and saved.get("pairs") is not None:
            self._pairs.restore(saved["pairs"])
        self._partner = {int(place): int(other) for place, other in saved.get("partners", ())}
        for name in ROW_ARRAYS:
            getattr(self, name)[...] = saved["rows_of"][name].astype(np.int64)
        rows, given = saved["waiting"]
        if rows:
            kinds = [np.uint32] * 5 + [np.float64]
            self._waiting = int(rows), [part.astype(kind) for part, kind in zip(given, kinds, strict=True)]

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
            self._open_again(places[name], episode)
        return gone

    def _open_again(self, place: int, episode: Episode) -> None:
        self.open[episode.column] = episode
        self._is_open[place] = True
        self._seen_row[place] = self._begun_row[place] = self._window_row[place] = self.rows

    @property
    def recent_counts(self) -> npt.NDArray[np.float64]:
        """Counts, float64 [columns, bins_max], of the last whole window and of the rows after it."""
        waiting = 0 if self._waiting is None else self._waiting[1][0]
        return self.windows.recent() + self._evidence.gathered + waiting

    def _begin(self, place: int) -> Episode:
        column, evidence = self.columns[place], self._evidence
        seen, since = [], self.rows
        for chart in np.flatnonzero(evidence.alarmed[place]).tolist():
            seen.append(SHOWN[chart])
            since = min(since, int(evidence.since[place, chart]))
        if self.windows.alarmed[place]:
            seen.append("shape")
            since = min(since, max(self.rows - self.windows.rows_window, 0))
        figures = {"seen_by": list(dict.fromkeys(seen)), **self.evidence(place, since)}
        figures["problem"] = self._problem(place, figures["seen_by"])
        episode = Episode(column.name, since, self.rows, evidence=figures)
        self._open_again(place, episode)
        return episode

    def _problem(self, place: int, seen: list[str]) -> str:
        """Return what is wrong with a column in a word or two, from its latest block."""
        evidence = self._evidence
        latest = evidence.latest(2)
        before = int(evidence.ends[latest[0]]) if len(latest) == 2 else 0
        calibration = self.columns[place].calibration
        # A column without values in the reference has no usual run.
        usual = np.inf if calibration is None or not calibration.run else RUN_TIMES * calibration.run
        if evidence.sums[latest[-1], place, 5] >= max(usual, RUN_ROWS_SEEN):
            seen = [*seen, FROZEN]
        return problem_of({"seen_by": seen, **self.evidence(place, before)})

    def _end(self, place: int) -> Episode:
        episode = self.open.pop(self.columns[place].name)
        last = max(int(self._evidence.until[place].max()), int(self._window_row[place]), episode.detected_row)
        if self._partner.pop(place, None) is not None:
            last = max(last, int(self._seen_row[place]))
        episode.ended_row = min(last, self.rows)
        self._is_open[place] = False
        # Evidence of the change is spent; the next one begins at 0.
        self._evidence.level[place] = 0.0
        self._evidence.alarmed[place] = 0
        self.windows.forget(place)
        return episode

    def evidence(self, place: int, since: int = 0) -> dict[str, Any]:
        """Return plain figures of one column: of the rows after `since`, as far as they are kept, and the reference's.

        Keys: rows; codes, whether values are codes; mean and std of the finite values; missing_share; unseen_share, of
        new codes or infinite values; psi, ks_distance and p_value of the last window; rows_dependent, how many rows
        tell as much as one independent row. The reference's figures have the suffix _reference.
        """
        column, evidence = self.columns[place], self._evidence
        latest = evidence.latest(BLOCKS_SHOWN)
        kept = evidence.sums[latest[evidence.ends[latest] > since], place, :5]
        if self._waiting is not None:
            rows_waiting, given = self._waiting
            kept = np.concatenate([kept, _sums_of(rows_waiting, given, place)[None]])
        if not len(kept):
            kept = evidence.sums[latest[-1:], place, :5]
        rows, missing, strange, total, squares = kept.sum(axis=0).tolist()
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
        near = self._evidence.level.max(axis=1)
        for place, column in enumerate(self.columns):
            figures = self.evidence(place) if self._evidence.blocks or self._waiting else {}
            yield (
                column,
                {"drifted": bool(self._is_open[place]), "nearest_alarm": float(near[place]), **figures},
            )


def _evidence_of(columns: Sequence[Column], bins_max: int, chance: float) -> Evidence:
    """Return the charts of columns, with `chance` acceptable false alarms a row and column."""
    weights = np.zeros((len(columns), bins_max + 2, len(CHARTS)))
    thresholds = np.full((len(columns), len(CHARTS) + 1), np.inf)
    for place, column in enumerate(columns):
        scores = column.scores()
        steps = steps_of(column, scores)
        n_bins = column.bins.n_bins
        weights[place, :n_bins] = steps[:, :n_bins].T
        weights[place, bins_max:] = steps[:, n_bins:].T
        thresholds[place, :-1] = thresholds_of(column, steps, law_of(column, scores), chance)
        thresholds[place, -1] = run_limit(column)
    return Evidence(weights, thresholds, kept=BLOCKS_KEPT, cleared=CLEARED)


def problem_of(figures: Mapping[str, Any]) -> str:
    """Return what is wrong with a column in a word or two, from the figures of its episode; "drift" for all else."""
    seen = figures["seen_by"]
    if figures["missing_share"] >= ALL_MISSING and figures["missing_share_reference"] < ALL_MISSING:
        return "all missing"
    if FROZEN in seen:
        return FROZEN
    if (factor := unit_of(figures)) is not None:
        return f"unit changed (x {factor:g})"
    if any(name.startswith("mean") for name in seen):
        return "drift"
    return next((problem for name, problem in PROBLEMS.items() if name in seen), "drift")


def unit_of(figures: Mapping[str, Any]) -> float | None:
    """Return the power of ten by which mean and standard deviation are multiplied; None where there is none."""
    mean, mean_reference = figures["mean"], figures["mean_reference"]
    stds = figures["std"], figures["std_reference"]
    if figures["codes"] or None in (mean, mean_reference, *stds) or not all((mean, mean_reference, *stds)):
        return None
    ratio, spread = mean / mean_reference, stds[0] / stds[1]
    if ratio <= 0.0:
        return None
    power = round(float(np.log10(ratio)))
    near = abs(float(np.log10(ratio)) - power) < 0.1 and abs(float(np.log10(spread)) - power) < 0.3
    return 10.0**power if near and power else None


def run_limit(column: Column) -> float:
    """Return after how many rows of one value it is frozen; infinite for a column that hardly ever changes."""
    if column.calibration is None or not column.calibration.run or not column.present:
        return np.inf
    run = column.calibration.run
    if run > column.rows / 8:
        return np.inf
    most = float(column.counts.max()) / column.present
    most += 3.0 * (most * (1.0 - most) / column.present) ** 0.5
    if most >= 1.0:
        return np.inf
    return float(max(2.0 * run + RUN_ROWS, RUN_ROWS_MIN, np.log(RUN_CHANCE) / np.log(most)))


def _sums_of(rows: int, given: Sequence[npt.NDArray[Any]], place: int) -> npt.NDArray[np.float64]:
    """Return float64 [5]: rows, missing, strange values, sum and sum of squares of one column."""
    _, missing, infinite, unseen, _, sums = (part[place] for part in given)
    # An infinite code is counted as unseen and as infinite.
    return np.array([rows, missing, max(unseen, infinite), sums[0], sums[1]], dtype=np.float64)


def _steady(value: float | None) -> float | None:
    """Round to nine digits: the last ones depend on the order of additions, which depends on how the rows came."""
    return None if value is None else float(f"{value:.9g}")
