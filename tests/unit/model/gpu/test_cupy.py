"""Bodies of somebody else's on a stream, on the fake driver; CuPy's own part is checked by its names."""

import ctypes

import numpy as np
import pytest

import engine
from engine.errors import ConfigError, MissingDependencyError, ResourceError
from engine.model.gpu import devices, from_body, from_cupy
from engine.model.gpu._gpu import DeviceBuffer


class Publishing:
    """A body of one kernel: the bits of the first row's second feature become the lower half of the first answer."""

    def __init__(self, library):
        self.library, self.calls = library, []

    def __call__(self, stream, rows, answers, n):
        self.calls.append(n)
        kernel = ctypes.c_void_p()
        module = ctypes.c_void_p()
        assert self.library.cuModuleLoadData(ctypes.byref(module), b"fake\0") == 0
        assert self.library.cuModuleGetFunction(ctypes.byref(kernel), module, b"publish") == 0
        # publish(control, token) writes the control's second word: here the rows are the control.
        control, token = ctypes.c_uint64(rows), ctypes.c_uint64(answers)
        parameters = (ctypes.c_void_p * 2)(*(ctypes.addressof(each) for each in (control, token)))
        status = self.library.cuLaunchKernel(
            kernel, 1, 1, 1, 1, 1, 1, 0, ctypes.c_void_p(stream), parameters, None
        )
        assert status == 0


def test_a_body_is_captured_once_and_replayed(fake):
    body = Publishing(fake.library)
    model = from_body(body, n_features=2, rows_max=2, lanes=2)
    # For 1 and 2 rows, on two lanes: once to warm up, and once while the stream captures.
    assert body.calls == [1, 1, 2, 2] * 2
    before = model.predict(np.array([[0.0, 1.5]], np.float32)).view(np.uint64)[0]
    assert before & 0xFFFFFFFF == np.float32(1.5).view(np.uint32)
    assert len(body.calls) == 8
    assert (model.format, model.native, model.n_features, model.n_outputs) == ("cuda", False, 2, 1)


def test_answers_in_float32_are_widened(fake):
    gpu = devices.gpu(0)
    model = from_body(
        lambda stream, rows, answers, n: gpu.widen(stream, rows, answers, n), n_features=1, rows_max=4
    )
    assert model.predict(np.array([[1.5], [-2.0], [0.1]], np.float32)).tolist() == [
        1.5,
        -2.0,
        float(np.float32(0.1)),
    ]


def test_memory_of_a_body_is_claimed_and_given_back(fake):
    gpu, before = devices.gpu(0), fake.get("in_use_bytes")
    buffer = DeviceBuffer(gpu, 1000, "a body")
    assert buffer.address != 0
    assert (gpu.claimed_bytes, fake.get("in_use_bytes") - before) == (1000, 1000)
    del buffer
    assert (gpu.claimed_bytes, fake.get("in_use_bytes") - before) == (0, 0)
    gpu.set_budget(10)
    with pytest.raises(
        ResourceError, match="a body needs 1 MiB of GPU 0, and models hold 0 MiB of their budget"
    ):
        DeviceBuffer(gpu, 1000, "a body")
    gpu.set_budget(1 << 40)
    fake.fail("cuMemAlloc", 2, 1)
    with pytest.raises(ResourceError, match="1000 bytes for a body: CUDA_ERROR_OUT_OF_MEMORY"):
        DeviceBuffer(gpu, 1000, "a body")
    assert gpu.claimed_bytes == 0


def test_a_body_lives_as_long_as_its_graphs(fake):
    import weakref

    body = Publishing(fake.library)
    ref = weakref.ref(body)
    model = from_body(body, n_features=2, rows_max=1, lanes=1)
    scorer = model.scorer
    del body, model
    assert ref() is not None
    del scorer
    assert ref() is None


def test_an_exception_of_the_body_is_the_callers(fake):
    def body(stream, rows, answers, n):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        from_body(body, n_features=2)


def test_a_body_that_puts_nothing_on_the_stream_is_refused(fake):
    with pytest.raises(
        ResourceError, match="the model put nothing on the stream while it was captured for 1 rows"
    ):
        from_body(lambda stream, rows, answers, n: None, n_features=2)


@pytest.mark.parametrize("options", [{"n_features": 0}, {"n_outputs": 0}, {"rows_max": 0}, {"lanes": 0}])
def test_arguments_out_of_range_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        from_body(print, **{"n_features": 1, **options})


def test_a_body_is_no_fallback(fake):
    model = from_body(Publishing(fake.library), n_features=2, rows_max=1)
    with pytest.raises(ConfigError, match="fallback"):
        engine.Engine(primary=model, fallback=model, deadline_ms=10)


def test_without_cupy_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cupy", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'deadline-engine\[gpu\]'"):
        from_cupy(lambda x: x, n_features=2)


def test_cupy_has_what_the_capture_uses():
    cupy = pytest.importorskip("cupy", reason="cupy is not installed")
    assert callable(cupy.cuda.MemoryPool)
    assert callable(cupy.cuda.using_allocator)
    assert callable(cupy.cuda.UnownedMemory)
    assert hasattr(cupy.cuda.Stream, "from_external") or hasattr(cupy.cuda, "ExternalStream")
