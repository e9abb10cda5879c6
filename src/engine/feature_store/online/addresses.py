"""Online stores by address: one line names the store, its place and its options."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from engine.errors import ConfigError
from engine.feature_store.online.base import OnlineStore
from engine.feature_store.online.dynamodb import DynamoDBOnline
from engine.feature_store.online.lmdb import LMDBOnline
from engine.feature_store.online.postgres import PostgresOnline
from engine.feature_store.online.redis import RedisOnline
from engine.feature_store.online.redis_address import safe
from engine.feature_store.online.redis_cluster import RedisClusterOnline

_Readers = dict[str, Callable[[str], Any]]
FORMS = (
    "lmdb:///folder, redis://host:6379/0, redis+sentinel://host:26379/service, redis+cluster://host:6379,host2:6379, "
    "dynamodb://table?region=eu-west-1, postgres://user@host/database (and rediss…:// for TLS)"
)


def open_online(address: str | os.PathLike[str]) -> OnlineStore:
    """The online store at an address. A path without a scheme is the folder of an LMDBOnline.

    Raises:
        ConfigError: an address of another form, or an option that is not known.
        MissingDependencyError: the store's extra is not installed.
    """
    if isinstance(address, os.PathLike):
        return LMDBOnline(address)
    if not isinstance(address, str) or not address:
        raise ConfigError(f"expected the address of an online store, one of: {FORMS}; got {address!r:.80}")
    scheme, there, _ = address.partition("://")
    if not there:
        return LMDBOnline(address)
    make = _SCHEMES.get(scheme)
    if make is None:
        raise ConfigError(f"expected the address of an online store, one of: {FORMS}; got {safe(address)!r}")
    return make(address)


def _lmdb(address: str) -> OnlineStore:
    parts = urlsplit(address)
    options = _options(address, {"map_bytes": int, "read_only": _boolean})
    return LMDBOnline(unquote(parts.netloc + parts.path), **options)


def _dynamodb(address: str) -> OnlineStore:
    """dynamodb://table?region=…&endpoint_url=…&consistent=true&namespace=…&timeout_s=5"""
    parts = urlsplit(address)
    if parts.path.strip("/") or "@" in parts.netloc:
        raise ConfigError(
            f"expected an address like dynamodb://table?region=eu-west-1, got {safe(address)!r}; credentials are found "
            "as boto3 finds them"
        )
    known: _Readers = {
        "region": str,
        "endpoint_url": str,
        "consistent": _boolean,
        "namespace": str,
        "timeout_s": float,
    }
    return DynamoDBOnline(unquote(parts.netloc), **_options(address, known))


def _options(address: str, known: _Readers) -> dict[str, Any]:
    """The options of an address' query. Raises ConfigError for one that is not known, or cannot be read."""
    options = {}
    for name, text in parse_qsl(urlsplit(address).query, keep_blank_values=True):
        if name not in known:
            raise ConfigError(
                f"{safe(address)!r}: the query has an option {name!r}, which is none of: {', '.join(known)}"
            )
        try:
            options[name] = known[name](text)
        except ValueError:
            raise ConfigError(f"{safe(address)!r}: option {name} cannot be read, got {text!r}") from None
    return options


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0", "yes", "no"):
        raise ValueError("expected true or false")
    return text.lower() in ("true", "1", "yes")


_SCHEMES: dict[str, Callable[[str], OnlineStore]] = {
    "lmdb": _lmdb,
    "dynamodb": _dynamodb,
    **dict.fromkeys(("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel"), RedisOnline),
    **dict.fromkeys(("redis+cluster", "rediss+cluster"), RedisClusterOnline),
    **dict.fromkeys(("postgres", "postgresql"), PostgresOnline),
}
