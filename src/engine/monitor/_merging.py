"""Merges the monitors of several processes: each publishes its counts in a shared log, and applies those of all.

Counts are sums, and every process applies the same entries in the same order. All of them therefore hold the same
evidence, bit for bit, and raise the same alert at the same row, as one process would that saw all rows. The process
whose rows made an alert certain calls the handlers.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import MonitorError
from engine.monitor._logs import Found, Log, open_log
from engine.monitor._packed import pack, unpack
from engine.monitor._sketch import Sketch

LOGGER = logging.getLogger("engine.monitor")
# Blocks, and entries, that wait while the log cannot be written; the oldest are dropped and counted.
WAITING_MAX = 20_000
UNSENT_MAX = 1000
# After an error the log is left alone for this long.
REST_S = 5.0
NUMBERS = ("rows", "output_rows", "answers", "first_ns", "last_ns", "pair_rows")
ARRAYS = ("counts", "missing", "infinite", "unseen", "runs", "sums", "pair_sums", "late")
BY_VERSION = ("deployments", "tally", "output_moments")
TOTALS = ("dropped", "wrong_width", "folded", "unpaired_shadows", "latency", "share")


class Merging:
    """What one process has to tell the others, and their log. `exchange` is thread-safe; call all else under the
    monitor's lock.

    Attributes:
        lock: held by the one thread that exchanges and applies entries.
        totals: dict of the sums of all processes, as in `Sketch.totals`.
        lost: int, blocks and entries dropped because the log could not be written.
    """

    def __init__(self, address: str | Path, name: str) -> None:
        """Raises MonitorError or MissingDependencyError where the log cannot be opened."""
        self._log: Log = open_log(address, name)
        self.lock = threading.Lock()
        self.totals: dict[str, Any] = {}
        self.lost = 0
        self._worker = secrets.token_hex(8)
        self._clock_ns = time.time_ns() - time.monotonic_ns()
        self._blocks: deque[tuple[str, dict[str, Any], dict[int, str]]] = deque()
        self._outcomes: list[list[Any]] = []
        self._messages: list[list[str]] = []
        self._reference: tuple[str, bool] | None = None
        self._sent: dict[str, Any] = {}
        self._remembered = 0  # answers of other processes since the last entry
        self._folded = 0
        self._rests_until = 0.0
        self._unsent: list[bytes] = []

    def add_block(self, block: dict[str, Any], digest: str, names: Mapping[int, str]) -> None:
        """Keep a block of `Sketch.take` for the next entry.

        Args:
            digest: of the reference that it was counted by.
            names: deployment number -> version.
        """
        if len(self._blocks) >= WAITING_MAX:
            self._blocks.popleft()
            self.lost += 1
        here = {number: names.get(number, "") for number in block["deployments"].tolist()}
        self._blocks.append((digest, block, here))

    def add_outcome(self, answer_id: int, label: float | None, value: float | None) -> None:
        """Keep a label, a value or both for the next entry."""
        self._outcomes.append([answer_id, label, value])

    def add_message(self, message: str, severity: str) -> None:
        """Keep an alert of the user's own for the next entry."""
        self._messages.append([message, severity])

    def add_reference(self, reference: str, learned: bool) -> None:
        """Keep the JSON of another reference for the next entry. Of those that were `learned`, the first one counts."""
        self._reference = reference, learned

    @property
    def rests(self) -> bool:
        """Whether the log is left alone because it failed."""
        return time.monotonic() < self._rests_until

    def entries(self, sketch: Sketch, names_of: Callable[[list[int]], Mapping[int, str]]) -> list[bytes]:
        """Return entries with everything that came since the last call."""
        made, blocks = [], list(self._blocks)
        self._blocks.clear()
        # Blocks of one entry have one reference, and so one shape.
        start = 0
        for end in range(1, len(blocks) + 1):
            if end == len(blocks) or blocks[end][0] != blocks[start][0]:
                made.append(self._of_blocks(blocks[start:end]))
                start = end
        answers = self._new_answers(sketch)
        totals = self._new_totals(sketch)
        rest: dict[str, Any] = {}
        if answers is not None:
            raw, outputs = answers
            numbers = sorted(set(raw["deployment"].tolist()) - {0})
            names = names_of(numbers)
            rest["answers"] = [raw.view(np.uint8), outputs]
            rest["versions"] = [[number, names.get(number, str(number))] for number in numbers]
        if totals:
            rest["totals"] = totals
        for key, waiting in (("outcomes", self._outcomes), ("messages", self._messages)):
            if waiting:
                rest[key] = list(waiting)
                waiting.clear()
        if self._reference is not None:
            (rest["reference"], rest["learned"]), self._reference = self._reference, None
        if rest:
            made.append(rest)
        return [pack({"worker": self._worker, **entry}) for entry in made]

    def _of_blocks(self, blocks: list[tuple[str, dict[str, Any], dict[int, str]]]) -> dict[str, Any]:
        numbers = np.array([[block[key] for key in NUMBERS] for _, block, _ in blocks], dtype=np.int64)
        for place, key in enumerate(NUMBERS):
            if key.endswith("_ns"):
                numbers[:, place] += self._clock_ns * (numbers[:, place] > 0)
        names: dict[int, str] = {}
        for _, _, here in blocks:
            names |= here
        return {
            "digest": blocks[0][0],
            "numbers": numbers,
            "versions_of": np.array([len(block["deployments"]) for _, block, _ in blocks], dtype=np.int64),
            "names": [[number, name] for number, name in names.items()],
            "arrays": {key: np.stack([block[key] for _, block, _ in blocks]) for key in ARRAYS},
            "by_version": {key: np.concatenate([block[key] for _, block, _ in blocks]) for key in BY_VERSION},
        }

    def blocks(self, entry: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], dict[int, str]]]:
        """Yield each block of an entry, and its versions by deployment number."""
        if "numbers" not in entry:
            return
        names = {int(number): str(name) for number, name in entry["names"]}
        ends = np.cumsum(entry["versions_of"])
        for place, numbers in enumerate(entry["numbers"].tolist()):
            block: dict[str, Any] = dict(zip(NUMBERS, numbers, strict=True))
            for key in ("first_ns", "last_ns"):
                block[key] -= self._clock_ns if block[key] else 0
            block |= {key: entry["arrays"][key][place] for key in ARRAYS}
            part = slice(int(ends[place] - entry["versions_of"][place]), int(ends[place]))
            block |= {key: entry["by_version"][key][part] for key in BY_VERSION}
            yield block, names

    def _new_answers(self, sketch: Sketch) -> tuple[np.ndarray, np.ndarray] | None:
        folded = int(sketch.totals()["folded"])
        new, self._folded = folded - self._folded, folded
        if not new:
            return None
        raw, outputs = sketch.answers(new + self._remembered)
        self._remembered = 0
        own = raw["foreign"] == 0
        raw, outputs = raw[own][-new:].copy(), outputs[own][-new:]
        return (raw, outputs) if len(raw) else None

    def _new_totals(self, sketch: Sketch) -> dict[str, Any]:
        now = {
            key: np.asarray(value, dtype=np.int64) for key, value in sketch.totals().items() if key in TOTALS
        }
        new = {key: value - self._sent.get(key, 0) for key, value in now.items()}
        self._sent = now
        return {key: value for key, value in new.items() if value.any()}

    def remembered(self, count: int) -> None:
        """Say that answers of other processes went into the sketch."""
        self._remembered += count

    def add_totals(self, entry: Mapping[str, Any]) -> None:
        """Add the totals of an entry."""
        for key, value in entry.get("totals", {}).items():
            self.totals[key] = self.totals.get(key, 0) + value

    def is_own(self, entry: Mapping[str, Any]) -> bool:
        """Whether this process wrote an entry."""
        return bool(entry["worker"] == self._worker)

    def exchange(self, entries: list[bytes]) -> tuple[Any, list[dict[str, Any]]]:
        """Append entries. Return the snapshot to begin with, or None, and all entries since the last call, in order.

        Raises OSError. The entries then wait for the next call, and the log is left alone for five seconds.
        """
        sending = [*self._unsent, *entries]
        self._unsent = []
        try:
            found: Found = self._log.exchange(sending)
        except OSError:
            self._rests_until = time.monotonic() + REST_S
            self._unsent = sending[-UNSENT_MAX:]
            self.lost += max(len(sending) - UNSENT_MAX, 0)
            raise
        snapshot = None if found.snapshot is None else unpack(found.snapshot)
        return snapshot, [entry for content in found.entries if (entry := _read(content)) is not None]

    def keep_at_times(self, knowledge: Callable[[], dict[str, Any]]) -> None:
        """Keep a snapshot where the log has grown enough; errors are logged."""
        if not self._log.wants_snapshot():
            return
        try:
            self._log.keep(pack(knowledge()))
        except OSError:
            LOGGER.exception("no snapshot of the shared monitor could be kept")


def _read(content: bytes) -> dict[str, Any] | None:
    try:
        entry = unpack(content)
        if not isinstance(entry, dict) or "worker" not in entry:
            raise MonitorError("expected an entry of a monitor")
        return entry
    except MonitorError as error:
        LOGGER.error("an entry of the shared monitor is left out: %s", error)
        return None
