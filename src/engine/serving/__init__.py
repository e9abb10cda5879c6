"""Serving: the Engine and its answers. Knows models as scorers and features as one small protocol, nothing more."""

from engine.core._answer import Answer, Answers
from engine.serving.engine import Engine

__all__ = ["Answer", "Answers", "Engine"]
