"""The types of a view's keys and features: they lay out a stored row, and each row is tagged with them.

The online store keeps the schema of each view beside its rows, so a serving machine needs no source files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from engine.feature_store._codec import KINDS, LIST, Layout
from engine.feature_store.definitions import FeatureView

KEY_KINDS = ("int", "text", "bytes")
EVENTS = "events"
SCHEMAS_MAX = 16
Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Schema:
    """The meaning of the values in a view's stored rows.

    Attributes:
        view: the view's name.
        keys: pairs of key and kind, from KEY_KINDS.
        features: pairs of a stored column's name and its kind, in order.
        aggregates: function, column and window in nanoseconds of each aggregate, with the quantile and the closed end
            where they are not the usual ones; or `EVENTS` and the longest window, where windows end at the request.
    """

    view: str
    keys: Pairs
    features: Pairs
    aggregates: tuple[tuple[Any, ...], ...]

    @classmethod
    def of(cls, view: FeatureView, key_kinds: tuple[str, ...], kinds_stored: tuple[str, ...]) -> Schema:
        """The schema of a view, given the kind of each key and of each stored column."""
        windows = [aggregate.describe() for aggregate in view.aggregates]
        return cls(
            view.online_name,
            tuple(zip(view.source_keys, key_kinds, strict=True)),
            tuple(zip(view.stored_columns, kinds_stored, strict=True)),
            ((EVENTS, "", view.window_ns_max),) if view.at_request else tuple(windows),
        )

    def to_json(self) -> bytes:
        """The schema as JSON, for the online store.

        Never change these bytes, not even to canonical JSON: their digest is the tag of every row already stored.
        """
        return json.dumps([self.view, self.keys, self.features, self.aggregates]).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Schema | None:
        """The schema of this JSON, or None if it is none of ours."""
        try:
            view, keys, features, aggregates = json.loads(text)
            found = cls(view, _pairs(keys), _pairs(features), tuple(tuple(made) for made in aggregates))
        except (ValueError, TypeError):
            return None
        known = {kind for _, kind in found.keys} <= set(KEY_KINDS) and {
            kind for _, kind in found.features
        } <= {*KINDS, LIST}
        return found if found.to_json() == text and known else None

    def of_view(self, view: FeatureView) -> Schema | None:
        """The schema of a view whose columns are all among these, so that its rows can be read from rows of this
        schema; None for a view that has another, or of which a window is longer."""
        kinds = dict(self.features)
        if view.online_name != self.view or tuple(key for key, _ in self.keys) != view.source_keys:
            return None
        if not set(view.stored_columns) <= kinds.keys():
            return None
        found = Schema.of(
            view, tuple(kind for _, kind in self.keys), tuple(kinds[name] for name in view.stored_columns)
        )
        if view.at_request:
            fits = any(made[0] == EVENTS and made[2] >= view.window_ns_max for made in self.aggregates)
        else:
            fits = set(found.aggregates) <= set(self.aggregates)
        return found if fits else None

    @property
    def layout(self) -> Layout:
        """The layout of a stored row: the kind of each feature, and the schema's tag."""
        return Layout(self.tag, [kind for _, kind in self.features])

    @property
    def tag(self) -> bytes:
        """The first 8 bytes of the schema's sha256: every row of this schema has them."""
        return hashlib.sha256(self.to_json()).digest()[:8]


def _pairs(given: Any) -> Pairs:
    return tuple((str(name), str(kind)) for name, kind in given)


def listed(texts: Iterable[bytes]) -> bytes:
    """Schemas as the note that keeps them: the newest first, at most SCHEMAS_MAX."""
    kept = list(dict.fromkeys(text.decode() for text in texts))[:SCHEMAS_MAX]
    return json.dumps(kept).encode()


def from_list(note: bytes | None) -> list[Schema]:
    """The schemas in a note that `listed` made."""
    try:
        texts = [] if note is None else [str(text).encode() for text in json.loads(note)]
    except (ValueError, TypeError):
        return []
    return [found for text in texts if (found := Schema.from_json(text)) is not None]
