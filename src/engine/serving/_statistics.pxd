from engine.serving._scheduler cimport Runtime

# Counters and quantiles of a runtime as a plain dict; times in microseconds.
cdef dict statistics_of(Runtime* runtime, bint inline)
