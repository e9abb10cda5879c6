#include "monitor/charts.hpp"

#include <algorithm>

#include "base/assert.hpp"

namespace engine::monitor {

namespace {

// Hot: once per place that holds a row.
void add_place(const double* weights, double count, double* steps, size_t charts) noexcept {
    for (size_t chart = 0; chart < charts; ++chart) steps[chart] += weights[chart] * count;
}

}  // namespace

bool add_evidence(const Evidence& to, const BlockCounts& block, uint64_t rows, int64_t before) noexcept {
    ENGINE_ASSERT(to.cleared < 1.0, "an alarm begins above the level at which it ends");
    const size_t places = to.bins + 2, all = to.charts + 1;
    const int64_t end = before + static_cast<int64_t>(rows);
    bool any = false;
    for (size_t column = 0; column < to.columns; ++column) {
        const double* weights = to.weights + column * places * to.charts;
        const uint32_t* counts = block.counts + column * to.bins;
        double* gathered = to.gathered + column * to.bins;
        double* steps = to.steps + column * to.charts;
        std::fill_n(steps, to.charts, 0.0);
        for (size_t bin = 0; bin < to.bins; ++bin) {
            // The 50 rows of a block are in a few bins.
            if (counts[bin] == 0) continue;
            gathered[bin] += counts[bin];
            add_place(weights + bin * to.charts, counts[bin], steps, to.charts);
        }
        const uint32_t missing = block.missing[column];
        // An infinite code is counted as unseen and as infinite.
        const uint32_t strange = std::max(block.unseen[column], block.infinite[column]);
        if (missing) add_place(weights + to.bins * to.charts, missing, steps, to.charts);
        if (strange) add_place(weights + (to.bins + 1) * to.charts, strange, steps, to.charts);
        const uint32_t run = block.runs[column];
        double* sums = to.sums + column * 6;
        sums[0] = static_cast<double>(rows);
        sums[1] = missing;
        sums[2] = strange;
        sums[3] = block.sums[column * 2];
        sums[4] = block.sums[column * 2 + 1];
        sums[5] = run;
        double* level = to.level + column * all;
        uint8_t* alarmed = to.alarmed + column * all;
        int64_t* since = to.since + column * all;
        int64_t* until = to.until + column * all;
        for (size_t chart = 0; chart < all; ++chart) {
            if (chart < to.charts) {
                if (level[chart] <= 0.0) since[chart] = before;
                level[chart] = std::clamp(level[chart] + steps[chart], 0.0, 1.0);
            } else {
                since[chart] = std::max<int64_t>(end - run, 0);
                level[chart] = std::min(run / to.run_limits[column], 1.0);
            }
            if (level[chart] >= 1.0) until[chart] = end;
            alarmed[chart] = level[chart] >= 1.0 || (alarmed[chart] && level[chart] > to.cleared);
            any |= alarmed[chart] != 0;
        }
    }
    return any;
}

}  // namespace engine::monitor
