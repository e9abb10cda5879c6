// An executor's batches on devices: when it looks at them, and how it gives up the ones that hang.
#include <sched.h>

#include <algorithm>
#include <utility>

#include "base/futex.hpp"
#include "scheduler/executors.hpp"

namespace engine::scheduler {

namespace {

// So long before and after the time when an answer is due an executor looks without pause.
constexpr int64_t WATCH_DUE_NS = 50'000;
// Before and after that it sleeps for a part of the time since then, so that an answer waits for a look by no more than
// that part of its time.
constexpr int64_t LOOK_PARTS = 4;
constexpr int64_t SLEEP_NS_MIN = 20'000, SLEEP_NS_MAX = 5'000'000;
// Nobody waits for an abandoned batch.
constexpr int64_t ABANDONED_SLEEP_NS_MIN = 200'000, ABANDONED_SLEEP_NS_MAX = 20'000'000;

}  // namespace

// Lock.
Executors::Flight Executors::flight_of(Lane& lane, Batch& batch) noexcept {
    const int64_t now = now_ns(), began = batch.call_began_ns;
    Flight flight{&lane,
                  &batch,
                  batch.place.number,
                  began,
                  began + lane.cost().expected_ns(batch.call_rows),
                  lane.hung_at_ns(batch, now)};
    flight.look_ns = next_look_ns(flight, now);
    return flight;
}

int64_t Executors::next_look_ns(const Flight& flight, int64_t now) const noexcept {
    if (flight.batch == nullptr)
        return now + std::clamp((now - flight.began_ns) / LOOK_PARTS, ABANDONED_SLEEP_NS_MIN, ABANDONED_SLEEP_NS_MAX);
    const int64_t watch_ns = flight.due_ns - WATCH_DUE_NS;
    const auto after = [now](int64_t since_ns) {
        return now + std::clamp((now - since_ns) / LOOK_PARTS, SLEEP_NS_MIN, SLEEP_NS_MAX);
    };
    if (now < watch_ns) return std::min(after(flight.began_ns), watch_ns);
    if (options_.may_watch && now < flight.due_ns + WATCH_DUE_NS) return now;
    return std::min(after(flight.due_ns), std::max(flight.hung_ns, now));
}

// Looks at the flights whose time has come. `landed` where a seat is free, or a batch has gone on.
Executors::Looked Executors::look(Executor& me) {
    Looked looked = Looked::nothing;
    me.looks_ns.store(now_ns(), std::memory_order_relaxed);
    // From the back, because remove() puts the last flight in the place of the one that goes.
    for (size_t i = me.flights.size(); i-- > 0 && looked != Looked::lost;) looked = std::max(looked, look_at(me, i));
    me.looks_ns.store(0, std::memory_order_relaxed);
    return looked;
}

Executors::Looked Executors::look_at(Executor& me, size_t index) {
    Flight& flight = me.flights[index];
    const bool abandoned = flight.batch == nullptr;
    if (!abandoned && flight.lane->closing()) return abandon(me, index, Reason::closing);
    const int64_t now = now_ns();
    if (now < flight.look_ns) return Looked::nothing;
    if (abandoned) {
        if (flight.deployment->poll(flight.ticket, nullptr) != ENGINE_SCORE_PENDING) return seat_is_free(me, index);
    } else {
        if (flight.lane->landed(*flight.batch)) return landed(me, index);
        if (now >= flight.hung_ns) return abandon(me, index, Reason::stalled);
    }
    flight.look_ns = next_look_ns(flight, now);
    return Looked::nothing;
}

// The call has ended. Its batch is at its end, or goes on with another call.
Executors::Looked Executors::landed(Executor& me, size_t index) {
    Lane& lane = *me.flights[index].lane;
    Batch& batch = *me.flights[index].batch;
    const bool more = lane.next_call(batch);
    {
        const MutexLock lock(lock_);
        if (me.lost) return Looked::lost;
        remove(me, index);
        if (more) {
            me.lane = &lane;
            me.batch = &batch;
        }
    }
    if (more) return make_calls(me, lane) ? Looked::landed : Looked::lost;
    leave_seat(lane, batch);
    return Looked::landed;
}

// The batch is at its end. Any executor may begin the next one on its seat, in the same buffers, as soon as it is free.
void Executors::leave_seat(Lane& lane, Batch& batch) noexcept {
    lane.learn(batch, false);
    {
        const MutexLock lock(lock_);
        lane.finish_batch(batch);
    }
    lane.executor_leaves();
}

// The answers will not come, or too late: the requests of the batch are answered without them. The seat is free when
// the device is through.
Executors::Looked Executors::abandon(Executor& me, size_t index, Reason reason) {
    Lane& lane = *me.flights[index].lane;
    Batch& batch = *me.flights[index].batch;
    Deployment& deployment = *batch.deployment;
    const bool on_device = batch.call_state == CallState::in_flight;
    const uint32_t ticket = batch.ticket;
    {
        const MutexLock lock(lock_);
        if (me.flights[index].lost) return Looked::lost;
        me.flights[index].leaving = true;
        lane.abandon_batch(batch, now_ns());
        deployment.retain();
    }
    if (on_device) deployment.abandon(ticket);
    lane.give_up(batch, reason);
    lane.learn(batch, true);
    abandoned_.fetch_add(1, std::memory_order_relaxed);
    bool lost;
    {
        // Only now may the seat go to another batch, which has the same buffers.
        const MutexLock lock(lock_);
        lost = me.lost;
        Flight& flight = me.flights[index];
        flight.batch = nullptr;
        flight.deployment = &deployment;
        flight.ticket = ticket;
        flight.look_ns = 0;
        if (!on_device || lost) free_seat(flight);
        if (!on_device) remove(me, index);
    }
    if (!on_device) deployment.release();
    else if (!lost) deadline_timer_.add({now_ns() + STUCK_LOOK_NS, nullptr, 0, 0});
    lane.executor_leaves();
    return lost ? Looked::lost : Looked::landed;
}

// The device is through with an abandoned batch.
Executors::Looked Executors::seat_is_free(Executor& me, size_t index) {
    Deployment* const deployment = me.flights[index].deployment;
    deployment->breaker().came_back(now_ns());
    bool lost;
    {
        const MutexLock lock(lock_);
        lost = me.lost;
        free_seat(me.flights[index]);
        remove(me, index);
    }
    deployment->release();
    return lost ? Looked::lost : Looked::landed;
}

// Lock. The seat of an abandoned flight goes to other batches.
void Executors::free_seat(Flight& flight) noexcept {
    if (flight.lane != nullptr) flight.lane->free_seat(flight.seat);
    flight.lane = nullptr;
}

// Lock.
void Executors::remove(Executor& me, size_t index) noexcept {
    me.flights[index] = me.flights.back();
    me.flights.pop_back();
}

// Waits until a flight has landed, or there may be work. `woken` by a submission.
Executors::Looked Executors::await(Executor& me, const Dispatch& dispatch, uint32_t seen, bool* woken) {
    for (;;) {
        const Looked looked = look(me);
        if (looked != Looked::nothing) return looked;
        // Relaxed loads are enough: a store that they miss is found by sleep(), which looks again in order.
        if (announced_.load(std::memory_order_relaxed) != nullptr || work_.load(std::memory_order_relaxed) != seen)
            return Looked::nothing;
        int64_t until = dispatch.wait_until_ns;
        for (const Flight& flight : me.flights) until = std::min(until, flight.look_ns);
        const int64_t now = now_ns();
        if (until <= now) {
            if (dispatch.wait_until_ns <= now) return Looked::nothing;
            sched_yield();
        } else if (dispatch.holding) {
            futex_wait_until(work_, seen, until);
        } else if (sleep(seen, until)) {
            *woken = true;
            return Looked::nothing;
        }
    }
}

bool Executors::has_flights(const Lane& lane) noexcept {
    ENGINE_ASSERT(lock_.held_by_this_thread(), "the executors' lock is held");
    const auto its = [&](const Flight& flight) { return flight.lane == &lane && flight.batch != nullptr; };
    return std::any_of(orphans_.begin(), orphans_.end(), its) ||
           std::any_of(executors_.begin(), executors_.end(), [&](const auto& executor) {
               return std::any_of(executor->flights.begin(), executor->flights.end(), its);
           });
}

// Lock. The lane goes, or has another primary: the device's abandoned batches take none of its seats any more.
void Executors::forget_seats(const Lane& lane) noexcept {
    ENGINE_ASSERT(lock_.held_by_this_thread(), "the executors' lock is held");
    const auto forget = [&](std::vector<Flight>& flights) {
        for (Flight& flight : flights)
            if (flight.lane == &lane && flight.batch == nullptr) free_seat(flight);
    };
    forget(orphans_);
    for (const auto& executor : executors_) forget(executor->flights);
}

// Lock. The executor cannot look at its flights for a while: the next that looks for work takes them.
void Executors::orphan_flights(Executor& executor) noexcept {
    ENGINE_ASSERT(lock_.held_by_this_thread(), "the executors' lock is held");
    if (executor.flights.empty()) return;
    ENGINE_ASSERT(orphans_.size() + executor.flights.size() <= orphans_.capacity(), "there is room for all flights");
    orphans_.insert(orphans_.end(), executor.flights.begin(), executor.flights.end());
    executor.flights.clear();
    work_.fetch_add(1, std::memory_order_seq_cst);
    futex_wake(work_, 1);
}

// Lock.
void Executors::adopt_flights(Executor& me) noexcept {
    while (!orphans_.empty() && me.flights.size() < FLIGHTS_MAX) {
        me.flights.push_back(orphans_.back());
        orphans_.pop_back();
    }
}

// The executor's thread ends. Batches that were taken from it have been answered; what is left of the others is for the
// next executor, or for the end of all.
void Executors::drop_flights(Executor& me) {
    for (size_t i = me.flights.size(); i-- > 0;) {
        Flight& flight = me.flights[i];
        if (flight.batch == nullptr) continue;
        if (!flight.lost) {
            abandon(me, i, Reason::closing);
            continue;
        }
        Lane& lane = *flight.lane;
        Batch& batch = *flight.batch;
        leave_ticket(batch);
        lane.give_up(batch, Reason::stalled);
        std::unique_ptr<Batch> left_behind;
        {
            const MutexLock lock(lock_);
            left_behind = lane.take_lost(batch);
            remove(me, i);
        }
        lane.learn(batch, true);
        left_behind.reset();
        lane.executor_leaves();
    }
    const MutexLock lock(lock_);
    orphan_flights(me);
}

// A batch that was taken from its executor is still with its device.
void Executors::leave_ticket(Batch& batch) noexcept {
    if (batch.call_state != CallState::in_flight) return;
    batch.deployment->abandon(batch.ticket);
    batch.deployment->retain();
    Flight flight{nullptr, nullptr, 0, now_ns(), 0, 0};
    flight.deployment = batch.deployment;
    flight.ticket = batch.ticket;
    const MutexLock lock(lock_);
    ENGINE_ASSERT(orphans_.size() < orphans_.capacity(), "there is room for all flights");
    orphans_.push_back(flight);
}

// Nobody polls them any more. Without the lock, because the last reference frees a model.
void Executors::release_orphans() noexcept {
    std::vector<Flight> left;
    {
        const MutexLock lock(lock_);
        left = std::exchange(orphans_, {});
    }
    for (const Flight& flight : left) flight.deployment->release();
}

// Lock. Whether a driver has kept the executor from looking at its flights since then.
bool Executors::is_stuck_looking(const Executor& executor, int64_t since_ns) const noexcept {
    const int64_t looks_ns = executor.looks_ns.load(std::memory_order_relaxed);
    return looks_ns != 0 && looks_ns <= since_ns;
}

// Lock. Takes all batches from an executor that is stuck looking at them. Throws only std::bad_alloc; some are then
// lost already.
void Executors::lose_flights(Executor& executor, std::vector<LostBatch>& lost) {
    lost.reserve(executor.flights.size());
    for (Flight& flight : executor.flights) {
        if (flight.leaving && flight.batch != nullptr) continue;  // the thread is about to answer it
        if (flight.batch == nullptr) {
            free_seat(flight);
            continue;
        }
        lost.push_back({flight.lane, flight.lane->lose_batch({flight.seat, true}, now_ns())});
        flight.lost = true;
    }
}

}  // namespace engine::scheduler
