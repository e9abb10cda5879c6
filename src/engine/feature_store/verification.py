"""Whether the online store serves what the source says now: a sample of rows is compared, and differences explained.

A row of the source is packed as `materialize` would pack it, and compared with the stored bytes. So two rows are equal
if every value has the same bits.
"""

from __future__ import annotations

import struct
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.errors import StoreError
from engine.feature_store._codec import MAGIC
from engine.feature_store.deletion import is_mark
from engine.feature_store.instants import shown
from engine.feature_store.offline.base import Features
from engine.feature_store.online.base import BATCH_ROWS, REVISION_MAX, OnlineStore, Unavailable, packed

if TYPE_CHECKING:
    import pyarrow as pa

# Why a row differs, and whether a request is served anything else than what the source says.
HARMLESS = ("deleted", "expired")
MISMATCHES = ("missing", "late", "ahead", "other_version", "other_definition", "foreign")
SAMPLE_MAX = 100_000_000
EXAMPLES_MAX = 10
READ_ROWS, READ_S_MAX = 1_000, 30.0
# csrc/feature_store/codec.hpp: magic, tag, event and created time, revision, then the values.
_TAG, _ORDER, _VALUES = slice(4, 12), slice(12, 28), slice(36, None)


@dataclass(frozen=True, slots=True)
class Difference:
    """A row that differs.

    Attributes:
        reason: "missing": it is not online. "late": the source has a newer row, a correction or a late event that was
            not materialised yet. "ahead": the online row is newer than the source's, as pushed rows are.
            "other_version": the row was written under another schema of the view. "other_definition": the view was
            materialised last with another definition (another source, event_id, …), and gave other values. "foreign":
            bytes that are no row. "deleted": the entity was deleted. "expired": it is older than the TTL, so nothing
            is served either way.
        keys: of the entity, by name.
        source_ns: the event time of the source's row, nanoseconds since 1970.
        online_ns: of the online row; None if there is none.
    """

    reason: str
    keys: dict[str, Any]
    source_ns: int
    online_ns: int | None


@dataclass(frozen=True, slots=True)
class Verified:
    """The outcome of `FeatureStore.verify`.

    Attributes:
        view: its name.
        at_ns: the instant of the comparison, nanoseconds since 1970.
        rows: the number of entities in the source.
        checked: how many of them were compared.
        equal: how many had the same bits.
        differing: the number of the others by their reason; see `Difference`.
        examples: up to 10 differing rows, of each reason some.
        freshness_s: seconds from the newest online event time of the sample until `at_ns`; None if nothing is online.
        lag_s: the most seconds by which an online row of the sample is behind the source's row; None as before.
    """

    view: str
    at_ns: int
    rows: int
    checked: int
    equal: int
    differing: dict[str, int]
    examples: tuple[Difference, ...]
    freshness_s: float | None
    lag_s: float | None

    @property
    def ok(self) -> bool:
        """Whether every row is served as the source says. Deleted and expired rows are."""
        return not any(self.differing.get(reason) for reason in MISMATCHES)

    def metrics_text(self) -> str:
        """The outcome in Prometheus' text format, for its node exporter's folder of text files."""
        return metrics_text([self])


def metrics_text(outcomes: list[Verified]) -> str:
    """Outcomes of several views in Prometheus' text format."""
    lines = []
    for name, kind, help_, values in (
        (
            "engine_features_checked_rows", "gauge", "rows compared with the source",
            [(f'view="{each.view}"', each.checked) for each in outcomes],
        ),
        (
            "engine_features_differing_rows", "gauge", "rows that differ from the source, by reason",
            [
                (f'view="{each.view}",reason="{reason}"', each.differing.get(reason, 0))
                for each in outcomes
                for reason in (*MISMATCHES, *HARMLESS)
            ],
        ),
        (
            "engine_features_freshness_seconds", "gauge", "age of the newest online row",
            [(f'view="{each.view}"', each.freshness_s) for each in outcomes],
        ),
        (
            "engine_features_lag_seconds", "gauge", "the most by which an online row is behind the source",
            [(f'view="{each.view}"', each.lag_s) for each in outcomes],
        ),
    ):  # fmt: skip
        lines += [f"# HELP {name} {help_}", f"# TYPE {name} {kind}"]
        lines += [f"{name}{{{labels}}} {value!r}" for labels, value in values if value is not None]
    return "\n".join(lines) + "\n"


def verified(online: OnlineStore, features: Features, sample: int, seed: int | None, at_ns: int) -> Verified:
    """Compare a sample of these features with what is online.

    Args:
        online: the store.
        features: the newest rows of the source as of now.
        sample: how many rows at most.
        seed: of the sample; None for another one each time.
        at_ns: now.
    """
    view = features.view
    definition = view.definition
    noted = online.note(f"definition:{definition.online_name}")
    other_definition = noted is not None and noted != definition.version.encode()
    tag = view.schema.tag
    counts: Counter[str] = Counter()
    examples: list[Difference] = []
    checked, newest, lag = 0, None, None
    for keys, ours, stored in _pairs(online, features, sample, seed):
        checked += 1
        reason = _reason(ours, stored, tag, definition.ttl_ns, at_ns, other_definition)
        source_ns = event_of(ours)
        online_ns = None if stored is None or not _is_row(stored) or is_mark(stored) else event_of(stored)
        if online_ns is not None:
            newest = online_ns if newest is None else max(newest, online_ns)
            lag = max(lag or 0, source_ns - online_ns)
        if reason is None:
            continue
        counts[reason] += 1
        if len(examples) < EXAMPLES_MAX and counts[reason] <= EXAMPLES_MAX // 3:
            examples.append(Difference(reason, keys, source_ns, online_ns))
    return Verified(
        definition.name,
        at_ns,
        features.rows,
        checked,
        checked - sum(counts.values()),
        dict(counts),
        tuple(examples),
        None if newest is None else (at_ns - newest) / 1e9,
        None if lag is None else lag / 1e9,
    )


def _pairs(
    online: OnlineStore, features: Features, sample: int, seed: int | None
) -> Iterator[tuple[dict[str, Any], bytes, bytes | None]]:
    """The keys, the packed row and the stored bytes of each row of the sample."""
    view = features.view
    prefix, names = online.prefix(view.definition.online_name), view.definition.source_keys
    wire = online.wire()
    try:
        for batch in _sampled(features, sample, seed):
            pairs = packed(batch, view, prefix, REVISION_MAX)
            parts = [batch.column(f"k{i}").to_pylist() for i in range(len(names))]
            for at in range(0, len(pairs), READ_ROWS):
                some = pairs[at : at + READ_ROWS]
                try:
                    stored = wire.read([key for key, _ in some], time.monotonic_ns() + int(READ_S_MAX * 1e9))
                except Unavailable as error:
                    raise StoreError(f"{online}: cannot be read: {error}") from error
                for place, ((_, row), blob) in enumerate(zip(some, stored, strict=True), start=at):
                    keys = dict(zip(names, (part[place] for part in parts), strict=True))
                    yield keys, row, blob
    finally:
        wire.close()


def _sampled(features: Features, sample: int, seed: int | None) -> Iterator[pa.RecordBatch]:
    """Batches of rows drawn at random, without a row twice."""
    if features.rows <= sample:
        yield from features.batches(rows_max=BATCH_ROWS)
        return
    chosen = np.sort(np.random.default_rng(seed).choice(features.rows, sample, replace=False, shuffle=False))
    begin = 0
    for batch in features.batches(rows_max=BATCH_ROWS):
        end = begin + batch.num_rows
        own = chosen[np.searchsorted(chosen, begin) : np.searchsorted(chosen, end)]
        if len(own):
            yield batch.take(own - begin)
        begin = end


def _reason(
    ours: bytes, stored: bytes | None, tag: bytes, ttl_ns: int | None, at_ns: int, other_definition: bool
) -> str | None:
    """Why a stored row is not that of the source; None if it is."""
    expired = ttl_ns is not None and at_ns - event_of(ours) > ttl_ns
    if stored is None:
        return "expired" if expired else "missing"
    if not _is_row(stored):
        return "foreign"
    if is_mark(stored):
        return "deleted" if event_of(stored) >= event_of(ours) else "late"
    if stored[_ORDER] != ours[_ORDER]:
        if stored[_ORDER] > ours[_ORDER]:
            return "ahead"
        return "expired" if expired else "late"
    if stored[_TAG] != tag:
        return "other_version"
    if stored[_VALUES] == ours[_VALUES]:
        return None
    return "other_definition" if other_definition else "late"


def _is_row(stored: bytes) -> bool:
    return len(stored) >= 36 and stored.startswith(MAGIC)


def event_of(row: bytes) -> int:
    """The event time of a stored row, nanoseconds since 1970."""
    (word,) = struct.unpack_from(">Q", row, 12)
    return int(word) - 2**63


def explained(outcome: Verified) -> Iterator[str]:
    """The outcome in lines for people."""
    yield (
        f"{outcome.view}: {outcome.checked:,} of {outcome.rows:,} rows compared: {outcome.equal:,} equal"
        + "".join(f", {count:,} {reason}" for reason, count in sorted(outcome.differing.items()))
    )
    if outcome.freshness_s is not None:
        yield f"  newest row {outcome.freshness_s:,.0f} s old, at most {outcome.lag_s:,.0f} s behind the source"
    for each in outcome.examples:
        there = "nothing online" if each.online_ns is None else f"online {shown(each.online_ns)}"
        yield f"  {each.reason}: {_named(each.keys)}: source {shown(each.source_ns)}, {there}"


def _named(keys: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r:.60}" for name, value in keys.items())
