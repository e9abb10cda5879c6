"""Shares of answers that have a budget: fallbacks, late answers, errors. A sequential test alarms where a budget is
being overspent twice over, however small the share, and stays quiet where it is kept."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from engine._common.vocabulary import REASONS, SOURCES
from engine.errors import MonitorError
from engine.monitor.drift.bins import FloatArray
from engine.monitor.drift.charts import Charts

ERROR_REASONS = tuple(
    place
    for place, reason in enumerate(REASONS)
    if reason.endswith("_error") or reason.startswith("primary_bad") or reason == "primary_not_finite"
)
PRIMARY = SOURCES.index("primary")
CLEAR_ANSWERS = 2000
BLOCKS_KEPT = 256


@dataclass(slots=True)
class Overspending:
    """A budget that is overspent; answers count from the start."""

    kind: str
    started_row: int
    detected_row: int
    share: float
    budget: float
    ended_row: int | None = None


class Budgets:
    """Watches answers by source and reason. Not thread-safe."""

    KINDS = ("fallback_share", "late_share", "error_share")

    def __init__(
        self, fallback_share_max: float, late_share_max: float, error_share_max: float, chance: float
    ) -> None:
        """Budgets as shares, 1 for none; `chance`: false alarms an answer that are acceptable."""
        budgets = dict(zip(self.KINDS, (fallback_share_max, late_share_max, error_share_max), strict=True))
        for name, budget in budgets.items():
            if not 0.0 < budget <= 1.0:
                raise MonitorError(f"{name}_max must be over 0 and at most 1 (no budget), got {budget}")
        self.budgets = budgets
        shares = np.array(list(budgets.values()))
        usual = np.minimum(shares, 0.98)
        worse = np.minimum(2.0 * usual, (1.0 + usual) / 2.0)
        watched = shares < 1.0
        self._hit = np.where(watched, np.log(worse / usual), 0.0)
        self._miss = np.where(watched, np.log((1.0 - worse) / (1.0 - usual)), -1.0)
        self._charts = Charts(self.KINDS, np.full((3, 1), float(np.log(3.0 / chance))))
        self._recent: deque[tuple[int, FloatArray]] = deque(maxlen=BLOCKS_KEPT)
        self.open: dict[str, Overspending] = {}
        self._seen = dict.fromkeys(self.KINDS, 0)
        self.answers = 0

    def observe(self, by_reason: FloatArray, late: int) -> list[Overspending]:
        """Adds a block: answers [sources, reasons] and how many were late; returns what began or ended with it."""
        answers = int(by_reason.sum())
        if answers == 0:
            return []
        hits = np.array(
            [by_reason.sum() - by_reason[PRIMARY].sum(), late, by_reason[:, ERROR_REASONS].sum()],
            dtype=np.float64,
        )
        steps = hits * self._hit + (answers - hits) * self._miss
        self._charts.observe(steps[:, None], self.answers)
        self.answers += answers
        self._recent.append((self.answers, np.array([*hits, answers])))
        changed = []
        for place, kind in enumerate(self.KINDS):
            if self._charts.alarmed[place, 0]:
                self._seen[kind] = self.answers
                if kind not in self.open:
                    changed.append(self._begin(kind, place))
            elif kind in self.open and self.answers - self._seen[kind] >= CLEAR_ANSWERS:
                over = self.open.pop(kind)
                over.ended_row = self._seen[kind]
                changed.append(over)
        return changed

    def _begin(self, kind: str, place: int) -> Overspending:
        started = int(self._charts.since[place, 0])
        kept = np.sum([block for end, block in self._recent if end > started], axis=0)
        share = float(kept[place] / kept[3])
        self.open[kind] = Overspending(kind, started, self.answers, share, self.budgets[kind])
        return self.open[kind]
