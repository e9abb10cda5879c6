"""Serves the page and the metrics of monitors over HTTP, for people and for Prometheus."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from engine._common.arguments import whole
from engine.errors import EngineError, MonitorError
from engine.monitor import metrics
from engine.monitor.report import page

if TYPE_CHECKING:
    from engine.monitor.monitor import ModelMonitor

LOGGER = logging.getLogger("engine.monitor")
PORT = 8127
# Requests that are answered at the same time; further ones get 503.
REQUESTS_MAX = 16
# A page is made at most this often, however many read it.
FRESH_S = 1.0
# A client that sends nothing for this long loses its connection.
IDLE_S = 10.0
HTML = "text/html; charset=utf-8"
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def serve(*monitors: ModelMonitor, host: str = "127.0.0.1", port: int = PORT) -> MonitorServer:
    """Serve monitors on threads of their own: the page at /, /metrics for Prometheus, and /json.

    The page keeps itself up to date. Nothing can be changed through it, and it has no passwords: bind it to other
    addresses than loopback only where all who reach them may read it.

    Args:
        monitors: one or more.
        host: the address to listen on.
        port: 0 for any free one; `MonitorServer.url` tells which.

    Raises:
        MonitorError: no monitor, or a port out of range.
        OSError: the address cannot be had.
    """
    if not monitors:
        raise MonitorError("serve needs at least one monitor, got none")
    return MonitorServer(lambda: monitors, host, port)


class MonitorServer:
    """A running server; `close` or a `with` block ends it.

    Attributes:
        url: str, of the page.
    """

    def __init__(self, monitors: Callable[[], Sequence[ModelMonitor]], host: str, port: int) -> None:
        """`monitors` returns what is served, and is asked for every page. Other arguments as in `serve`."""
        whole("port", port, 0, 65535, error=MonitorError)
        self._monitors = monitors
        self._made: dict[str, tuple[float, bytes]] = {}
        self._lock = threading.Lock()
        self._server = _Server((host, port), _Handler)
        self._server.application = self
        self._server.loopback = _is_loopback(host)
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self._server.server_address[1]}/"
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="engine-monitor-http", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop listening. A second call does nothing."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=2.0)

    def __enter__(self) -> MonitorServer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def answer(self, path: str, accepted: str) -> tuple[int, str, bytes]:
        """Return the status, type and body for a path. `accepted`: the types that the client takes."""
        if path == "/":
            return HTTPStatus.OK, HTML, self._fresh("page", self._page)
        if path == "/metrics":
            if "application/openmetrics-text" in accepted:
                return HTTPStatus.OK, OPENMETRICS, self._fresh("openmetrics", lambda: self._metrics(True))
            return HTTPStatus.OK, PROMETHEUS, self._fresh("prometheus", lambda: self._metrics(False))
        if path == "/json":
            return HTTPStatus.OK, "application/json", self._fresh("json", self._json)
        return HTTPStatus.NOT_FOUND, "text/plain", b"there are /, /metrics and /json\n"

    def _fresh(self, key: str, make: Callable[[], str]) -> bytes:
        with self._lock:
            made_at, body = self._made.get(key, (-FRESH_S, b""))
            if time.monotonic() - made_at >= FRESH_S:
                body = make().encode()
                self._made[key] = time.monotonic(), body
            return body

    def _page(self) -> str:
        return page.document([monitor.contents() for monitor in self._monitors()], live_s=page.LIVE_S)

    def _metrics(self, open_metrics: bool) -> str:
        return metrics.text([(monitor.name, monitor.to_json()) for monitor in self._monitors()], open_metrics)

    def _json(self) -> str:
        names = metrics.apart([monitor.name for monitor in self._monitors()], always=True)
        found = (monitor.to_json() for monitor in self._monitors())
        return json.dumps(dict(zip(names, found, strict=True)), allow_nan=False)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    application: MonitorServer
    loopback: bool

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._places = threading.BoundedSemaphore(REQUESTS_MAX)
        if ":" in address[0]:
            import socket

            self.address_family = socket.AF_INET6
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            with contextlib.suppress(OSError):
                request.sendall(
                    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
                )
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        LOGGER.debug("a client of the monitor's page went away", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = IDLE_S
    server_version = "engine-monitor"
    sys_version = ""

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        status: int
        host = self.headers.get("Host", "localhost").rsplit(":", 1)[0].strip("[]")
        if self.server.loopback and not _is_loopback(host):
            # A foreign name that points here would let another site's page read this one (DNS rebinding).
            status, kind, body = HTTPStatus.FORBIDDEN, "text/plain", b"served to this machine only\n"
        else:
            try:
                status, kind, body = self.server.application.answer(
                    self.path.split("?")[0], self.headers.get("Accept", "")
                )
            except EngineError:
                LOGGER.exception("the monitor's page could not be made")
                status, kind, body = HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", b"see the service's log\n"
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "DENY")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        LOGGER.debug("%s %s", self.address_string(), format % arguments)
