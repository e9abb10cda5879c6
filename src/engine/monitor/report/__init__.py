"""What a monitor knows, for people: the summary in plain values, and the HTML page with its pictures."""

from engine.monitor.report.page import Contents, collect, write

__all__ = ["Contents", "collect", "write"]
