"""Feature programs: raw inputs to float32 features, defined once, the same bits offline and online.

The module is itself the decorator for functions of the user's own: `@engine.transform` is `@t.function`.
"""

import sys
import types
from typing import Any

from engine.transform.functions import UserFunction, function
from engine.transform.pipelines import pipeline_program
from engine.transform.program import FeatureProgram
from engine.transform.sources import (
    category,
    cross,
    difference,
    geo_distance,
    number,
    product,
    ratio,
    timestamp,
    vector,
)
from engine.transform.spec import Feature
from engine.transform.spec_file import load_spec

__all__ = [
    "Feature",
    "FeatureProgram",
    "UserFunction",
    "category",
    "cross",
    "difference",
    "function",
    "geo_distance",
    "load_spec",
    "number",
    "pipeline_program",
    "product",
    "ratio",
    "timestamp",
    "vector",
]


class _CallableModule(types.ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return function(*arguments, **options)


# Python lets a module choose its class (Data model, "Customizing module attribute access").
sys.modules[__name__].__class__ = _CallableModule
