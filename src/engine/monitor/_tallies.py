"""Answers by version, source and reason, in total and over time, from the blocks of the native counter."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from engine._common.vocabulary import REASONS, SOURCES
from engine.monitor.drift.bins import FloatArray

VERSIONS_MAX = 64
SLICES_MAX = 240
# Versions with a count of their own in a slice of time; further ones are counted together.
SLICE_VERSIONS_MAX = 8
OLDER = "(older versions)"


class Tallies:
    """Counts of answers, bounded in memory. Not thread-safe.

    The latest 64 versions have counts of their own, and older ones are counted together. The history has about 240
    slices of time; when there are more, each pair of neighbours becomes one.

    Attributes:
        by_version: dict of version -> answers, float64 [sources, reasons].
        outputs: dict of version -> float64 [3]: count, sum and sum of squares of the first output.
        late: float64 [sources], answers after their deadline.
        slices: list of [first_s, last_s, primary, fallback, default, late]; times in seconds since the epoch.
        slice_reasons: list of float64 [reasons], the answers of each slice.
        slice_versions: list of dict of version -> answers, of each slice.
    """

    def __init__(self) -> None:
        self.by_version: dict[str, FloatArray] = {}
        self.outputs: dict[str, FloatArray] = {}
        self.late = np.zeros(len(SOURCES))
        self.slices: list[list[float]] = []
        self.slice_reasons: list[FloatArray] = []
        self.slice_versions: list[dict[str, float]] = []
        self._to_wall_s = time.time() - time.monotonic()
        self._per_slice = 1  # blocks
        self._in_slice = 0

    def observe(self, block: Mapping[str, Any], names: Mapping[int, str]) -> FloatArray:
        """Add a block, and return its answers, float64 [sources, reasons], over all versions.

        Args:
            block: of `Sketch.take`.
            names: deployment number -> version.
        """
        reasons = np.zeros((len(SOURCES), block["tally"].shape[2] if block["tally"].size else len(REASONS)))
        answers: dict[str, float] = {}
        for place, deployment in enumerate(block["deployments"].tolist()):
            version = names.get(deployment, str(deployment) if deployment else "")
            tally = block["tally"][place].astype(np.float64)
            reasons += tally
            answers[version] = answers.get(version, 0.0) + float(tally.sum())
            self._version(version)
            self.by_version[version] += tally[:, : len(REASONS)]
            self.outputs[version] += block["output_moments"][place]
        self.late += block["late"]
        if block["answers"]:
            self._slice(block, reasons, answers)
        return reasons[:, : len(REASONS)]

    def _version(self, version: str) -> None:
        if version in self.by_version:
            return
        if len(self.by_version) >= VERSIONS_MAX:
            oldest = next(name for name in self.by_version if name != OLDER)
            for table in (self.by_version, self.outputs):
                table[OLDER] = table.get(OLDER, 0.0) + table.pop(oldest)
        self.by_version[version] = np.zeros((len(SOURCES), len(REASONS)))
        self.outputs[version] = np.zeros(3)

    def _slice(self, block: Mapping[str, Any], reasons: FloatArray, answers: Mapping[str, float]) -> None:
        first, last = (block[key] * 1e-9 + self._to_wall_s for key in ("first_ns", "last_ns"))
        if self._in_slice % self._per_slice == 0:
            self.slices.append([first, last, 0.0, 0.0, 0.0, 0.0])
            self.slice_reasons.append(np.zeros(len(REASONS)))
            self.slice_versions.append({})
        self._in_slice += 1
        current = self.slices[-1]
        current[1] = last
        for place, count in enumerate(reasons.sum(axis=1)):
            current[2 + place] += float(count)
        current[5] += float(block["late"].sum())
        self.slice_reasons[-1] += reasons[:, : len(REASONS)].sum(axis=0)
        self.slice_versions[-1] = _counted_together(self.slice_versions[-1], answers)
        if len(self.slices) > SLICES_MAX:
            self._halve()

    def _halve(self) -> None:
        """Make one slice of each pair of neighbours; a last one without a neighbour stays."""
        odd = len(self.slices) // 2 * 2
        pairs = zip(self.slices[::2], self.slices[1::2], strict=False)
        made = [[a[0], b[1], *(x + y for x, y in zip(a[2:], b[2:], strict=True))] for a, b in pairs]
        self.slices = made + self.slices[odd:]
        reasons, versions = self.slice_reasons, self.slice_versions
        self.slice_reasons = [a + b for a, b in zip(reasons[::2], reasons[1::2], strict=False)] + reasons[
            odd:
        ]
        self.slice_versions = [
            _counted_together(a, b) for a, b in zip(versions[::2], versions[1::2], strict=False)
        ] + versions[odd:]
        self._per_slice *= 2
        self._in_slice = 0

    def saved(self) -> dict[str, Any]:
        """Return a copy of what `restore` takes."""
        return {
            "versions": [
                [name, self.by_version[name].copy(), self.outputs[name].copy()] for name in self.by_version
            ],
            "late": self.late.copy(),
            "slices": [list(part) for part in self.slices],
            "slice_reasons": np.array(self.slice_reasons).reshape(len(self.slices), len(REASONS)),
            "slice_versions": [list(map(list, versions.items())) for versions in self.slice_versions],
            "per_slice": [self._per_slice, self._in_slice],
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on from what `saved` returned. Raises ValueError, KeyError or TypeError where it is damaged."""
        for name, counts, moments in saved["versions"]:
            table = np.zeros((len(SOURCES), len(REASONS)))
            if counts.shape[0] != len(SOURCES) or counts.shape[1] > len(REASONS):
                raise ValueError(f"expected at most {list(table.shape)} answers by source and reason")
            table[:, : counts.shape[1]] = counts
            self.by_version[name], self.outputs[name] = table, moments
        self.late = saved["late"]
        self.slices = [list(part) for part in saved["slices"]]
        n_slices = len(self.slices)
        self.slice_reasons = [np.zeros(len(REASONS)) for _ in range(n_slices)]
        for kept, counts in zip(self.slice_reasons, saved.get("slice_reasons", ()), strict=False):
            kept[: len(counts)] = counts
        self.slice_versions = [
            {str(name): float(count) for name, count in versions}
            for versions in saved.get("slice_versions", [[]] * n_slices)
        ]
        if len(self.slice_versions) != n_slices:
            raise ValueError(f"expected the versions of {n_slices} slices of time")
        self._per_slice, self._in_slice = (int(number) for number in saved["per_slice"])

    def shares(self) -> dict[str, float]:
        """Return the share of each source in all answers; empty before the first answer."""
        totals = sum((table.sum(axis=1) for table in self.by_version.values()), np.zeros(len(SOURCES)))
        return (
            {name: float(count / totals.sum()) for name, count in zip(SOURCES, totals, strict=True)}
            if totals.sum()
            else {}
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values: shares, late, versions (answers by source and reason, and output_mean), slices.

        slice_reasons and slice_versions have the answers of each slice by reason and by version.
        """
        return {
            "shares": self.shares(),
            "late": dict(zip(SOURCES, self.late.tolist(), strict=True)),
            "versions": {
                version: {
                    "answers": {
                        source: {
                            reason: int(count) for reason, count in zip(REASONS, row, strict=True) if count
                        }
                        for source, row in zip(SOURCES, table, strict=True)
                        if row.any()
                    },
                    "output_mean": float(self.outputs[version][1] / self.outputs[version][0])
                    if self.outputs[version][0]
                    else None,
                }
                for version, table in self.by_version.items()
            },
            "slices": self.slices,
            "slice_reasons": [
                {reason: int(count) for reason, count in zip(REASONS, counts, strict=True) if count}
                for counts in self.slice_reasons
            ],
            "slice_versions": [dict(versions) for versions in self.slice_versions],
        }


def _counted_together(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    """Return the sum of two counts by version; the smallest beyond SLICE_VERSIONS_MAX are one."""
    counts = {name: one.get(name, 0.0) + other.get(name, 0.0) for name in {**one, **other}}
    kept = {
        name: counts[name] for name in sorted(counts, key=lambda name: -counts[name])[:SLICE_VERSIONS_MAX]
    }
    rest = sum(count for name, count in counts.items() if name not in kept)
    if rest:
        kept[OLDER] = kept.get(OLDER, 0.0) + rest
    return kept
