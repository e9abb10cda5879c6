"""A driver without a GPU: csrc/tests/gpu/fake, which runs the package's kernels on the CPU."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from engine.model.gpu import devices, kernels

ROOT = Path(__file__).resolve().parents[4]
LIBRARY = ROOT / "build" / "csrc" / "test" / "tests" / "gpu" / "serving" / "libcuda.so.1"
IMAGE = b"fake\0"  # the fake driver's own module


class FakeDriver:
    """The control side of the fake driver; csrc/tests/gpu/fake/fake_driver.hpp says what each does."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL(str(LIBRARY))
        self.library.fake_driver_get.restype = ctypes.c_longlong
        self.library.fake_driver_complaint.restype = ctypes.c_char_p

    def set(self, key: str, value: int) -> None:
        self.library.fake_driver_set(key.encode(), ctypes.c_longlong(value))

    def get(self, key: str) -> int:
        return int(self.library.fake_driver_get(key.encode()))

    def fail(self, function: str, code: int, times: int) -> None:
        self.library.fake_driver_fail(function.encode(), code, times)

    def reset(self) -> None:
        self.library.fake_driver_reset()


@pytest.fixture(scope="session")
def library() -> Path:
    if shutil.which("make") is None or shutil.which("g++") is None:
        pytest.skip("make and g++ build the fake driver")
    subprocess.run(["make", "-s", "-C", str(ROOT / "csrc"), "fake_driver"], check=True, capture_output=True)
    return LIBRARY


@pytest.fixture
def fake(library, monkeypatch, tmp_path):
    """The fake driver, just started, and no GPU opened yet."""
    monkeypatch.setenv("ENGINE_CUDA_DRIVER", str(library))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(devices, "_opened", {})
    monkeypatch.setattr(kernels, "compiled", lambda texts, capability: IMAGE)
    driver = FakeDriver()
    driver.reset()
    yield driver
    complaint = driver.library.fake_driver_complaint()
    driver.reset()
    assert complaint is None, complaint
