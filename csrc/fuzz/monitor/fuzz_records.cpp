// Records through the ring, rows past it, changes of layout, labels and shadows, as the bytes say. Every count must
// equal that of a slow twin, which keeps plain lists and searches them from the start.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <map>
#include <optional>
#include <tuple>
#include <vector>

#include "base/clock.hpp"
#include "monitor/sketch.hpp"

namespace {

using namespace engine::monitor;

#define REQUIRE(condition)                                                       \
    do {                                                                         \
        if (!(condition)) {                                                      \
            std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            std::abort();                                                        \
        }                                                                        \
    } while (0)

struct Bytes {
    const uint8_t* at;
    const uint8_t* end;
    bool left() const { return at < end; }
    uint8_t next() { return left() ? *at++ : 0; }
    uint32_t below(uint32_t n) { return next() % n; }
    // A value whose sums and squares are exact in double, a missing or an infinite one.
    float value() {
        const uint8_t byte = next();
        if (byte == 255) return std::numeric_limits<float>::quiet_NaN();
        if (byte == 254) return std::numeric_limits<float>::infinity();
        if (byte == 253) return -std::numeric_limits<float>::infinity();
        return static_cast<float>(byte % 16) / 4.0f - 2.0f;
    }
};

// A circle of answers that is searched from the start.
struct SlowMemory {
    struct Entry {
        uint64_t id, deployment;
        uint8_t source;
        bool labelled, canary;
        std::vector<double> outputs;
    };
    explicit SlowMemory(size_t capacity) : slots(capacity) {}
    Entry* find(uint64_t id) {
        for (auto& slot : slots)
            if (slot && slot->id == id) return &*slot;
        return nullptr;
    }
    // True where another entry, or the same id's, was replaced.
    bool insert(Entry made) {
        if (Entry* known = find(made.id)) {
            *known = std::move(made);
            return true;
        }
        const bool replaced = slots[next].has_value();
        slots[next] = std::move(made);
        next = (next + 1) % slots.size();
        return replaced;
    }
    void erase(uint64_t id) {
        for (auto& slot : slots)
            if (slot && slot->id == id) slot.reset();
    }
    size_t size() const {
        return static_cast<size_t>(std::count_if(slots.begin(), slots.end(), [](const auto& slot) { return !!slot; }));
    }
    std::vector<std::optional<Entry>> slots;
    size_t next = 0;
};

// Counts of one column since the last change of layout.
struct ColumnCounts {
    std::vector<uint64_t> counts;
    uint64_t missing = 0, infinite = 0, unseen = 0;
    double sum = 0.0, squares = 0.0;
    bool operator==(const ColumnCounts&) const = default;
};
struct Counts {
    uint64_t rows = 0, output_rows = 0, answers = 0;
    std::vector<ColumnCounts> columns;
    std::map<std::pair<unsigned, unsigned>, uint64_t> by_reason;            // source, reason
    std::map<std::tuple<uint64_t, unsigned, unsigned>, uint64_t> by_place;  // deployment, source, reason
    std::map<unsigned, uint64_t> late;
    double outputs = 0.0, output_sum = 0.0, output_squares = 0.0;
};
struct Pairs {
    uint64_t count = 0, within = 0, same_decision = 0;
};

unsigned slow_bin(const Column& column, float value) {
    if (!column.discrete) {
        unsigned bin = 0;
        for (const float cut : column.cuts) bin += cut < value;
        return bin;
    }
    for (size_t i = 0; i < column.cuts.size(); ++i)
        if (column.cuts[i] == value) return column.bin_of[i];
    return UNSEEN;
}

class Twin {
public:
    explicit Twin(const Limits& limits)
        : limits_(limits),
          sketch_(new Sketch(limits)),
          memory_(limits.answers_max),
          shadows_(std::max(limits.answers_max / 16, 16u)) {}
    ~Twin() {
        sketch_->close();
        sketch_->release();
    }

    void layout(Bytes& bytes) {
        while (!sketch_->drain(false)) take();
        const uint32_t n_features = width_ ? width_ : 1 + bytes.below(limits_.features_max);
        const uint32_t n_outputs = bytes.below(limits_.outputs_max + 1);
        layout_.clear();
        for (uint32_t i = 0; i < n_features + n_outputs; ++i) {
            Column column;
            for (uint32_t left = bytes.below(6); left > 0; --left) column.cuts.push_back(bytes.value());
            std::erase_if(column.cuts, [](float cut) { return !std::isfinite(cut); });
            std::sort(column.cuts.begin(), column.cuts.end());
            column.cuts.erase(std::unique(column.cuts.begin(), column.cuts.end()), column.cuts.end());
            column.discrete = !column.cuts.empty() && bytes.below(2);
            column.n_bins = static_cast<uint32_t>(column.cuts.size()) + !column.discrete;
            if (column.discrete)
                for (size_t k = 0; k < column.cuts.size(); ++k)
                    column.bin_of.push_back(static_cast<uint16_t>(bytes.below(column.n_bins)));
            layout_.push_back(std::move(column));
        }
        n_features_ = n_features;
        width_ = n_features;
        sketch_->set_layout(layout_, n_features);
        // Answers survive, columns do not. How many blocks were taken before depends on the counting thread, so both
        // sides drop all columns that were counted.
        for (Counts* counts : {&slow_, &fast_}) {
            counts->rows = counts->output_rows = 0;
            counts->columns.assign(layout_.size(), {});
            for (size_t i = 0; i < layout_.size(); ++i) counts->columns[i].counts.assign(layout_[i].n_bins, 0);
        }
    }

    void observe(Bytes& bytes) {
        engine_answer made{};
        const uint8_t what = bytes.next();
        made.id = bytes.below(48);
        made.deployment = bytes.below(24);
        made.source = static_cast<uint8_t>(bytes.below(4));  // one more than there are
        made.reason = static_cast<uint8_t>(bytes.below(40));
        made.started_ns = 1000;
        made.ready_ns = 1000 + bytes.next() * 64;
        made.deadline_ns = what & 1 ? 1000 + bytes.next() * 64 : what & 2 ? engine::NEVER_NS : 0;
        if (what & 4) made.flags |= ENGINE_ANSWER_CANARY;
        const bool shadow = (what & 0xC0) == 0xC0;
        if (shadow) {
            made.flags |= ENGINE_ANSWER_SHADOW;
            made.deployment = 100 + made.deployment % 2;
        }
        made.n_features = what & 8 ? bytes.below(limits_.features_max + 2) : width_ ? width_ : limits_.features_max;
        made.n_outputs = what & 16 ? bytes.below(limits_.outputs_max + 2) : limits_.outputs_max;
        std::vector<double> wide(made.n_features), values(made.n_outputs);
        for (double& value : wide) value = bytes.value();
        for (double& value : values) value = bytes.value();
        std::vector<float> narrow(wide.begin(), wide.end());
        const bool has_row = what & 32 && made.n_features;
        if (has_row && what & 2) {
            made.row = wide.data();
            made.flags |= ENGINE_ANSWER_ROW_FLOAT64;
        } else if (has_row) {
            made.row = narrow.data();
        }
        const bool has_values = !(what & 64) && made.n_outputs;
        if (has_values) made.values = values.data();

        if (width_ == 0 && has_row && made.n_features <= limits_.features_max) width_ = made.n_features;
        if (!sketch_->observe(made)) {
            ++dropped_;
            return;
        }
        ++pushed_;
        const bool row_fits = has_row && made.n_features == width_;
        const bool values_fit = has_values && made.n_outputs <= limits_.outputs_max;
        wrong_width_ += has_row && !(made.n_features == width_ && made.n_outputs <= limits_.outputs_max);
        values.resize(limits_.outputs_max, std::numeric_limits<double>::quiet_NaN());
        if (!values_fit) values.assign(limits_.outputs_max, std::numeric_limits<double>::quiet_NaN());
        if (shadow) {
            count_shadow(made, values_fit, values);
        } else {
            count_live(made, row_fits ? narrow.data() : nullptr, values_fit, values);
        }
    }

    void fold(Bytes& bytes) {
        const size_t n = bytes.below(20), outputs = layout_.size() - n_features_;
        std::vector<float> rows(n * n_features_);
        std::vector<double> values(n * outputs);
        if (n_features_ && bytes.below(2)) {
            for (float& value : rows) value = bytes.value();
            sketch_->fold_features(rows.data(), n, n_features_);
            for (size_t i = 0; i < n; ++i) count_row(&rows[i * n_features_]);
        } else if (outputs) {
            for (double& value : values) value = bytes.value();
            sketch_->fold_outputs(values.data(), n, outputs);
            for (size_t i = 0; i < n; ++i) count_outputs(&values[i * outputs]);
        }
    }

    void label(Bytes& bytes) {
        const uint64_t id = bytes.below(48);
        while (!sketch_->drain(false)) take();
        SlowMemory::Entry* known = memory_.find(id);
        Remembered found;
        std::vector<double> outputs(limits_.outputs_max);
        REQUIRE(sketch_->find(id, found, outputs.data()) == (known != nullptr));
        REQUIRE(sketch_->label(id) == (known && !known->labelled));
        if (!known) return;
        REQUIRE(found.deployment == known->deployment && found.source == known->source);
        REQUIRE(found.labelled == known->labelled && found.canary == known->canary);
        for (size_t i = 0; i < outputs.size(); ++i)
            REQUIRE(outputs[i] == known->outputs[i] || (std::isnan(outputs[i]) && std::isnan(known->outputs[i])));
        known->labelled = true;
    }

    // Takes one block, if one is there: how many there are depends on the counting thread.
    bool take() {
        Block block;
        if (!sketch_->take(block)) return false;
        REQUIRE(block.missing.size() == layout_.size());
        REQUIRE(block.consistent(n_features_, layout_.empty() ? 0 : block.counts.size() / layout_.size()));
        fast_.rows += block.rows;
        fast_.output_rows += block.output_rows;
        fast_.answers += block.answers;
        const size_t bins_max = layout_.empty() ? 0 : block.counts.size() / layout_.size();
        for (size_t i = 0; i < layout_.size(); ++i) {
            ColumnCounts& column = fast_.columns[i];
            for (size_t bin = 0; bin < layout_[i].n_bins; ++bin) column.counts[bin] += block.counts[i * bins_max + bin];
            column.missing += block.missing[i];
            column.infinite += block.infinite[i];
            column.unseen += block.unseen[i];
            column.sum += block.sums[i * 2];
            column.squares += block.sums[i * 2 + 1];
        }
        for (uint32_t version = 0; version < block.n_deployments; ++version)
            for (unsigned source = 0; source < SOURCES; ++source)
                for (unsigned reason = 0; reason < REASONS; ++reason) {
                    const uint64_t n = block.tally[(version * SOURCES + source) * REASONS + reason];
                    if (!n) continue;
                    fast_.by_reason[{source, reason}] += n;
                    fast_.by_place[{block.deployments[version], source, reason}] += n;
                }
        overflowed_ |= block.n_deployments == VERSIONS;
        for (unsigned source = 0; source < SOURCES; ++source)
            if (block.late[source]) fast_.late[source] += block.late[source];
        for (size_t version = 0; version < VERSIONS; ++version) {
            fast_.outputs += block.output_moments[version * 3];
            fast_.output_sum += block.output_moments[version * 3 + 1];
            fast_.output_squares += block.output_moments[version * 3 + 2];
        }
        return true;
    }

    // Counts and takes everything. Both sides must then be equal.
    void compare() {
        bool drained = false;
        while (!drained) {
            drained = sketch_->drain(true);
            while (take()) {
            }
        }
        REQUIRE(fast_.answers == slow_.answers);
        REQUIRE(fast_.by_reason == slow_.by_reason);
        REQUIRE(overflowed_ || fast_.by_place == slow_.by_place);
        REQUIRE(fast_.late == slow_.late);
        REQUIRE(fast_.outputs == slow_.outputs && fast_.output_sum == slow_.output_sum);
        REQUIRE(fast_.output_squares == slow_.output_squares);
        REQUIRE(fast_.rows == slow_.rows && fast_.output_rows == slow_.output_rows);
        REQUIRE(fast_.columns == slow_.columns);
        const Totals totals = sketch_->totals();
        REQUIRE(totals.pushed == pushed_ && totals.folded == pushed_ && totals.dropped == dropped_);
        REQUIRE(totals.wrong_width == wrong_width_);
        REQUIRE(totals.remembered == memory_.size() && totals.unpaired_shadows == unpaired_);
        uint64_t latencies = 0, shares = 0, pairs = 0;
        for (const auto& source : totals.latency)
            for (const uint64_t n : source) latencies += n;
        for (const uint64_t n : totals.share) shares += n;
        REQUIRE(latencies == slow_.answers && shares == timed_);
        for (const Comparison& found : totals.shadows) {
            if (!found.count) continue;
            const Pairs& expected = pairs_[found.deployment];
            REQUIRE(found.count == expected.count && found.within == expected.within);
            REQUIRE(found.same_decision == expected.same_decision);
            pairs += found.count;
        }
        for (const auto& [deployment, expected] : pairs_) pairs -= expected.count;
        REQUIRE(pairs == 0);
    }

    void change_layout(Bytes& bytes) {
        if (bytes.below(2)) compare();
        layout(bytes);
    }

private:
    void count_live(const engine_answer& made, const float* row, bool values_fit, const std::vector<double>& values) {
        const unsigned source = std::min<unsigned>(made.source, SOURCES - 1);
        const unsigned reason = std::min<unsigned>(made.reason, REASONS - 1);
        ++slow_.answers;
        ++slow_.by_reason[{source, reason}];
        ++slow_.by_place[{made.deployment, source, reason}];
        if (made.deadline_ns > made.started_ns && made.deadline_ns < engine::NEVER_NS) {
            ++timed_;
            if (made.ready_ns > made.deadline_ns) ++slow_.late[source];
        }
        const bool canary = made.flags & ENGINE_ANSWER_CANARY;
        memory_.insert({made.id, made.deployment, static_cast<uint8_t>(source), false, canary, values});
        if (values_fit) {
            if (const auto* shadow = shadows_.find(made.id)) {
                pair(values[0], shadow->deployment, shadow->outputs[0]);
                shadows_.erase(made.id);
            }
            if (std::isfinite(values[0])) {
                slow_.outputs += 1.0;
                slow_.output_sum += values[0];
                slow_.output_squares += values[0] * values[0];
            }
        }
        if (layout_.empty()) return;
        if (row) count_row(row);
        if (values_fit && source == 0 && !canary) count_outputs(values.data());
    }

    void count_shadow(const engine_answer& made, bool values_fit, const std::vector<double>& values) {
        if (!values_fit) return;
        if (const auto* live = memory_.find(made.id)) {
            pair(live->outputs[0], made.deployment, values[0]);
        } else {
            unpaired_ += shadows_.insert({made.id, made.deployment, 0, false, false, values});
        }
    }

    void pair(double live, uint64_t deployment, double shadow) {
        Pairs& to = pairs_[deployment];
        ++to.count;
        if (std::isnan(live) && std::isnan(shadow)) {
            ++to.within;
            ++to.same_decision;
        } else if (std::isfinite(shadow - live)) {
            to.within += std::fabs(shadow - live) <= limits_.shadow_tolerance;
            to.same_decision += (shadow >= limits_.decision_threshold) == (live >= limits_.decision_threshold);
        }
    }

    void count_row(const float* row) {
        ++slow_.rows;
        for (size_t i = 0; i < n_features_; ++i) count(i, row[i]);
    }
    void count_outputs(const double* values) {
        ++slow_.output_rows;
        for (size_t i = n_features_; i < layout_.size(); ++i) count(i, static_cast<float>(values[i - n_features_]));
    }
    void count(size_t place, float value) {
        ColumnCounts& column = slow_.columns[place];
        if (std::isnan(value)) {
            ++column.missing;
            return;
        }
        if (std::isinf(value)) {
            ++column.infinite;
        } else {
            column.sum += value;
            column.squares += double{value} * value;
        }
        const unsigned bin = slow_bin(layout_[place], value);
        if (bin == UNSEEN) {
            ++column.unseen;
        } else {
            ++column.counts[bin];
        }
    }

    Limits limits_;
    Sketch* sketch_;
    std::vector<Column> layout_;
    uint32_t n_features_ = 0;  // of the layout
    uint32_t width_ = 0;       // of the rows; the first one decides
    SlowMemory memory_, shadows_;
    Counts slow_, fast_;
    std::map<uint64_t, Pairs> pairs_;
    uint64_t pushed_ = 0, dropped_ = 0, wrong_width_ = 0, timed_ = 0, unpaired_ = 0;
    bool overflowed_ = false;  // a block had more versions than it tells apart
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    Bytes bytes{data, data + std::min<size_t>(size, 4096)};
    Limits limits;
    limits.ring_rows = 2u << bytes.below(6);
    limits.features_max = 1 + bytes.below(4);
    limits.outputs_max = 1 + bytes.below(3);
    limits.block_rows = 1 + bytes.below(16);
    limits.blocks_max = 1 + bytes.below(4);
    limits.answers_max = 1 + bytes.below(32);
    limits.sample_rows = bytes.below(4);
    Twin twin(limits);
    while (bytes.left()) {
        switch (bytes.below(8)) {
            case 0: twin.change_layout(bytes); break;
            case 1: twin.fold(bytes); break;
            case 2: twin.label(bytes); break;
            case 3: twin.take(); break;
            case 4: twin.compare(); break;
            default: twin.observe(bytes);
        }
    }
    twin.compare();
    return 0;
}
