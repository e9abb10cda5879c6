"""Budgets for shares of the answers: fallbacks, late answers, errors.

Each budget has one sequential test (CUSUM) of log-likelihood ratios: the budget's share against twice that share. It
alarms soon where the budget is overspent twice over, however small the share, and stays quiet where it is kept.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from engine._common.arguments import number
from engine._common.vocabulary import REASONS, SOURCES
from engine.errors import MonitorError
from engine.monitor.drift.bins import FloatArray
from engine.monitor.drift.charts import CLEARED

# Places of the reasons that count as errors of a model.
ERROR_REASONS = tuple(
    place
    for place, reason in enumerate(REASONS)
    if reason.endswith("_error") or reason.startswith("primary_bad") or reason == "primary_not_finite"
)
PRIMARY = SOURCES.index("primary")
# An overspending is over after this many answers without an alarm.
CLEAR_ANSWERS = 2000
# Blocks whose counts are kept, for the share in the alert.
BLOCKS_KEPT = 256


@dataclass(slots=True)
class Overspending:
    """A budget that is overspent. Answers count from the monitor's first one.

    Attributes:
        kind: "fallback_share", "late_share" or "error_share".
        started_row: the answer at which it began, estimated.
        detected_row: the answer at which it was certain.
        share: of the answers since it began.
        budget: the share that was given.
        ended_row: the answer at which it was last seen; None while it lasts.
    """

    kind: str
    started_row: int
    detected_row: int
    share: float
    budget: float
    ended_row: int | None = None


class Budgets:
    """Watches answers by source and reason. Not thread-safe.

    Attributes:
        budgets: dict of kind -> budget.
        open: dict of kind -> Overspending that has not ended.
        answers: int, answers seen.
    """

    KINDS = ("fallback_share", "late_share", "error_share")

    def __init__(
        self,
        fallback_share_max: float,
        late_share_max: float,
        error_share_max: float,
        chance: float,
        answers_block: int = 1,
        merged: bool = False,
    ) -> None:
        """Args:
        fallback_share_max, late_share_max, error_share_max: budgets, above 0 and at most 1; 1 is no budget.
        chance: acceptable false alarms per answer.
        answers_block: answers that are tested together. What `observe` is given waits until they are complete.

        merged: answers come from several processes; a block is tested as soon as it has that many or more.

        Raises:
            MonitorError: a budget outside that range.
        """
        self._merged = merged
        given = zip(self.KINDS, (fallback_share_max, late_share_max, error_share_max), strict=True)
        self.budgets = {
            kind: number(f"{kind}_max", share, 0.0, 1.0, above=True, error=MonitorError)
            for kind, share in given
        }
        self._height = math.log(3.0 / chance)
        self._steps = [_steps(share) for share in self.budgets.values()]
        self._level = [0.0, 0.0, 0.0]
        self._since = [0, 0, 0]
        self._alarmed = [False, False, False]
        self._recent: deque[tuple[int, FloatArray]] = deque(maxlen=BLOCKS_KEPT)
        self.open: dict[str, Overspending] = {}
        self._seen = dict.fromkeys(self.KINDS, 0)
        self.answers = 0
        self._answers_block = answers_block
        self._waiting = [0.0, 0.0, 0.0, 0.0]

    def observe(self, by_reason: FloatArray, late: int) -> list[Overspending]:
        """Add answers, and return what began or ended with them. They wait until they end a block.

        Args:
            by_reason: float64 [sources, reasons], answers.
            late: how many of them came after their deadline.
        """
        answers = float(by_reason.sum())
        self.answers += int(answers)
        added = answers - by_reason[PRIMARY].sum(), late, by_reason[:, ERROR_REASONS].sum(), answers
        self._waiting = [old + float(new) for old, new in zip(self._waiting, added, strict=True)]
        whole = (
            self._waiting[3] >= self._answers_block
            if self._merged
            else self.answers % self._answers_block == 0
        )
        return self.finish() if answers and whole else []

    def finish(self) -> list[Overspending]:
        """Test the answers that wait for their block, and return what began or ended with them."""
        *hits, answers = self._waiting
        if answers == 0.0:
            return []
        self._waiting = [0.0, 0.0, 0.0, 0.0]
        self._recent.append((self.answers, np.array([*hits, answers])))
        changed = []
        for place, kind in enumerate(self.KINDS):
            self._add(place, hits[place], answers)
            if self._alarmed[place]:
                self._seen[kind] = self.answers
                if kind not in self.open:
                    changed.append(self._begin(kind, place))
            elif kind in self.open and self.answers - self._seen[kind] >= CLEAR_ANSWERS:
                over = self.open.pop(kind)
                over.ended_row = self._seen[kind]
                changed.append(over)
        return changed

    def _add(self, place: int, hits: float, answers: float) -> None:
        """Add a block to a chart, which stays between 0 and 1 and alarms at 1, until it has fallen to a quarter."""
        hit, miss = self._steps[place]
        level = self._level[place]
        if level <= 0.0:
            self._since[place] = self.answers - int(answers)
        level = min(max(level + (hits * hit + (answers - hits) * miss) / self._height, 0.0), 1.0)
        self._level[place] = level
        self._alarmed[place] = level >= 1.0 or (self._alarmed[place] and level > CLEARED)

    def saved(self) -> dict[str, Any]:
        """Return a copy of what `restore` takes."""
        return {
            "budgets": dict(self.budgets),
            "charts": [list(self._level), list(self._since), list(self._alarmed)],
            "open": [asdict(over) for over in self.open.values()],
            "seen": dict(self._seen),
            "answers": self.answers,
            "waiting": list(self._waiting),
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on from what `saved` returned. Raises ValueError, KeyError or TypeError where it is damaged."""
        self.answers = int(saved["answers"])
        self._seen = {kind: int(saved["seen"][kind]) for kind in self.KINDS}
        self.open = {made["kind"]: Overspending(**made) for made in saved["open"]}
        if saved["budgets"] == self.budgets:
            level, since, alarmed = saved["charts"]
            self._level = [min(max(float(share), 0.0), 1.0) for share in level]
            self._since = [int(row) for row in since]
            self._alarmed = [bool(found) for found in alarmed]
            self._waiting = [float(count) for count in saved["waiting"]]

    def _begin(self, kind: str, place: int) -> Overspending:
        started = self._since[place]
        kept = np.sum([block for end, block in self._recent if end > started], axis=0)
        share = float(kept[place] / kept[3])
        self.open[kind] = Overspending(kind, started, self.answers, share, self.budgets[kind])
        return self.open[kind]


def _steps(budget: float) -> tuple[float, float]:
    """Return what an answer adds that counts against a budget, and one that does not; a budget of 1 never alarms."""
    if budget >= 1.0:
        return 0.0, -1.0
    usual = min(budget, 0.98)
    worse = min(2.0 * usual, (1.0 + usual) / 2.0)
    return math.log(worse / usual), math.log((1.0 - worse) / (1.0 - usual))
