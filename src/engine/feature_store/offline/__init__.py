"""Offline stores: they compute the rows of views from sources, for training and for materialisation."""

from engine.feature_store.instants import time_range
from engine.feature_store.offline.base import Features, Joined, OfflineStore, View, as_feature
from engine.feature_store.offline.bigquery import BigQueryOffline
from engine.feature_store.offline.columns import Snapshot, SourceColumns
from engine.feature_store.offline.duckdb import DuckDBOffline, mapped_errors
from engine.feature_store.offline.lakes import Delta, Iceberg
from engine.feature_store.offline.polars import PolarsOffline
from engine.feature_store.offline.rows import RowsOffline
from engine.feature_store.offline.spark import SparkOffline

__all__ = [
    "BigQueryOffline",
    "Delta",
    "DuckDBOffline",
    "Features",
    "Iceberg",
    "Joined",
    "OfflineStore",
    "PolarsOffline",
    "RowsOffline",
    "Snapshot",
    "SourceColumns",
    "SparkOffline",
    "View",
    "as_feature",
    "mapped_errors",
    "time_range",
]
