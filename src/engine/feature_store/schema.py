"""The types of a view's keys and features: what a stored row is laid out by and tagged with.

The online store keeps the schema of each view beside its rows, so that a serving machine needs no source files.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from engine.feature_store._codec import KINDS, Layout
from engine.feature_store.definitions import FeatureView

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Schema:
    """What the values of a view's stored rows mean.

    Attributes:
        view: the view's name.
        keys: pairs of key and kind, "int" or "text".
        features: pairs of a feature's own name and its kind, in order.
        aggregates: function, column and window in nanoseconds of each aggregate.
    """

    view: str
    keys: Pairs
    features: Pairs
    aggregates: tuple[tuple[str, str, int], ...]

    @classmethod
    def of(cls, view: FeatureView, key_kinds: tuple[str, ...], kinds_out: tuple[str, ...]) -> Schema:
        return cls(
            view.name,
            tuple(zip(view.keys, key_kinds, strict=True)),
            tuple(zip(view.columns_out, kinds_out, strict=True)),
            tuple((a.function, a.column, a.window_ns) for a in view.aggregates),
        )

    def to_json(self) -> bytes:
        return json.dumps([self.view, self.keys, self.features, self.aggregates]).encode()

    @classmethod
    def from_json(cls, text: bytes, view: FeatureView) -> Schema | None:
        """The schema that was stored, where it is one of this very definition; None otherwise."""
        try:
            _, keys, features, _ = json.loads(text)
            found = cls.of(view, tuple(kind for _, kind in keys), tuple(kind for _, kind in features))
        except (ValueError, TypeError):
            return None
        kinds = {kind for _, kind in (*found.keys, *found.features)}
        return found if found.to_json() == text and kinds <= set(KINDS) else None

    @property
    def layout(self) -> Layout:
        return Layout(hashlib.sha256(self.to_json()).digest()[:8], [kind for _, kind in self.features])
