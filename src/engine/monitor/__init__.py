"""Drift, budgets, outcomes, metrics and a report of the rows a model is given and the answers it gives."""

from engine._common.renamed import forward
from engine.monitor.alerts import Alert, Incident
from engine.monitor.files import compare
from engine.monitor.monitor import ModelMonitor
from engine.monitor.reference import Reference
from engine.monitor.server import MonitorServer, serve

__all__ = ["Alert", "Incident", "ModelMonitor", "MonitorServer", "Reference", "compare", "serve"]

forward(
    "engine.monitor",
    {
        "distribution": "engine.monitor.drift.distribution",
        "pictures": "engine.monitor.report.pictures",
        "summary": "engine.monitor.report.summary",
    },
)
