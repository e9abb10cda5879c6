// The rescue thread: for requests whose asker is an event loop, which cannot wait with a timer of its own. One serves all
// models on the same executors. It also looks after executors that somebody suspects of being stuck.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "base/clock.hpp"

namespace engine {

class Runtime;

class Rescuer {
public:
    struct Timer {
        int64_t at_ns;
        Runtime* runtime;  // null: look after the executors
        uint32_t slot;
        uint32_t generation;
    };

    // look_after(now) -> when to look again, NEVER_NS for not before the next suspicion.
    explicit Rescuer(std::function<int64_t(int64_t)> look_after) : look_after_(std::move(look_after)) {}
    ~Rescuer() { stop(); }
    Rescuer(const Rescuer&) = delete;
    Rescuer& operator=(const Rescuer&) = delete;

    void start();
    void stop() noexcept;
    const std::thread& thread() const noexcept { return thread_; }

    // Any thread.
    void watch(const Timer& timer) noexcept;
    // Rescues what the runtime still has here, whatever its time, and returns once nothing here points to it.
    void forget(Runtime& runtime) noexcept;

private:
    static bool later(const Timer& a, const Timer& b) noexcept { return a.at_ns > b.at_ns; }
    void loop();
    void take_in(int64_t now);
    void forget_asked();
    void ring(const Timer& timer, int64_t now);
    void pop() noexcept;
    void drop_answered() noexcept;
    int64_t next_wake(int64_t now) noexcept;

    std::function<int64_t(int64_t)> look_after_;
    std::mutex lock_;
    std::vector<Timer> inbox_;
    std::vector<Runtime*> to_forget_;
    std::atomic<uint32_t> forgotten_{0};  // futex; counts rounds of forgetting
    std::atomic<uint32_t> word_{0};       // futex; changes whenever the thread should look
    std::atomic<int64_t> wakes_ns_{0};
    std::atomic<bool> stopping_{false}, running_{false};
    std::thread thread_;

    // The thread's own.
    std::vector<Timer> timers_, arrived_;
    int64_t shortest_ns_ = 0;
    int quiet_patrols_ = 0;
};

}  // namespace engine
