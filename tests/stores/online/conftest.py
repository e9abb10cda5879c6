"""The servers of online stores, one of each for the session."""

from collections.abc import Iterator

import pytest
from tests.stores.online import servers


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that the emulators take, and no file of the user's."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")


@pytest.fixture(scope="session")
def dynalite() -> Iterator[servers.Server]:
    with servers.stopped(servers.dynalite()) as server:
        yield server


@pytest.fixture(scope="session")
def moto() -> Iterator[servers.Server]:
    with servers.stopped(servers.moto()) as server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[servers.Postgres]:
    with servers.stopped(servers.Postgres()) as server:
        yield server
