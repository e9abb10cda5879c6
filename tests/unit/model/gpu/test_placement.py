"""Models on a GPU that is not there: the driver is a fake that runs the same kernels on the CPU."""

import numpy as np
import pytest
from tests.unit.model.handmade_models import lightgbm_text, stump

import engine
from engine.errors import ConfigError, MissingDependencyError, ResourceError, UnsupportedModelError
from engine.model import dense, load_model
from engine.model.gpu import GpuModel, devices, place, placement
from engine.model.gpu._gpu import Gpu

ROWS = np.array([[0.5, 1.0, -2.0], [3.0, np.nan, 0.25], [0.0, -0.0, 1e9]], np.float32)


def net(output="identity", dtype=np.float32):
    weights = [np.array([[1, -1], [0.5, 2], [0, 1]], dtype), np.array([[2], [-3]], dtype)]
    return dense(weights, [np.array([0.5, 0], dtype), np.array([1], dtype)], output=output)


def test_the_answers_on_the_gpu_are_those_worked_out_by_hand(fake):
    model = place(net(), "gpu:0", rows_max=4)
    # relu(0.5 + 0.5 + 0.5) = 1.5 and relu(-0.5 + 2 - 2) = 0: 2 * 1.5 + 1
    assert model.predict([[0.5, 1.0, -2.0]]).tolist() == [4.0]
    assert model.describe()["device_batches"] == 1
    assert model.describe()["device"] == "gpu:0"


@pytest.mark.parametrize("output", ["identity", "tanh", "logistic", "exponential", "softmax"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_net_has_the_same_bits_on_both(fake, output, dtype):
    cpu = net(output, dtype)
    gpu = place(cpu, "gpu:0", rows_max=2)  # three rows go in two batches
    rows = np.nan_to_num(ROWS)
    assert gpu.predict(rows).tobytes() == cpu.predict(rows).tobytes()
    assert gpu.predict(rows.astype(np.float64)).tobytes() == cpu.predict(rows.astype(np.float64)).tobytes()


def test_a_forest_has_the_same_bits_on_both(fake, tmp_path):
    path = tmp_path / "model.txt"
    path.write_bytes(lightgbm_text([stump("0.5", 2), stump("-0.5", 10, feature=1, leaf="1 2")]))
    cpu = load_model(path)
    gpu = load_model(path, device="gpu:0")
    assert isinstance(gpu, GpuModel)
    assert gpu.digest == cpu.digest
    rows = np.random.default_rng(1).standard_normal((40, cpu.n_features))
    rows[::7, 0] = np.nan
    assert gpu.predict(rows).tobytes() == cpu.predict(rows).tobytes()
    assert gpu.describe()["trees"] == cpu.describe()["trees"]


def test_an_engine_serves_from_the_gpu(fake):
    cpu = net()
    with engine.Engine(
        primary=place(cpu, "gpu:0", rows_max=4), fallback=cpu, default=0.0, deadline_ms=2000
    ) as eng:
        answer = eng.predict([0.5, 1.0, -2.0])
        assert (answer.value, answer.source) == (4.0, "primary")


def test_the_cpu_answers_for_a_device_that_is_lost(fake):
    model = place(net(), "gpu:0", rows_max=4)
    fake.set("sticky_code", 700)
    fake.set("sticky_after", 0)
    assert model.predict([[0.5, 1.0, -2.0]]).tolist() == [4.0]
    facts = model.describe()
    assert facts["device_lost"]
    assert facts["device_rescued"] == 1
    assert model.predict([[0.5, 1.0, -2.0]]).tolist() == [4.0]


def test_break_even_is_the_first_size_from_which_on_the_gpu_is_sooner():
    assert placement.break_even({1: (1.0, 9.0), 2: (2.0, 9.0), 4: (10.0, 9.0), 8: (20.0, 9.0)}) == 4
    assert placement.break_even({1: (10.0, 9.0), 2: (2.0, 9.0), 4: (10.0, 9.0)}) == 4
    assert placement.break_even({1: (10.0, 9.0), 2: (12.0, 9.0)}) == 1
    assert placement.break_even({1: (1.0, 9.0), 2: (2.0, 9.0)}) is None


def test_auto_keeps_what_the_cpu_answers_sooner(fake):
    fake.set("kernel_ns", 300_000)
    cpu = net()
    model = place(cpu, "auto", rows_max=2)
    assert model is cpu
    assert model.describe()["device_reason"] == "the CPU is sooner for batches of up to 2 rows"


def test_auto_sends_each_batch_where_it_is_sooner(fake, monkeypatch):
    times = {1: (1.0, 9.0), 2: (9.0, 5.0), 4: (18.0, 5.0)}
    monkeypatch.setattr(placement, "measure", lambda model, placed, rows_max: times)
    model = place(net(), "auto", rows_max=4)
    assert model.describe()["break_even_rows"] == 2
    assert model.describe()["placement_us"] == times
    before = model.describe()["device_batches"]
    assert model.predict(np.zeros((1, 3), np.float32)).tolist() == [2.0]
    assert model.describe()["device_batches"] == before
    assert model.predict(np.zeros((2, 3), np.float32)).tolist() == [2.0, 2.0]
    assert model.describe()["device_batches"] == before + 1


def test_measure_times_both_for_each_size(fake):
    cpu = net()
    times = placement.measure(cpu, place(cpu, "gpu:0", rows_max=6), 6)
    assert list(times) == [1, 2, 4, 6]
    assert all(cpu_us > 0 and gpu_us > 0 for cpu_us, gpu_us in times.values())


def test_auto_without_a_driver_is_the_cpu(monkeypatch):
    monkeypatch.setenv("ENGINE_CUDA_DRIVER", "libcuda-of-nobody.so.1")
    monkeypatch.setattr(devices, "_opened", {})
    cpu = net()
    assert load_model(cpu, device="auto") is cpu
    assert "no CUDA driver" in cpu.describe()["device_reason"]
    with pytest.raises(
        MissingDependencyError, match="a GPU needs NVIDIA's driver: no CUDA driver: libcuda-of-nobody"
    ):
        load_model(cpu, device="gpu:0")
    assert load_model(cpu, device="cpu") is cpu


@pytest.mark.parametrize("device", ["gpu", "gpu:", "gpu:x", "cuda:0", "", "gpu:-1"])
def test_other_devices_are_refused(device):
    with pytest.raises(
        ConfigError, match="device: expected 'auto', 'cpu' or 'gpu:0' with the GPU's number, got"
    ):
        place(net(), device)


def test_a_gpu_that_is_not_there_is_refused(fake):
    with pytest.raises(ConfigError, match="device='gpu:3': there is no GPU 3: the driver shows 1"):
        place(net(), "gpu:3")
    fake.set("devices", 0)
    with pytest.raises(MissingDependencyError, match="CUDA_ERROR_NO_DEVICE"):
        place(net(), "gpu:1")


def test_a_model_of_python_is_refused(fake):
    model = load_model(lambda rows: rows[:, 0], n_features=3)
    with pytest.raises(UnsupportedModelError, match=r"a GPU takes forests and dense nets .* format 'python'"):
        place(model, "gpu:0")
    assert place(model, "auto") is model


def test_a_model_that_would_starve_others_is_refused(fake):
    before = fake.get("in_use_bytes")  # what a lost device held stays with it
    fake.set("memory_bytes", 200 << 20)
    with pytest.raises(
        ResourceError, match="the net needs 1 MiB of GPU 0, where 200 MiB are free, of which 256 MiB stay"
    ):
        place(net(), "gpu:0")
    assert fake.get("in_use_bytes") == before
    fake.reset()
    devices.gpu(0).set_budget(100)
    with pytest.raises(
        ResourceError, match="the net needs 1 MiB of GPU 0, and models hold 0 MiB of their budget of 1 MiB"
    ):
        place(net(), "gpu:0")


def test_memory_is_given_back(fake):
    before = fake.get("in_use_bytes")
    model = place(net(), "gpu:0", rows_max=4)
    gpu = devices.gpu(0)
    assert model.describe()["device_bytes"] == gpu.claimed_bytes > 0
    del model
    assert gpu.claimed_bytes == 0
    assert fake.get("in_use_bytes") == before


def test_a_call_that_fails_while_loading_is_named(fake):
    fake.fail("cuGraphInstantiate", 2, 1)
    with pytest.raises(ResourceError, match="instantiating the graph for 1 rows: CUDA_ERROR_OUT_OF_MEMORY"):
        place(net(), "gpu:0")
    assert devices.gpu(0).claimed_bytes == 0


def test_facts_of_a_gpu(fake):
    gpu = Gpu(0, devices.driver())
    assert (gpu.ordinal, gpu.name, gpu.capability, gpu.lost, gpu.loaded) == (0, "fake", 90, False, False)
    assert gpu.free_bytes > 0
    with pytest.raises(ConfigError, match=r"GPU 0 \(fake\): loading the kernels: CUDA_ERROR"):
        gpu.load(b"no cubin")
