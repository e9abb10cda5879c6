"""Training: from a dataset config to a registered version, reproducible and resumable. Serving never imports it."""

from engine.training.learners import Fitted, Learner, LightGBM, XGBoost
from engine.training.pipeline import TrainingPipeline, TrainingRun
from engine.training.signals import TrainingInterrupted

__all__ = [
    "Fitted",
    "Learner",
    "LightGBM",
    "TrainingInterrupted",
    "TrainingPipeline",
    "TrainingRun",
    "XGBoost",
]
