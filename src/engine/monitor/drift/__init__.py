"""Drift and overspent budgets: bins and their scores, sequential charts, tests of windows, and one alert for each change."""

from engine.monitor.drift.detector import DriftDetector, Episode

__all__ = ["DriftDetector", "Episode"]
