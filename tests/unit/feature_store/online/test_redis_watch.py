"""A look-up waits for Redis awake if the reply comes soon, and asleep if the server is slow."""

import os
import socket
import threading
import time

import pytest

from engine.feature_store.online import redis_wire
from engine.feature_store.online._descriptor import readable_by

SECOND = 1_000_000_000


def test_a_descriptor_is_watched_until_it_can_be_read():
    ours, theirs = os.pipe()
    began = time.monotonic_ns()
    assert not readable_by(ours, began + 2_000_000)
    assert time.monotonic_ns() - began >= 2_000_000
    threading.Timer(0.01, os.write, (theirs, b"x")).start()
    assert readable_by(ours, time.monotonic_ns() + 60 * SECOND), "other threads run meanwhile"
    assert readable_by(ours, 0), "bytes that are there already are seen without waiting"
    os.close(theirs)
    os.read(ours, 1)
    assert readable_by(ours, time.monotonic_ns() + 60 * SECOND), "the end of the stream can be read too"
    os.close(ours)


@pytest.fixture
def connection():
    made = object.__new__(redis_wire.Connection)
    made._socket, server = socket.socketpair()
    made._watches, made._in_vain = True, 0
    yield made
    server.close()


def test_a_slow_server_is_watched_now_and_then_only(connection, monkeypatch):
    watched, soon = [], False

    def readable(fd, until_ns):
        watched.append(fd)
        return soon

    monkeypatch.setattr(redis_wire, "readable_by", readable)
    waits = 10 * redis_wire.WATCH_AGAIN_EVERY
    for _ in range(waits):
        connection._watch(time.monotonic_ns() + SECOND)
    assert redis_wire.WATCHED_IN_VAIN_MAX <= len(watched) <= redis_wire.WATCHED_IN_VAIN_MAX + 11
    soon = True
    for _ in range(redis_wire.WATCH_AGAIN_EVERY):
        connection._watch(time.monotonic_ns() + SECOND)
    watched.clear()
    for _ in range(20):
        connection._watch(time.monotonic_ns() + SECOND)
    assert len(watched) == 20, "it answers soon again"


def test_no_thread_watches_longer_than_the_deadline(connection):
    began = time.monotonic_ns()
    connection._watch(began)
    assert connection._in_vain == 1


def test_a_socket_under_tls_is_not_watched(connection):
    connection._watches = False
    connection._watch(time.monotonic_ns() + SECOND)
    assert connection._in_vain == 0
