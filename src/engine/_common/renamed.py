"""Module paths of version 0.1 that have another name now. Each keeps working for one release, with a warning."""

from __future__ import annotations

import sys
import types
import warnings
from importlib import import_module
from typing import Any


def keep(old: str, modules: dict[str, str]) -> None:
    """Makes `old` and its former modules importable.

    Args:
        old: the package's former path, as "engine.service".
        modules: former name of each module in it -> its present path; "" for the package itself.
    """
    for name, new in modules.items():
        module = import_module(new)
        if name:
            sys.modules[f"{old}.{name}"] = module
            setattr(sys.modules[old], name, module)
    now = ", ".join(sorted({new.rpartition(".")[0] if name else new for name, new in modules.items()}))
    # The level: past this function, the package's own body and the import machinery, to whoever imports the old path.
    warnings.warn(
        f"{old} has another name since version 0.2 and goes away in 0.3: import {now}",
        DeprecationWarning,
        stacklevel=3,
    )


def forward(package: str, modules: dict[str, str]) -> None:
    """Make former modules of a package importable, where the package itself keeps its name.

    A former module imports the present one, and warns, when a name is taken from it.

    Args:
        package: the package's path, "engine.feature_store" for example.
        modules: former name of each module in it -> present path.
    """
    for name, new in modules.items():
        former = _Former(f"{package}.{name}")
        former.__dict__["_new"] = new
        sys.modules[former.__name__] = former
        setattr(sys.modules[package], name, former)


class _Former(types.ModuleType):
    """A module under its former path."""

    _new: str

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            # The import machinery looks these up; that is no use of the former path.
            raise AttributeError(name)
        warnings.warn(
            f"{self.__name__} has another name since version 0.2 and goes away in 0.3: import {self._new}",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(import_module(self._new), name)
