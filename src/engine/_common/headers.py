"""The place of the C headers that a scorer, a feature program or a monitor of one's own is compiled against."""

from __future__ import annotations

from pathlib import Path


def get_include() -> str:
    """Return the folder to give to a C compiler (`-I`) for `#include <engine/scorer.h>`.

    The headers are `engine/scorer.h`, `engine/features.h` and `engine/observer.h`: plain C, with nothing to link.

    Returns:
        The absolute path of a folder, as text.

    >>> import engine, os
    >>> os.path.exists(os.path.join(engine.get_include(), "engine", "scorer.h"))
    True
    """
    package = Path(__file__).resolve().parents[1]
    installed = package / "include"
    # In a checkout, and in an editable install of one, they stay where they are written.
    return str(installed if installed.is_dir() else package.parents[1] / "csrc" / "include")
