#include "engine/policy.hpp"

namespace engine {

namespace {

// After a refusal the executors count as overloaded for this long.
constexpr int64_t OVERLOAD_NS = 20'000'000;
// A head is let go when the batch it forces is this much less efficient than the batch without it.
constexpr double HEAD_DROP_GAIN = 1.05;
// Holding starts where the batches at hand would keep the executors this busy, and pays only where a row costs this
// many times what it costs in an efficient batch.
constexpr double HOLD_UTILISATION = 0.7;
constexpr double HOLD_GAIN = 2.0;
constexpr double GAP_RATE = 0.02;
// A primary that seems too slow for every deadline is tried again this often, or every second time of its own: a model
// that has become fast again is found out, and one that has not would have stood idle anyway.
constexpr int64_t PROBE_EVERY_NS = 50'000'000;
constexpr int64_t PROBE_COSTS = 2;

}  // namespace

uint16_t FinishCounts::add(int64_t now_ns, int64_t finish_by_ns) noexcept {
    total_.fetch_add(1, std::memory_order_relaxed);
    // One bucket short of the whole ring, so that the bucket of `now` never receives the far end of the horizon.
    if ((finish_by_ns >> SHIFT) - (now_ns >> SHIFT) >= int64_t{BUCKETS} - 1) return FAR;
    const uint16_t bucket = static_cast<uint16_t>((finish_by_ns >> SHIFT) & (BUCKETS - 1));
    near_[bucket].fetch_add(1, std::memory_order_relaxed);
    return bucket;
}

void FinishCounts::remove(uint16_t bucket) noexcept {
    total_.fetch_sub(1, std::memory_order_relaxed);
    if (bucket != FAR) near_[bucket].fetch_sub(1, std::memory_order_relaxed);
}

uint32_t FinishCounts::before(int64_t now_ns, int64_t finish_by_ns) const noexcept {
    const uint32_t total = total_.load(std::memory_order_relaxed);
    if (total == 0) return 0;
    const int64_t first = now_ns >> SHIFT, last = finish_by_ns >> SHIFT;
    if (last - first >= int64_t{BUCKETS} - 1) return total;
    uint32_t sum = 0;
    for (int64_t b = first; b <= last; ++b) sum += near_[b & (BUCKETS - 1)].load(std::memory_order_relaxed);
    return std::min(sum, total);
}

Policy::Policy(const PolicyLimits& limits, CostModel& cost) : limits_(limits), cost_(cost) {
    limits_.executors = std::clamp(limits_.executors, 1u, EXECUTORS_MAX);
    heap_.reserve(limits_.queue_rows_max);
}

int64_t Policy::predicted_finish_ns(int64_t now_ns, int64_t finish_by_ns) const noexcept {
    // When is the first executor free? One that is overdue is taken to need as long again as it has had already.
    int64_t free_ns = NEVER_NS;
    uint32_t working = 0;  // an executor that is overdue by its whole time again does not count on
    for (uint32_t e = 0; e < limits_.executors; ++e) {
        const uint32_t rows = executors_[e].rows.load(std::memory_order_relaxed);
        int64_t this_free = now_ns;
        if (rows == 0) {
            ++working;
        } else {
            const int64_t started = executors_[e].started_ns.load(std::memory_order_relaxed);
            const int64_t due = started + cost_.expected_ns(rows);
            const int64_t surely_due = started + cost_.high_ns(rows);
            working += now_ns <= surely_due + (surely_due - started);
            this_free = now_ns <= due ? due : now_ns <= surely_due ? now_ns : now_ns + (now_ns - started);
        }
        free_ns = std::min(free_ns, this_free);
    }
    const uint32_t ahead = counts_.before(now_ns, finish_by_ns);
    const uint32_t rows = ahead + 1;
    const uint32_t batch = std::max(1u, std::min(cost_.efficient_rows(), limits_.batch_rows_max));
    const int64_t full = static_cast<int64_t>(rows / batch) * cost_.expected_ns(batch);
    // Behind a full batch the last one will have filled up by the time it starts; alone, it starts as it is.
    const int64_t last = rows % batch ? cost_.expected_ns(rows > batch ? batch : rows) : 0;
    return free_ns + full / std::max(working, 1u) + last;
}

Verdict Policy::admit(int64_t now_ns, int64_t finish_by_ns) const noexcept {
    if (counts_.total() >= limits_.queue_rows_max) return Verdict::full;
    const int64_t predicted = predicted_finish_ns(now_ns, finish_by_ns);
    // The margin learned from past errors may not shut the door altogether: with nothing ahead, an idle executor and
    // time for one row, a request is always worth trying.
    const int64_t slack = finish_by_ns - now_ns;
    const uint32_t batch = std::max(1u, std::min(cost_.efficient_rows(), limits_.batch_rows_max));
    const int64_t spread = counts_.total() < batch ? 0 : cost_.high_ns(batch) - cost_.expected_ns(batch);
    const int64_t margin = std::min(std::max(error_.value(), spread), slack / 4);
    if (predicted + margin <= finish_by_ns) return Verdict::admit;
    if (slack > 0 && counts_.total() == 0 && probe_due(now_ns)) return Verdict::admit;
    for (uint32_t e = 0; e < limits_.executors; ++e) {
        const uint32_t rows = executors_[e].rows.load(std::memory_order_relaxed);
        const int64_t started = executors_[e].started_ns.load(std::memory_order_relaxed);
        if (rows == 0 || now_ns <= started + 2 * cost_.high_ns(rows)) return Verdict::late;
    }
    return Verdict::stalled;
}

// The executors stand idle and have done so for long.
bool Policy::probe_due(int64_t now_ns) const noexcept {
    for (uint32_t e = 0; e < limits_.executors; ++e)
        if (executors_[e].rows.load(std::memory_order_relaxed) > 0) return false;
    const int64_t idle_ns = now_ns - started_ns_.load(std::memory_order_relaxed);
    return idle_ns > std::max(PROBE_EVERY_NS, PROBE_COSTS * cost_.expected_ns(1));
}

void Policy::push(const Entry& entry, int64_t now_ns) noexcept {
    if (pushed_ns_ != 0) gap_ns_ += GAP_RATE * (static_cast<double>(now_ns - pushed_ns_) - gap_ns_);
    pushed_ns_ = now_ns;
    heap_.push_back(entry);
    std::push_heap(heap_.begin(), heap_.end(), FinishesLater{});
}

void Policy::pop() noexcept {
    std::pop_heap(heap_.begin(), heap_.end(), FinishesLater{});
    heap_.pop_back();
}

// The largest batch that its most urgent member can wait for, and no larger than efficiency asks: a batch beyond that
// adds latency and no throughput.
uint32_t Policy::batch_for(int64_t now_ns) noexcept {
    const auto depth = static_cast<uint32_t>(heap_.size());
    const uint32_t wanted = std::min({depth, limits_.batch_rows_max, std::max(cost_.efficient_rows(), 1u)});
    const uint32_t fits = cost_.rows_within(heap_.front().finish_by_ns - now_ns);
    return std::max(1u, std::min(wanted, fits));
}

bool Policy::worth_dropping_head(int64_t now_ns) const noexcept {
    const int64_t refused = refused_ns_.load(std::memory_order_relaxed);
    if (refused == 0 || now_ns - refused > OVERLOAD_NS) return false;  // what the head costs nobody else wants
    const auto depth = static_cast<uint32_t>(heap_.size());
    const uint32_t wanted = std::min({depth - 1, limits_.batch_rows_max, cost_.efficient_rows()});
    const uint32_t fits = cost_.rows_within(heap_.front().finish_by_ns - now_ns);
    if (wanted <= fits || fits == 0) return false;
    const double with_head = static_cast<double>(fits) / static_cast<double>(cost_.expected_ns(fits));
    const double without = static_cast<double>(wanted) / static_cast<double>(cost_.expected_ns(wanted));
    return without > HEAD_DROP_GAIN * with_head;
}

// Starting at once is best while the executors keep up with batches this small. Where they would not, wait for the
// batch to fill, but never past the instant at which its most urgent member must start.
bool Policy::should_hold(int64_t now_ns, uint32_t rows, int64_t* until_ns) const noexcept {
    const uint32_t wanted = std::min(cost_.efficient_rows(), limits_.batch_rows_max);
    if (rows >= wanted || heap_.size() >= wanted) return false;
    // A single executor fills its next batch while it runs this one; idling in between gains nothing.
    if (limits_.executors == 1) return false;
    const double per_row = static_cast<double>(cost_.expected_ns(rows)) / rows;
    const double per_row_filled = static_cast<double>(cost_.expected_ns(wanted)) / wanted;
    if (per_row < HOLD_GAIN * per_row_filled) return false;
    if (per_row / limits_.executors < HOLD_UTILISATION * gap_ns_) return false;
    const int64_t latest_start = heap_.front().finish_by_ns - cost_.high_ns(wanted) - error_.value();
    const auto filled = now_ns + static_cast<int64_t>(gap_ns_ * (wanted - rows));
    // Bounded by one batch's own time since the last arrival, so a burst that ends does not leave its tail waiting.
    const int64_t patience = pushed_ns_ + cost_.expected_ns(wanted) / 2;
    *until_ns = std::min({latest_start, filled, patience});
    return *until_ns > now_ns;
}

void Policy::started(uint32_t executor, uint32_t rows, int64_t now_ns) noexcept {
    started_ns_.store(now_ns, std::memory_order_relaxed);
    executors_[executor].started_ns.store(now_ns, std::memory_order_relaxed);
    executors_[executor].rows.store(rows, std::memory_order_relaxed);
}

void Policy::finished(uint32_t executor, uint32_t rows, int64_t now_ns, bool cost_counts) noexcept {
    const int64_t started = executors_[executor].started_ns.load(std::memory_order_relaxed);
    executors_[executor].rows.store(0, std::memory_order_relaxed);
    if (!cost_counts) return;
    if (cost_.is_stall(rows, now_ns - started)) {
        // One stall holds up every executor at once. The cost model, which believes several in a row, hears of it once.
        if (started < stall_ended_ns_) return;
        stall_ended_ns_ = now_ns;
    }
    cost_.observe(rows, now_ns - started);
}

void Policy::missed_prediction_by(int64_t ns, int64_t now_ns) noexcept {
    const int64_t most = cost_.expected_ns(std::max(1u, std::min(cost_.efficient_rows(), limits_.batch_rows_max)));
    error_.record(std::clamp<int64_t>(ns, 0, most), now_ns);
}

}  // namespace engine
