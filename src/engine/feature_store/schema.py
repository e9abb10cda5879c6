"""The types of a view's keys and features: they lay out a stored row, and each row is tagged with them.

The online store keeps the schema of each view beside its rows, so a serving machine needs no source files.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from engine.feature_store._codec import KINDS, LIST, Layout
from engine.feature_store.definitions import FeatureView

KEY_KINDS = ("int", "text", "bytes")
Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Schema:
    """The meaning of the values in a view's stored rows.

    Attributes:
        view: the view's name.
        keys: pairs of key and kind, from KEY_KINDS.
        features: pairs of a feature's own name and its kind, in order.
        aggregates: function, column and window in nanoseconds of each aggregate.
    """

    view: str
    keys: Pairs
    features: Pairs
    aggregates: tuple[tuple[str, str, int], ...]

    @classmethod
    def of(cls, view: FeatureView, key_kinds: tuple[str, ...], kinds_out: tuple[str, ...]) -> Schema:
        """The schema of a view, given the kind of each key and of each feature."""
        return cls(
            view.name,
            tuple(zip(view.keys, key_kinds, strict=True)),
            tuple(zip(view.columns_out, kinds_out, strict=True)),
            tuple((a.function, a.column, a.window_ns) for a in view.aggregates),
        )

    def to_json(self) -> bytes:
        """The schema as JSON, for the online store.

        Never change these bytes, not even to canonical JSON: their digest is the tag of every row already stored.
        """
        return json.dumps([self.view, self.keys, self.features, self.aggregates]).encode()

    @classmethod
    def from_json(cls, text: bytes, view: FeatureView) -> Schema | None:
        """The stored schema, if it is of the view as it is defined now; None otherwise."""
        try:
            _, keys, features, _ = json.loads(text)
            found = cls.of(view, tuple(kind for _, kind in keys), tuple(kind for _, kind in features))
        except (ValueError, TypeError):
            return None
        known = {kind for _, kind in found.keys} <= set(KEY_KINDS) and {
            kind for _, kind in found.features
        } <= {*KINDS, LIST}
        return found if found.to_json() == text and known else None

    @property
    def layout(self) -> Layout:
        """The layout of a stored row: the kind of each feature, and as tag the first 8 bytes of the schema's sha256."""
        return Layout(hashlib.sha256(self.to_json()).digest()[:8], [kind for _, kind in self.features])
