// Counts one record: see sketch.hpp.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "monitor/sketch.hpp"

namespace engine::monitor {

namespace {

// How many of a sorted list are below `value`. Branch-free, because mispredicted branches cost more than the few extra
// steps: `base` moves up by half of what is left, or stays, by a multiplication with 0 or 1.
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
    ENGINE_ASSERT(at <= cuts.size(), "a value lies between two cuts or at an end");
    if (!discrete) return static_cast<uint16_t>(at);
    return at < cuts.size() && cuts[at] == value ? bin_of[at] : UNSEEN;
}

bool Column::consistent() const noexcept {
    if (n_bins == 0 || n_bins >= UNSEEN || !std::is_sorted(cuts.begin(), cuts.end())) return false;
    if (!pair_scores.empty() && pair_scores.size() != n_bins) return false;
    for (const float score : pair_scores) {
        if (std::fabs(score) > PAIR_SCORE_MAX || score != std::nearbyint(score)) return false;
    }
    if (!discrete) return bin_of.empty() && n_bins == cuts.size() + 1;
    return bin_of.size() == cuts.size() &&
           std::all_of(bin_of.begin(), bin_of.end(), [this](uint16_t place) { return place < n_bins; });
}

void Block::reset(size_t columns, size_t bins_max, size_t pair_columns) {
    pair_sums.assign(pair_columns * (pair_columns + 3) / 2, 0.0f);
    counts.assign(columns * bins_max, 0);
    missing.assign(columns, 0);
    infinite.assign(columns, 0);
    unseen.assign(columns, 0);
    runs.assign(columns, 0);
    sums.assign(columns * 2, 0.0);
    clear();
}

void Block::clear() noexcept {
    rows = output_rows = answers = 0;
    pair_rows = 0;
    first_ns = last_ns = 0;
    n_deployments = 0;
    std::fill(counts.begin(), counts.end(), 0u);
    std::fill(missing.begin(), missing.end(), 0u);
    std::fill(infinite.begin(), infinite.end(), 0u);
    std::fill(unseen.begin(), unseen.end(), 0u);
    std::fill(runs.begin(), runs.end(), 0u);
    std::fill(sums.begin(), sums.end(), 0.0);
    std::fill(pair_sums.begin(), pair_sums.end(), 0.0f);
    tally.fill(0);
    late.fill(0);
    output_moments.fill(0.0);
}

size_t Block::version(uint64_t deployment) noexcept {
    for (uint32_t i = 0; i < n_deployments; ++i) {
        if (deployments[i] == deployment) return i;
    }
    if (n_deployments == VERSIONS) return VERSIONS - 1;
    ENGINE_ASSERT(n_deployments < VERSIONS, "a block tells a fixed number of versions apart");
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

bool Block::consistent(size_t n_features, size_t bins_max) const noexcept {
    const size_t columns = missing.size();
    if (counts.size() != columns * bins_max || infinite.size() != columns || unseen.size() != columns ||
        runs.size() != columns || sums.size() != columns * 2 || n_deployments > VERSIONS || pair_rows > rows) {
        return false;
    }
    if (std::accumulate(tally.begin(), tally.end(), uint64_t{0}) != answers) return false;
    if (std::accumulate(late.begin(), late.end(), uint64_t{0}) > answers) return false;
    for (size_t column = 0; column < columns; ++column) {
        // Every value is in a bin, missing or unseen, and infinite ones are in one of the first and the last as well.
        const auto* first = counts.data() + column * bins_max;
        const uint64_t seen = std::accumulate(first, first + bins_max, uint64_t{0});
        const uint64_t expected = column < n_features ? rows : output_rows;
        if (seen + missing[column] + unseen[column] != expected) return false;
        if (infinite[column] > seen + unseen[column]) return false;
    }
    return true;
}

void Sketch::fold(const Record& record) noexcept {
    constexpr uint32_t KNOWN = 0xFFFF | RECORD_HAS_ROW | RECORD_HAS_OUTPUTS | RECORD_TIMED;
    ENGINE_ASSERT((record.flags & ~KNOWN) == 0, "a published record is written whole");
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
        ENGINE_ASSERT(record.deadline_ns > record.started_ns, "a timed answer had some time");
        const double share = static_cast<double>(latency) / static_cast<double>(record.deadline_ns - record.started_ns);
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
        entry->n_outputs = outputs ? record.n_outputs : 0;
        if (any_shadow_ && outputs) {
            if (Remembered* shadow = shadows_.find(record.id)) {
                compare(outputs[0], shadow->deployment, shadows_.outputs(shadow)[0]);
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
    bool close = cut(answers_since_cut_);
    if (columns_.empty()) {
        keep_sample(record);
    } else {
        if (record.flags & RECORD_HAS_ROW) close |= fold_row(ring_.features(&record));
        // The reference holds the primary's outputs. A fallback's and a canary's are counted by source and version
        // alone.
        if (outputs && source == 0 && !canary) close |= fold_output(outputs);
    }
    if (close) close_block(false);
}

void Sketch::fold_shadow(const Record& record) noexcept {
    any_shadow_ = true;
    if (!(record.flags & RECORD_HAS_OUTPUTS)) return;
    const double value = ring_.outputs(&record)[0];
    if (Remembered* live = answers_.find(record.id)) {
        compare(answers_.outputs(live)[0], record.deployment, value);
        return;
    }
    const size_t before = shadows_.size();
    shadows_.insert(record.id, ring_.outputs(&record))->deployment = record.deployment;
    // One that took another's place: that other one is never compared.
    if (shadows_.size() == before) ++totals_.unpaired_shadows;
}

void Sketch::compare(double live_value, uint64_t shadow, double shadow_value) noexcept {
    Comparison* to = nullptr;
    for (Comparison& known : totals_.shadows) {
        if (known.count == 0 || known.deployment == shadow) {
            to = &known;
            break;
        }
    }
    if (!to) {
        // The table is full: the oldest shadow version makes room.
        std::rotate(totals_.shadows.begin(), totals_.shadows.begin() + 1, totals_.shadows.end());
        to = &totals_.shadows.back();
        *to = Comparison{};
    }
    to->deployment = shadow;
    ++to->count;
    const double difference = shadow_value - live_value;
    // Two missing values agree. Any other difference that is no finite number counts as infinitely far.
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
    ENGINE_ASSERT(to->within <= to->count && to->same_decision <= to->count, "agreement is a share of the pairs");
    // Bin 0 is below 2^-24, and each further bin twice as wide as the one before.
    const double octave = distance > 0.0 ? std::floor(std::log2(std::min(distance, 1e30))) + 25.0 : 0.0;
    ++to->histogram[static_cast<size_t>(std::clamp(octave, 0.0, static_cast<double>(DIFFERENCE_BINS - 1)))];
}

bool Sketch::fold_row(const float* row) noexcept {
    ENGINE_ASSERT(features_in_layout_ <= columns_.size(), "the features lead the columns");
    ++open_.rows;
    for (uint32_t i = 0; i < features_in_layout_; ++i) row_bins_[i] = count_value(i, row[i]);
    if (!pair_columns_.empty() && rows_to_pair_-- == 0) {
        rows_to_pair_ = pair_stride_ - 1;
        add_pairs();
    }
    return cut(rows_since_cut_);
}

// Adds the scores of the row in row_bins_, and their products. A value that is missing or in no bin counts as 0.
void Sketch::add_pairs() noexcept {
    if (open_.pair_rows >= PAIR_ROWS_MAX) return;
    ++open_.pair_rows;
    const size_t n = pair_columns_.size();
    ENGINE_ASSERT(open_.pair_sums.size() == n * (n + 3) / 2, "a block has room for all pairs");
    float* scores = pair_scores_.data();
    for (size_t i = 0; i < n; ++i) {
        const uint16_t bin = row_bins_[pair_columns_[i]];
        scores[i] = bin == UNSEEN ? 0.0f : columns_[pair_columns_[i]].pair_scores[bin];
    }
    float* to = open_.pair_sums.data();
    for (size_t i = 0; i < n; ++i) to[i] += scores[i];
    to += n;
    for (size_t i = 0; i < n; ++i) {
        const float score = scores[i];
        for (size_t j = i; j < n; ++j) to[j - i] += score * scores[j];
        to += n - i;
    }
}

bool Sketch::fold_output(const double* values) noexcept {
    ++open_.output_rows;
    for (size_t i = features_in_layout_; i < columns_.size(); ++i) {
        count_value(i, static_cast<float>(values[i - features_in_layout_]));
    }
    return cut(output_rows_since_cut_);
}

// Hot: once per value.
uint16_t Sketch::count_value(size_t column, float value) noexcept {
    if (std::isnan(value)) {
        ++open_.missing[column];
        return UNSEEN;
    }
    // NaN differs from any first value.
    run_[column] = value == last_[column] ? run_[column] + 1 : 1;
    last_[column] = value;
    open_.runs[column] = std::max(open_.runs[column], run_[column]);
    const uint16_t bin = columns_[column].bin(value);
    ENGINE_ASSERT(bin == UNSEEN || bin < columns_[column].n_bins, "a bin belongs to its column");
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
    return bin;
}

void Sketch::keep_sample(const Record& record) noexcept {
    constexpr uint32_t BOTH = RECORD_HAS_ROW | RECORD_HAS_OUTPUTS;
    if ((record.flags & BOTH) != BOTH || record.source != 0 || (record.flags & ENGINE_ANSWER_CANARY)) return;
    const uint32_t n_features = n_features_.load(std::memory_order_relaxed);
    sample_width_ = n_features + limits_.outputs_max;
    if (sample_.size() + sample_width_ > size_t{limits_.sample_rows} * sample_width_) return;
    ENGINE_ASSERT(sample_.size() + sample_width_ <= sample_.capacity(), "the sample grows within what was reserved");
    sample_.insert(sample_.end(), ring_.features(&record), ring_.features(&record) + n_features);
    const double* outputs = ring_.outputs(&record);
    for (uint32_t i = 0; i < limits_.outputs_max; ++i) sample_.push_back(static_cast<float>(outputs[i]));
}

}  // namespace engine::monitor
