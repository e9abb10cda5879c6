"""Module paths of version 0.1 that have another name now. Each keeps working for one release, with a warning."""

from __future__ import annotations

import sys
import warnings
from importlib import import_module


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
