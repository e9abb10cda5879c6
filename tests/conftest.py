"""What every test shares: the repository's root on the path, for the benchmarks that the suite runs at smoke size, and
a seed for random tests, which a run prints and takes back from ENGINE_SEED."""

import ast
import gc
import os
import sys
from pathlib import Path
from typing import Any

# Before any library starts its threads, in this process and in children: OpenMP's threads spin while they wait for each
# other, and beside other work a training of half a second then takes minutes.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import hypothesis
import pytest

# How fast examples are made is the machine's business: the first text of a process builds tables for seconds.
hypothesis.settings.register_profile(
    "engine", suppress_health_check=[hypothesis.HealthCheck.too_slow], deadline=None
)
hypothesis.settings.load_profile("engine")

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
# Programs that `make servers` put beside the interpreter, redis-server above all.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])

_parse = ast.parse


def _parse_undisturbed(*args: Any, **options: Any) -> Any:
    """`ast.parse` without garbage collection: a finaliser that parses too, for a traceback, would make CPython 3.11
    raise SystemError (python/cpython#106905)."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        return _parse(*args, **options)
    finally:
        if enabled:
            gc.enable()


ast.parse = _parse_undisturbed

from tests.browsers import browser  # noqa: E402, F401  (fixture)
from tests.servers import redis_server, redis_url  # noqa: E402, F401  (fixtures)


def _seed() -> int:
    given = os.environ.get("ENGINE_SEED")
    return int(given) if given else int.from_bytes(os.urandom(4), "little")


SEED = _seed()


def pytest_report_header() -> str:
    return f"seed {SEED}: replay with ENGINE_SEED={SEED}"


@pytest.fixture
def seed() -> int:
    """The seed of this session's random tests; a failing run names it in its first lines."""
    return SEED


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT
