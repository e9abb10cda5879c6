"""Engine: every prediction answered before its deadline, inside your own process."""

from engine.core._answer import Answer, Answers
from engine.errors import EngineError
from engine.model import Model, inspect, load_model
from engine.planning.simulate import simulate
from engine.serving import Engine
from engine.transform import FeatureProgram

__all__ = [
    "Answer",
    "Answers",
    "Engine",
    "EngineError",
    "FeatureProgram",
    "Model",
    "inspect",
    "load_model",
    "simulate",
]
