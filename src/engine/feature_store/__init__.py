"""The feature store: the same features for training, as of each label's instant, and for serving, as of now."""

from engine.feature_store.dataset import DatasetConfig
from engine.feature_store.definitions import Aggregate, Entity, FeatureView, Source
from engine.feature_store.lmdb_online import LMDBOnline
from engine.feature_store.offline import DuckDBOffline, Features
from engine.feature_store.online import OnlineStore, Written
from engine.feature_store.online_features import OnlineFeatures
from engine.feature_store.redis_online import RedisOnline
from engine.feature_store.store import FeatureStore

__all__ = [
    "Aggregate",
    "DatasetConfig",
    "DuckDBOffline",
    "Entity",
    "FeatureStore",
    "FeatureView",
    "Features",
    "LMDBOnline",
    "OnlineFeatures",
    "OnlineStore",
    "RedisOnline",
    "Source",
    "Written",
]
