# A native dense net from arrays, as a scorer capsule. csrc/model/dense/dense.cpp checks the values.
from cpython.pycapsule cimport PyCapsule_New
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t
from libcpp cimport bool as cbool
from libcpp.memory cimport unique_ptr
from libcpp.utility cimport move
from libcpp.vector cimport vector

import numpy as np

cimport numpy as cnp

from engine.model._arrays cimport Isa, span_f64
from engine.model._scorer cimport engine_scorer, scorer_from_capsule, scorer_to_capsule

from engine.errors import ConfigError, ModelFormatError

cnp.import_array()

cdef extern from "model/dense/dense.hpp" namespace "engine::dense" nogil:
    cdef enum class Activation(uint8_t):
        pass
    cdef cppclass LayerSpec "engine::dense::LayerSpec":
        LayerSpec()
        uint32_t n_in, n_out
        span_f64 weights, bias
        Activation activation
    cdef cppclass layer_span "std::span<const engine::dense::LayerSpec>":
        layer_span(const LayerSpec*, size_t)
    cdef cppclass CDense "engine::dense::Dense":
        @staticmethod
        unique_ptr[CDense] load(layer_span layers, cbool float32, cbool missing_zero) except +
        @staticmethod
        engine_scorer scorer(unique_ptr[CDense] net) except +
        @staticmethod
        const CDense* of(const engine_scorer& scorer)
        int score_by(Isa isa, const float* rows, size_t n, size_t stride, double* out)
        uint32_t n_features()
        uint32_t n_outputs()

_ISAS = {"scalar": 0, "avx2": 1, "avx512": 2}


cdef class Dense:
    """A dense net in native memory, copied from arrays.

    Args:
        layers: (weights float64 [n_in, n_out], bias float64 [n_out], activation number) of each layer, in order. The
            numbers are those of `engine.model.dense.ACTIVATIONS`.
        float32: compute in float32; False: in double.
        missing_zero: read rows in float32, and NaN as 0; for a net in double alone.

    Raises:
        ModelFormatError: the shapes or values make no net; the message names the layer.
    """

    cdef object _capsule
    cdef CDense* _net  # owned by the capsule's scorer

    def __cinit__(self, layers, *, bint float32, bint missing_zero=False):
        cdef vector[LayerSpec] specs
        cdef LayerSpec spec
        cdef cnp.ndarray weights, bias
        kept = []
        for layer_weights, layer_bias, activation in layers:
            weights = np.ascontiguousarray(layer_weights, np.float64)
            bias = np.ascontiguousarray(layer_bias, np.float64)
            if weights.ndim != 2 or bias.ndim != 1:
                raise ModelFormatError(f"layer {len(kept) // 2}: expected weights [n_in, n_out] and bias [n_out], got "
                                       f"shapes {np.shape(layer_weights)} and {np.shape(layer_bias)}")
            kept += [weights, bias]
            spec.n_in = weights.shape[0]
            spec.n_out = weights.shape[1]
            spec.weights = span_f64(<const double*>cnp.PyArray_DATA(weights), weights.size)
            spec.bias = span_f64(<const double*>cnp.PyArray_DATA(bias), bias.size)
            spec.activation = <Activation><int>activation
            specs.push_back(spec)
        cdef unique_ptr[CDense] net
        cdef engine_scorer scorer
        try:
            net = CDense.load(layer_span(specs.data(), specs.size()), float32, missing_zero)
        except ValueError as error:  # std::invalid_argument
            raise ModelFormatError(str(error)) from None
        self._net = net.get()
        scorer = CDense.scorer(move(net))
        self._capsule = scorer_to_capsule(&scorer)

    @property
    def scorer(self):
        """The capsule `engine.scorer.v1` of this net; the capsule keeps the net alive by itself."""
        return self._capsule

    def score_by(self, str instruction_set, rows):
        """Score rows with the kernels of one instruction set, for tests.

        Args:
            instruction_set: "scalar", "avx2" or "avx512".
            rows: [n, n_features], converted to float32.

        Returns:
            float64 [n, n_outputs].

        Raises:
            ConfigError: another shape, or an instruction set that this CPU lacks.
        """
        cdef cnp.ndarray array = np.ascontiguousarray(rows, np.float32)
        if array.ndim != 2 or <uint32_t>array.shape[1] != self._net.n_features():
            raise ConfigError(f"expected rows of shape [n, {self._net.n_features()}], got {np.shape(rows)}")
        cdef cnp.ndarray out = np.empty((array.shape[0], self._net.n_outputs()), np.float64)
        cdef int number = _ISAS.get(instruction_set, 99)
        if self._net.score_by(<Isa>number, <const float*>cnp.PyArray_DATA(array), array.shape[0], array.shape[1],
                              <double*>cnp.PyArray_DATA(out)):
            raise ConfigError(f"this CPU does not run {instruction_set!r}; one of {', '.join(_ISAS)} is")
        return out


def native(capsule):
    """Return the native net behind a scorer, for another binding of this package.

    Args:
        capsule: PyCapsule `engine.scorer.v1`, which must outlive the result.

    Returns:
        PyCapsule `engine.model.dense`, or None where the scorer is of another kind.
    """
    cdef const CDense* found = CDense.of(scorer_from_capsule(capsule)[0])
    return None if found is NULL else PyCapsule_New(<void*>found, "engine.model.dense", NULL)
