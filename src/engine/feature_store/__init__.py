"""The feature store: the same features for training, as of each label's instant, and for serving, as of now."""

from engine._common import renamed
from engine.feature_store.dataset import DatasetConfig
from engine.feature_store.definitions import Aggregate, Entity, FeatureView, Source
from engine.feature_store.deletion import Deleted
from engine.feature_store.offline import (
    BigQueryOffline,
    Delta,
    DuckDBOffline,
    Features,
    Iceberg,
    PolarsOffline,
    SparkOffline,
)
from engine.feature_store.online import (
    DynamoDBOnline,
    LMDBOnline,
    OnlineFeatures,
    OnlineStore,
    PostgresOnline,
    RedisClusterOnline,
    RedisOnline,
    Written,
    open_online,
)
from engine.feature_store.store import FeatureStore
from engine.feature_store.verification import Difference, Verified

__all__ = [
    "Aggregate",
    "BigQueryOffline",
    "DatasetConfig",
    "Deleted",
    "Delta",
    "Difference",
    "DuckDBOffline",
    "DynamoDBOnline",
    "Entity",
    "FeatureStore",
    "FeatureView",
    "Features",
    "Iceberg",
    "LMDBOnline",
    "OnlineFeatures",
    "OnlineStore",
    "PolarsOffline",
    "PostgresOnline",
    "RedisClusterOnline",
    "RedisOnline",
    "Source",
    "SparkOffline",
    "Verified",
    "Written",
    "open_online",
]

renamed.forward(
    "engine.feature_store",
    {
        "aggregates": "engine.feature_store.offline.aggregates",
        "lmdb_online": "engine.feature_store.online.lmdb",
        "online_features": "engine.feature_store.online.features",
        "point_in_time": "engine.feature_store.offline.point_in_time",
        "redis_address": "engine.feature_store.online.redis_address",
        "redis_online": "engine.feature_store.online.redis",
        "redis_wire": "engine.feature_store.online.redis_wire",
        "sources": "engine.feature_store.offline.sources",
        "view_rows": "engine.feature_store.offline.view_rows",
    },
)
