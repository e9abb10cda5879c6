// One record's way into the counts: see sketch.hpp.
#include <algorithm>
#include <cmath>

#include "monitor/sketch.hpp"

namespace engine::monitor {

namespace {

// Of a sorted list, how many are below `value`. Branch-free: mispredictions would cost more than the few extra steps.
size_t below(std::span<const float> sorted, float value) noexcept {
    const float* base = sorted.data();
    size_t n = sorted.size();
    if (n == 0) return 0;
    while (n > 1) {
        const size_t half = n / 2;
        base += half * static_cast<size_t>(base[half - 1] < value);
        n -= half;
    }
    return static_cast<size_t>(base - sorted.data()) + (*base < value);
}

}  // namespace

uint16_t Column::bin(float value) const noexcept {
    const size_t at = below(cuts, value);
    if (!discrete) return static_cast<uint16_t>(at);
    return at < cuts.size() && cuts[at] == value ? bin_of[at] : UNSEEN;
}

void Block::reset(size_t columns, size_t bins_max) {
    counts.assign(columns * bins_max, 0);
    missing.assign(columns, 0);
    infinite.assign(columns, 0);
    unseen.assign(columns, 0);
    sums.assign(columns * 2, 0.0);
    clear();
}

void Block::clear() noexcept {
    rows = output_rows = answers = 0;
    first_ns = last_ns = 0;
    n_deployments = 0;
    std::fill(counts.begin(), counts.end(), 0u);
    std::fill(missing.begin(), missing.end(), 0u);
    std::fill(infinite.begin(), infinite.end(), 0u);
    std::fill(unseen.begin(), unseen.end(), 0u);
    std::fill(sums.begin(), sums.end(), 0.0);
    tally.fill(0);
    late.fill(0);
    output_moments.fill(0.0);
}

size_t Block::version(uint64_t deployment) noexcept {
    for (uint32_t i = 0; i < n_deployments; ++i) {
        if (deployments[i] == deployment) return i;
    }
    if (n_deployments == VERSIONS) return VERSIONS - 1;
    deployments[n_deployments] = deployment;
    return n_deployments++;
}

void Block::add_answers(const Block& other) noexcept {
    if (other.answers == 0) return;
    answers += other.answers;
    if (first_ns == 0) first_ns = other.first_ns;
    last_ns = other.last_ns;
    for (size_t i = 0; i < SOURCES; ++i) late[i] += other.late[i];
    for (uint32_t from = 0; from < other.n_deployments; ++from) {
        const size_t to = version(other.deployments[from]);
        for (size_t i = 0; i < SOURCES * REASONS; ++i) {
            tally[to * SOURCES * REASONS + i] += other.tally[from * SOURCES * REASONS + i];
        }
        for (size_t i = 0; i < 3; ++i) output_moments[to * 3 + i] += other.output_moments[from * 3 + i];
    }
}

void Sketch::fold(const Record& record) noexcept {
    if (record.flags & ENGINE_ANSWER_SHADOW) {
        fold_shadow(record);
    } else {
        fold_live(record);
    }
}

void Sketch::fold_live(const Record& record) noexcept {
    const size_t source = std::min<size_t>(record.source, SOURCES - 1);
    const size_t reason = std::min<size_t>(record.reason, REASONS - 1);
    const size_t version = open_.version(record.deployment);
    ++open_.answers;
    ++open_.tally[(version * SOURCES + source) * REASONS + reason];
    if (open_.first_ns == 0) open_.first_ns = record.ready_ns;
    open_.last_ns = record.ready_ns;
    const int64_t latency = record.ready_ns - record.started_ns;
    ++totals_.latency[source][LogBuckets::index(latency)];
    if (record.flags & RECORD_TIMED) {
        if (record.ready_ns > record.deadline_ns) ++open_.late[source];
        const double share =
            static_cast<double>(latency) / static_cast<double>(record.deadline_ns - record.started_ns);
        const double bin = std::clamp(share / 0.05, 0.0, static_cast<double>(SHARE_BINS - 1));
        ++totals_.share[static_cast<size_t>(bin)];
    }
    const double* outputs = record.flags & RECORD_HAS_OUTPUTS ? ring_.outputs(&record) : nullptr;
    const bool canary = record.flags & ENGINE_ANSWER_CANARY;
    if (Remembered* entry = answers_.insert(record.id, outputs)) {
        entry->deployment = record.deployment;
        entry->ready_ns = record.ready_ns;
        entry->source = static_cast<uint8_t>(source);
        entry->canary = canary;
        if (any_shadow_ && outputs) {
            if (Remembered* shadow = shadows_.find(record.id)) {
                compare(*entry, outputs[0], shadow->deployment, shadows_.outputs(shadow)[0]);
                shadows_.erase(shadow);
            }
        }
    }
    if (outputs && std::isfinite(outputs[0])) {
        double* moments = &open_.output_moments[version * 3];
        moments[0] += 1.0;
        moments[1] += outputs[0];
        moments[2] += outputs[0] * outputs[0];
    }
    if (columns_.empty()) {
        keep_sample(record);
    } else {
        if (record.flags & RECORD_HAS_ROW) fold_row(ring_.features(&record));
        // The reference is the primary's; a fallback's or a canary's answers are told apart by source and version.
        if (outputs && source == 0 && !canary) fold_output(outputs);
    }
    // Rows and answers advance together but for rows that were never read.
    if (open_.answers >= limits_.block_rows) close_block(false);
}

void Sketch::fold_shadow(const Record& record) noexcept {
    any_shadow_ = true;
    if (!(record.flags & RECORD_HAS_OUTPUTS)) return;
    const double value = ring_.outputs(&record)[0];
    if (Remembered* live = answers_.find(record.id)) {
        compare(*live, answers_.outputs(live)[0], record.deployment, value);
        return;
    }
    if (shadows_.size() == shadows_.capacity()) ++totals_.unpaired_shadows;
    shadows_.insert(record.id, ring_.outputs(&record))->deployment = record.deployment;
}

void Sketch::compare(const Remembered&, double live_value, uint64_t shadow, double shadow_value) noexcept {
    Comparison* to = nullptr;
    for (Comparison& known : totals_.shadows) {
        if (known.count == 0 || known.deployment == shadow) {
            to = &known;
            break;
        }
    }
    if (!to) {
        // More shadows than are told apart: the oldest makes room.
        std::rotate(totals_.shadows.begin(), totals_.shadows.begin() + 1, totals_.shadows.end());
        to = &totals_.shadows.back();
        *to = Comparison{};
    }
    to->deployment = shadow;
    ++to->count;
    const double difference = shadow_value - live_value;
    // Two that are both missing agree; a difference that is not a number is as far apart as can be.
    const bool both_missing = std::isnan(shadow_value) && std::isnan(live_value);
    const double distance = both_missing ? 0.0 : std::isfinite(difference) ? std::fabs(difference) : INFINITY;
    to->within += distance <= limits_.shadow_tolerance;
    to->same_decision += both_missing || (std::isfinite(difference) && (shadow_value >= limits_.decision_threshold) ==
                                                                            (live_value >= limits_.decision_threshold));
    if (std::isfinite(difference)) {
        to->sum += difference;
        to->sum_squares += difference * difference;
    }
    to->largest = std::max(to->largest, distance);
    const double octave = distance > 0.0 ? std::floor(std::log2(std::min(distance, 1e30))) + 25.0 : 0.0;
    ++to->histogram[static_cast<size_t>(std::clamp(octave, 0.0, static_cast<double>(DIFFERENCE_BINS - 1)))];
}

void Sketch::fold_row(const float* row) noexcept {
    ++open_.rows;
    for (uint32_t i = 0; i < features_in_layout_; ++i) count_value(i, row[i]);
}

void Sketch::fold_output(const double* values) noexcept {
    ++open_.output_rows;
    for (size_t i = features_in_layout_; i < columns_.size(); ++i) {
        count_value(i, static_cast<float>(values[i - features_in_layout_]));
    }
}

// Hot: once per value.
void Sketch::count_value(size_t column, float value) noexcept {
    if (std::isnan(value)) {
        ++open_.missing[column];
        return;
    }
    const uint16_t bin = columns_[column].bin(value);
    if (std::isinf(value)) {
        ++open_.infinite[column];
    } else {
        open_.sums[column * 2] += value;
        open_.sums[column * 2 + 1] += double{value} * value;
    }
    if (bin == UNSEEN) {
        ++open_.unseen[column];
    } else {
        ++open_.counts[column * bins_max_ + bin];
    }
}

void Sketch::keep_sample(const Record& record) noexcept {
    constexpr uint32_t BOTH = RECORD_HAS_ROW | RECORD_HAS_OUTPUTS;
    if ((record.flags & BOTH) != BOTH || record.source != 0 || (record.flags & ENGINE_ANSWER_CANARY)) return;
    const uint32_t n_features = n_features_.load(std::memory_order_relaxed);
    sample_width_ = n_features + limits_.outputs_max;
    // Within what was reserved at the start, so that nothing is allocated here.
    if (sample_.size() + sample_width_ > size_t{limits_.sample_rows} * sample_width_) return;
    sample_.insert(sample_.end(), ring_.features(&record), ring_.features(&record) + n_features);
    const double* outputs = ring_.outputs(&record);
    for (uint32_t i = 0; i < limits_.outputs_max; ++i) sample_.push_back(static_cast<float>(outputs[i]));
}

}  // namespace engine::monitor
