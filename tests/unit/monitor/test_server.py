import http.client
import json
import socket
import urllib.error
import urllib.request

import numpy as np
import pytest

from engine.errors import MonitorError
from engine.monitor import ModelMonitor, Reference, serve


@pytest.fixture(scope="module")
def running():
    made = Reference.fit({"a": np.random.default_rng(0).normal(size=500)})
    with ModelMonitor(made, handlers=[], background=False, name="fraud") as one:
        with ModelMonitor(made, handlers=[], background=False, name="pricing") as other:
            one.log_prediction([0.0], 0.5, 2.0, version="7")
            with serve(one, other, port=0) as server:
                yield server


def get(running, path, **headers):
    request = urllib.request.Request(running.url.rstrip("/") + path, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode()


def test_the_page_is_served_live(running):
    status, headers, text = get(running, "/")
    assert status == 200
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["Cache-Control"] == "no-store"
    assert "data-live=10" in text
    assert "connect-src 'self'" in text
    assert "2 models" in text


def test_metrics_are_in_the_format_that_is_asked_for(running):
    status, headers, text = get(running, "/metrics")
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert 'engine_monitor_dropped_total{model="pricing"} 0.0' in text
    _, headers, text = get(
        running, "/metrics?x=1", Accept="application/openmetrics-text;version=1.0.0,text/plain;q=0.5"
    )
    assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert text.endswith("# EOF\n")


def test_json_has_each_model(running):
    found = json.loads(get(running, "/json")[2])
    assert list(found) == ["fraud", "pricing"]
    assert found["fraud"]["answers"] == 1


def test_anything_else_is_not_there(running):
    assert get(running, "/../etc/passwd")[0] == 404
    assert get(running, "/page")[0] == 404


def test_nothing_can_be_changed(running):
    connection = http.client.HTTPConnection(
        "127.0.0.1", int(running.url.split(":")[2].strip("/")), timeout=20
    )
    connection.request("POST", "/", b"x")
    assert connection.getresponse().status == 501
    connection.close()


def test_a_foreign_name_that_points_here_reads_nothing(running):
    status, _, text = get(running, "/", Host="evil.example:80")
    assert status == 403
    assert "fraud" not in text
    assert get(running, "/", Host="localhost")[0] == 200
    assert get(running, "/", Host="[::1]:8127")[0] == 200


def test_a_head_has_no_body(running):
    port = int(running.url.split(":")[2].strip("/"))
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(b"HEAD / HTTP/1.0\r\nHost: localhost\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.0 200")
    assert answer.endswith(b"\r\n\r\n")


def test_a_closed_monitor_is_still_shown_and_a_closed_server_listens_no_more():
    monitor = ModelMonitor(background=False, name="gone")
    monitor.close()
    server = serve(monitor, port=0)
    assert "gone" in get(server, "/")[2]
    server.close()
    server.close()
    with pytest.raises(OSError):
        get(server, "/")


def test_wrong_arguments_are_explained():
    with pytest.raises(MonitorError, match="at least one monitor"):
        serve()
    with ModelMonitor(background=False) as monitor, pytest.raises(MonitorError, match="port"):
        serve(monitor, port=70000)
