"""Handlers that bring alerts to people: a webhook, Prometheus' Alertmanager, a file, a log.

Each one has a thread and a bounded queue of its own, so one that is slow or unreachable holds up neither the monitor
nor the others. An alert has three events: "begin", "update" (it still lasts) and "end".
"""

from __future__ import annotations

import datetime
import http.client
import json
import logging
import random
import threading
import time
import urllib.error
import urllib.request
import zoneinfo
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from engine._common.arguments import finite, one_of, whole
from engine.errors import MonitorError
from engine.monitor.alerts import LEVELS, SEVERITIES, Alert

LOGGER = logging.getLogger("engine.monitor")
WAITING_MAX = 1000
# The first wait before another try; each further one is twice as long, up to the longest, and shorter by chance.
BACKOFF_S = 0.5
BACKOFF_MAX_S = 30.0
# How often held alerts are looked at in quiet hours.
QUIET_LOOK_S = 1.0


class NotSentError(Exception):
    """An event could not be sent. `again`: whether another try may help."""

    def __init__(self, message: str, again: bool) -> None:
        super().__init__(message)
        self.again = again


class QuietHours:
    """Hours of each day in which alerts wait. An alert that ends meanwhile is never sent.

    Args:
        start, end: "HH:MM"; the hours may go over midnight.
        zone: name of a time zone, "Europe/Berlin" for example.
        never_for: severities that do not wait.

    Raises:
        MonitorError: no such time, zone or severity.
    """

    def __init__(
        self, start: str, end: str, *, zone: str = "UTC", never_for: tuple[str, ...] = ("critical",)
    ) -> None:
        try:
            self._start, self._end = (datetime.time.fromisoformat(text) for text in (start, end))
            self._zone = zoneinfo.ZoneInfo(zone)
        except (ValueError, TypeError, OSError, zoneinfo.ZoneInfoNotFoundError) as error:
            raise MonitorError(
                f"quiet hours: expected start and end as 'HH:MM' and a time zone, got {start!r}, {end!r}, {zone!r}: "
                f"{error}"
            ) from None
        self._never_for = tuple(
            one_of("never_for", name, SEVERITIES, error=MonitorError) for name in never_for
        )

    def hold(self, severity: str, at_s: float) -> bool:
        """Return whether an alert of this severity waits at a time, in seconds since the epoch."""
        if severity in self._never_for:
            return False
        now = datetime.datetime.fromtimestamp(at_s, self._zone).time()
        if self._start <= self._end:
            return self._start <= now < self._end
        return now >= self._start or now < self._end


class _Event:
    __slots__ = ("alert", "name", "severity")

    def __init__(self, name: str, alert: Mapping[str, Any], severity: str) -> None:
        self.name, self.alert, self.severity = name, alert, severity


class Outgoing:
    """The base of all handlers: a queue, a thread, tries, severities and quiet hours. Thread-safe.

    Args:
        model: name of the model, told with every event.
        severities: kind of alert -> severity that is told instead of the alert's own; "" -> of all other kinds.
        least: alerts below this severity are not sent.
        quiet: hours in which alerts wait.
        tries: how often an event is tried before it is dropped.
        waiting_max: events that may wait; of further ones the oldest "update" is dropped first, then the oldest event.

    Attributes:
        ends: True: a monitor tells ends too.
        repeat_s: how often a monitor tells an alert again that lasts; 0 for never.
        sent, dropped: int, events since the start.
        last_error: str, why the last try failed; empty after one that succeeded.

    Raises:
        MonitorError: an unknown severity, or a number out of range.
    """

    ends = True
    repeat_s = 0.0

    def __init__(
        self,
        *,
        model: str = "",
        severities: Mapping[str, str] | None = None,
        least: str = "info",
        quiet: QuietHours | None = None,
        tries: int = 6,
        waiting_max: int = WAITING_MAX,
    ) -> None:
        self.model = model
        self._severities = {
            str(kind): one_of(f"severities[{kind!r}]", name, SEVERITIES, error=MonitorError)
            for kind, name in (severities or {}).items()
        }
        self._least = SEVERITIES.index(one_of("least", least, SEVERITIES, error=MonitorError))
        self._quiet = quiet
        self._tries = whole("tries", tries, 1, 1000, error=MonitorError)
        self._waiting_max = whole("waiting_max", waiting_max, 1, 1 << 20, error=MonitorError)
        self._waiting: deque[_Event] = deque()
        self._held: dict[int, _Event] = {}
        self._told: dict[int, str] = {}
        self._busy = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self.sent = self.dropped = 0
        self.last_error = ""

    def __call__(self, alert: Alert) -> None:
        """Take an event of an alert; it is sent from the handler's own thread. Called by the monitor."""
        severity = self._severities.get(alert.kind, self._severities.get("", alert.severity))
        if SEVERITIES.index(severity) < self._least:
            return
        with self._changed:
            known = alert.number in self._told
            ended = alert.kind != "message" and not alert.lasts
            name = "end" if ended else "update" if known else "begin"
            if ended:
                self._told.pop(alert.number, None)
            elif alert.lasts:
                self._told[alert.number] = severity
            self._add(_Event(name, {**alert.to_json(), "severity": severity}, severity))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="engine-monitor-handler", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def _add(self, event: _Event) -> None:
        number = event.alert["number"]
        if event.name == "end" and self._held.pop(number, None) is not None:
            return  # it began and ended in quiet hours
        if self._quiet is not None and self._quiet.hold(event.severity, time.time()):
            if event.name == "begin" or number in self._held:
                self._hold(event)
                return
            if event.name == "update":
                return
        if len(self._waiting) >= self._waiting_max:
            oldest = next((old for old in self._waiting if old.name == "update"), self._waiting[0])
            self._waiting.remove(oldest)
            self._drop(oldest, f"more than {self._waiting_max} events wait")
        self._waiting.append(event)

    def _hold(self, event: _Event) -> None:
        if event.name == "begin" and len(self._held) >= self._waiting_max:
            self._drop(self._held.pop(next(iter(self._held))), f"more than {self._waiting_max} events wait")
        self._held.setdefault(event.alert["number"], event)

    def _drop(self, event: _Event, why: str) -> None:
        self.dropped += 1
        LOGGER.error("%s dropped the %s of alert %s: %s", self, event.name, event.alert["number"], why)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                while not self._waiting:
                    self._changed.wait(QUIET_LOOK_S if self._held else None)
                    self._release()
                event = self._waiting.popleft()
                self._busy = True
            self._try(event)

    def _release(self) -> None:
        """Let events go that waited for the end of quiet hours. Called under the lock."""
        for number, event in list(self._held.items()):
            if self._quiet is None or not self._quiet.hold(event.severity, time.time()):
                del self._held[number]
                self._add(event)

    def _try(self, event: _Event) -> None:
        for count in range(1, self._tries + 1):
            try:
                self.send(event.name, event.alert)
            except NotSentError as error:
                self.last_error = str(error)
                if not error.again or count == self._tries:
                    self._drop(event, f"{error} ({count} tries)")
                    return
            except Exception as error:  # a handler of the user's own
                self.last_error = f"{type(error).__name__}: {error}"
                LOGGER.exception("%s failed", self)
                self._drop(event, self.last_error)
                return
            else:
                self.sent += 1
                self.last_error = ""
                return
            time.sleep(min(BACKOFF_S * 2.0 ** (count - 1), BACKOFF_MAX_S) * random.uniform(0.5, 1.0))

    def flush(self, timeout_s: float = 2.0) -> bool:
        """Wait until everything is sent or dropped, at most this long. Return whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._busy, timeout_s)

    def send(self, event: str, alert: Mapping[str, Any]) -> None:
        """Send one event, "begin", "update" or "end", of an alert's `to_json`. Raises NotSentError."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class _Http(Outgoing):
    """A handler that sends JSON to an HTTP server."""

    def __init__(
        self, url: str, *, headers: Mapping[str, str] | None, timeout_s: float, **options: Any
    ) -> None:
        super().__init__(**options)
        found = urlsplit(str(url))
        if found.scheme not in ("http", "https") or not found.hostname:
            raise MonitorError(f"url: expected http://… or https://…, got {url!r}")
        self._url = str(url)
        self._host = found.hostname
        self._headers = {
            "Content-Type": "application/json",
            "User-Agent": "deadline-engine",
            **(headers or {}),
        }
        self._timeout_s = finite("timeout_s", timeout_s, error=MonitorError)
        if self._timeout_s <= 0.0:
            raise MonitorError(f"timeout_s must be above 0, got {timeout_s}")

    def _post(self, body: Any) -> None:
        data = json.dumps(body, allow_nan=False, default=str).encode()
        request = urllib.request.Request(self._url, data, self._headers, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s) as answer:
                answer.read(1 << 16)
        except urllib.error.HTTPError as error:
            with error:
                said = error.read(500).decode("utf-8", "replace").strip()
            again = error.code >= 500 or error.code in (408, 425, 429)
            raise NotSentError(f"{self._host} answered {error.code}: {said}", again) from None
        except (OSError, http.client.HTTPException) as error:
            raise NotSentError(f"{self._host}: {getattr(error, 'reason', None) or error}", True) from None

    def __repr__(self) -> str:
        # Without the path, which often holds a secret.
        return f"{type(self).__name__}({self._host})"


class Webhook(_Http):
    """Posts each event as JSON: {"event": "begin" | "update" | "end", "model": …, "alert": {…}, "dropped": …}.

    Args:
        url: http or https.
        headers: further ones, for a token for example.
        timeout_s: of one try. A server that fails, and 408, 425, 429 or 5xx, is tried again.
        options: of `Outgoing`.
    """

    def __init__(
        self, url: str, *, headers: Mapping[str, str] | None = None, timeout_s: float = 5.0, **options: Any
    ) -> None:
        super().__init__(url, headers=headers, timeout_s=timeout_s, **options)

    def send(self, event: str, alert: Mapping[str, Any]) -> None:
        """Post the event. Raises NotSentError."""
        self._post({"event": event, "model": self.model, "alert": plain(alert), "dropped": self.dropped})


class Alertmanager(_Http):
    """Sends alerts to Prometheus' Alertmanager by its API v2, and again every `repeat_s` while they last.

    Labels: alertname ("EngineInputDrift"), kind, column, severity, model, and `labels`. An alert that is not told again
    for three times `repeat_s` is resolved by Alertmanager itself, so that none lasts for ever when a process dies.

    Args:
        url: of the server, "http://127.0.0.1:9093" for example.
        labels: further labels of every alert.
        headers, timeout_s: as in `Webhook`.
        repeat_s: at least 1.
        options: of `Outgoing`.
    """

    def __init__(
        self,
        url: str,
        *,
        labels: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 5.0,
        repeat_s: float = 60.0,
        **options: Any,
    ) -> None:
        path = f"{str(url).rstrip('/')}/api/v2/alerts"
        super().__init__(path, headers=headers, timeout_s=timeout_s, **options)
        self.repeat_s = finite("repeat_s", repeat_s, error=MonitorError)
        if self.repeat_s < 1.0:
            raise MonitorError(f"repeat_s must be at least 1, got {repeat_s}")
        self._labels = dict(labels or {})

    def send(self, event: str, alert: Mapping[str, Any]) -> None:
        """Post the alert as Alertmanager has it. Raises NotSentError."""
        name = "".join(part.capitalize() for part in alert["kind"].split("_"))
        labels = {
            "alertname": f"Engine{name}",
            "kind": alert["kind"],
            "column": alert["column"],
            "model": self.model,
            "severity": alert["severity"],
            **self._labels,
        }
        if alert["kind"] == "message":
            labels["number"] = str(alert["number"])
        until = alert["ended_at"] if event == "end" else time.time() + 3.0 * self.repeat_s
        # An alert that begins and ends within a millisecond must not end before it begins.
        until = max(until, alert["detected_at"] + 0.001)
        self._post(
            [
                {
                    "labels": {key: str(value) for key, value in labels.items() if value},
                    "annotations": {"summary": alert["message"]},
                    "startsAt": _iso(alert["detected_at"]),
                    "endsAt": _iso(until),
                }
            ]
        )


class File(Outgoing):
    """Appends each event to a file as one line of JSON, as `Webhook` posts it.

    Args:
        path: made where it is missing; its folder must be there.
        options: of `Outgoing`.
    """

    def __init__(self, path: str | Path, **options: Any) -> None:
        super().__init__(**options)
        self._path = Path(path)

    def send(self, event: str, alert: Mapping[str, Any]) -> None:
        """Append the line. Raises NotSentError."""
        line = json.dumps({"event": event, "model": self.model, "alert": plain(alert)}, allow_nan=False)
        try:
            with self._path.open("a", encoding="utf-8") as out:
                out.write(line + "\n")
        except OSError as error:
            raise NotSentError(f"{self._path}: {error.strerror or error}", True) from None

    def __repr__(self) -> str:
        return f"File({str(self._path)!r})"


class Log(Outgoing):
    """Logs each event, by default to the logger "engine.monitor".

    Args:
        logger: of the logging library.
        options: of `Outgoing`.
    """

    def __init__(self, logger: logging.Logger = LOGGER, **options: Any) -> None:
        super().__init__(**options)
        self._logger = logger

    def send(self, event: str, alert: Mapping[str, Any]) -> None:
        """Log the event: its end as information, everything else by its severity."""
        level = logging.INFO if event == "end" else LEVELS[alert["severity"]]
        model = f" of {self.model}" if self.model else ""
        self._logger.log(level, "%s%s, %s: %s", alert["kind"], model, event, alert["message"])


def plain(value: Any) -> Any:
    """Return a value that JSON has; numbers that are not finite become None."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    return value if isinstance(value, (str, int, bool, type(None))) else str(value)


def _iso(at_s: float) -> str:
    return datetime.datetime.fromtimestamp(at_s, datetime.UTC).isoformat(timespec="milliseconds")


def try_out(handler: Outgoing, severity: str = "warning") -> None:
    """Send an alert that begins and ends at once, on this thread, to see that it arrives. Raises MonitorError."""
    one_of("severity", severity, SEVERITIES, error=MonitorError)
    text = "test alert: nothing is wrong; somebody tries whether alerts arrive"
    alert = Alert(0, text, severity, kind="test_alert", detected_at=time.time())
    try:
        handler.send("begin", alert.to_json())
        alert.ended_at = time.time()
        handler.send("end", alert.to_json())
    except NotSentError as error:
        raise MonitorError(f"the test alert did not arrive: {error}") from None
