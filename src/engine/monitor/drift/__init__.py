"""Drift and overspent budgets: bins and scores, sequential charts, tests of windows, one alert for each change."""

from engine.monitor.drift.detector import DriftDetector, Episode

__all__ = ["DriftDetector", "Episode"]
