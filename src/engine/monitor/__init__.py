"""What a model is given, what it answers, and what becomes of it: drift, budgets, outcomes, metrics and a report."""

from engine.monitor.alerts import Alert
from engine.monitor.monitor import ModelMonitor
from engine.monitor.reference import Reference

__all__ = ["Alert", "ModelMonitor", "Reference"]
