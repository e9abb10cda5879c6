# A GPU, its kernels, and models on it, over csrc/gpu. The driver is opened at run time; nothing of CUDA is linked.
from cpython.pycapsule cimport PyCapsule_GetPointer
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.memory cimport shared_ptr, unique_ptr
from libcpp.string cimport string
from libcpp.utility cimport move

import time

import numpy as np

cimport numpy as cnp

from engine.model._scorer cimport (
    ENGINE_SCORE_OK,
    engine_scorer,
    scorer_from_capsule,
    scorer_to_capsule,
)

from engine.errors import ConfigError, MissingDependencyError, ModelError, ResourceError

cnp.import_array()

cdef extern from "gpu/device.hpp" namespace "engine::gpu" nogil:
    cdef cppclass CDriver "const engine::gpu::Driver":
        int (*cuMemAlloc)(unsigned long long* at, size_t n)
        int (*cuMemFree)(unsigned long long at)
        string name_of(int result)
    ctypedef void* Stream "engine::gpu::Stream"
    ctypedef unsigned long long DevicePointer "engine::gpu::DevicePointer"
    cdef cppclass CDevice "engine::gpu::Device":
        @staticmethod
        shared_ptr[CDevice] open(int ordinal, const char* path, string* error)
        const string& name()
        int ordinal()
        int capability()
        size_t free_bytes()
        size_t claimed_bytes()
        void set_budget(size_t n)
        cbool claim(size_t n, const string& what, string* error)
        void give_back(size_t n)
        CDriver& driver()
        cbool lost()
        int lost_by()
        int wait_until_lost()
        void make_current()
    shared_ptr[CDriver] open_driver "engine::gpu::Driver::open"(const char* path, string* error)

cdef extern from "gpu/device_model.hpp" namespace "engine::gpu" nogil:
    cdef cppclass CForest "engine::forest::Forest":
        pass
    cdef cppclass CDense "engine::dense::Dense":
        pass
    cdef cppclass Kernels:
        @staticmethod
        shared_ptr[Kernels] load(shared_ptr[CDevice] device, const void* image, string* error)
        int widen(Stream stream, DevicePointer at, DevicePointer to, uint32_t count)
    cdef struct Batch:
        uint32_t rows
        DevicePointer control
        DevicePointer into "in"
        DevicePointer out
        DevicePointer scratch
    cdef cppclass Body:
        Body()
        void* ctx
        int (*enqueue)(void* ctx, Stream stream, const Batch& batch) noexcept
        void (*release)(void* ctx) noexcept
    cdef cppclass PipelineOptions:
        PipelineOptions()
        uint32_t n_features, n_outputs, rows_max, lanes
        cbool float64_rows
    const uint32_t LANES_MAX "engine::gpu::Pipeline::LANES_MAX"
    cdef cppclass Pipeline:
        uint64_t launched()
        int begin(const float* rows, size_t n, size_t stride, uint32_t* ticket)
        int poll(uint32_t ticket, double* out)

cdef extern from "engine/scorer.h" nogil:
    int ENGINE_SCORE_PENDING

cdef extern from "base/clock.hpp" namespace "engine" nogil:
    int64_t now_ns()

cdef extern from "gpu/device_model.hpp" namespace "engine::gpu" nogil:
    cdef cppclass CModel "engine::gpu::DeviceModel":
        @staticmethod
        unique_ptr[CModel] make(shared_ptr[Kernels] kernels, const CForest& forest, uint32_t rows_max,
                                uint32_t lanes, const engine_scorer* cpu, uint32_t repeats, string* error)
        @staticmethod
        unique_ptr[CModel] make(shared_ptr[Kernels] kernels, const CDense& net, uint32_t rows_max,
                                uint32_t lanes, const engine_scorer* cpu, uint32_t repeats, string* error)
        @staticmethod
        unique_ptr[CModel] make(shared_ptr[Kernels] kernels, const PipelineOptions& options, const Body& body,
                                string* error)
        @staticmethod
        engine_scorer scorer(unique_ptr[CModel] model) except +
        int score_there(const float* rows, size_t n, size_t stride, double* out)
        void set_rows_min(uint32_t rows)
        const char* layout()
        size_t device_bytes()
        uint64_t rescued()
        Pipeline& pipeline()

_BODY_FAILED = 999  # CUDA_ERROR_UNKNOWN: the Python exception says more


cdef class Gpu:
    """One GPU of this process: its primary context, which it shares with CuPy, PyTorch and TensorRT, and our kernels.

    Args:
        ordinal: the GPU's number, as the driver counts.
        driver: the driver's library, "libcuda.so.1" as a rule.

    Raises:
        MissingDependencyError: there is no driver, or one older than CUDA 12's.
        ConfigError: the driver shows no such GPU.
    """

    cdef shared_ptr[CDevice] _device
    cdef shared_ptr[Kernels] _kernels

    def __cinit__(self, int ordinal, str driver):
        cdef string error
        cdef bytes path = driver.encode()
        if open_driver(path, &error).get() is NULL:
            raise MissingDependencyError(f"a GPU needs NVIDIA's driver: {error.decode()}")
        self._device = CDevice.open(ordinal, path, &error)
        if self._device.get() is NULL:
            raise ConfigError(f"device='gpu:{ordinal}': {error.decode()}")

    @property
    def ordinal(self) -> int:
        """The GPU's number, as the driver counts."""
        return self._device.get().ordinal()

    @property
    def name(self) -> str:
        """The name that the driver gives."""
        return self._device.get().name().decode()

    @property
    def capability(self) -> int:
        """Compute capability as 10 * major + minor: 90 for an H100."""
        return self._device.get().capability()

    @property
    def free_bytes(self) -> int:
        """Free bytes of device memory; 0 where the driver does not say."""
        return self._device.get().free_bytes()

    @property
    def claimed_bytes(self) -> int:
        """Bytes of device memory that the models of this process hold."""
        return self._device.get().claimed_bytes()

    @property
    def lost(self) -> bool:
        """Whether the device failed in a way that CUDA does not get over: it stays lost to this process."""
        return self._device.get().lost()

    def wait_until_lost(self) -> str:
        """Block until the device is lost, without the GIL, and return the driver's word for the reason."""
        cdef int by
        with nogil:
            by = self._device.get().wait_until_lost()
        return self._device.get().driver().name_of(by).decode()

    def set_budget(self, size_t n_bytes):
        """Set the most device memory that models of this process may hold together."""
        self._device.get().set_budget(n_bytes)

    def load(self, bytes image not None):
        """Load the kernels. Raise ConfigError where the driver refuses the image."""
        cdef string error
        self._kernels = Kernels.load(self._device, <const char*>image, &error)
        if self._kernels.get() is NULL:
            raise ConfigError(f"GPU {self.ordinal} ({self.name}): {error.decode()}")

    @property
    def loaded(self) -> bool:
        """Whether the kernels are there."""
        return self._kernels.get() is not NULL

    def widen(self, size_t stream, size_t narrow, size_t wide, uint32_t count):
        """Put on a stream: `count` numbers in float32 at one address become float64 at another.

        Raises:
            ConfigError: the kernels are not loaded.
            ResourceError: the driver refused.
        """
        if not self.loaded:
            raise ConfigError(f"GPU {self.ordinal} has no kernels yet")
        cdef int result = self._kernels.get().widen(<Stream>stream, narrow, wide, count)
        if result:
            name = self._device.get().driver().name_of(result).decode()
            raise ResourceError(f"GPU {self.ordinal} ({self.name}): {name}")


cdef class DeviceBuffer:
    """Device memory of a body, given back when this object goes.

    Args:
        gpu: whose memory.
        n_bytes: from 1.
        what: the claimant, for errors.

    Raises:
        ResourceError: the device has too little memory.
    """

    cdef shared_ptr[CDevice] _device
    cdef DevicePointer _address
    cdef size_t _claimed

    def __cinit__(self, Gpu gpu not None, size_t n_bytes, str what):
        cdef string error
        self._device = gpu._device
        if not self._device.get().claim(n_bytes, what.encode(), &error):
            raise ResourceError(error.decode())
        self._claimed = n_bytes
        self._device.get().make_current()
        cdef int result = self._device.get().driver().cuMemAlloc(&self._address, n_bytes)
        if result:
            raise ResourceError(f"{n_bytes} bytes for {what}: {self._device.get().driver().name_of(result).decode()}")

    def __dealloc__(self):
        if self._device.get() is NULL:
            return
        self._device.get().give_back(self._claimed)
        if self._address and not self._device.get().lost():
            self._device.get().make_current()
            self._device.get().driver().cuMemFree(self._address)

    @property
    def address(self) -> int:
        """Where it lies on the device."""
        return self._address


cdef class _Enqueue:
    # A Python body. It lives as long as the graphs that were captured of it, with all that its function closes over.
    # An exception waits here until C++ has come back.
    cdef object function
    cdef object error


cdef int _enqueue(void* ctx, Stream stream, const Batch& batch) noexcept with gil:
    cdef _Enqueue body = <_Enqueue>ctx
    try:
        body.function(<size_t>stream, <size_t>batch.into, <size_t>batch.out, batch.rows)
        return 0
    except BaseException as error:
        body.error = error
        return _BODY_FAILED


cdef void _release(void* ctx) noexcept with gil:
    Py_DECREF(<_Enqueue>ctx)


cdef class DeviceModel:
    """A model on a GPU, as a scorer capsule.

    Args:
        gpu: with kernels loaded.
        source: PyCapsule `engine.model.forest` or `engine.model.dense`; or a function of (stream, rows, answers, n)
            that puts the model's work for n rows on a stream, addresses as int. It is called while the model is made,
            and never again.
        kind: "forest", "dense" or "body".
        n_features, n_outputs: of a body.
        rows_max: rows of a batch at most, from 1.
        lanes: batches in flight, 1 to 64.
        repeats: how often each graph does the work of a forest or net; a benchmark's means to time the kernels alone.
        cpu: scorer capsule of the same model on the CPU, which answers where the device does not; or None.

    Raises:
        ResourceError: the device has too little memory, or the driver refused a call.
        ConfigError: the kernels are not loaded, or lanes is beyond its range.
        Exception: the body raised it.
    """

    cdef object _capsule
    cdef object _gpu
    cdef CModel* _model  # owned by the capsule's scorer

    def __cinit__(self, Gpu gpu not None, source, *, str kind, uint32_t rows_max, uint32_t lanes, cpu=None,
                  uint32_t n_features=0, uint32_t n_outputs=1, uint32_t repeats=1):
        cdef unique_ptr[CModel] model
        cdef string error
        cdef const engine_scorer* twin = scorer_from_capsule(cpu) if cpu is not None else NULL
        cdef PipelineOptions options
        cdef Body body
        cdef _Enqueue kept
        if not gpu.loaded:
            raise ConfigError(f"GPU {gpu.ordinal} has no kernels yet")
        if not 1 <= lanes <= LANES_MAX:
            raise ConfigError(f"lanes: expected 1 to {LANES_MAX} batches in flight, got {lanes}")
        if kind == "forest":
            model = CModel.make(gpu._kernels, (<CForest*>PyCapsule_GetPointer(source, "engine.model.forest"))[0],
                                rows_max, lanes, twin, repeats, &error)
        elif kind == "dense":
            model = CModel.make(gpu._kernels, (<CDense*>PyCapsule_GetPointer(source, "engine.model.dense"))[0],
                                rows_max, lanes, twin, repeats, &error)
        else:
            kept = _Enqueue()
            kept.function = source
            options.n_features = n_features
            options.n_outputs = n_outputs
            options.rows_max = rows_max
            options.lanes = lanes
            body.ctx = <void*>kept
            body.enqueue = _enqueue
            body.release = _release
            Py_INCREF(kept)
            model = CModel.make(gpu._kernels, options, body, &error)
            if kept.error is not None:
                raise kept.error
        if model.get() is NULL:
            raise ResourceError(f"GPU {gpu.ordinal} ({gpu.name}): {error.decode()}")
        self._gpu = gpu
        self._model = model.get()
        cdef engine_scorer scorer = CModel.scorer(move(model))
        self._capsule = scorer_to_capsule(&scorer)

    @property
    def scorer(self):
        """The capsule `engine.scorer.v1` of this model; the capsule keeps the model alive by itself."""
        return self._capsule

    def set_rows_min(self, uint32_t rows):
        """Send batches of fewer rows to the CPU. Before anybody else scores."""
        self._model.set_rows_min(rows)

    def describe(self) -> dict:
        """Return facts of now.

        Keys: device, device_name, device_layout ("codes", "symmetric", "wide", "dense" or "body"), device_bytes,
        device_lost, device_batches (launched so far), device_rescued (calls that the CPU answered for the device).
        """
        return {
            "device": f"gpu:{self._gpu.ordinal}",
            "device_name": self._gpu.name,
            "device_layout": self._model.layout().decode(),
            "device_bytes": self._model.device_bytes(),
            "device_lost": self._gpu.lost,
            "device_batches": self._model.pipeline().launched(),
            "device_rescued": self._model.rescued(),
        }

    def time_us(self, rows, int repeats) -> float:
        """Return the microseconds of one call on the device, the fastest of `repeats`.

        Args:
            rows: float32 [n, n_features].

        Raises:
            ModelError: the device failed.
        """
        cdef cnp.ndarray array = np.ascontiguousarray(rows, np.float32)
        cdef size_t n = array.shape[0], stride = array.shape[1]
        cdef const engine_scorer* scorer = scorer_from_capsule(self._capsule)
        cdef cnp.ndarray out = np.empty((array.shape[0], scorer.n_outputs), np.float64)
        cdef const float* first = <const float*>cnp.PyArray_DATA(array)
        cdef double* answers = <double*>cnp.PyArray_DATA(out)
        cdef int status = ENGINE_SCORE_OK
        fastest = float("inf")
        for _ in range(repeats):
            start = time.perf_counter_ns()
            with nogil:
                status = self._model.score_there(first, n, stride, answers)
            fastest = min(fastest, (time.perf_counter_ns() - start) / 1e3)
            if status != ENGINE_SCORE_OK:
                raise ModelError(f"GPU {self._gpu.ordinal} failed on {n} rows (status {status})")
        return fastest

    def submit_us(self, rows, int repeats) -> float:
        """Return the microseconds of one submission on this thread, the median of `repeats`; no other may score.

        Args:
            rows: float32 [n, n_features], at most a batch.

        Raises:
            ModelError: the device failed.
        """
        cdef cnp.ndarray array = np.ascontiguousarray(rows, np.float32)
        cdef size_t n = array.shape[0], stride = array.shape[1]
        cdef cnp.ndarray out = np.empty((array.shape[0], scorer_from_capsule(self._capsule).n_outputs), np.float64)
        cdef const float* first = <const float*>cnp.PyArray_DATA(array)
        cdef double* answers = <double*>cnp.PyArray_DATA(out)
        cdef uint32_t ticket = 0
        cdef int64_t start = 0, end = 0
        cdef int status = ENGINE_SCORE_OK
        taken = []
        for _ in range(repeats):
            with nogil:
                start = now_ns()
                status = self._model.pipeline().begin(first, n, stride, &ticket)
                end = now_ns()
                if status == ENGINE_SCORE_OK:
                    status = ENGINE_SCORE_PENDING
                    while status == ENGINE_SCORE_PENDING:
                        status = self._model.pipeline().poll(ticket, answers)
            if status != ENGINE_SCORE_OK:
                raise ModelError(f"GPU {self._gpu.ordinal} failed on {n} rows (status {status})")
            taken.append((end - start) / 1e3)
        return float(np.median(taken))
