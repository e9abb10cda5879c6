"""Online stores: they keep the newest row of each entity, and serve it inside a request's deadline."""

from engine.feature_store.online.addresses import open_online
from engine.feature_store.online.base import OnlineStore, Progress, Unavailable, Wire, Written
from engine.feature_store.online.dynamodb import DynamoDBOnline
from engine.feature_store.online.features import OnlineFeatures
from engine.feature_store.online.lmdb import LMDBOnline
from engine.feature_store.online.postgres import PostgresOnline
from engine.feature_store.online.redis import RedisOnline
from engine.feature_store.online.redis_cluster import RedisClusterOnline

__all__ = [
    "DynamoDBOnline",
    "LMDBOnline",
    "OnlineFeatures",
    "OnlineStore",
    "PostgresOnline",
    "Progress",
    "RedisClusterOnline",
    "RedisOnline",
    "Unavailable",
    "Wire",
    "Written",
    "open_online",
]
