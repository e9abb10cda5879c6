"""Sequences of late rows, pushes, deletions, kills and concurrent writers, on DynamoDB, Postgres and a Redis Cluster:
after each step all of them serve what plain loops over lists of dicts say. tests/property has LMDB and Redis.

A few sequences run each time; ENGINE_NIGHTLY=1 runs 100. A sequence that failed names its seed, and
ENGINE_SEQUENCE=<seed> runs it alone.
"""

import os
from uuid import uuid4

import pytest
from tests.property.test_store_sequences import OFFLINE, Sequence
from tests.stores.online.servers import RedisCluster, stopped

from engine.feature_store import DynamoDBOnline, PostgresOnline, RedisClusterOnline
from engine.feature_store.online import base

SEQUENCES = 100 if os.environ.get("ENGINE_NIGHTLY") else 3


def opened(dynalite, moto, postgres, cluster):
    """A new, empty place in each."""
    name = f"t{uuid4().hex}"
    stores = [
        DynamoDBOnline(name, region="eu-west-1", endpoint_url=f"http://127.0.0.1:{server.port}")
        for server in (dynalite, moto)
    ]
    for store in stores:
        store.create_table()
    return [
        *stores,
        PostgresOnline(postgres.url, table=name),
        RedisClusterOnline(cluster.url, namespace=name),
    ]


@pytest.mark.timeout(1200)
def test_sequences_leave_what_the_plain_loops_say(dynalite, moto, postgres, tmp_path, seed):
    batch = base.BATCH_ROWS
    only = os.environ.get("ENGINE_SEQUENCE")
    with stopped(RedisCluster(tmp_path)) as cluster:
        for number in [int(only)] if only else range(seed, seed + SEQUENCES):
            try:
                Sequence(number, opened(dynalite, moto, postgres, cluster)).run()
            except BaseException:
                print(f"replay with ENGINE_SEQUENCE={number}")
                raise
            finally:
                base.BATCH_ROWS = batch
                OFFLINE._join_bytes_max = 1 << 29
