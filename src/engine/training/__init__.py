"""From a dataset config to a registered version: reproducible, resumable, and apart from serving, which never imports
it."""

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
