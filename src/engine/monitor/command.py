"""`engine monitor`: pages of files and of running services, from the command line."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from shutil import copyfile

from engine._common.progress import Progress
from engine.errors import MonitorError
from engine.monitor import server
from engine.monitor.alerts import SEVERITIES
from engine.monitor.files import compare
from engine.monitor.handlers import Alertmanager, File, Outgoing, Webhook, try_out
from engine.monitor.monitor import ModelMonitor
from engine.monitor.reference import Reference
from engine.monitor.report import page


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verbs of `engine monitor` and their options."""
    verbs = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    report = verbs.add_parser(
        "report", help="write the page of two Parquet files, or of a service's state file"
    )
    _add_sources(report)
    report.add_argument("--out", default="report.html", metavar="FILE", help="default: report.html")
    report.add_argument("--fail", action="store_true", help="exit with status 1 where something has drifted")
    report.add_argument("--json", action="store_true", help="print the alerts as JSON")
    serve = verbs.add_parser("serve", help="serve the page, /metrics and /json, and keep them up to date")
    _add_sources(serve)
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on; default: this machine only")
    serve.add_argument(
        "--port", type=int, default=server.PORT, help=f"default: {server.PORT}; 0 for a free one"
    )

    verbs.add_parser("rules", help="print alert rules for Prometheus")
    verbs.add_parser("dashboard", help="print a dashboard for Grafana")
    tried = verbs.add_parser(
        "test-alert", help="send an alert that begins and ends at once, to see that it arrives"
    )
    where = tried.add_mutually_exclusive_group(required=True)
    where.add_argument("--webhook", metavar="URL")
    where.add_argument("--alertmanager", metavar="URL", help="http://127.0.0.1:9093 for example")
    where.add_argument("--file", metavar="FILE")
    tried.add_argument("--header", action="append", default=[], metavar="NAME: VALUE", help="may be repeated")
    tried.add_argument("--severity", choices=SEVERITIES, default="warning")
    tried.add_argument("--name", default="", help="of the model")


def _add_sources(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--reference", metavar="FILE", help="a Parquet file, or the JSON of Reference.to_json()"
    )
    parser.add_argument("--current", metavar="FILE", help="a Parquet file of later rows")
    parser.add_argument(
        "--state",
        action="append",
        default=[],
        metavar="[NAME=]FILE",
        help="a state file that ModelMonitor(state=…) writes; may be repeated",
    )
    parser.add_argument("--columns", type=_names, metavar="A,B", help="which columns; default: all")
    parser.add_argument(
        "--outputs", type=_names, default=(), metavar="A,B", help="columns that the model returned"
    )
    parser.add_argument("--categorical", type=_names, default=(), metavar="A,B", help="columns of codes")
    parser.add_argument(
        "--shuffled", action="store_true", help="the order of the reference's rows means nothing"
    )
    parser.add_argument("--name", default="", help="of the model")


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def main(chosen: argparse.Namespace) -> int:
    """Run the parsed command, and return its exit status. Raises MonitorError and OSError."""
    commands = {
        "report": _report,
        "serve": _serve,
        "test-alert": _test_alert,
        "rules": _print,
        "dashboard": _print,
    }
    return commands[chosen.command](chosen)


def _print(chosen: argparse.Namespace) -> int:
    name = {"rules": "rules.yml", "dashboard": "dashboard.json"}[chosen.command]
    print((resources.files("engine.monitor") / "prometheus" / name).read_text("utf-8"), end="")
    return 0


def _test_alert(chosen: argparse.Namespace) -> int:
    headers = {}
    for given in chosen.header:
        name, colon, value = given.partition(":")
        if not colon:
            raise MonitorError(f"--header: expected NAME: VALUE, got {given!r}")
        headers[name.strip()] = value.strip()
    handler: Outgoing
    if chosen.webhook:
        handler = Webhook(chosen.webhook, headers=headers, model=chosen.name)
    elif chosen.alertmanager:
        handler = Alertmanager(chosen.alertmanager, headers=headers, model=chosen.name)
    else:
        handler = File(chosen.file, model=chosen.name)
    try_out(handler, chosen.severity)
    print(f"sent the beginning and the end of a {chosen.severity} alert by {handler!r}")
    return 0


def _report(chosen: argparse.Namespace) -> int:
    monitors = _sources(chosen)()
    path = page.write([monitor.contents() for monitor in monitors], Path(chosen.out))
    alerts = [alert for monitor in monitors for alert in monitor.alerts]
    rows = sum(monitor.input_distribution.rows for monitor in monitors)
    if chosen.json:
        told = [{"severity": alert.severity, "message": alert.message} for alert in alerts]
        print(json.dumps({"report": str(path), "rows": rows, "alerts": told}))
    else:
        before = max((monitor.reference.rows for monitor in monitors if monitor.reference), default=0)
        print(f"{path}: {rows:,} rows against {before:,}, {len(alerts)} alerts")
        for alert in alerts:
            print(f"  {alert.severity}: {alert.message}")
    return 1 if chosen.fail and alerts else 0


def _serve(chosen: argparse.Namespace) -> int:
    with server.MonitorServer(_sources(chosen), chosen.host, chosen.port) as running:
        print(f"serving {running.url} (Ctrl-C ends it)", flush=True)
        while True:
            time.sleep(3600)


def _sources(chosen: argparse.Namespace) -> Callable[[], Sequence[ModelMonitor]]:
    """Return a function that returns the monitors to show, from the files as they are then."""
    if chosen.state and chosen.current:
        raise MonitorError("expected either --state or --current, got both")
    if chosen.state:
        reference = None if chosen.reference is None else _reference(chosen)
        states = [_State(given, chosen.name, reference) for given in chosen.state]
        return lambda: [state.monitor() for state in states]
    if chosen.reference is None or chosen.current is None:
        raise MonitorError("say --reference FILE and --current FILE, or --state FILE")
    with Progress("engine monitor report", "rows") as progress:
        made = compare(
            _reference(chosen) if chosen.reference.endswith(".json") else chosen.reference,
            chosen.current,
            columns=chosen.columns,
            outputs=chosen.outputs,
            categorical=chosen.categorical,
            ordered=not chosen.shuffled,
            name=chosen.name,
            progress=progress,
        )
    return lambda: [made]


def _reference(chosen: argparse.Namespace) -> Reference:
    if not chosen.reference.endswith(".json"):
        raise MonitorError(
            f"--reference {chosen.reference}: expected the JSON of Reference.to_json() beside --state"
        )
    return Reference.from_json(Path(chosen.reference).read_bytes())


class _State:
    """A state file of another process. It is copied before it is read, because a monitor writes to its own."""

    def __init__(self, given: str, name: str, reference: Reference | None) -> None:
        named, equals, path = given.rpartition("=")
        self._path = Path(path)
        self._name = named if equals else name or self._path.stem
        self._reference = reference
        self._seen = 0
        self._monitor: ModelMonitor | None = None

    def monitor(self) -> ModelMonitor:
        """Return a monitor that knows what the file says. Raises OSError where there is none."""
        changed = self._path.stat().st_mtime_ns
        if self._monitor is None or changed != self._seen:
            with tempfile.TemporaryDirectory(prefix="engine-monitor-") as folder:
                copied = Path(folder) / "state"
                copyfile(self._path, copied)
                self._monitor = ModelMonitor(
                    self._reference, handlers=[], background=False, name=self._name, state=copied
                )
                if not copied.exists():
                    raise MonitorError(f"{self._path}: not the state of a monitor; the log says why")
                self._monitor.close()
            self._seen = changed
        return self._monitor
