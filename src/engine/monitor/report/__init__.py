"""The report of a monitor: a summary in plain values, and an HTML page with pictures."""

from engine.monitor.report.page import Contents, collect, write

__all__ = ["Contents", "collect", "write"]
