# Handing the GIL over on purpose to an executor that waits for it. Nothing happens where none does.
cdef extern from *:
    """
    #include "base/gil_calls.hpp"

    namespace {

    engine::GilCalls& engine_gil_calls = engine::GilCalls::all();

    /* With the GIL, which the other thread takes and gives back before this returns, or gets later like everybody. */
    [[gnu::noinline]] void engine_hand_gil_over() {
        constexpr int64_t NOBODY_NS = 1'000;
        const int64_t began = engine::now_ns();
        const bool asked = engine_gil_calls.waiting();
        if (!engine_gil_calls.may_give(began) || (!asked && !engine_gil_calls.someone_is_blocked())) return;
        const uint32_t seen = engine_gil_calls.changes();
        if (asked && !engine_gil_calls.waiting()) return;
        PyThreadState* const mine = PyEval_SaveThread();
        /* Giving up a GIL that nobody waits for wakes nobody, and takes no time. */
        if (asked) engine_gil_calls.wait_for_caller(seen);
        else if (engine::now_ns() - began > NOBODY_NS) engine_gil_calls.wait_for_blocked(seen);
        PyEval_RestoreThread(mine);
        engine_gil_calls.has_again(engine::now_ns() - began);
    }

    /* Two relaxed loads where no executor is in a Python call. */
    inline void engine_share_gil() {
        if (engine_gil_calls.waiting() || engine_gil_calls.calling()) [[unlikely]]
            engine_hand_gil_over();
    }

    }
    """
    void share_gil "engine_share_gil"() noexcept
