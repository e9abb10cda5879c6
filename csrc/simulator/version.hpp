// A simulated model behind the real scorer ABI. Its answer to a row is the row and its own version, so that an answer
// that mixes two requests or two versions shows. The row of a request is its number.
#pragma once

#include <limits>

#include "scheduler/deployment.hpp"
#include "simulator/environment.hpp"

namespace engine::simulator {

class SimulatedVersion {
public:
    static constexpr uint32_t OUTPUTS = 2;  // the row, the version

    // A deployment of a new version, with one reference for the caller. *alive counts it until it is freed.
    static Deployment* deploy(SimulatedEnvironment& environment, const int64_t& now_ns, uint64_t number,
                              uint64_t* alive) {
        auto* version = new SimulatedVersion(environment, now_ns, number, alive);
        const engine_scorer primary = version->scorer(score_primary), fallback = version->scorer(score_fallback);
        auto* deployment = new Deployment(primary, &fallback, true, number);
        release(version);
        return deployment;
    }

private:
    SimulatedVersion(SimulatedEnvironment& environment, const int64_t& now_ns, uint64_t number, uint64_t* alive)
        : environment_(environment), now_ns_(now_ns), number_(number), alive_(alive) {
        ++*alive_;
    }
    ~SimulatedVersion() { --*alive_; }

    engine_scorer scorer(engine_score_f64 score) noexcept {
        return {ENGINE_SCORER_ABI,
                ENGINE_SCORER_REENTRANT | ENGINE_SCORER_NATIVE,
                1,
                OUTPUTS,
                this,
                reject,
                score,
                retain,
                release};
    }

    static int reject(void*, const float*, size_t, size_t, double*) { return ENGINE_SCORE_BAD_SHAPE; }

    static int score_primary(void* ctx, const double* rows, size_t n_rows, size_t stride, double* out) {
        const auto& version = *static_cast<SimulatedVersion*>(ctx);
        if (version.environment_.call_fails(version.now_ns_)) return ENGINE_SCORE_FAILED;
        for (size_t i = 0; i < n_rows; ++i)
            if (version.environment_.row_is_poison(version.now_ns_, static_cast<uint64_t>(rows[i * stride])))
                return ENGINE_SCORE_FAILED;
        score_fallback(ctx, rows, n_rows, stride, out);
        for (size_t i = 0; i < n_rows; ++i)
            if (version.environment_.row_is_nan(version.now_ns_))
                out[OUTPUTS * i] = std::numeric_limits<double>::quiet_NaN();
        return ENGINE_SCORE_OK;
    }

    static int score_fallback(void* ctx, const double* rows, size_t n_rows, size_t stride, double* out) {
        const auto number = static_cast<double>(static_cast<SimulatedVersion*>(ctx)->number_);
        for (size_t i = 0; i < n_rows; ++i) {
            out[OUTPUTS * i] = rows[i * stride];
            out[OUTPUTS * i + 1] = number;
        }
        return ENGINE_SCORE_OK;
    }

    static void retain(void* ctx) { ++static_cast<SimulatedVersion*>(ctx)->references_; }
    static void release(void* ctx) {
        auto* version = static_cast<SimulatedVersion*>(ctx);
        if (--version->references_ == 0) delete version;
    }

    SimulatedEnvironment& environment_;
    const int64_t& now_ns_;
    uint64_t number_;
    uint64_t* alive_;
    uint32_t references_ = 1;
};

}  // namespace engine::simulator
