import pathlib
from collections.abc import Callable

import pytest

from engine.model import Model, load_model


@pytest.fixture
def load(tmp_path: pathlib.Path) -> Callable[..., Model]:
    """Writes bytes to a file whose suffix says nothing and loads it."""

    def load_bytes(content: bytes) -> Model:
        path = tmp_path / "model.bin"
        path.write_bytes(content)
        return load_model(path)

    return load_bytes
