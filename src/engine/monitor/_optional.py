"""The libraries that only a monitor needs, brought in where they are used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from engine.errors import MissingDependencyError


def need(module: str, what: str) -> Any:
    """The module, or MissingDependencyError naming the extra that brings it."""
    try:
        return import_module(module)
    except ImportError as error:
        package = module.split(".")[0].replace("_", "-")
        raise MissingDependencyError(
            f"{what} needs {package}: pip install 'deadline-engine[monitor]'"
        ) from error
