"""Offline stores: they compute the rows of views from sources, for training and for materialisation."""

from engine.feature_store.instants import time_range
from engine.feature_store.offline.base import Features, Joined, OfflineStore, View, as_feature
from engine.feature_store.offline.columns import Snapshot, SourceColumns
from engine.feature_store.offline.duckdb import DuckDBOffline, mapped_errors

__all__ = [
    "DuckDBOffline",
    "Features",
    "Joined",
    "OfflineStore",
    "Snapshot",
    "SourceColumns",
    "View",
    "as_feature",
    "mapped_errors",
    "time_range",
]
