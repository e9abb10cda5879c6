"""EmbeddedModel: a text, its embedding and a native model of it, answered as one request before one deadline."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.cache._cache import Embedding
from engine.cache.cache import EmbeddingCache
from engine.errors import ConfigError
from engine.model import Model, load_model
from engine.serving import Answer, parts
from engine.serving._answers import _restored  # type: ignore[attr-defined]

# A native head takes microseconds. This much of a deadline is kept for it.
HEAD_NS = 100_000


class EmbeddedModel:
    """A model whose row is an embedding, behind a cache: texts in, `Answer`s out.

    The fallback's embeddings have a space of their own, so they have a model of their own. Whichever embedding comes in
    time, the model of its space answers, and `Answer.source` says which: "primary" for the encoder's embedding and
    `head`, "fallback" for the fallback's and `fallback_head`, "default" for neither.

    Args:
        cache: an EmbeddingCache. Its owner closes it.
        head: a native Model of the encoder's embeddings, or a source that `load_model` takes.
        fallback_head: the same of the fallback's embeddings; None for none. As many outputs as `head`.
        default: a number, n_outputs numbers, or None for NaN: the answer where no embedding comes in time.
        version: the name in answers; the first 12 digits of the head's digest unless given.

    Attributes:
        cache, head, fallback_head: as given, the heads as Models.

    Raises:
        ConfigError: parts that do not fit together, or a head that is not native.

    All methods are thread-safe.
    """

    def __init__(
        self,
        cache: EmbeddingCache,
        head: Any,
        fallback_head: Any = None,
        *,
        default: Any = None,
        version: str | None = None,
    ) -> None:
        self.cache = cache
        self.head = _head("head", head, cache.encoder)
        self.fallback_head: Model | None = None
        if fallback_head is not None:
            if cache.fallback is None:
                raise ConfigError("fallback_head: the cache has no fallback, whose embeddings it would read")
            self.fallback_head = _head("fallback_head", fallback_head, cache.fallback)
            if self.fallback_head.n_outputs != self.head.n_outputs:
                raise ConfigError(
                    f"fallback_head has {self.fallback_head.n_outputs} outputs, and head has {self.head.n_outputs}"
                )
        made = parts.default(default, self.head.n_outputs)
        if callable(made):
            raise ConfigError("default must be a number or numbers, got a function")
        self._default = made
        self._version = parts.version(version, self.head)
        self._ids = itertools.count(secrets.randbits(63))

    def predict(
        self, x: str | bytes, deadline_ms: float | None = None, *, deadline_ns: int | None = None
    ) -> Answer:
        """Answer one text before its deadline.

        Args:
            x, deadline_ms, deadline_ns: as in `EmbeddingCache.embed`.

        Returns:
            An `Answer`. Its reason is the embedding's, or "primary_not_finite" and its kin for a head that failed.

        Raises:
            InputError, InputTypeError, ClosedError: as `EmbeddingCache.embed`.

        Blocks until the deadline at most, without the GIL.
        """
        began_ns, until_ns = self._times(deadline_ms, deadline_ns)
        embedding = self.cache.embed(x, deadline_ns=max(until_ns - HEAD_NS, 0))
        return self._answered([embedding], began_ns, until_ns)[0]

    async def predict_async(
        self, x: str | bytes, deadline_ms: float | None = None, *, deadline_ns: int | None = None
    ) -> Answer:
        """Answer one text before its deadline, without blocking the running event loop; else as `predict`."""
        began_ns, until_ns = self._times(deadline_ms, deadline_ns)
        embedding = await self.cache.embed_async(x, deadline_ns=max(until_ns - HEAD_NS, 0))
        return self._answered([embedding], began_ns, until_ns)[0]

    def predict_many(
        self,
        inputs: Sequence[str | bytes],
        deadline_ms: float | None = None,
        *,
        deadline_ns: int | None = None,
    ) -> list[Answer]:
        """Answer many texts before one deadline, in their order; else as `predict`."""
        began_ns, until_ns = self._times(deadline_ms, deadline_ns)
        embeddings = self.cache.embed_many(inputs, deadline_ns=max(until_ns - HEAD_NS, 0))
        return self._answered(embeddings, began_ns, until_ns)

    async def predict_many_async(
        self,
        inputs: Sequence[str | bytes],
        deadline_ms: float | None = None,
        *,
        deadline_ns: int | None = None,
    ) -> list[Answer]:
        """`predict_many` that does not block the running event loop."""
        began_ns, until_ns = self._times(deadline_ms, deadline_ns)
        embeddings = await self.cache.embed_many_async(inputs, deadline_ns=max(until_ns - HEAD_NS, 0))
        return self._answered(embeddings, began_ns, until_ns)

    def _times(self, deadline_ms: float | None, deadline_ns: int | None) -> tuple[int, int]:
        began_ns = self.cache._now_ns()
        return began_ns, self.cache._until(began_ns, deadline_ms, deadline_ns)

    def _answered(self, embeddings: list[Embedding], began_ns: int, until_ns: int) -> list[Answer]:
        outcomes: list[tuple[Any, str, str]] = [(None, "", "")] * len(embeddings)
        for source, head in (("primary", self.head), ("fallback", self.fallback_head)):
            places = [at for at, each in enumerate(embeddings) if each.source == source]
            if not places or head is None:
                continue
            rows = np.stack([embeddings[at].value for at in places])
            values = head.predict(rows)
            for at, value in zip(places, values, strict=True):
                outcomes[at] = (value, source, embeddings[at].reason)
        return [
            self._answer(outcome, each, began_ns, until_ns)
            for outcome, each in zip(outcomes, embeddings, strict=True)
        ]

    def _answer(
        self, outcome: tuple[Any, str, str], embedding: Embedding, began_ns: int, until_ns: int
    ) -> Answer:
        value, source, reason = outcome
        if source == "" or not np.isfinite(value).all():
            bad = {"primary": "primary_not_finite", "fallback": "fallback_error"}.get(source)
            value, source, reason = self._default, "default", bad or embedding.reason
        now_ns = self.cache._now_ns()
        if np.ndim(value) == 0 or self.head.n_outputs == 1:
            value = float(np.ravel(value)[0])
        else:
            value = np.array(value, np.float64)
        on_time = now_ns < until_ns
        return _restored(
            value, source, reason, self._version, (now_ns - began_ns) * 1e-3, on_time, on_time,
            next(self._ids), None,
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"EmbeddedModel({self.cache!r}, head={self.head!r}, fallback_head={self.fallback_head!r})"


def _head(name: str, source: Any, encoder: Any) -> Model:
    model = source if isinstance(source, Model) else load_model(source)
    if not model.native:
        raise ConfigError(
            f"{name}: expected a native model, which takes microseconds, got format {model.format!r}"
        )
    if model.n_features != encoder.dimensions:
        raise ConfigError(
            f"{name}: expected a model of {encoder.dimensions} features, one a dimension of the embedding, got "
            f"{model.n_features}"
        )
    return model
