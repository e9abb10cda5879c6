# A feature program in front of a scorer, as one scorer of the program's inputs.
from libcpp cimport bool as cpp_bool
from libcpp.memory cimport shared_ptr
from libcpp.string cimport string
from libcpp.vector cimport vector

from engine.model._scorer cimport engine_scorer, scorer_from_capsule, scorer_to_capsule
from engine.transform._native cimport CppProgram
from engine.transform._program cimport program_of

from engine.errors import ConfigError

cdef extern from "transform/scorer.hpp" namespace "engine::transform" nogil:
    cdef cppclass ScorerInput:
        cpp_bool is_text
        vector[string] texts

    engine_scorer make_scorer "engine::transform::SharedProgramScorer::make"(
        shared_ptr[const CppProgram] program, vector[ScorerInput] inputs, const engine_scorer& inner) except +


def with_program(program, texts, inner):
    """Return a scorer capsule of the inputs of `program`, whose features go to the scorer in `inner`.

    It takes rows in float32 and in double. Where `inner` takes doubles, the features are not rounded to float32. It has
    the flags of `inner`, and keeps both parts alive.

    Args:
        program: a NativeProgram without functions of the user's own.
        texts: for each input, in the order of a row: None for a number, or the UTF-8 texts that it may be. A row then
            holds a text's place in them; NaN is a missing text, any other number a text that is none of them.
        inner: PyCapsule `engine.scorer.v1`.

    Raises:
        ConfigError: no scorer capsule, or the scorer takes another number of features than the program makes.
        ProgramError: the program calls functions.
    """
    cdef const engine_scorer* scorer = scorer_from_capsule(inner)
    cdef shared_ptr[const CppProgram] native = program_of(program)
    if native.get().n_outputs() != scorer.n_features:
        raise ConfigError(f"the program makes {native.get().n_outputs()} columns and the model takes "
                          f"{scorer.n_features}")
    cdef vector[ScorerInput] inputs
    cdef ScorerInput one
    cdef size_t n_texts = 0
    for known in texts:
        one.is_text = known is not None
        one.texts.clear()
        if known is not None:
            one.texts = <vector[string]>list(known)
            n_texts += 1
        inputs.push_back(one)
    if n_texts != native.get().n_texts() or inputs.size() - n_texts != native.get().n_numbers():
        raise ConfigError(f"expected texts for {native.get().n_texts()} of "
                          f"{native.get().n_texts() + native.get().n_numbers()} inputs, got {n_texts} of "
                          f"{inputs.size()}")
    cdef engine_scorer made = make_scorer(native, inputs, scorer[0])
    return scorer_to_capsule(&made)
