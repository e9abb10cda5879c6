#include "scheduler/executors.hpp"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <optional>
#include <system_error>
#include <utility>

#include "base/futex.hpp"
#include "base/threads.hpp"

namespace engine::scheduler {

namespace {

// A wake-up that takes less is an ordinary one, between processors that are awake.
constexpr int64_t CHEAP_HANDOFF_NS = 20'000;
constexpr int64_t WATCH_NS_MAX = 100'000;
// Threads stuck in models keep their memory. Past this many, executors are no longer replaced, and the models are left
// to their circuit breakers.
constexpr uint32_t LOST_MAX = 16;
// Where the system refuses a replacement thread, it is asked again after this time.
constexpr int64_t ASK_AGAIN_NS = 50'000'000;
// An executor without a thread looks as if it had been in a batch for this long.
constexpr int64_t MISSING_SINCE_NS = 3'600'000'000'000;

void apply(const ExecutorOptions& options, pthread_t thread) {
    if (!options.cpus.empty()) {
        cpu_set_t set;
        CPU_ZERO(&set);
        for (const int cpu : options.cpus)
            if (cpu >= 0 && cpu < CPU_SETSIZE) CPU_SET(static_cast<size_t>(cpu), &set);
        if (const int error = pthread_setaffinity_np(thread, sizeof set, &set))
            throw std::system_error(error, std::generic_category(), "pinning executors to the given cpus");
    }
    if (options.realtime_priority > 0) {
        sched_param parameters{};
        parameters.sched_priority = options.realtime_priority;
        if (const int error = pthread_setschedparam(thread, SCHED_FIFO, &parameters))
            throw std::system_error(error, std::generic_category(), "real-time scheduling of executors");
    }
}

// Tries the options on a thread that does nothing else, so that an error leaves nothing behind.
void try_options(const ExecutorOptions& options) {
    std::atomic<uint32_t> tried{0};
    std::thread trial = make_thread("engine-trial", [&] { futex_wait_until(tried, 0, NEVER_NS); });
    const auto end = [&] {
        tried.store(1);
        futex_wake(tried, 1);
        trial.join();
    };
    try {
        apply(options, trial.native_handle());
    } catch (...) {
        end();
        throw;
    }
    end();
}

}  // namespace

std::shared_ptr<Executors> Executors::make(const ExecutorOptions& options) {
    if (!options.cpus.empty() || options.realtime_priority > 0) try_options(options);
    return std::shared_ptr<Executors>(new Executors(options));
}

Executors::Executors(const ExecutorOptions& options)
    : options_(options),
      shared_(options.threads),
      deadline_timer_([this](int64_t now) { return check_executors(now); }) {}

Executors::~Executors() {
    stop(1'000'000'000);
    release_orphans();  // of threads that came back later
}

void Executors::start() {
    const std::lock_guard<std::mutex> starting(start_lock_);
    if (started_.exchange(true)) return;
    stopping_.store(false, std::memory_order_seq_cst);
    try {
        deadline_timer_.start();
        // The timer's thread stays on the cpus but keeps the ordinary scheduler: the fallbacks that it runs must not
        // take a core from the executors.
        if (!options_.cpus.empty()) apply({1, true, 0, options_.cpus}, deadline_timer_.native_handle());
        const MutexLock lock(lock_);
        executors_.clear();
        for (uint32_t i = 0; i < count(); ++i) executors_.push_back(spawn(i));
    } catch (...) {
        stop(NEVER_NS);  // the threads that there are have no work yet
        throw;
    }
}

// Lock, which the new thread waits for until it has its place.
std::shared_ptr<Executors::Executor> Executors::spawn(uint32_t number) {
    ENGINE_ASSERT(lock_.held_by_this_thread(), "the executors' lock is held");
    ENGINE_ASSERT(number < count(), "an executor's number is below their count");
    auto executor = std::make_shared<Executor>();
    executor->number = number;
    executor->thread = ++threads_made_;
    executor->flights.reserve(FLIGHTS_MAX);
    char name[16];
    std::snprintf(name, sizeof name, "engine-exec-%u", number % 100);
    executor->handle = make_thread(name, [this, executor] {
        loop(*executor);
        // Last: this reference may be the last one to this object.
        const std::shared_ptr<Executors> owner = std::move(executor->owner);
    });
    try {
        apply(options_, executor->handle.native_handle());
    } catch (const std::system_error&) {
        // The options worked when the executors were made; a permission that was taken away since is no reason to stop.
    }
    return executor;
}

// Lock. A new thread for an executor that has none. False where the system refuses it; the executor then counts as
// stuck until a later try succeeds.
bool Executors::try_spawn(uint32_t number) noexcept {
    try {
        executors_[number] = spawn(number);
    } catch (const std::exception&) {
        refused_.fetch_add(1, std::memory_order_relaxed);
        return false;
    }
    if (missing_[number]) {
        missing_[number] = false;
        missing_count_.fetch_sub(1, std::memory_order_relaxed);
        shared_.finished(number);
    }
    return true;
}

// Lock. The executor's thread is lost, and there is no other.
void Executors::miss(uint32_t number, int64_t now) noexcept {
    ENGINE_ASSERT(lock_.held_by_this_thread(), "the executors' lock is held");
    missing_[number] = true;
    missing_count_.fetch_add(1, std::memory_order_relaxed);
    shared_.started(number, now - MISSING_SINCE_NS, 0, 0);
}

void Executors::announce(Lane& lane) noexcept {
    // One announcer at a time: the thread that turns `announced` true owns the link until an executor clears it.
    if (lane.announced.exchange(true, std::memory_order_acq_rel)) return;
    Lane* head = announced_.load(std::memory_order_relaxed);
    do {
        lane.next_announced = head;
    } while (!announced_.compare_exchange_weak(head, &lane, std::memory_order_seq_cst, std::memory_order_relaxed));
}

void Executors::wake() noexcept {
    if (parked_.load(std::memory_order_seq_cst) == 0) return;
    work_.fetch_add(1, std::memory_order_seq_cst);
    futex_wake(work_, 1);
}

void Executors::loop(Executor& me) {
    const PreciseTimers precise;
    GilCall* const gil = GilCalls::all().enter();
    {
        const MutexLock lock(lock_);
        if (!me.lost) shared_.has_thread(me.number, gil);
    }
    bool slept = false, lost = false;
    while (!lost) {
        // Before the look for work: a later submission changes work_, and park() does not sleep.
        const uint32_t seen = work_.load(std::memory_order_seq_cst);
        if (stopping_.load(std::memory_order_seq_cst)) break;
        const int64_t now = now_ns();
        const Dispatch dispatch = next(me, now);
        const bool batch = dispatch.lane != nullptr && !dispatch.warm_up;
        if (slept && batch) handoff_.record(now - dispatch.lane->first_queued_ns(*me.batch), now);
        lost = dispatch.lost || !work(me, dispatch);
        slept = false;
        if (lost) continue;
        if (!me.flights.empty())
            lost = (dispatch.lane == nullptr ? await(me, dispatch, seen, &slept) : look(me)) == Looked::lost;
        else slept = dispatch.lane == nullptr && park(dispatch, seen);
    }
    if (lost) comes_back_lost();
    drop_flights(me);
    {
        const MutexLock lock(lock_);
        if (!me.lost) shared_.has_thread(me.number, nullptr);
    }
    GilCalls::all().leave(gil);
    me.ended.store(true, std::memory_order_release);
    work_.fetch_add(1, std::memory_order_seq_cst);
    futex_wake(work_, INT32_MAX);
}

// Does what next() has found. False when this thread was replaced meanwhile and must end.
bool Executors::work(Executor& me, const Dispatch& dispatch) {
    for (const Lane::Dropped& it : me.dropped) {
        it.lane->drop(it.entry, it.entry.shed ? Reason::shed : Reason::released);
        it.lane->executor_leaves();
    }
    me.dropped.clear();
    if (dispatch.lane == nullptr) return true;
    return dispatch.warm_up ? warm_up(me, *dispatch.lane) : run(me, *dispatch.lane);
}

// Scores the batch that next() has formed, or begins it on its device.
bool Executors::run(Executor& me, Lane& lane) {
    lane.begin(*me.batch);
    [[maybe_unused]] const bool any = lane.next_call(*me.batch);
    ENGINE_ASSERT(any, "a batch has a call");
    return make_calls(me, lane);
}

// Makes the call that is prepared and those after it, until one is in flight or none is left.
bool Executors::make_calls(Executor& me, Lane& lane) {
    bool in_flight = false;
    do {
        in_flight = lane.make_call(*me.batch);
    } while (!in_flight && lane.next_call(*me.batch));
    return end_calls(me, lane, in_flight);
}

bool Executors::end_calls(Executor& me, Lane& lane, bool in_flight) {
    Batch& batch = *me.batch;
    std::unique_ptr<Batch> left_behind;  // freed without the lock
    bool lost;
    {
        const MutexLock lock(lock_);
        ENGINE_ASSERT(me.lane == &lane, "an executor runs the batch that it was given");
        me.lane = nullptr;
        me.batch = nullptr;
        lost = me.lost;
        if (lost) left_behind = lane.take_lost(batch);
        else if (in_flight) me.flights.push_back(flight_of(lane, batch));
        else if (!batch.place.on_device) lane.finish_batch(batch);
    }
    if (in_flight && !lost) return true;
    if (batch.place.on_device && !lost) {
        leave_seat(lane, batch);
        return true;
    }
    if (in_flight) {
        leave_ticket(batch);
        lane.give_up(batch, Reason::stalled);
    }
    lane.learn(batch, lost);
    left_behind.reset();
    lane.executor_leaves();
    return !lost;
}

void Executors::comes_back_lost() noexcept {
    [[maybe_unused]] const uint32_t before = lost_.fetch_sub(1, std::memory_order_relaxed);
    ENGINE_ASSERT(before > 0, "a lost executor comes back once");
}

// Lock. True where this thread must first call a deployment of the lane.
bool Executors::take_warm_up(Executor& me, Lane& lane, int64_t now, Dispatch& dispatch) noexcept {
    Deployment* const cold = lane.cold(me.number, me.thread, now);
    if (cold == nullptr) return false;
    lane.begin_warm_up(me.number, *cold, now);
    me.lane = &lane;
    me.warming = cold;
    me.warming_since_ns = now;
    dispatch.lane = &lane;
    dispatch.warm_up = true;
    return true;
}

// Calls the deployment that next() has found cold. False when this thread was replaced meanwhile and must end.
bool Executors::warm_up(Executor& me, Lane& lane) {
    Deployment& deployment = *me.warming;
    deadline_timer_.add({me.warming_since_ns + deployment.warm_up_ns_max(), nullptr, 0, 0});
    deployment.warm_up(me.number, me.thread);
    bool lost;
    {
        const MutexLock lock(lock_);
        ENGINE_ASSERT(me.lane == &lane, "an executor runs the batch that it was given");
        me.lane = nullptr;
        me.warming = nullptr;
        lost = me.lost;
        if (!lost) lane.end_warm_up(me.number);
    }
    if (lost) {
        deployment.lost_call_returned();
        deployment.breaker().came_back(now_ns());
    }
    deployment.release();
    lane.executor_leaves();
    return !lost;
}

void Executors::begin_warming(Lane& lane, Deployment& deployment) noexcept {
    {
        const MutexLock lock(lock_);
        lane.to_warm = &deployment;
    }
    announce(lane);
    work_.fetch_add(1, std::memory_order_seq_cst);
    futex_wake(work_, INT32_MAX);
}

bool Executors::is_warm(const Deployment& deployment) noexcept {
    const MutexLock lock(lock_);
    return std::none_of(executors_.begin(), executors_.end(), [&](const auto& executor) {
        return !missing_[executor->number] && deployment.is_cold(executor->number, executor->thread);
    });
}

void Executors::end_warming(Lane& lane) noexcept {
    const MutexLock lock(lock_);
    lane.to_warm = nullptr;
}

// Lock. Lanes that announced themselves since the last look join the active ones.
void Executors::take_announced() noexcept {
    ENGINE_ASSERT(lock_.held_by_this_thread(), "the executors' lock is held");
    for (Lane* it = announced_.exchange(nullptr, std::memory_order_acq_rel); it != nullptr;) {
        // Read before `announced` is cleared: from then on a submitter may write the link.
        Lane* const following = it->next_announced;
        // From here on a submission announces again. A submission from before is found by take_submissions(), which
        // follows this exchange.
        [[maybe_unused]] const bool before = it->announced.exchange(false, std::memory_order_acq_rel);
        ENGINE_ASSERT(before, "a lane in the list is announced");
        if (!it->active) active_.push_back(it);
        it->active = true;
        it = following;
    }
}

// Lock. The lane whose next batch ranks first, of those not tried at this look; null for none. Batches for a device go
// before all others, because they hold the executor up for microseconds only.
Lane* Executors::first_untried(int64_t now) noexcept {
    Lane* first = nullptr;
    std::pair<bool, Policy::Rank> rank{};
    for (Lane* it : active_) {
        if (it->tried || it->policy().depth() == 0) continue;
        const std::pair<bool, Policy::Rank> its{!it->wants_seat(now), it->policy().rank(now)};
        if (first != nullptr && !(its < rank)) continue;
        first = it;
        rank = its;
    }
    return first;
}

// Moves submissions into the queues, and forms the batch that ranks first out of them.
Executors::Dispatch Executors::next(Executor& me, int64_t now) noexcept {
    const MutexLock lock(lock_);
    ENGINE_ASSERT(me.lane == nullptr, "an executor asks for work when it has none");
    Dispatch dispatch;
    dispatch.lost = me.lost;
    if (me.lost) return dispatch;
    ENGINE_ASSERT(executors_[me.number].get() == &me, "a replaced executor forms no batch");
    adopt_flights(me);
    take_announced();
    for (Lane* it : active_) it->take_submissions(now);
    for (Lane* it : active_)
        if (it->to_warm != nullptr && take_warm_up(me, *it, now, dispatch)) break;
    while (Lane* first = dispatch.lane == nullptr ? first_untried(now) : nullptr) {
        first->tried = true;
        const std::optional<Place> place = first->next_place(me.number, now);
        if (!place) continue;  // the executor that ends the running batch looks again
        if (place->on_device && me.flights.size() == FLIGHTS_MAX) continue;
        if (!place->on_device && take_warm_up(me, *first, now, dispatch)) break;
        const BatchPlan plan = first->form_batch(*place, now, me.dropped);
        dispatch.wait_until_ns = std::min(dispatch.wait_until_ns, plan.wait_until_ns);
        dispatch.holding |= plan.holding;
        if (plan.rows == 0) continue;
        // Taken under the lock: once this executor is replaced, its place in the lane holds another batch.
        me.batch = &first->batch_of(*place);
        me.lane = dispatch.lane = first;
        break;
    }
    const bool more = retire_idle_lanes(dispatch, me.number, now);
    if (more && dispatch.lane != nullptr) wake();
    // A model may take long, and a sleeping executor can look at the flights meanwhile.
    const bool in_model = dispatch.warm_up || (dispatch.lane != nullptr && !me.batch->place.on_device);
    if (in_model && !me.flights.empty() && parked_.load(std::memory_order_seq_cst) > 0) orphan_flights(me);
    return dispatch;
}

// Lock. Lanes without work leave the list. True when another executor could find work in a lane that stays.
bool Executors::retire_idle_lanes(const Dispatch& dispatch, uint32_t executor, int64_t now) noexcept {
    bool more = false;
    std::erase_if(active_, [&](Lane* it) {
        const bool served = it == dispatch.lane;
        const bool queued = it->policy().depth() > 0;
        // A look that left some lanes untried, or took only a part, leaves work for another executor.
        more |= queued && (!it->tried || served) && it->next_place(executor, now).has_value();
        it->tried = false;
        // A lane just served stays for one more look, which finds new submissions without a wake-up.
        it->active = served || queued || it->has_submissions() || it->to_warm != nullptr;
        return !it->active;
    });
    return more;
}

// Sleeps until there is work; true when it was woken for some. An executor that holds a batch back has a time to wake
// at and does not count as parked, so arrivals that only fill its batch cost no wake-up.
bool Executors::park(const Dispatch& dispatch, uint32_t seen) noexcept {
    if (dispatch.holding) {
        futex_wait_until(work_, seen, dispatch.wait_until_ns);
        return false;
    }
    return !work_comes(seen) && sleep(seen, dispatch.wait_until_ns);
}

bool Executors::sleep(uint32_t seen, int64_t until_ns) noexcept {
    bool woken = false;
    parked_.fetch_add(1, std::memory_order_seq_cst);
    // After parked_: a submitter that saw no parked executor has announced its lane before, and is seen here.
    if (announced_.load(std::memory_order_seq_cst) == nullptr && !stopping_.load(std::memory_order_seq_cst))
        woken = futex_wait_until(work_, seen, until_ns) == Wait::woken;
    [[maybe_unused]] const uint32_t before = parked_.fetch_sub(1, std::memory_order_seq_cst);
    ENGINE_ASSERT(before > 0 && before <= count() + LOST_MAX, "an executor parks once at a time");
    return woken;
}

int64_t Executors::watch_ns() const noexcept {
    const int64_t handoff = handoff_.value();
    return options_.may_watch && handoff > CHEAP_HANDOFF_NS ? std::min(handoff, WATCH_NS_MAX) : 0;
}

// Polls for work for as long as a wake-up would take. Other threads that want this core get it at every look. Relaxed
// loads are enough: a store that they miss is found by park(), which looks again in order.
bool Executors::work_comes(uint32_t seen) noexcept {
    const int64_t watch = watch_ns();
    if (watch == 0 || watching_.test_and_set(std::memory_order_acquire)) return false;
    bool comes = false;
    for (const int64_t until = now_ns() + watch; !comes && now_ns() < until;) {
        sched_yield();
        comes = announced_.load(std::memory_order_relaxed) != nullptr || work_.load(std::memory_order_relaxed) != seen;
    }
    watching_.clear(std::memory_order_release);
    return comes;
}

void Executors::suspect(const Lane& lane) noexcept {
    const int64_t now = now_ns();
    int64_t at = NEVER_NS;
    {
        const MutexLock lock(lock_);
        for (const auto& executor : executors_)
            if (executor->lane == &lane && !executor->lost) at = std::min(at, hung_at_ns(*executor, now));
        if (at == NEVER_NS && has_flights(lane)) at = now + STUCK_LOOK_NS;
    }
    if (at < NEVER_NS) deadline_timer_.add({at, nullptr, 0, 0});
}

// Lock. When the batch or the warm-up that the executor is in counts as stuck.
int64_t Executors::hung_at_ns(const Executor& executor, int64_t now) const noexcept {
    if (executor.warming != nullptr) return executor.warming_since_ns + executor.warming->warm_up_ns_max();
    return executor.lane->hung_at_ns(*executor.batch, now);
}

// Replaces executors that have been in one batch for too long. Runs on the deadline timer's thread. Returns when to
// check again.
int64_t Executors::check_executors(int64_t now) noexcept {
    int64_t again = NEVER_NS;
    std::vector<std::shared_ptr<Executor>> hung;
    {
        const MutexLock lock(lock_);
        for (uint32_t i = 0; i < executors_.size(); ++i)
            if (missing_[i] && !try_spawn(i)) again = now + ASK_AGAIN_NS;
        for (const auto& executor : executors_) {
            if (executor->lost) continue;
            const int64_t looks = executor->looks_ns.load(std::memory_order_relaxed);
            const int64_t at = executor->lane != nullptr ? hung_at_ns(*executor, now)
                               : looks != 0              ? looks + STUCK_LOOK_NS
                                                         : NEVER_NS;
            if (at > now) again = std::min(again, at);
            else if (lost_.load(std::memory_order_relaxed) + hung.size() < LOST_MAX) hung.push_back(executor);
        }
    }
    for (const auto& executor : hung) replace(executor, Reason::stalled, true);
    return missing() > 0 ? std::min(again, now + ASK_AGAIN_NS) : again;
}

// Takes the thread never to come back: its batch is answered without it, and another thread takes its place.
void Executors::replace(const std::shared_ptr<Executor>& executor, Reason reason, bool respawn) noexcept {
    std::vector<LostBatch> lost;
    {
        const MutexLock lock(lock_);
        const int64_t now = now_ns();
        Lane* const lane = executor->lane;
        const int64_t patience_ns = reason == Reason::closing ? STUCK_CLOSING_NS : STUCK_LOOK_NS;
        if (executor->lost || (lane == nullptr && !is_stuck_looking(*executor, now - patience_ns)))
            return;  // it came back this moment
        try {
            if (lane == nullptr) lose_flights(*executor, lost);
            else if (executor->warming != nullptr) lane->lose_warm_up(executor->number, *executor->warming, now);
            else lost.push_back({lane, lane->lose_batch(executor->batch->place, now)});
        } catch (const std::bad_alloc&) {
            if (lost.empty()) return;  // the next check tries again
        }
        if (lane != nullptr) orphan_flights(*executor);
        executor->lost = true;
        executor->owner = shared_from_this();
        executor->handle.detach();
        lost_.fetch_add(1, std::memory_order_relaxed);
        replaced_.fetch_add(1, std::memory_order_relaxed);
        shared_.has_thread(executor->number, nullptr);
        if (respawn && !try_spawn(executor->number)) miss(executor->number, now);
    }
    for (const LostBatch& batch : lost)
        for (const Entry& entry : batch.entries) batch.lane->drop(entry, reason);
    wake();
}

void Executors::set_primary(Lane& lane, const Deployment& primary) {
    const MutexLock lock(lock_);
    if (primary.in_flight_max() > 0) orphans_.reserve(FLIGHTS_MAX * (count() + LOST_MAX));
    lane.set_primary(primary);
    forget_seats(lane);  // of the primary before
}

uint32_t Executors::detach(Lane& lane, int64_t patience_ns) noexcept {
    bool left = has_left(lane, patience_ns >= NEVER_NS ? NEVER_NS : now_ns() + patience_ns);
    bool flights = false;
    {
        const MutexLock lock(lock_);
        flights = !left && has_flights(lane);
    }
    if (flights) {
        lane.close_flights();
        work_.fetch_add(1, std::memory_order_seq_cst);
        futex_wake(work_, INT32_MAX);
        left = has_left(lane, now_ns() + STUCK_LOOK_NS);
    }
    const uint32_t given_up = left ? 0 : abandon_lane(lane);
    const MutexLock lock(lock_);
    forget_seats(lane);
    // Executors lost earlier have not come back either, or none would be in flight.
    return left ? 0 : std::max(given_up, lane.in_flight());
}

// Whether all executors have left the lane by then. Takes it off all lists.
bool Executors::has_left(Lane& lane, int64_t until_ns) noexcept {
    for (;;) {
        const uint32_t seen = work_.load(std::memory_order_seq_cst);
        {
            const MutexLock lock(lock_);
            take_announced();
            std::erase(active_, &lane);
            lane.active = false;
        }
        if (lane.in_flight() == 0) return true;
        if (now_ns() >= until_ns) return false;
        futex_wait_until(work_, seen, std::min(until_ns, now_ns() + 1'000'000));
    }
}

// Replaces the executors that are in the lane, and returns how many there were.
uint32_t Executors::abandon_lane(Lane& lane) noexcept {
    std::vector<std::shared_ptr<Executor>> hung;
    {
        const MutexLock lock(lock_);
        for (const auto& executor : executors_) {
            const bool flies = std::any_of(executor->flights.begin(), executor->flights.end(),
                                           [&](const Flight& flight) { return flight.lane == &lane; });
            if (!executor->lost && (executor->lane == &lane || (executor->lane == nullptr && flies)))
                hung.push_back(executor);
        }
    }
    for (const auto& executor : hung) replace(executor, Reason::closing, true);
    if (missing() > 0) deadline_timer_.add({now_ns() + ASK_AGAIN_NS, nullptr, 0, 0});
    return static_cast<uint32_t>(hung.size());
}

void Executors::stop(int64_t patience_ns) noexcept {
    if (!started_.load()) return;
    const int64_t until = patience_ns >= NEVER_NS ? NEVER_NS : now_ns() + patience_ns;
    deadline_timer_.stop();  // first: it replaces executors
    stopping_.store(true, std::memory_order_seq_cst);
    std::vector<std::shared_ptr<Executor>> executors;
    {
        const MutexLock lock(lock_);
        executors = executors_;
        for (uint32_t i = 0; i < executors_.size(); ++i) {
            if (!missing_[i]) continue;
            missing_[i] = false;
            missing_count_.fetch_sub(1, std::memory_order_relaxed);
            shared_.finished(i);
        }
    }
    for (const auto& executor : executors) {
        if (executor->lost) continue;  // its thread goes on alone, and there was none to take its place
        while (!executor->ended.load(std::memory_order_acquire) && !executor->lost) {
            const uint32_t seen = work_.fetch_add(1, std::memory_order_seq_cst) + 1;
            futex_wake(work_, INT32_MAX);
            if (now_ns() >= until) replace(executor, Reason::closing, false);
            futex_wait_until(work_, seen, std::min(std::max(until, now_ns() + 1'000'000), now_ns() + 5'000'000));
        }
        if (executor->handle.joinable()) executor->handle.join();
    }
    release_orphans();
    started_.store(false);
}

}  // namespace engine::scheduler
