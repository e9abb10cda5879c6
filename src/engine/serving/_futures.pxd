from libc.stdint cimport uint8_t, uint32_t

cdef enum:
    PENDING
    CANCELLED
    FINISHED


cdef class AnswerFuture:
    # Task and the tools of asyncio set and ask it: https://docs.python.org/3/library/asyncio-future.html
    cdef public bint _asyncio_future_blocking
    cdef uint8_t state
    cdef object loop
    cdef object answer  # Answer or Answers; None while it is awaited
    cdef object message  # of the cancellation
    # The first callback to be added and the context to run it in, and those that came after it.
    cdef object first, first_context
    cdef list others
    # Whom to tell, and of which request, when nobody waits for the answer any more.
    cdef object asked_of
    cdef uint32_t request
    cdef tuple missing
    cdef object __weakref__

    cdef int finish(self, object answer, bint step) except -1
    cdef int wake_later(self) except -1


cdef AnswerFuture pending_answer(object loop)
cdef AnswerFuture ready_answer(object answer, object loop)
