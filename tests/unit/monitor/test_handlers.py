import json
import logging
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from tests.servers import free_port

from engine import cli
from engine.errors import MonitorError
from engine.monitor import ModelMonitor, Reference, handlers
from engine.monitor.alerts import Alert
from engine.monitor.handlers import Alertmanager, File, Log, QuietHours, Webhook

STARTED_S_MAX = 60.0


class Receiver:
    """An HTTP server that keeps what is posted, and answers with the next of `answers` (200 when there are none)."""

    def __init__(self):
        self.bodies, self.headers, self.answers, self.delay = [], [], [], threading.Event()
        self.delay.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.delay.wait(60)
                status = outer.answers.pop(0) if outer.answers else 200
                if status == 200:
                    outer.bodies.append(json.loads(body))
                    outer.headers.append(dict(self.headers))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(b"because")

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook/secret"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def events(self):
        return [(body["event"], body["alert"]["number"]) for body in self.bodies]


@pytest.fixture
def receiver():
    made = Receiver()
    yield made
    made.delay.set()
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(handlers, "BACKOFF_S", 0.001)


def alert(number=1, severity="warning", kind="input_drift", ended_at=None):
    return Alert(number, "temp moved", severity, kind=kind, column="temp", detected_at=1e9, ended_at=ended_at,
                 evidence={"psi": float("nan"), "mean": np.float64(2.0)})  # fmt: skip


def test_an_alert_of_a_monitor_begins_and_ends_at_a_webhook(receiver):
    made = Reference.fit({"a": np.random.default_rng(0).normal(size=3000)})
    hook = Webhook(receiver.url, model="fraud", headers={"X-Token": "t"})
    with ModelMonitor(made, handlers=[hook], background=False) as monitor:
        monitor.input_distribution.update(np.full((500, 1), 9.0))
        monitor.input_distribution.update(np.random.default_rng(1).normal(size=(8000, 1)))
    assert hook.flush(60)
    assert receiver.events() == [("begin", 1), ("end", 1)]
    assert receiver.bodies[0]["model"] == "fraud"
    assert receiver.bodies[0]["alert"]["column"] == "a"
    assert receiver.bodies[1]["alert"]["lasts"] is False
    assert receiver.headers[0]["X-Token"] == "t"
    assert (hook.sent, hook.dropped, hook.last_error) == (2, 0, "")


def test_an_alert_that_is_told_again_is_an_update(receiver):
    hook = Webhook(receiver.url)
    for given in (alert(), alert(), alert(2), alert(ended_at=2e9), Alert(3, "text", "info")):
        hook(given)
    assert hook.flush(60)
    assert receiver.events() == [("begin", 1), ("update", 1), ("begin", 2), ("end", 1), ("begin", 3)]
    assert receiver.bodies[0]["alert"]["evidence"] == {"psi": None, "mean": 2.0}


def test_a_server_that_fails_is_tried_again(receiver):
    receiver.answers = [503, 429, 500]
    hook = Webhook(receiver.url)
    hook(alert())
    assert hook.flush(60)
    assert receiver.events() == [("begin", 1)]
    assert (hook.sent, hook.dropped) == (1, 0)


def test_a_request_that_is_refused_is_dropped_at_once_and_told(receiver, caplog):
    receiver.answers = [400]
    hook = Webhook(receiver.url)
    with caplog.at_level(logging.ERROR, "engine.monitor"):
        hook(alert())
        assert hook.flush(60)
        hook(alert(2))
        assert hook.flush(60)
    assert "dropped the begin of alert 1: 127.0.0.1 answered 400: because (1 tries)" in caplog.text
    assert "secret" not in caplog.text
    assert receiver.bodies[0]["dropped"] == 1
    assert receiver.events() == [("begin", 2)]


def test_a_server_that_is_gone_costs_so_many_tries():
    hook = Webhook(f"http://127.0.0.1:{free_port()}", tries=3)
    hook(alert())
    assert hook.flush(60)
    assert (hook.sent, hook.dropped) == (0, 1)
    assert "refused" in hook.last_error


def test_the_queue_is_bounded_and_a_slow_server_holds_up_nobody(receiver):
    receiver.delay.clear()
    hook = Webhook(receiver.url, waiting_max=3, timeout_s=60)
    hook(alert(0))
    while not hook._busy:
        time.sleep(0.001)
    for number in (1, 2, 3, 4, 5):
        hook(alert(number))
    assert not hook.flush(0.01)
    assert hook.dropped == 2
    receiver.delay.set()
    assert hook.flush(60)
    assert receiver.events() == [("begin", 0), ("begin", 3), ("begin", 4), ("begin", 5)]


def test_severities_go_by_rule_and_small_ones_are_left_out(receiver):
    hook = Webhook(receiver.url, severities={"input_drift": "critical", "": "info"}, least="warning")
    hook(alert(1))
    hook(alert(2, "critical", "late_share"))
    assert hook.flush(60)
    assert receiver.events() == [("begin", 1)]
    assert receiver.bodies[0]["alert"]["severity"] == "critical"


@pytest.mark.parametrize(
    ("start", "end", "zone", "at", "held"),
    [
        ("22:00", "07:00", "UTC", 23 * 3600, True),
        ("22:00", "07:00", "UTC", 7 * 3600, False),
        ("22:00", "07:00", "UTC", 6 * 3600 + 3599, True),
        ("12:00", "13:00", "UTC", 12 * 3600, True),
        ("12:00", "13:00", "UTC", 11 * 3600, False),
        ("12:00", "13:00", "Europe/Berlin", 11 * 3600, True),  # 1 January 1970: one hour ahead
    ],
)
def test_quiet_hours(start, end, zone, at, held):
    hours = QuietHours(start, end, zone=zone)
    assert hours.hold("warning", at) is held
    assert hours.hold("critical", at) is False


class Hours(QuietHours):
    quiet = True

    def __init__(self):
        super().__init__("00:00", "00:00")

    def hold(self, severity, at_s):
        return self.quiet and severity != "critical"


def test_alerts_wait_in_quiet_hours_and_those_that_end_are_never_sent(receiver, monkeypatch):
    monkeypatch.setattr(handlers, "QUIET_LOOK_S", 0.01)
    hours = Hours()
    hook = Webhook(receiver.url, quiet=hours)
    for given in (alert(1), alert(2), alert(2), alert(1, ended_at=2e9), alert(3, "critical")):
        hook(given)
    assert hook.flush(60)
    assert receiver.events() == [("begin", 3)]
    hours.quiet = False
    give_up = time.monotonic() + 60
    while hook.sent < 2 and time.monotonic() < give_up:
        time.sleep(0.01)
    assert receiver.events() == [("begin", 3), ("begin", 2)]


def test_a_file_gets_a_line_an_event(tmp_path):
    made = File(tmp_path / "alerts.jsonl", model="fraud")
    made(alert())
    made(alert(ended_at=2e9))
    assert made.flush(60)
    lines = [json.loads(line) for line in (tmp_path / "alerts.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["begin", "end"]
    gone = File(tmp_path / "nowhere" / "alerts.jsonl", tries=2)
    gone(alert())
    assert gone.flush(60)
    assert gone.dropped == 1
    assert "No such file" in gone.last_error


def test_a_log_has_the_level_of_the_severity(caplog):
    made = Log(logging.getLogger("mine"), model="fraud")
    with caplog.at_level(logging.INFO, "mine"):
        made(alert(severity="critical"))
        made(alert(severity="critical", ended_at=2e9))
        assert made.flush(60)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("CRITICAL", "input_drift of fraud, begin: temp moved"),
        ("INFO", "input_drift of fraud, end: temp moved"),
    ]


def test_wrong_arguments_are_explained():
    for make, error in (
        (lambda: Webhook("ftp://x"), "expected http"),
        (lambda: Webhook("http://x", timeout_s=0), "timeout_s must be above 0"),
        (lambda: Webhook("http://x", tries=0), "tries"),
        (lambda: Webhook("http://x", severities={"input_drift": "bad"}), "one of info, warning, critical"),
        (lambda: Alertmanager("http://x", repeat_s=0.1), "repeat_s must be at least 1"),
        (lambda: QuietHours("25:00", "07:00"), "quiet hours: expected"),
        (lambda: QuietHours("22:00", "07:00", zone="Mars/Base"), "quiet hours: expected"),
    ):
        with pytest.raises(MonitorError, match=error):
            make()


# A real Alertmanager.


@pytest.fixture(scope="module")
def alertmanager(tmp_path_factory):
    binary = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
    if binary is None:
        pytest.skip("prometheus-alertmanager is not installed: make servers")
    folder = tmp_path_factory.mktemp("alertmanager")
    (folder / "config.yml").write_text("route: {receiver: none}\nreceivers: [{name: none}]\n")
    url = f"http://127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        [binary, f"--config.file={folder}/config.yml", f"--storage.path={folder}", "--cluster.listen-address=",
         f"--web.listen-address={url[7:]}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    give_up = time.monotonic() + STARTED_S_MAX
    while True:
        try:
            urllib.request.urlopen(f"{url}/-/ready", timeout=5).close()
            break
        except OSError:
            assert time.monotonic() < give_up, "the Alertmanager did not start"
            assert process.poll() is None, "the Alertmanager ended"
            time.sleep(0.05)
    yield url
    process.terminate()
    process.wait()


def firing(url):
    with urllib.request.urlopen(f"{url}/api/v2/alerts?active=true", timeout=20) as answer:
        return json.load(answer)


def test_a_real_alertmanager_has_the_alert_until_it_is_resolved(alertmanager):
    made = Reference.fit({"a": np.random.default_rng(0).normal(size=3000)})
    handler = Alertmanager(
        alertmanager, model="fraud", labels={"team": "risk"}, severities={"input_drift": "critical"}
    )
    with ModelMonitor(made, handlers=[handler], background=False) as monitor:
        monitor.input_distribution.update(np.full((500, 1), 9.0))
        assert handler.flush(60)
        (found,) = firing(alertmanager)
        assert found["labels"] == {
            "alertname": "EngineInputDrift", "column": "a", "kind": "input_drift", "model": "fraud",
            "severity": "critical", "team": "risk",
        }  # fmt: skip
        assert found["annotations"]["summary"].startswith("input drift: a has a problem: frozen value")
        monitor.check()
        sent = handler.sent
        monitor._delivery._repeated[id(handler)] -= 61.0  # a minute passes
        monitor.check()
        assert handler.flush(60)
        assert handler.sent == sent + 1
        assert len(firing(alertmanager)) == 1  # told again, and still one
        monitor.input_distribution.update(np.random.default_rng(1).normal(size=(8000, 1)))
        assert handler.flush(60)
    assert firing(alertmanager) == []
    assert handler.dropped == 0


def test_the_command_tries_it_out(alertmanager, receiver, tmp_path, capsys):
    assert cli.main(["monitor", "test-alert", "--alertmanager", alertmanager, "--name", "fraud"]) == 0
    assert (
        "sent the beginning and the end of a warning alert by Alertmanager(127.0.0.1)"
        in capsys.readouterr().out
    )
    given = [
        "monitor",
        "test-alert",
        "--webhook",
        receiver.url,
        "--header",
        "X-Token: t",
        "--severity",
        "critical",
    ]
    assert cli.main(given) == 0
    assert receiver.events() == [("begin", 0), ("end", 0)]
    assert receiver.bodies[0]["alert"]["severity"] == "critical"
    assert receiver.headers[0]["X-Token"] == "t"
    assert cli.main(["monitor", "test-alert", "--file", str(tmp_path / "x.jsonl")]) == 0
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        assert cli.main(["monitor", "test-alert", "--webhook", f"http://127.0.0.1:{port}"]) == 1
    assert "the test alert did not arrive" in capsys.readouterr().err
