"""Model formats in, scorers out."""

from engine.model.dense import dense
from engine.model.load import load_model
from engine.model.model import Model

__all__ = ["Model", "dense", "load_model"]
