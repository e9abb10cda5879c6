"""Engine: every prediction answered before its deadline, inside your own process."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# First, because a binding says in words that it refuses a second interpreter; NumPy fails there in its own way.
from engine.serving._answers import Answer, Answers  # isort: split

from engine.errors import EngineError
from engine.model import Model, inspect, load_model
from engine.serving import NOTHING, Engine, Executors, remaining_ms

if TYPE_CHECKING:
    from engine._common.headers import get_include
    from engine.feature_store import FeatureStore
    from engine.monitor import ModelMonitor
    from engine.registry import ModelRegistry
    from engine.rollout import open
    from engine.simulation.simulate import simulate
    from engine.training import TrainingPipeline
    from engine.transform import FeatureProgram

__all__ = [
    "NOTHING",
    "Answer",
    "Answers",
    "Engine",
    "EngineError",
    "Executors",
    "FeatureProgram",
    "FeatureStore",
    "Model",
    "ModelMonitor",
    "ModelRegistry",
    "TrainingPipeline",
    "get_include",
    "inspect",
    "load_model",
    "open",
    "remaining_ms",
    "simulate",
]

# Imported at first use, so that a service that only serves does not wait 30 ms for them at its start.
_LATER = {
    "FeatureProgram": "engine.transform",
    "FeatureStore": "engine.feature_store",
    "ModelMonitor": "engine.monitor",
    "ModelRegistry": "engine.registry",
    "TrainingPipeline": "engine.training",
    "get_include": "engine._common.headers",
    "open": "engine.rollout",
    "simulate": "engine.simulation.simulate",
}


def __getattr__(name: str) -> Any:
    if name == "transform":
        return import_module("engine.transform")
    if name not in _LATER:
        raise AttributeError(f"module 'engine' has no attribute {name!r}")
    value = getattr(import_module(_LATER[name]), name)
    globals()[name] = value
    return value
