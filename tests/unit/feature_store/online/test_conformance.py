"""The stores that need no server of somebody else's go through the conformance suite, as a store of yours would."""

from pathlib import Path

import pytest
from tests.servers import free_port

from engine.feature_store import LMDBOnline, RedisOnline
from engine.feature_store.testing import OnlineStoreConformance


class TestLMDB(OnlineStoreConformance):
    @pytest.fixture
    def open_store(self, tmp_path: Path):
        return lambda: LMDBOnline(tmp_path / "online")


class TestRedis(OnlineStoreConformance):
    @pytest.fixture
    def open_store(self, redis_url):
        return lambda: RedisOnline(redis_url, namespace="conformance")

    @pytest.fixture
    def open_unreachable(self):
        url = f"redis://127.0.0.1:{free_port()}/0"
        return lambda: RedisOnline(url, timeout_s=1.0)

    @pytest.fixture
    def forgets_after_s(self):
        # A second after the TTL, because clocks differ between machines.
        return 2.5
