"""Serving: the Engine and its answers. It knows models as scorers, features and monitors by small protocols."""

from engine.serving._answers import Answer, Answers
from engine.serving._executors import remaining_ms
from engine.serving.engine import NOTHING, Engine
from engine.serving.executors import Executors

__all__ = ["NOTHING", "Answer", "Answers", "Engine", "Executors", "remaining_ms"]
