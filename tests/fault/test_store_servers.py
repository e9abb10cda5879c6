"""The Redis that tests start: a child of their own on a loopback port, which leaves every other server alone."""

import os
import socket

import pytest
from tests import servers
from tests.servers import RedisServer


@pytest.mark.slow
def test_a_server_is_a_child_of_this_process_that_stops_with_the_test(tmp_path):
    server = RedisServer(tmp_path)
    assert server.pid != os.getpid()
    client = server.client()
    assert client.info("server")["process_id"] == server.pid
    assert client.config_get("bind")["bind"] == "127.0.0.1"
    client.close()
    server.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, 0)


def test_another_server_on_the_port_is_not_taken_for_ours(tmp_path, monkeypatch):
    """A port may be taken after it was found free, by a Redis that runs as a service, say."""
    other = RedisServer(tmp_path)
    ports = iter([other.port, servers.free_port()])
    monkeypatch.setattr(servers, "free_port", lambda: next(ports))
    server = RedisServer(tmp_path)
    assert server.port != other.port
    server.stop()
    client = other.client()
    assert client.info("server")["process_id"] == other.pid, "the other one runs on"
    client.close()
    other.stop()


@pytest.mark.slow
def test_a_port_that_something_else_holds_is_an_error_after_some_attempts(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(servers, "free_port", lambda: taken.getsockname()[1])
        with pytest.raises(RuntimeError, match="redis-server did not start on port"):
            RedisServer(tmp_path)
