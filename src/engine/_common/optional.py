"""Libraries that only some users have: imported where they are used, with an error that says how to get them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from engine.errors import MissingDependencyError


def need(module: str, purpose: str, extra: str | None = None) -> Any:
    """The module named `module`.

    Args:
        module: dotted path; its first part names the package.
        purpose: the subject of the error, as in "the offline store".
        extra: the extra of this package that brings it; None where none does.

    Raises:
        MissingDependencyError: it is not installed, or cannot be imported here.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise missing(module, purpose, extra) from error


def missing(module: str, purpose: str, extra: str | None = None) -> MissingDependencyError:
    """The error for a library that is not there; arguments as in `need`."""
    package = _PACKAGES.get(module.split(".")[0], module.split(".")[0].replace("_", "-"))
    wanted = f"'deadline-engine[{extra}]'" if extra else package
    return MissingDependencyError(f"{purpose} needs {package}: pip install {wanted}")


# Packages that are installed by another name than they are imported by.
_PACKAGES = {"sklearn": "scikit-learn", "yaml": "PyYAML", "prometheus_client": "prometheus-client"}
