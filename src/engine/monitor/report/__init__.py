"""The report of monitors: a summary in plain values, and an HTML page with pictures."""

from engine.monitor.report.page import Contents, collect, document, frame, write

__all__ = ["Contents", "collect", "document", "frame", "write"]
