"""Feature programs: raw inputs to float32 features, defined once, the same bits offline and online."""

from engine.transform.program import FeatureProgram
from engine.transform.spec import Feature, category, cross, difference, number, product, ratio

__all__ = ["Feature", "FeatureProgram", "category", "cross", "difference", "number", "product", "ratio"]
