"""Parts that the micro-benchmarks share."""

import numpy as np
import pytest
from benchmarks import models

import engine

FIELDS = 30


@pytest.fixture(scope="session")
def names():
    return [f"f{index}" for index in range(FIELDS)]


@pytest.fixture(scope="session")
def row():
    return np.random.default_rng(5).normal(size=FIELDS).astype(np.float32)


@pytest.fixture(scope="session")
def record(names, row):
    return dict(zip(names, row.tolist(), strict=True))


@pytest.fixture(scope="session")
def program(names):
    return models.pass_through(names)


@pytest.fixture(scope="session")
def linear():
    return models.linear(FIELDS)


@pytest.fixture(scope="session")
def inline(linear):
    with engine.Engine(linear, default=0.0, lane="inline", deadline_ms=1_000) as served:
        yield served
