"""Module paths of version 0.1 that have another name now. Each keeps working for one release, with a warning."""

from __future__ import annotations

import pkgutil
import sys
import types
import warnings
from importlib import import_module
from typing import Any


def keep(old: str, *rooms: str, former: dict[str, str] | None = None) -> None:
    """Make the modules of `rooms` importable below `old`, and warn. Called by the body of the package `old`.

    Private modules are left out, and so are modules that `old` has as files of its own.

    Args:
        old: a package's former path, "engine.service" for example.
        rooms: the packages that its modules are in now.
        former: former name -> present path of modules whose name has changed too.
    """
    package: Any = sys.modules[old]
    own = {module.name for module in pkgutil.iter_modules(package.__path__)}
    modules = dict(former or {})
    for room in rooms:
        for module in pkgutil.iter_modules(import_module(room).__path__):
            modules.setdefault(module.name, f"{room}.{module.name}")
    for name, path in modules.items():
        if name not in own and not name.startswith("_"):
            module_now = sys.modules[f"{old}.{name}"] = import_module(path)
            if not hasattr(package, name):  # a public name of the package goes before a module
                setattr(package, name, module_now)
    # Level 3 is the statement that imports the old path: past this function and the body of `old`.
    warnings.warn(
        f"{old} has another name since version 0.2 and goes away in 0.3: import {', '.join(sorted(rooms))}",
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
