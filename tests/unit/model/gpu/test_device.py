"""On a real GPU: run with -m gpu. Skipped, with the reason, where there is none."""

import numpy as np
import pytest
from tests.unit.model.handmade_models import lightgbm_text, stump

from engine.errors import ConfigError, MissingDependencyError
from engine.model import dense, load_model
from engine.model.gpu import devices, from_cupy, place

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]


@pytest.fixture(scope="module", autouse=True)
def gpu():
    try:
        found = devices.gpu(0)
        if found.name == "fake":
            pytest.skip("the driver that is loaded is the fake one")
        return found
    except (MissingDependencyError, ConfigError) as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("output", ["identity", "relu", "tanh", "logistic", "exponential", "softmax"])
@pytest.mark.parametrize("n", [1, 7, 64, 1000])
def test_nets_have_the_bits_of_the_cpu(dtype, output, n):
    random = np.random.default_rng(n)
    shapes = [(37, 90), (90, 33), (33, 5)]
    weights = [random.normal(size=shape, scale=0.2).astype(dtype) for shape in shapes]
    cpu = dense(
        weights, [random.normal(size=k).astype(dtype) for _, k in shapes], activation="tanh", output=output
    )
    rows = random.normal(size=(n, 37))
    assert place(cpu, "gpu:0", rows_max=256).predict(rows).tobytes() == cpu.predict(rows).tobytes()


@pytest.mark.parametrize("n", [1, 7, 64, 1000])
def test_forests_have_the_bits_of_the_cpu(n, tmp_path):
    random = np.random.default_rng(n)
    trees = [
        stump(f"{random.normal():.3f}", 10, feature=int(random.integers(0, 9)), leaf="0.25 -0.5")
        for _ in range(200)
    ]
    path = tmp_path / "model.txt"
    path.write_bytes(lightgbm_text(trees, n_features=9, objective="binary sigmoid:1"))
    cpu = load_model(path)
    rows = random.normal(size=(n, 9))
    rows[random.random(rows.shape) < 0.1] = np.nan
    assert place(cpu, "gpu:0", rows_max=256).predict(rows).tobytes() == cpu.predict(rows).tobytes()


def test_cupy_code_is_captured():
    cupy = pytest.importorskip("cupy", reason="cupy is not installed")
    weights = cupy.arange(6, dtype=cupy.float32).reshape(3, 2)
    model = from_cupy(lambda x: cupy.maximum(x @ weights, 0), n_features=3, n_outputs=2, rows_max=8)
    # [1, 1, 1] @ [[0, 1], [2, 3], [4, 5]]
    assert model.predict(np.ones((2, 3), np.float32)).tolist() == [[6.0, 9.0], [6.0, 9.0]]
    assert model.predict(-np.ones((1, 3), np.float32)).tolist() == [[0.0, 0.0]]
