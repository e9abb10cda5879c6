#include "scheduler/policy.hpp"

namespace engine::scheduler {

namespace {

// Drop the head when the batch without it is this much more efficient than the batch that it forces.
constexpr double HEAD_DROP_GAIN = 1.05;
// In a burst the gain must be larger: the requests behind the head can wait for its end, and the head cannot.
constexpr double HEAD_DROP_GAIN_SOON = 1.25;
// Hold a batch back only where the batches at hand would keep the executors this busy, and where a row costs this many
// times its cost in an efficient batch.
constexpr double HOLD_UTILISATION = 0.7;
constexpr double HOLD_GAIN = 2.0;
constexpr double GAP_RATE = 0.02;
// Probe a too-slow primary every 50 ms, or every two row times if that is longer. A model that has become fast again is
// then found; one that has not would have stood idle anyway.
constexpr int64_t PROBE_EVERY_NS = 50'000'000;
constexpr int64_t PROBE_COSTS = 2;
// The part of the host's usual deadline that a guest's batch and a batch of the host after it may take together: the
// rest is the most that a safety margin takes.
constexpr double GUEST_SLACK = 0.7;
// A guest too slow for that is given one call in this many of its own, so it takes a hundredth of the host's time.
constexpr int64_t GUEST_PROBE_COSTS = 100;
constexpr int64_t GUEST_QUIET_COSTS = 10;

}  // namespace

Policy::Policy(const PolicyLimits& limits, CostModel& cost)
    : limits_(limits),
      cost_(cost),
      own_(std::make_unique<SharedExecutors>(limits.executors)),
      executors_(own_.get()),
      places_(own_.get()),
      batch_rows_max_(limits.batch_rows_max) {
    for (Heap& heap : heaps_) heap.reserve(limits_.queue_rows_max);
    executors_->joined();
}

Policy::Policy(const PolicyLimits& limits, CostModel& cost, SharedExecutors& shared, double weight)
    : limits_(limits), cost_(cost), executors_(&shared), places_(&shared), batch_rows_max_(limits.batch_rows_max) {
    share_.weight = weight;
    for (Heap& heap : heaps_) heap.reserve(limits_.queue_rows_max);
    executors_->joined();
}

Policy::Policy(const PolicyLimits& limits, CostModel& cost, Policy& host)
    : limits_(limits),
      cost_(cost),
      host_(&host),
      executors_(host.executors_),
      places_(host.executors_),
      batch_rows_max_(limits.batch_rows_max) {
    for (Heap& heap : heaps_) heap.reserve(limits_.queue_rows_max);
}

Policy::~Policy() {
    if (host_ == nullptr) executors_->left();
}

void Policy::set_device(uint32_t seats, uint32_t rows_max) {
    if (seats > 0 && device_ == nullptr) device_ = std::make_unique<SharedExecutors>(seats);
    if (seats > 0) device_->resize(seats);
    batch_rows_max_.store(std::clamp(rows_max, 1u, limits_.batch_rows_max), std::memory_order_relaxed);
    SharedExecutors* const to = seats > 0 ? device_.get() : executors_;
    if (to == &places()) return;
    places().deactivate(share_);
    share_.served.store(0, std::memory_order_relaxed);  // of another account
    // Release: a thread that admits sees the seats as they were made above.
    places_.store(to, std::memory_order_release);
    if (depth() > 0) to->activate(share_);
}

// On a device also when an executor is free to begin the batch.
int64_t Policy::first_free_ns(int64_t now_ns, uint32_t* working) const noexcept {
    if (!on_device()) return executors_->first_free_ns(now_ns, working);
    uint32_t threads = 0;
    const int64_t begins_ns = executors_->first_free_ns(now_ns, &threads);
    return std::max(begins_ns, places().first_free_ns(now_ns, working));
}

bool Policy::all_stalled(int64_t now_ns) const noexcept {
    return places().all_stalled(now_ns) || (on_device() && executors_->all_stalled(now_ns));
}

void Policy::set_guest_share(double share) noexcept {
    ENGINE_ASSERT(host_ != nullptr && share > 0.0 && share < 1.0, "a guest has a part of its host's executors");
    share_.weight.store(host_->share_.weight.load(std::memory_order_relaxed) * share / (1.0 - share),
                        std::memory_order_relaxed);
}

// Another executor or seat serves the host meanwhile, or the guest takes none of the host's; or the head of its queue,
// and a request that comes this moment, can wait for the guest's batch. A guest that is too slow for any request to
// wait is probed now and then all the same, because its cost may have been learned on a bad day.
int64_t Policy::guest_limit_ns(int64_t now_ns) const noexcept {
    const Policy& host = *host_;
    if (on_device() && !host.on_device()) return NEVER_NS;
    if (host.guests_running_ + 1 < places().count()) return NEVER_NS;
    const auto slack = static_cast<int64_t>(GUEST_SLACK * static_cast<double>(host.limits_.budget_ns));
    const int64_t usual_ns = slack - host.cost_.high_ns(1);
    const size_t depth = host.depth();
    if (cost_.high_ns(1) > usual_ns) return depth == 0 && now_ns > guest_due_ns() ? NEVER_NS : 0;
    if (depth == 0 || (places().overloaded(now_ns) && places().eligible(share_))) return usual_ns;
    int64_t first_ns = NEVER_NS;
    for (const Heap& heap : host.heaps_)
        if (!heap.empty()) first_ns = std::min(first_ns, heap.front().finish_by_ns);
    const uint32_t rows = std::min(static_cast<uint32_t>(depth), host.efficient_batch(now_ns));
    return std::min(usual_ns, first_ns - now_ns - host.cost_.high_ns(rows));
}

// When a guest that is too slow for the host's requests to wait may begin a batch all the same: where the host has
// had no request for so long that none is likely to come meanwhile, or as a probe.
int64_t Policy::guest_due_ns() const noexcept {
    const int64_t cost = cost_.expected_ns(1);
    return std::min(host_->pushed_ns_ + GUEST_QUIET_COSTS * cost, guest_ended_ns_ + GUEST_PROBE_COSTS * cost);
}

// How long this model's requests due before finish_by will keep an executor.
int64_t Policy::queued_ns(int64_t now_ns, int64_t finish_by_ns) const noexcept {
    int64_t rows = 0;
    for (const FinishCounts& counts : counts_) rows += counts.before(now_ns, finish_by_ns);
    const uint32_t batch = efficient_batch(now_ns);
    return std::max<int64_t>(rows, 0) * cost_.expected_ns(batch) / batch;
}

size_t Policy::depth() const noexcept {
    size_t sum = 0;
    for (const Heap& heap : heaps_) sum += heap.size();
    return sum;
}

// Counts the requests that go before one of this class and finish_by, and those of them in lower classes, whose place
// it can take. Both come from one look at the counts, because executors take requests meanwhile.
Policy::Ahead Policy::ahead_of(int64_t now_ns, int64_t finish_by_ns, Priority priority) const noexcept {
    Ahead ahead;
    if (live_.load(std::memory_order_relaxed) <= 0) return ahead;
    const bool classes_first = places().classes_first(now_ns);
    for (size_t c = 0; c < counts_.size(); ++c) {
        const auto its = static_cast<Priority>(c);
        if (counts_[c].total() <= 0 || (its > priority && classes_first)) continue;
        const int64_t rows =
            its < priority && classes_first ? counts_[c].total() : counts_[c].before(now_ns, finish_by_ns);
        ahead.rows += rows;
        if (its > priority) ahead.lower += rows;
    }
    return ahead;
}

int64_t Policy::finish_behind(int64_t now_ns, int64_t finish_by_ns, int64_t rows_ahead) const noexcept {
    uint32_t working = 0;
    int64_t free_ns = first_free_ns(now_ns, &working) + begins_after_ns_.load(std::memory_order_relaxed);
    if (host_ != nullptr) free_ns += host_->queued_ns(now_ns, finish_by_ns) / std::max(working, 1u);
    const int64_t rows = rows_ahead + 1;
    const uint32_t batch = efficient_batch(now_ns);
    const int64_t full = rows / batch * cost_.expected_ns(batch);
    // A last batch behind a full one will have filled up by the time it starts. Alone, it starts as it is.
    const int64_t last = rows % batch ? cost_.expected_ns(rows > batch ? batch : static_cast<uint32_t>(rows)) : 0;
    const SharedExecutors& shared = places();
    if (shared.models() < 2) return free_ns + full / std::max(working, 1u) + last;
    const int64_t others =
        std::max<int64_t>(shared.work.before(now_ns, finish_by_ns) - work_.before(now_ns, finish_by_ns), 0);
    const int64_t by_deadline = free_ns + (full + others) / std::max(working, 1u) + last;
    if (!shared.overloaded(now_ns) || !shared.eligible(share_)) return by_deadline;
    // Under overload a model within its share goes before models beyond theirs.
    const double entitled = shared.entitled(share_);
    const auto by_share =
        free_ns + static_cast<int64_t>(static_cast<double>(full) / (working * entitled + 1e-9)) + last;
    return std::min(by_deadline, by_share);
}

int64_t Policy::predicted_finish_ns(int64_t now_ns, int64_t finish_by_ns, Priority priority) const noexcept {
    return finish_behind(now_ns, finish_by_ns, ahead_of(now_ns, finish_by_ns, priority).rows);
}

// Admission's margin, learned from past errors. A quarter of the slack bounds it, because a request with nothing ahead,
// an idle executor and time for one row is always worth trying.
int64_t Policy::margin_ns(int64_t now_ns, int64_t slack_ns) const noexcept {
    const uint32_t batch = efficient_batch(now_ns);
    const int64_t spread = live() < batch ? 0 : cost_.high_ns(batch) - cost_.expected_ns(batch);
    return std::min(std::max(error_.value(), spread), slack_ns / 4);
}

Verdict Policy::admit(int64_t now_ns, int64_t finish_by_ns, Priority priority, int64_t* predicted_ns) noexcept {
    const int64_t live = live_.load(std::memory_order_relaxed);
    if (live >= limits_.queue_rows_max) return Verdict::full;
    const int64_t slack = finish_by_ns - now_ns;
    const int64_t latest = finish_by_ns - margin_ns(now_ns, slack);
    const Ahead ahead = ahead_of(now_ns, finish_by_ns, priority);
    const int64_t predicted = finish_behind(now_ns, finish_by_ns, ahead.rows);
    if (predicted_ns != nullptr) *predicted_ns = predicted;
    if (predicted <= latest) return Verdict::admit;
    if (slack > 0 && live == 0 && places().work.total() <= 0 && probe_due(now_ns)) return Verdict::admit;
    if (host_ == nullptr && ahead.lower > 0 &&
        finish_behind(now_ns, finish_by_ns, ahead.rows - ahead.lower) <= latest) {
        places().put_classes_first(now_ns);
        if (predicted_ns != nullptr) *predicted_ns = predicted_finish_ns(now_ns, finish_by_ns, priority);
        return Verdict::admit;
    }
    if (all_stalled(now_ns)) return Verdict::stalled;
    return priority != Priority::critical && places().classes_first(now_ns) ? Verdict::shed : Verdict::late;
}

bool Policy::probe_due(int64_t now_ns) const noexcept {
    return places().idle_for(now_ns, std::max(PROBE_EVERY_NS, PROBE_COSTS * cost_.expected_ns(1)));
}

Ticket Policy::enter(int64_t now_ns, int64_t finish_by_ns, Priority priority) noexcept {
    Ticket ticket{FinishCounts::bucket(now_ns, finish_by_ns), priority, 0};
    live_.fetch_add(1, std::memory_order_relaxed);
    counts_[static_cast<size_t>(priority)].add(ticket.bucket, 1);
    if (places().models() > 1 && host_ == nullptr) {
        const uint32_t batch = efficient_batch(now_ns);
        ticket.work_ns = cost_.expected_ns(batch) / batch;
        executors_->work.add(ticket.bucket, ticket.work_ns);
        work_.add(ticket.bucket, ticket.work_ns);
    }
    return ticket;
}

void Policy::leave(const Ticket& ticket) noexcept {
    [[maybe_unused]] const int64_t before = live_.fetch_sub(1, std::memory_order_relaxed);
    ENGINE_ASSERT(before > 0, "a request is counted out once, after it was counted in");
    counts_[static_cast<size_t>(ticket.priority)].remove(ticket.bucket, 1);
    if (ticket.work_ns == 0) return;
    executors_->work.remove(ticket.bucket, ticket.work_ns);
    work_.remove(ticket.bucket, ticket.work_ns);
}

void Policy::push(const Entry& entry, int64_t now_ns) noexcept {
    if (pushed_ns_ != 0) gap_ns_ += GAP_RATE * (static_cast<double>(now_ns - pushed_ns_) - gap_ns_);
    pushed_ns_ = now_ns;
    places().activate(share_);
    Heap& heap = heap_of(entry);
    ENGINE_ASSERT(heap.size() < heap.capacity(), "the queue has at most one entry a slot");
    heap.push_back(entry);
    std::push_heap(heap.begin(), heap.end(), FinishesLater{});
    ENGINE_ASSERT(heap.front().finish_by_ns <= entry.finish_by_ns, "the earliest request is on top of its heap");
}

void Policy::pop(const Entry& head) noexcept {
    Heap& heap = heap_of(head);
    ENGINE_ASSERT(!heap.empty() && heap.front().slot == head.slot, "the request that leaves is on top of its heap");
    std::pop_heap(heap.begin(), heap.end(), FinishesLater{});
    heap.pop_back();
    ENGINE_ASSERT(heap.empty() || heap.front().finish_by_ns >= head.finish_by_ns, "heads leave in order of finish_by");
}

// The heap whose head goes first: that of the most important class while class goes before deadline, else the earliest.
const Policy::Heap* Policy::first_heap(int64_t now_ns) const noexcept {
    const bool classes_first = places().classes_first(now_ns);
    const Heap* first = nullptr;
    for (const Heap& heap : heaps_) {
        if (heap.empty()) continue;
        if (first == nullptr || heap.front().finish_by_ns < first->front().finish_by_ns) first = &heap;
        if (classes_first) break;
    }
    return first;
}

Policy::Rank Policy::rank(int64_t now_ns) const noexcept {
    ENGINE_ASSERT(depth() > 0, "only a model with work has a rank");
    const Entry& head = first_heap(now_ns)->front();
    const bool overdrawn = places().overloaded(now_ns) && !places().eligible(share_);
    return {overdrawn, places().classes_first(now_ns) ? head.priority : Priority::critical, head.finish_by_ns};
}

// The largest batch that its most urgent member can wait for. Never larger than the efficient batch, because more rows
// add latency and no throughput.
uint32_t Policy::batch_for(const Entry& head, int64_t now_ns, int64_t limit_ns) noexcept {
    const uint32_t wanted = std::min(static_cast<uint32_t>(depth()), efficient_batch(now_ns));
    const uint32_t fits = cost_.rows_within(std::min(head.finish_by_ns - now_ns, limit_ns));
    return std::max(1u, std::min(wanted, fits));
}

bool Policy::worth_dropping(const Entry& head, int64_t now_ns) const noexcept {
    if (!places().overloaded(now_ns)) return false;  // no other request wants the head's time
    ENGINE_ASSERT(depth() > 0, "a head is in the queue");
    const auto behind = static_cast<uint32_t>(depth()) - 1;
    const uint32_t wanted = std::min(behind, efficient_batch(now_ns));
    const uint32_t fits = cost_.rows_within(head.finish_by_ns - now_ns);
    if (wanted <= fits || fits == 0) return false;
    const double with_head = static_cast<double>(fits) / static_cast<double>(cost_.expected_ns(fits));
    const double without = static_cast<double>(wanted) / static_cast<double>(cost_.expected_ns(wanted));
    return without > (places().overloaded_lastingly(now_ns) ? HEAD_DROP_GAIN : HEAD_DROP_GAIN_SOON) * with_head;
}

// Start at once while the executors keep up with batches this small. Otherwise wait for the batch to fill, but never
// past the instant at which its most urgent member must start.
bool Policy::should_hold(const Entry& head, int64_t now_ns, uint32_t rows, int64_t* until_ns) const noexcept {
    const uint32_t wanted = std::min(cost_.efficient_rows(), batch_rows_max());
    if (rows >= wanted || depth() >= wanted) return false;
    // A single executor fills its next batch while it runs this one; idling in between gains nothing.
    const uint32_t executors = places().count();
    if (executors == 1) return false;
    const double per_row = static_cast<double>(cost_.expected_ns(rows)) / rows;
    const double per_row_filled = static_cast<double>(cost_.expected_ns(wanted)) / wanted;
    if (per_row < HOLD_GAIN * per_row_filled) return false;
    if (per_row / executors < HOLD_UTILISATION * gap_ns_) return false;
    const int64_t latest_start = head.finish_by_ns - cost_.high_ns(wanted) - error_.value();
    const auto filled = now_ns + static_cast<int64_t>(gap_ns_ * (wanted - rows));
    // Bounded by half a batch time since the last arrival, so that the tail of a burst does not wait for rows to come.
    const int64_t patience = pushed_ns_ + cost_.expected_ns(wanted) / 2;
    *until_ns = std::min({latest_start, filled, patience});
    return *until_ns > now_ns;
}

void Policy::started(Place place, uint32_t rows, int64_t now_ns) noexcept {
    ENGINE_ASSERT(rows > 0 && rows <= limits_.batch_rows_max, "a batch has rows, and fits its buffer");
    if (host_ != nullptr) ++host_->guests_running_;
    of(place).started(place.number, now_ns, cost_.expected_ns(rows), cost_.high_ns(rows));
}

void Policy::finished(Place place, uint32_t rows, int64_t now_ns, bool cost_counts) noexcept {
    SharedExecutors& shared = of(place);
    const int64_t started = shared.started_ns(place.number, now_ns);
    ENGINE_ASSERT(now_ns >= started, "a batch ends after it began");
    if (host_ != nullptr) {
        --host_->guests_running_;
        guest_ended_ns_ = now_ns;
    }
    shared.finished(place.number);
    if (&shared == &places()) shared.charge(share_, now_ns - started);  // else the account was changed meanwhile
    if (!cost_counts) return;
    if (cost_.is_stall(rows, now_ns - started)) {
        // One stall holds up every executor at once. The cost model believes several stalls in a row, so it gets one.
        if (started < stall_ended_ns_) return;
        stall_ended_ns_ = now_ns;
    }
    cost_.observe(rows, now_ns - started);
}

void Policy::missed_prediction_by(int64_t ns, int64_t now_ns) noexcept {
    error_.record(std::clamp<int64_t>(ns, 0, cost_.expected_ns(efficient_batch(now_ns))), now_ns);
}

}  // namespace engine::scheduler
