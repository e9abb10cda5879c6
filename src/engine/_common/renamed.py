"""Module paths of version 0.1 that have another name now. Each keeps working for one release, with a warning."""

from __future__ import annotations

import pkgutil
import sys
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
