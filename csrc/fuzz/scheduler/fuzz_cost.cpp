// The cost model and the histograms under any records. The histograms are checked against sorted lists.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "base/histogram.hpp"
#include "scheduler/cost.hpp"

using namespace engine;
using namespace engine::scheduler;

namespace {

#define PROMISE(condition, words)                                                 \
    do {                                                                          \
        if (!(condition)) {                                                       \
            std::fprintf(stderr, "broken promise: %s (%s)\n", words, #condition); \
            std::abort();                                                         \
        }                                                                         \
    } while (0)

struct Input {
    const uint8_t* at;
    const uint8_t* end;
    bool empty() const { return at == end; }
    uint32_t byte() { return empty() ? 0 : *at++; }
    // Any length of time up to some hours, and now and then one below zero.
    int64_t value() {
        const uint32_t shift = byte() % 46;
        const int64_t value = int64_t{byte()} << shift;
        return shift == 45 ? -value : value;
    }
};

void check(const CostModel& cost, bool known) {
    int64_t before = 0;
    for (uint32_t rows = 1; rows <= cost.rows_max(); ++rows) {
        const int64_t expected = cost.expected_ns(rows);
        PROMISE(expected >= before, "a larger batch never costs less");
        PROMISE(cost.high_ns(rows) >= expected, "the high estimate is no lower than the expected one");
        before = expected;
    }
    PROMISE(!known || cost.spread() > 1.0, "a spread widens");
    PROMISE(cost.efficient_rows() >= 1 && cost.efficient_rows() <= cost.rows_max(), "an efficient batch is allowed");
    PROMISE(cost.peak_rows() >= cost.efficient_rows() && cost.peak_rows() <= cost.rows_max(), "so is the best");
}

void check_within(const CostModel& cost, int64_t budget_ns) {
    const uint32_t rows = cost.rows_within(budget_ns);
    PROMISE(rows <= cost.rows_max(), "a batch that fits is allowed");
    if (rows > 0) PROMISE(cost.high_ns(rows) <= budget_ns, "a batch that fits, fits");
    if (rows < cost.rows_max()) PROMISE(cost.high_ns(rows + 1) > budget_ns, "the next larger one does not");
}

void drive_cost(Input& input) {
    CostModel cost(1 + input.byte() % 100);
    bool known = false;
    while (!input.empty()) {
        const uint32_t operation = input.byte() % 4;
        const uint32_t rows = input.byte() % (cost.rows_max() + 2);
        const int64_t value = input.value();
        if (operation == 0) cost.prime(rows, value);
        else if (operation == 1) check_within(cost, value);
        else cost.observe(rows, value);
        known |= operation == 0 || (operation > 1 && rows > 0 && value > 0);
        check(cost, known);
    }
}

// The value that a share of the records does not exceed, as its bucket reports it.
int64_t quantile_of(std::vector<int64_t> records, double quantile) {
    if (records.empty()) return 0;
    std::sort(records.begin(), records.end());
    const double rank = std::max(1.0, std::ceil(quantile * static_cast<double>(records.size())));
    return LogBuckets::upper(LogBuckets::index(records[static_cast<size_t>(rank) - 1]));
}

void drive_histograms(Input& input) {
    Histogram histogram;
    DecayingQuantile decaying(0.9, 64 + input.byte(), 1'000'000);
    std::vector<int64_t> records;
    int64_t now_ns = 1;
    while (!input.empty()) {
        const int64_t value = input.value();
        now_ns += int64_t{input.byte()} << (input.byte() % 20);
        records.push_back(value);
        histogram.record(value);
        decaying.record(value, now_ns);
        decaying.age(now_ns);
        PROMISE(decaying.value() >= 0, "a duration is no less than zero");
        const int64_t upper = LogBuckets::upper(LogBuckets::index(value));
        PROMISE(value >= int64_t{1} << LogBuckets::MAX_BITS || upper >= value,
                "a bucket reports no less than its values");
        PROMISE(upper <= std::max<int64_t>(value, 0) + std::max<int64_t>(value, 0) / 16,
                "… and a sixteenth more at most");
    }
    PROMISE(histogram.count() == records.size(), "every record counts once");
    for (const double quantile : {0.0, 0.1, 0.5, 0.9, 0.99, 1.0})
        PROMISE(histogram.quantile(quantile) == quantile_of(records, quantile),
                "a quantile is that of the sorted records");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    Input input{data, data + std::min<size_t>(size, 2'000)};
    if (input.byte() % 2) drive_cost(input);
    else drive_histograms(input);
    return 0;
}
