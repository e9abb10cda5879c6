// The invariant checker: it checks every event. It shares only request numbers with the simulated runtime, so a
// mistake in reusing a slot, in a state word or in a count shows at once and not only in a total at the end.
#pragma once

#include <cinttypes>
#include <cstdio>
#include <vector>

#include "simulator/simulator.hpp"

namespace engine::simulator {

class InvariantChecker {
public:
    InvariantChecker(uint64_t requests, SimulationResult& result) : of_(requests), result_(result) {}

    void at(int64_t since_start_ns) noexcept {
        expect(since_start_ns >= now_ns_, Invariant::forward_time, 0);
        now_ns_ = since_start_ns;
    }

    void arrived(uint64_t request, uint64_t version) noexcept {
        of_[request] = {static_cast<uint32_t>(version), Stage::open};
        ++open_;
    }
    void claimed(uint64_t request) noexcept {
        expect(of_[request].stage == Stage::open, Invariant::claimed_once, request);
        if (of_[request].stage == Stage::open) of_[request].stage = Stage::claimed;
    }
    // Answered, or given up by its caller.
    void closed(uint64_t request) noexcept {
        Record& record = of_[request];
        expect(record.stage != Stage::none, Invariant::answered_after_arrival, request);
        expect(record.stage != Stage::closed, Invariant::answered_once, request);
        if (record.stage == Stage::open || record.stage == Stage::claimed) --open_;
        record.stage = Stage::closed;
    }
    void answered(uint64_t request, double row, double version) noexcept {
        expect(row == static_cast<double>(request), Invariant::own_answer, request);
        expect(version == static_cast<double>(of_[request].version), Invariant::own_version, request);
    }

    void finish(uint64_t arrived) noexcept {
        for (uint64_t request = 0; request < of_.size(); ++request)
            expect(of_[request].stage == Stage::closed, Invariant::answered_at_all, request);
        expect(arrived == of_.size(), Invariant::answered_at_all, arrived);
    }

    uint64_t open() const noexcept { return open_; }

    // Counts a breach, and keeps the first in words.
    void expect(bool holds, Invariant invariant, uint64_t request) noexcept {
        if (holds) [[likely]]
            return;
        const auto at = static_cast<size_t>(invariant);
        ++result_.violations[at];
        if (!result_.first_violation.empty()) return;
        char text[160];
        std::snprintf(text, sizeof text, "%s at event %" PRIu64 ", %.6f ms, request %" PRIu64, INVARIANT_NAMES[at],
                      result_.events, static_cast<double>(now_ns_) / 1e6, request);
        result_.first_violation = text;
    }

private:
    enum class Stage : uint8_t { none, open, claimed, closed };
    struct Record {
        uint32_t version = 0;
        Stage stage = Stage::none;
    };

    std::vector<Record> of_;
    SimulationResult& result_;
    uint64_t open_ = 0;
    int64_t now_ns_ = 0;
};

}  // namespace engine::simulator
