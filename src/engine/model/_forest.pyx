# A native forest from flat arrays, as a scorer capsule. csrc/model/forest/trees.cpp checks them.
from cpython.pycapsule cimport PyCapsule_New
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint8_t, uint32_t
from libcpp cimport bool as cbool
from libcpp.memory cimport unique_ptr
from libcpp.string cimport string
from libcpp.utility cimport move
from libcpp.vector cimport vector

import numpy as np

cimport numpy as cnp

from engine.model._arrays cimport active_isa, detected_isa, isa_name, span_f64, span_i32, span_u8, span_u32
from engine.model._scorer cimport engine_scorer, scorer_from_capsule, scorer_to_capsule

from engine.errors import ConfigError, InputError, ModelFormatError

cnp.import_array()

cdef extern from "model/forest/forest.hpp" namespace "engine::forest" nogil:
    cdef enum class Link(uint8_t):
        pass
    cdef struct LayoutTime:
        string name
        double us_row_1
        double us_row_64
    cdef cppclass Spec:
        Spec()
        uint32_t n_features, n_outputs
        cbool float32_rows
        span_i32 root, output, feature, left, right, set_begin
        span_f64 threshold, leaf, base
        span_u8 rule
        span_u32 set_words
        double scale, link_parameter
        Link link
    cdef cppclass CForest "engine::forest::Forest":
        @staticmethod
        unique_ptr[CForest] load(const Spec& spec) except +
        @staticmethod
        engine_scorer scorer(unique_ptr[CForest] forest) except +
        @staticmethod
        const CForest* of(const engine_scorer& scorer)
        int score_by(const string& layout, const float* rows, size_t n, size_t stride, double* out)
        int score_by(const string& layout, const double* rows, size_t n, size_t stride, double* out)
        vector[string] layouts() except +
        const string& single_layout()
        const string& batch_layout()
        size_t batch_rows_min()
        vector[LayoutTime] calibration() except +
        uint32_t n_features()
        uint32_t n_answers()
        size_t n_trees()
        size_t n_leaves()
        uint32_t depth()


cdef const int32_t* _i32(cnp.ndarray array): return <const int32_t*>cnp.PyArray_DATA(array)
cdef const double* _f64(cnp.ndarray array): return <const double*>cnp.PyArray_DATA(array)


cdef class Forest:
    """A forest in native memory, copied from flat arrays.

    The arrays are those of `Spec` in csrc/model/forest/forest.hpp, which describes each. Splits and leaves of all
    trees lie one behind the other; a child c >= 0 is split c, a child c < 0 is leaf ~c.

    Args:
        n_features: values a row, from 1.
        n_outputs: raw sums a row, 1 to 1,024.
        float32_rows: the trainer compares in float32.
        root, output: int32 [trees]: child number of the root, the raw sum that the tree adds to.
        feature, left, right: int32 [splits].
        threshold: float64 [splits]: left where x <= threshold; or the number of a category set.
        rule: uint8 [splits], bits of `engine.model.forest.Rule`.
        leaf: float64 [leaves].
        set_begin: int32 [sets + 1], first word of each category set.
        set_words: uint32, bit c % 32 of word c // 32 stands for category c.
        base: float64 [n_outputs], added to each sum after `scale`.
        scale: multiplies each sum.
        link, link_parameter: number of `engine.model.forest.Link`, and the link's own number.

    Raises:
        ModelFormatError: the arrays do not make a forest; the message names the tree.
    """

    cdef object _capsule
    cdef CForest* _forest  # owned by the capsule's scorer

    def __cinit__(self, *, uint32_t n_features, uint32_t n_outputs, bint float32_rows, root, output, feature,
                  threshold, left, right, rule, leaf, set_begin, set_words, base, double scale, int link,
                  double link_parameter):
        cdef Spec spec
        cdef cnp.ndarray a_root = np.ascontiguousarray(root, np.int32)
        cdef cnp.ndarray a_output = np.ascontiguousarray(output, np.int32)
        cdef cnp.ndarray a_feature = np.ascontiguousarray(feature, np.int32)
        cdef cnp.ndarray a_threshold = np.ascontiguousarray(threshold, np.float64)
        cdef cnp.ndarray a_left = np.ascontiguousarray(left, np.int32)
        cdef cnp.ndarray a_right = np.ascontiguousarray(right, np.int32)
        cdef cnp.ndarray a_rule = np.ascontiguousarray(rule, np.uint8)
        cdef cnp.ndarray a_leaf = np.ascontiguousarray(leaf, np.float64)
        cdef cnp.ndarray a_set_begin = np.ascontiguousarray(set_begin, np.int32)
        cdef cnp.ndarray a_set_words = np.ascontiguousarray(set_words, np.uint32)
        cdef cnp.ndarray a_base = np.ascontiguousarray(base, np.float64)
        spec.n_features = n_features
        spec.n_outputs = n_outputs
        spec.float32_rows = float32_rows
        spec.root = span_i32(_i32(a_root), a_root.size)
        spec.output = span_i32(_i32(a_output), a_output.size)
        spec.feature = span_i32(_i32(a_feature), a_feature.size)
        spec.threshold = span_f64(_f64(a_threshold), a_threshold.size)
        spec.left = span_i32(_i32(a_left), a_left.size)
        spec.right = span_i32(_i32(a_right), a_right.size)
        spec.rule = span_u8(<const uint8_t*>cnp.PyArray_DATA(a_rule), a_rule.size)
        spec.leaf = span_f64(_f64(a_leaf), a_leaf.size)
        spec.set_begin = span_i32(_i32(a_set_begin), a_set_begin.size)
        spec.set_words = span_u32(<const uint32_t*>cnp.PyArray_DATA(a_set_words), a_set_words.size)
        spec.base = span_f64(_f64(a_base), a_base.size)
        spec.scale = scale
        spec.link = <Link>link
        spec.link_parameter = link_parameter
        cdef unique_ptr[CForest] forest
        cdef engine_scorer scorer
        try:
            forest = CForest.load(spec)
        except ValueError as error:  # std::invalid_argument
            raise ModelFormatError(str(error)) from None
        self._forest = forest.get()
        scorer = CForest.scorer(move(forest))
        self._capsule = scorer_to_capsule(&scorer)

    @property
    def scorer(self):
        """The capsule `engine.scorer.v1` of this forest; the capsule keeps the forest alive by itself."""
        return self._capsule

    @property
    def layouts(self):
        """Names of the layouts that hold this forest on this CPU; "reference" is the first."""
        return [name.decode() for name in self._forest.layouts()]

    def describe(self):
        """Return the forest's facts.

        `trees`, `leaves` and `depth` are counts. `layout_single` is the layout for fewer than `batch_rows_min` rows,
        `layout_batch` the one for more. `instruction_set` is the one in use. `calibration_us_row` has (microseconds for
        one row, microseconds a row of 64) of each layout, measured at load.
        """
        cdef LayoutTime time
        return {
            "trees": self._forest.n_trees(),
            "leaves": self._forest.n_leaves(),
            "depth": self._forest.depth(),
            "layout_single": self._forest.single_layout().decode(),
            "layout_batch": self._forest.batch_layout().decode(),
            "batch_rows_min": self._forest.batch_rows_min(),
            "instruction_set": isa_name(active_isa()).decode(),
            "calibration_us_row": {time.name.decode(): (time.us_row_1, time.us_row_64)
                                   for time in self._forest.calibration()},
        }

    def score_by(self, str layout, rows):
        """Score rows through one layout, for tests and benchmarks.

        Args:
            layout: one of `layouts`.
            rows: float64 [n, n_features], or anything else [n, n_features], which is converted to float32.

        Returns:
            float64 [n, n_outputs].

        Raises:
            ConfigError: the forest has no such layout.
            InputError: another shape.
        """
        if layout not in self.layouts:
            raise ConfigError(f"no layout {layout!r}; this forest has {', '.join(self.layouts)}")
        wanted = np.float64 if np.asarray(rows).dtype == np.float64 else np.float32
        cdef cnp.ndarray array = np.ascontiguousarray(rows, dtype=wanted)
        if array.ndim != 2 or <uint32_t>array.shape[1] != self._forest.n_features():
            raise InputError(f"expected rows of shape [n, {self._forest.n_features()}], got {np.shape(rows)}")
        cdef size_t n = array.shape[0]
        cdef size_t stride = array.shape[1]
        cdef cnp.ndarray out = np.empty((n, self._forest.n_answers()), np.float64)
        cdef string name = layout.encode()
        if wanted is np.float64:
            self._forest.score_by(name, <const double*>cnp.PyArray_DATA(array), n, stride,
                                  <double*>cnp.PyArray_DATA(out))
        else:
            self._forest.score_by(name, <const float*>cnp.PyArray_DATA(array), n, stride,
                                  <double*>cnp.PyArray_DATA(out))
        return out


def instruction_sets() -> tuple:
    """Return (best of this CPU, in use after ENGINE_CPU), each "scalar", "avx2" or "avx512"."""
    return isa_name(detected_isa()).decode(), isa_name(active_isa()).decode()


def native(capsule):
    """Return the native forest behind a scorer, for another binding of this package.

    Args:
        capsule: PyCapsule `engine.scorer.v1`, which must outlive the result.

    Returns:
        PyCapsule `engine.model.forest`, or None where the scorer is of another kind.
    """
    cdef const CForest* found = CForest.of(scorer_from_capsule(capsule)[0])
    return None if found is NULL else PyCapsule_New(<void*>found, "engine.model.forest", NULL)
