"""Embeddings by their exact input: computed once, kept in memory and in a second level, answered before a deadline."""

from engine.cache._cache import Embedding
from engine.cache.cache import EmbeddingCache
from engine.cache.embedded import EmbeddedModel
from engine.cache.encoders import Encoder
from engine.cache.second_level import LMDBLevel, RedisLevel, SecondLevel
from engine.cache.sentence import SentenceEncoder
from engine.cache.static import StaticEncoder

__all__ = [
    "EmbeddedModel",
    "Embedding",
    "EmbeddingCache",
    "Encoder",
    "LMDBLevel",
    "RedisLevel",
    "SecondLevel",
    "SentenceEncoder",
    "StaticEncoder",
]
