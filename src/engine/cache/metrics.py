"""The counters of a cache as Prometheus text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from engine._common.optional import need


def text(stats: dict[str, Any], origins: tuple[str, ...]) -> str:
    """Return the result of `EmbeddingCache.stats()` in Prometheus' exposition format.

    Args:
        stats: the statistics.
        origins: the keys of stats that count requests, each request under one of them.

    Raises:
        MissingDependencyError: prometheus-client is not installed.
    """
    prometheus = need("prometheus_client", "metrics_text", "monitor")
    registry = prometheus.CollectorRegistry(auto_describe=False)
    registry.register(_Collector(stats, origins))
    return str(prometheus.generate_latest(registry).decode())


class _Collector:
    def __init__(self, stats: dict[str, Any], origins: tuple[str, ...]) -> None:
        self._stats, self._origins = stats, origins

    def collect(self) -> Iterator[Any]:
        stats, first, second = self._stats, self._stats["first"], self._stats["second"]
        failed = stats["failed_computations"]
        yield _counter(
            "requests", "Inputs answered, by where the embedding came from.", "origin",
            {origin: stats[origin] for origin in self._origins},
        )  # fmt: skip
        yield _counter(
            "late", "Inputs, but for hits in memory, answered after their deadline.", "", {"": stats["late"]}
        )
        yield _counter(
            "computations", "Inputs given to the encoder.", "outcome",
            {"ok": stats["computations"] - failed, "failed": failed},
        )  # fmt: skip
        yield _counter(
            "removals", "Embeddings that left memory.", "reason",
            {name: first[name] for name in ("replaced", "evicted", "removed")},
        )  # fmt: skip
        yield _counter("insertions", "Embeddings that came into memory.", "", {"": first["inserted"]})
        for name, key, words in (
            ("entries", "entries", "Embeddings in memory."),
            ("size_bytes", "bytes", "Bytes of the embeddings in memory."),
            ("capacity_bytes", "capacity_bytes", "The most bytes in memory."),
        ):
            yield _core().GaugeMetricFamily(f"engine_cache_{name}", words, value=first[key])
        if second is not None:
            yield _counter(
                "second_level", "Inputs looked up in the second level, and look-ups that failed.", "outcome",
                {"hit": second["hits"], "miss": second["misses"], "failure": second["failures"]},
            )  # fmt: skip


def _core() -> Any:
    return need("prometheus_client.core", "metrics_text", "monitor")


def _counter(name: str, words: str, label: str, values: dict[str, int]) -> Any:
    """A counter with one sample for each value of its label; the label "" is none."""
    family = _core().CounterMetricFamily(f"engine_cache_{name}", words, labels=[label] if label else [])
    for value, count in values.items():
        family.add_metric([value] if label else [], count)
    return family
