"""Rules of the simulations: nightly sizes run on demand, and a seed repeats every run."""

import os

import pytest
from tests.sim.seed import SEED


def pytest_report_header(config: pytest.Config) -> str:
    return f"simulation seed: ENGINE_SEED={SEED}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.environ.get("ENGINE_NIGHTLY") == "1" or "nightly" in (config.getoption("-m") or ""):
        return
    skip = pytest.mark.skip(reason="nightly size: run with -m nightly or ENGINE_NIGHTLY=1")
    for item in items:
        if item.get_closest_marker("nightly"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def simulation_seed() -> int:
    """The seed of this run, printed so that a failure shows it: ENGINE_SEED=<seed> repeats the run."""
    return SEED


@pytest.fixture(autouse=True)
def _print_seed() -> None:
    print(f"ENGINE_SEED={SEED}")
