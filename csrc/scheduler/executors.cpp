#include "scheduler/executors.hpp"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <system_error>

#include "base/futex.hpp"
#include "scheduler/runtime.hpp"

namespace engine {

namespace {

// A wake-up that takes less is an ordinary one, between processors that are awake.
constexpr int64_t CHEAP_HANDOFF_NS = 20'000;
constexpr int64_t WATCH_NS_MAX = 100'000;
// Threads stuck in models keep their memory. Past this many the models are left to their breakers.
constexpr uint32_t LOST_MAX = 16;

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

}  // namespace

std::shared_ptr<Executors> Executors::make(const ExecutorOptions& options) {
    if (!options.cpus.empty() || options.realtime_priority > 0) {
        // Tried on a thread that does nothing else, so that a refusal leaves nothing behind.
        std::atomic<uint32_t> tried{0};
        std::thread trial([&] { detail::futex_wait_until(tried, 0, NEVER_NS); });
        const auto end = [&] {
            tried.store(1);
            detail::futex_wake(tried, 1);
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
    return std::shared_ptr<Executors>(new Executors(options));
}

Executors::Executors(const ExecutorOptions& options)
    : options_(options), shared_(options.threads), rescuer_([this](int64_t now) { return look_after(now); }) {}

Executors::~Executors() { stop(1'000'000'000); }

void Executors::start() {
    if (started_.exchange(true)) return;
    const std::lock_guard<std::mutex> lock(lock_);
    threads_.resize(count());
    for (uint32_t i = 0; i < count(); ++i) spawn(i);
    rescuer_.start();
    // The rescue keeps the ordinary scheduler: it runs fallbacks for whoever is late, and is never in a hurry before.
    if (!options_.cpus.empty()) apply({1, true, 0, options_.cpus}, const_cast<std::thread&>(rescuer_.thread()).native_handle());
}

void Executors::spawn(uint32_t number) {
    auto thread = std::make_shared<Thread>();
    thread->number = number;
    threads_[number] = thread;
    thread->handle = std::thread([this, thread] {
        loop(*thread);
        // Last: it may be what keeps this object alive.
        const std::shared_ptr<Executors> kept = std::move(thread->keep);
    });
    char name[16];
    std::snprintf(name, sizeof name, "engine-exec-%u", number % 100);
    pthread_setname_np(thread->handle.native_handle(), name);
    try {
        apply(options_, thread->handle.native_handle());
    } catch (const std::system_error&) {
        // It was allowed when the executors were made; a permission that was taken away since is no reason to stop.
    }
}

void Executors::announce(Runtime& runtime) noexcept {
    if (runtime.announced.exchange(true, std::memory_order_acq_rel)) return;
    Runtime* head = announced_.load(std::memory_order_relaxed);
    do {
        runtime.next_announced = head;
    } while (!announced_.compare_exchange_weak(head, &runtime, std::memory_order_seq_cst, std::memory_order_relaxed));
}

void Executors::wake() noexcept {
    if (parked_.load(std::memory_order_seq_cst) == 0) return;
    work_.fetch_add(1, std::memory_order_seq_cst);
    detail::futex_wake(work_, 1);
}

void Executors::loop(Thread& me) {
    const detail::PreciseTimers precise;
    bool slept = false;
    for (;;) {
        const uint32_t seen = work_.load(std::memory_order_seq_cst);
        if (stopping_.load(std::memory_order_seq_cst)) break;
        const int64_t now = now_ns();
        const Turn turn = next(me, now);
        for (const Released& it : me.released) {
            it.runtime->let_go(it.entry, it.entry.shed ? Reason::shed : Reason::released);
            it.runtime->visited();
        }
        me.released.clear();
        if (turn.runtime != nullptr) {
            if (slept) handoff_.record(now - turn.runtime->first_queued_ns(me), now);
            turn.runtime->run_batch(me, turn.rows);
            if (me.lost.load(std::memory_order_acquire)) {
                lost_.fetch_sub(1, std::memory_order_relaxed);
                break;
            }
        }
        slept = turn.runtime == nullptr && park(turn, seen);
    }
    me.ended.store(true, std::memory_order_release);
    work_.fetch_add(1, std::memory_order_seq_cst);
    detail::futex_wake(work_, INT32_MAX);
}

// Runtimes that announced themselves since the last look join those that are active.
void Executors::take_announced() noexcept {
    for (Runtime* it = announced_.exchange(nullptr, std::memory_order_acq_rel); it != nullptr;) {
        Runtime* const following = it->next_announced;
        // From here on a submission announces again; what was submitted before is found by the drain that follows.
        it->announced.exchange(false, std::memory_order_acq_rel);
        if (!it->active) active_.push_back(it);
        it->active = true;
        it = following;
    }
}

Runtime* Executors::first_untried(int64_t now) noexcept {
    Runtime* first = nullptr;
    Policy::Standing standing{};
    for (Runtime* it : active_) {
        if (it->tried || it->policy().depth() == 0) continue;
        const Policy::Standing its = it->policy().standing(now);
        if (first != nullptr && !(its < standing)) continue;
        first = it;
        standing = its;
    }
    return first;
}

// Under the lock: submissions into the queues, and the batch that stands first out of them.
Executors::Turn Executors::next(Thread& me, int64_t now) noexcept {
    const std::lock_guard<std::mutex> lock(lock_);
    take_announced();
    for (Runtime* it : active_) it->take_submissions(now);
    Turn turn;
    while (Runtime* first = first_untried(now)) {
        first->tried = true;
        if (!first->may_begin_batch()) continue;  // whoever ends the one that runs looks again
        const Forming forming = first->form_batch(me, now);
        turn.wait_until_ns = std::min(turn.wait_until_ns, forming.wait_until_ns);
        turn.holding |= forming.holding;
        if (forming.rows == 0) continue;
        turn.runtime = first;
        turn.rows = forming.rows;
        me.rows.store(forming.rows, std::memory_order_relaxed);
        me.began_ns.store(now, std::memory_order_relaxed);
        me.running.store(first, std::memory_order_release);
        break;
    }
    bool more = false;
    std::erase_if(active_, [&](Runtime* it) {
        // A turn that left some untried, or has just taken a part, leaves work for another executor.
        more |= it->policy().depth() > 0 && (!it->tried || it == turn.runtime) && it->may_begin_batch();
        it->tried = false;
        // One that has just run stays for one more look, which finds what came in meanwhile without being woken.
        it->active = it == turn.runtime || it->policy().depth() > 0 || it->has_submissions();
        return !it->active;
    });
    if (more && turn.runtime != nullptr) wake();
    return turn;
}

// Sleeps until there is work; true when it was woken for some. An executor that holds a batch back has a time to wake at
// and does not count as parked, so arrivals that only fill its batch cost no wake-up.
bool Executors::park(const Turn& turn, uint32_t seen) noexcept {
    if (turn.holding) {
        detail::futex_wait_until(work_, seen, turn.wait_until_ns);
        return false;
    }
    if (work_comes(seen)) return false;
    bool woken = false;
    parked_.fetch_add(1, std::memory_order_seq_cst);
    if (announced_.load(std::memory_order_seq_cst) == nullptr && !stopping_.load(std::memory_order_seq_cst))
        woken = detail::futex_wait_until(work_, seen, turn.wait_until_ns) == detail::Wait::woken;
    parked_.fetch_sub(1, std::memory_order_seq_cst);
    return woken;
}

int64_t Executors::watch_ns() const noexcept {
    const int64_t handoff = handoff_.value();
    return options_.may_watch && handoff > CHEAP_HANDOFF_NS ? std::min(handoff, WATCH_NS_MAX) : 0;
}

// Watches for work for as long as a wake-up would take. Others who want this core get it at every look.
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

void Executors::suspect(Runtime& runtime) noexcept {
    int64_t at = NEVER_NS;
    {
        const std::lock_guard<std::mutex> lock(lock_);
        for (const auto& thread : threads_)
            if (thread->running.load(std::memory_order_relaxed) == &runtime)
                at = std::min(at, thread->began_ns.load(std::memory_order_relaxed) +
                                      runtime.hung_after_ns(thread->rows.load(std::memory_order_relaxed)));
    }
    if (at < NEVER_NS) rescuer_.watch({at, nullptr, 0, 0});
}

// Replaces executors that have been in one batch for too long. Called by the rescue thread.
int64_t Executors::look_after(int64_t now) noexcept {
    int64_t again = NEVER_NS;
    std::vector<std::shared_ptr<Thread>> hung;
    {
        const std::lock_guard<std::mutex> lock(lock_);
        for (const auto& thread : threads_) {
            const Runtime* runtime = thread->running.load(std::memory_order_relaxed);
            if (runtime == nullptr || thread->lost.load(std::memory_order_relaxed)) continue;
            const int64_t at = thread->began_ns.load(std::memory_order_relaxed) +
                               runtime->hung_after_ns(thread->rows.load(std::memory_order_relaxed));
            if (at > now) again = std::min(again, at);
            else if (lost_.load(std::memory_order_relaxed) + hung.size() < LOST_MAX) hung.push_back(thread);
        }
    }
    for (const auto& thread : hung) replace(thread, Reason::stalled, true);
    return again;
}

// The thread is taken never to come back: its batch is answered without it, and another thread takes its place.
void Executors::replace(const std::shared_ptr<Thread>& thread, Reason reason, bool respawn) noexcept {
    Runtime* runtime;
    std::vector<Entry> batch;
    {
        const std::lock_guard<std::mutex> lock(lock_);
        runtime = thread->running.load(std::memory_order_relaxed);
        if (runtime == nullptr || thread->lost.load(std::memory_order_relaxed)) return;  // it came back this moment
        thread->lost.store(true, std::memory_order_release);
        thread->keep = shared_from_this();
        thread->handle.detach();
        lost_.fetch_add(1, std::memory_order_relaxed);
        replaced_.fetch_add(1, std::memory_order_relaxed);
        batch = runtime->lose_batch(thread->number, thread->rows.load(std::memory_order_relaxed), now_ns());
        if (respawn) spawn(thread->number);
    }
    for (const Entry& entry : batch) runtime->let_go(entry, reason);
    wake();
}

uint32_t Executors::detach(Runtime& runtime, int64_t patience_ns) noexcept {
    const int64_t until = patience_ns >= NEVER_NS ? NEVER_NS : now_ns() + patience_ns;
    for (;;) {
        const uint32_t seen = work_.load(std::memory_order_seq_cst);
        {
            const std::lock_guard<std::mutex> lock(lock_);
            take_announced();
            std::erase(active_, &runtime);
            runtime.active = false;
        }
        if (runtime.visitors() == 0) return 0;
        if (now_ns() >= until) break;
        detail::futex_wait_until(work_, seen, std::min(until, now_ns() + 1'000'000));
    }
    const uint32_t given_up = give_up_on(runtime);
    // Those lost earlier have not come back either, or there would be no visitors.
    return std::max(given_up, runtime.visitors());
}

// Returns how many executors were in the runtime.
uint32_t Executors::give_up_on(Runtime& runtime) noexcept {
    std::vector<std::shared_ptr<Thread>> hung;
    {
        const std::lock_guard<std::mutex> lock(lock_);
        for (const auto& thread : threads_)
            if (thread->running.load(std::memory_order_relaxed) == &runtime) hung.push_back(thread);
    }
    for (const auto& thread : hung) replace(thread, Reason::closing, true);
    return static_cast<uint32_t>(hung.size());
}

void Executors::stop(int64_t patience_ns) noexcept {
    if (!started_.load()) return;
    const int64_t until = patience_ns >= NEVER_NS ? NEVER_NS : now_ns() + patience_ns;
    rescuer_.stop();  // first: it replaces threads
    stopping_.store(true, std::memory_order_seq_cst);
    std::vector<std::shared_ptr<Thread>> threads;
    {
        const std::lock_guard<std::mutex> lock(lock_);
        threads = threads_;
    }
    for (const auto& thread : threads) {
        for (;;) {
            const uint32_t seen = work_.fetch_add(1, std::memory_order_seq_cst) + 1;
            detail::futex_wake(work_, INT32_MAX);
            if (thread->ended.load(std::memory_order_acquire) || now_ns() >= until) break;
            detail::futex_wait_until(work_, seen, std::min(until, now_ns() + 5'000'000));
        }
        if (!thread->ended.load(std::memory_order_acquire)) replace(thread, Reason::closing, false);
        if (thread->handle.joinable()) thread->handle.join();
    }
    started_.store(false);
}

}  // namespace engine
