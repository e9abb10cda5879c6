# The native program inside a NativeProgram, for scorers that run it in front of a model.
from libcpp.memory cimport shared_ptr

from engine.transform._native cimport CppProgram

# Raises ProgramError for a program that calls functions of the user's own: only their Python objects keep them alive.
cdef shared_ptr[const CppProgram] program_of(object native) except *
