"""`engine monitor`: rows compared with reference rows, without an engine that serves."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.errors import MonitorError

BATCH_ROWS = 10_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verbs and options of `engine monitor`."""
    verbs = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    report = verbs.add_parser("report", help="write a page about the drift between two tables")
    report.add_argument(
        "--reference", type=Path, required=True, metavar="A.parquet", help="the rows to compare with"
    )
    report.add_argument("--current", type=Path, required=True, metavar="B.parquet", help="the rows to judge")
    report.add_argument(
        "--out", type=Path, default=Path("report.html"), metavar="FILE", help="default: report.html"
    )
    report.add_argument(
        "--columns", default="", metavar="A,B", help="columns to compare; default: numbers, booleans and text"
    )
    report.add_argument("--outputs", default="", metavar="A,B", help="columns that are answers of a model")
    report.add_argument("--categorical", default="", metavar="A,B", help="columns whose numbers are codes")
    report.add_argument("--fail", action="store_true", help="exit with status 1 where something has drifted")
    report.add_argument("--json", action="store_true", help="print the alerts as JSON")


def main(chosen: argparse.Namespace) -> int:
    """Run the parsed command: write the page and print the alerts. Return 1 with --fail and an alert. Raises
    MonitorError."""
    from engine._common.progress import Progress
    from engine.monitor import ModelMonitor, Reference

    before, now = _table(chosen.reference), _table(chosen.current)
    outputs = _names(chosen.outputs)
    columns = _names(chosen.columns) or [name for name in _columns(before) if name not in outputs]
    for path, table in ((chosen.reference, before), (chosen.current, now)):
        missing = [name for name in (*columns, *outputs) if name not in table.column_names]
        if missing:
            raise MonitorError(
                f"{path}: no column {missing[0]!r}; it has: {', '.join(table.column_names[:30])}"
            )
    reference = Reference.fit(
        before.select(columns),
        columns,
        outputs={name: before[name].to_numpy() for name in outputs} or None,
        categorical=_names(chosen.categorical),
    )
    monitor = ModelMonitor(reference, handlers=[], background=False)
    with Progress("engine monitor report", "rows") as progress:
        done = 0
        for batch in now.select([*columns, *outputs]).to_batches(max_chunksize=BATCH_ROWS):
            for row in batch.to_pylist():
                monitor.log_prediction(row, [row[name] for name in outputs], 0.0)
            done += batch.num_rows
            progress(done, now.num_rows)
    monitor.close()
    alerts = monitor.alerts
    target = monitor.report(chosen.out)
    if chosen.json:
        body = {"report": str(target), "rows": now.num_rows, "alerts": [_plain(alert) for alert in alerts]}
        print(json.dumps(body))
    else:
        print(f"{target}: {now.num_rows:,} rows against {before.num_rows:,}, {len(alerts)} alerts")
        for alert in alerts:
            print(f"  {alert.severity}: {alert.message}")
    return 1 if chosen.fail and alerts else 0


def _plain(alert: Any) -> dict[str, Any]:
    return {"severity": alert.severity, "message": alert.message}


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _table(path: Path) -> Any:
    from engine._common import optional

    pq = optional.need("pyarrow.parquet", "engine monitor report", "store")
    try:
        return pq.read_table(path)
    except (OSError, ValueError) as error:
        raise MonitorError(f"{path}: cannot be read as Parquet: {error}") from None


def _columns(table: Any) -> Sequence[str]:
    """The columns that can be compared: numbers, booleans and text, without a pandas index."""
    import pyarrow as pa

    found = []
    for field in table.schema:
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
        text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        if (number or text) and not field.name.startswith("__index_level_"):
            found.append(field.name)
    return found
