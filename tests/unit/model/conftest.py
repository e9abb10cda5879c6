import pathlib
from collections.abc import Callable

import pytest

from engine.model import Model, load_model


@pytest.fixture
def load(tmp_path: pathlib.Path) -> Callable[..., Model]:
    """Write bytes to a file with a neutral suffix, and load it."""

    def load_bytes(content: bytes) -> Model:
        path = tmp_path / "model.bin"
        path.write_bytes(content)
        return load_model(path)

    return load_bytes
