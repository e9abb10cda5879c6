// An event loop's end of its completions, in a test.
#pragma once

#include <memory>

#include "scheduler/completions.hpp"

struct ReleaseCompletions {
    void operator()(engine::scheduler::Completions* completions) const noexcept { completions->release(); }
};
using OwnCompletions = std::unique_ptr<engine::scheduler::Completions, ReleaseCompletions>;

inline OwnCompletions make_completions() { return OwnCompletions(new engine::scheduler::Completions); }
