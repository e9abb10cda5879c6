"""Model formats in, scorers out."""

from engine.model.dense import dense
from engine.model.facts import Facts, inspect
from engine.model.isolation import probe
from engine.model.load import load_model
from engine.model.model import Model

__all__ = ["Facts", "Model", "dense", "inspect", "load_model", "probe"]
