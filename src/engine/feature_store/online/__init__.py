"""Online stores: they keep the newest row of each entity, and serve it inside a request's deadline."""

from engine.feature_store.online.base import OnlineStore, Progress, Unavailable, Wire, Written
from engine.feature_store.online.features import OnlineFeatures
from engine.feature_store.online.lmdb import LMDBOnline
from engine.feature_store.online.redis import RedisOnline

__all__ = [
    "LMDBOnline",
    "OnlineFeatures",
    "OnlineStore",
    "Progress",
    "RedisOnline",
    "Unavailable",
    "Wire",
    "Written",
]
