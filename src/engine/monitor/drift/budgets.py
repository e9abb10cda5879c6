"""Budgets for shares of the answers: fallbacks, late answers, errors.

Each budget has one sequential test (CUSUM) of log-likelihood ratios: the budget's share against twice that share. It
alarms soon where the budget is overspent twice over, however small the share, and stays quiet where it is kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from engine._common.arguments import number
from engine._common.vocabulary import REASONS, SOURCES
from engine.errors import MonitorError
from engine.monitor.drift.bins import FloatArray
from engine.monitor.drift.charts import Charts

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
    ) -> None:
        """Args:
        fallback_share_max, late_share_max, error_share_max: budgets, above 0 and at most 1; 1 is no budget.
        chance: acceptable false alarms per answer.
        answers_block: answers that are tested together. What `observe` is given waits until they are complete.

        Raises:
            MonitorError: a budget outside that range.
        """
        given = zip(self.KINDS, (fallback_share_max, late_share_max, error_share_max), strict=True)
        self.budgets = {
            kind: number(f"{kind}_max", share, 0.0, 1.0, above=True, error=MonitorError)
            for kind, share in given
        }
        shares = np.array(list(self.budgets.values()))
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
        self._answers_block = answers_block
        self._waiting = np.zeros(4)

    def observe(self, by_reason: FloatArray, late: int) -> list[Overspending]:
        """Add answers, and return what began or ended with them. They wait until they end a block.

        Args:
            by_reason: float64 [sources, reasons], answers.
            late: how many of them came after their deadline.
        """
        answers = float(by_reason.sum())
        self.answers += int(answers)
        self._waiting += [
            answers - by_reason[PRIMARY].sum(), late, by_reason[:, ERROR_REASONS].sum(), answers
        ]  # fmt: skip
        return self.finish() if answers and self.answers % self._answers_block == 0 else []

    def finish(self) -> list[Overspending]:
        """Test the answers that wait for their block, and return what began or ended with them."""
        hits, answers = self._waiting[:3], float(self._waiting[3])
        if answers == 0.0:
            return []
        self._waiting = np.zeros(4)
        steps = hits * self._hit + (answers - hits) * self._miss
        self._charts.observe(steps[:, None], self.answers - int(answers))
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

    def saved(self) -> dict[str, Any]:
        """Return a copy of what `restore` takes."""
        return {
            "budgets": dict(self.budgets),
            "charts": self._charts.saved(),
            "open": [asdict(over) for over in self.open.values()],
            "seen": dict(self._seen),
            "answers": self.answers,
            "waiting": self._waiting.copy(),
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on from what `saved` returned. Raises ValueError, KeyError or TypeError where it is damaged."""
        self.answers = int(saved["answers"])
        self._seen = {kind: int(saved["seen"][kind]) for kind in self.KINDS}
        self.open = {made["kind"]: Overspending(**made) for made in saved["open"]}
        if saved["budgets"] == self.budgets:
            self._charts.restore(saved["charts"])
            self._waiting = saved["waiting"]

    def _begin(self, kind: str, place: int) -> Overspending:
        started = int(self._charts.since[place, 0])
        kept = np.sum([block for end, block in self._recent if end > started], axis=0)
        share = float(kept[place] / kept[3])
        self.open[kind] = Overspending(kind, started, self.answers, share, self.budgets[kind])
        return self.open[kind]
